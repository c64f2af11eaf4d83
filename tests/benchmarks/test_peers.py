"""Without network: what pip would do is done by a stand-in."""

import subprocess
import sys

import pytest
import torch

from eql_seesaw.benchmarks import peers

# As MMDetection's: packages whose own code must not run, a module that registers its class, and
# modules beside it.
FILES = {
    "mmdet/__init__.py": "raise RuntimeError('needs MMCV')",
    "mmdet/models/__init__.py": "raise RuntimeError('needs MMCV')",
    "mmdet/models/losses/__init__.py": "raise RuntimeError('needs MMCV')",
    "mmdet/models/losses/utils.py": "def twice(x):\n    return 2 * x",
    "mmdet/models/losses/seesaw_loss.py": """
import torch
from mmdet.registry import MODELS
from .utils import twice

@MODELS.register_module()
class SeesawLoss(torch.nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.num_classes = num_classes

    def forward(self, logits, labels):
        return twice(logits.sum())
""",
}


@pytest.fixture
def pip(monkeypatch):
    """Commands that pip was called with; it installs `FILES`, or fails with `pip.error`."""

    class Pip:
        commands = []
        error = ""

    def run(command, **_):
        Pip.commands.append(command)
        if Pip.error:
            return subprocess.CompletedProcess(command, 1, "", Pip.error)
        target = command[command.index("--target") + 1]
        for name, source in FILES.items():
            path = peers.Path(target) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source)
        return subprocess.CompletedProcess(command, 0, "", "")

    Pip.commands = []
    monkeypatch.setattr(subprocess, "run", run)
    return Pip


@pytest.fixture
def without_mmdet(monkeypatch):
    modules = {name: m for name, m in sys.modules.items() if name.split(".")[0] != "mmdet"}
    monkeypatch.setattr(sys, "modules", modules)


def test_its_own_file_computes(tmp_path, pip, without_mmdet):
    loss = peers.mmdet_seesaw_loss(7, tmp_path)
    assert loss.num_classes == 7
    assert loss(torch.ones(3), None) == 6
    path = sys.modules[type(loss).__module__].__file__
    assert path == str(tmp_path / "mmdet==3.3.0/mmdet/models/losses/seesaw_loss.py")


def test_installed_once(tmp_path, pip, without_mmdet):
    folder = tmp_path / "new" / "peers"
    peers.mmdet_seesaw_loss(7, folder)
    peers.mmdet_seesaw_loss(8, folder)
    (command,) = pip.commands
    assert command[0] == sys.executable and command[-1] == "mmdet==3.3.0"
    assert "--no-deps" in command
    assert [path.name for path in folder.iterdir()] == ["mmdet==3.3.0"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ("WARNING: slow\nERROR: no versions\nERROR: No matching distribution\n", "No matching"),
        ("/usr/bin/python: No module named pip\n", "/usr/bin/python: No module named pip"),
    ],
)
def test_pip_fails(tmp_path, pip, error, reason):
    pip.error = error
    with pytest.raises(peers.PeerMissing) as raised:
        peers.mmdet_seesaw_loss(7, tmp_path)
    assert str(raised.value).startswith(f"mmdet==3.3.0 is not installed, as pip failed: {reason}")
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())
