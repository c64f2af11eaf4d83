import logging
import signal
import subprocess
from pathlib import Path

import pytest
import torch

# Started in the background by a script, this process ignores Ctrl-C, and so would those that tests
# start to interrupt them.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def log_reaches_caplog(monkeypatch):
    """Detectron2's `setup_logger`, which other tests may have called, stops propagation."""
    monkeypatch.setattr(logging.getLogger("eql_seesaw"), "propagate", True)


@pytest.fixture(autouse=True)
def log_handlers_are_removed():
    """`setup_logger` adds some for each output folder, which would get what later tests log."""
    yield
    for name in ("fvcore", "detectron2", "eql_seesaw"):
        for handler in list(logging.getLogger(name).handlers):
            logging.getLogger(name).removeHandler(handler)
            handler.close()


@pytest.fixture
def coco200():
    """A folder with 200 photographs of COCO and their annotations."""
    folder = Path(__file__).parents[2] / "shared" / "data" / "coco200"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data/coco200")
    return folder


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a disk takes more rights")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    report = yield
    if report.passed:
        report.sections.clear()  # the logs of thousands of tests, gigabytes to keep to the end
    return report


def pytest_collection_modifyitems(items):
    """Fast tests first."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)
