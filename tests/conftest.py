import logging
from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def log_reaches_caplog(monkeypatch):
    """Detectron2's `setup_logger`, which other tests may have called, stops propagation."""
    monkeypatch.setattr(logging.getLogger("eql_seesaw"), "propagate", True)


@pytest.fixture
def coco200():
    """A folder with 200 photographs of COCO and their annotations."""
    folder = Path(__file__).parents[2] / "shared" / "data" / "coco200"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data/coco200")
    return folder


def pytest_collection_modifyitems(items):
    """Fast tests first."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)
