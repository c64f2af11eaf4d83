"""The wheel, installed without its requirements, and used from a folder that holds nothing."""

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest

from eql_seesaw.tables import table_names
from tests.test_docs import write_birds

ROOT = Path(__file__).parents[1]
SOURCES = ("LICENSE", "README.md", "configs", "eql_seesaw", "pyproject.toml", "setup.cfg")
# Not in the environment of somebody who has installed torch alone.
BLOCKED = ("detectron2", "torchvision", "fvcore", "msgspec", "tabulate", "yaml", "PIL", "tqdm")
WITH_TORCH_ALONE = f"""
import sys
sys.modules.update(dict.fromkeys({BLOCKED}))
import torch
from eql_seesaw.losses import build_loss
loss = build_loss("seesaw", num_classes=2)
print(sum(loss(torch.zeros(1, loss.num_logits), torch.tensor([0])).values()).item(), flush=True)
from eql_seesaw.programs import report
report()
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder that the wheel is installed in, with its commands in ``bin``."""
    pytest.importorskip("setuptools", minversion="70.1")  # makes wheels without another package
    sources = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, sources / name, symlinks=True)
        else:
            shutil.copy(ROOT / name, sources)
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    options = ["--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*pip, "wheel", *options, "--wheel-dir", folder, sources], check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", *options, "--target", folder, wheel], check=True)
    return folder


@pytest.fixture
def run(installed, tmp_path):
    """``run(PROGRAM, "list")`` in an empty folder -> (exit status, standard output and error)."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONWARNINGS": "ignore"}

    def run(*arguments):
        result = subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return result.returncode, result.stdout

    return run


def test_losses_need_torch_alone(run, installed):
    status, text = run("-c", WITH_TORCH_ALONE)
    *_, number, error = text.splitlines()  # after torch's warning that numpy is missing
    # An object or not, and one class of two: log(2) each.
    assert float(number) == pytest.approx(1.3863, abs=1e-4)
    assert status == 1 and error.startswith("error: No module named 'detectron2")
    assert error.endswith("; docs/installation.md says what to install")
    (metadata,) = installed.glob("*.dist-info")
    requirements = PathDistribution(metadata).requires
    assert [x for x in requirements if "extra ==" not in x] == ["torch>=2.3"]


def test_every_command_is_installed(run, installed):
    quick = {"train", "predict", "calibrate", "tables", "check", "export"}
    programs = {path.name.removeprefix("eql-seesaw-") for path in installed.glob("bin/eql-*")}
    assert programs == quick | {"evaluate", "report"}
    for name in sorted(quick):
        status, text = run(installed / "bin" / f"eql-seesaw-{name}", "--help")
        assert status == 0 and text.startswith("usage: "), text


@pytest.mark.slow
def test_tables_and_configs_are_found_from_any_folder(run, installed, tmp_path):
    tables, train = (installed / "bin" / f"eql-seesaw-{name}" for name in ("tables", "train"))
    status, text = run(tables, "list")
    assert status == 0 and all(name in text for name in table_names())
    row = "mask_rcnn_rfs_seesaw_norm_mask"
    status, text = run(tables, "plan", "seesaw_1", "--rows", row, "--gpus", "8")
    (command,) = re.findall("^python -m eql_seesaw.train --config-file (.*)", text, re.MULTILINE)
    assert command.startswith("configs/lvis_v1/mask_rcnn_R_101_FPN_2x_rfs_seesaw_norm_mask.yaml ")
    (tmp_path / "mine").mkdir()
    write_birds(tmp_path / "mine")
    status, text = run(train, "--config-file", "mine/birds.yaml")
    assert status == 1 and re.fullmatch("error: .*no such file.*birds/train.json.*\n", text), text
    # The mistake comes after the file.
    status, text = run(train, "--config-file", "configs/quickstart/eql.yaml", "--num-gpus", "two")
    assert status == 2 and "invalid int value: 'two'" in text
