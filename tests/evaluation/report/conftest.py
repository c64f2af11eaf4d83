import pytest

from tests.evaluation.report.shapes import Shapes


@pytest.fixture
def shapes(tmp_path):
    return Shapes(tmp_path)


@pytest.fixture
def folder(shapes, tmp_path):
    """The folder of an evaluation of ``Shapes``."""
    folder = tmp_path / "first" / "inference" / "shapes_val"
    shapes.evaluate(folder)
    return folder
