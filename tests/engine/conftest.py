import itertools
import json
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import torch

from datasets.make_symbols import generate_symbols
from eql_seesaw.engine.metrics_log import TIMES

ROOT = Path(__file__).parents[2]
NUM_CLASSES = 6
# A checkpoint has 1 MB, where the quickstart's has 99.
SMALL_MODEL = {
    "MODEL.RESNETS.DEPTH": 50,
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 16,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 4,
    "MODEL.RESNETS.NORM": "LN",  # the groups of GN need more channels
    "MODEL.FPN.OUT_CHANNELS": 16,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 32,
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 1,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 8,
}


def small_dataset(folder):
    """A "symbols" dataset of six classes: 2 rare, 2 common, 2 frequent."""
    generate_symbols(
        str(folder),
        num_classes=NUM_CLASSES,
        image_size=64,
        image_counts=[1, 110, 8, 20, 105, 40],
        classes_per_image=3,
        val_images_per_class=4,
    )


def small_run(symbols, output):
    """The values that turn a quickstart config into a run of a second or two."""
    return {
        "DATASETS.REGISTER.symbols_train.JSON": symbols / "symbols_train.json",
        "DATASETS.REGISTER.symbols_train.IMAGES": symbols / "train",
        "DATASETS.REGISTER.symbols_val.JSON": symbols / "symbols_val.json",
        "DATASETS.REGISTER.symbols_val.IMAGES": symbols / "val",
        "MODEL.ROI_HEADS.NUM_CLASSES": NUM_CLASSES,
        **SMALL_MODEL,
        "MODEL.RPN.POST_NMS_TOPK_TRAIN": 50,
        "MODEL.RPN.POST_NMS_TOPK_TEST": 10,
        "INPUT.MIN_SIZE_TRAIN": "(64,)",
        "INPUT.MIN_SIZE_TEST": 64,
        "SOLVER.IMS_PER_BATCH": 2,
        "SOLVER.MAX_ITER": 3,
        "SOLVER.STEPS": "(2,)",
        "TEST.DETECTIONS_PER_IMAGE": 10,
        "TEST.NUM_PICTURES": 1,
        "TEST.REPORT": False,
        "DATALOADER.NUM_WORKERS": 0,
        "OUTPUT_DIR": output,
    }


def as_arguments(settings):
    """KEY VALUE ... of a command line."""
    return [str(part) for item in settings.items() for part in item]


@pytest.fixture(scope="session")
def symbols(tmp_path_factory):
    """The folder of a small dataset."""
    folder = tmp_path_factory.mktemp("data") / "symbols"
    small_dataset(folder)
    return folder


@pytest.fixture
def overrides(symbols, tmp_path):
    """KEY VALUE ... of a small run in ``tmp_path``."""
    return as_arguments(small_run(symbols, tmp_path / "output"))


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


def killed_copy(output):
    """A copy of a run, as after a kill between the checkpoints of its second and fourth step."""
    killed = output.with_name("killed")
    shutil.copytree(output, killed)
    for name in ("model_final.pth", "model_0000003.pth"):
        (killed / name).unlink()
    (killed / "last_checkpoint").write_text("model_0000001.pth")
    return killed


def last_metrics(output_dir):
    """The last line of metrics.json that has an AP."""
    lines = [json.loads(line) for line in open(output_dir / "metrics.json")]
    return [line for line in lines if "bbox/AP" in line][-1]


def first_difference(expected, found):
    """Where two nested values differ, bit by bit and in what is not a time; None if nowhere."""
    for one, other in itertools.zip_longest(leaves(expected), leaves(found)):
        if one != other:
            return [leaf and leaf[0] for leaf in (one, other)]
    return None


def leaves(value, place=""):
    """Place and value of all that is in a nested value; a tensor's is its bytes."""
    if isinstance(value, dict):
        for key in sorted(set(value) - set(TIMES), key=str):
            yield from leaves(value[key], f"{place}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for index, each in enumerate(value):
            yield from leaves(each, f"{place}[{index}]")
    elif isinstance(value, torch.Tensor):
        yield place, value.dtype, value.shape, value.numpy().tobytes()
    else:
        yield place, repr(value)  # NaN is itself here
