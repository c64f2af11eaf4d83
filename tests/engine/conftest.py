import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

from eql_seesaw.data.symbols import generate_symbols

ROOT = Path(__file__).parents[2]
NUM_CLASSES = 6


@pytest.fixture(scope="session")
def symbols(tmp_path_factory):
    """A folder with a "symbols" dataset of six classes: 2 rare, 2 common, 2 frequent."""
    folder = tmp_path_factory.mktemp("data") / "symbols"
    generate_symbols(
        str(folder),
        num_classes=NUM_CLASSES,
        image_size=64,
        image_counts=[1, 110, 8, 20, 105, 40],
        classes_per_image=3,
        val_images_per_class=4,
    )
    return folder


@pytest.fixture
def overrides(symbols, tmp_path):
    """KEY VALUE ... that turn a quickstart config into a run of seconds in ``tmp_path``."""
    settings = {
        "DATASETS.REGISTER.symbols_train.JSON": symbols / "symbols_train.json",
        "DATASETS.REGISTER.symbols_train.IMAGES": symbols / "train",
        "DATASETS.REGISTER.symbols_val.JSON": symbols / "symbols_val.json",
        "DATASETS.REGISTER.symbols_val.IMAGES": symbols / "val",
        "MODEL.ROI_HEADS.NUM_CLASSES": NUM_CLASSES,
        "MODEL.RPN.POST_NMS_TOPK_TRAIN": 50,
        "MODEL.RPN.POST_NMS_TOPK_TEST": 10,
        "INPUT.MIN_SIZE_TRAIN": "(64,)",
        "INPUT.MIN_SIZE_TEST": 64,
        "SOLVER.IMS_PER_BATCH": 2,
        "SOLVER.MAX_ITER": 3,
        "SOLVER.STEPS": "(2,)",
        "TEST.DETECTIONS_PER_IMAGE": 10,
        "TEST.REPORT": False,
        "DATALOADER.NUM_WORKERS": 0,
        "OUTPUT_DIR": tmp_path / "output",
    }
    return [str(part) for item in settings.items() for part in item]


@pytest.fixture
def train_net(monkeypatch, capsys):
    """
    ``train_net("quickstart/seesaw.yaml", ...)`` runs the script as a user would, but in this
    process. Returns None, or the line it ends with when it fails.
    """

    def run(config, *arguments):
        config_file = str(ROOT / "configs" / config)
        monkeypatch.setattr(sys, "argv", ["train_net.py", "--config-file", config_file, *arguments])
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            runpy.run_path(str(ROOT / "train_net.py"), run_name="__main__")
        except SystemExit as error:
            assert error.code not in (0, None)
            return error.code
        finally:
            torch.set_num_threads(threads)
        return None

    return run


def last_metrics(output_dir):
    """The last line of metrics.json that has an AP."""
    lines = [json.loads(line) for line in open(output_dir / "metrics.json")]
    return [line for line in lines if "bbox/AP" in line][-1]
