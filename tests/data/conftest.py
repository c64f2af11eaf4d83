import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from .project_to_check import Project


@pytest.fixture(autouse=True)
def restore_catalogs():
    datasets, metadata = dict(DatasetCatalog), dict(MetadataCatalog)
    yield
    for catalog, before in ((DatasetCatalog, datasets), (MetadataCatalog, metadata)):
        catalog.clear()
        catalog.update(before)


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)
