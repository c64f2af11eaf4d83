import json
import os
import re
import subprocess

import pytest
import torch

from eql_seesaw.engine import LongTailTrainer

# The same small dataset and command line as for tests of the engine.
from tests.engine.conftest import overrides, symbols, train_net  # noqa: F401


@pytest.fixture
def after_step(monkeypatch):
    """``after_step(n, action)``: in the training to come, call ``action()`` once, after n steps."""

    def after_step(num_steps, action):
        original = LongTailTrainer.after_step
        actions = [action]

        def patched(self):
            original(self)
            if self.iter + 1 == num_steps and actions:
                actions.pop()()

        monkeypatch.setattr(LongTailTrainer, "after_step", patched)

    return after_step


@pytest.fixture
def mount():
    """``mount(folder, options)``: an empty file system in memory, for the time of the test."""
    mounted = []

    def mount(folder, options):
        folder.mkdir(exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"needs the right to mount a file system: {error}")
        mounted.append(folder)

    yield mount
    for folder in reversed(mounted):
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def override(key, path):
    return [f"DATASETS.REGISTER.symbols_train.{key}", str(path)]


def own_images(dataset, folder):
    """Copies of the training images that a test may spoil, as overrides."""
    folder.mkdir()
    for name in os.listdir(dataset / "train"):
        (folder / name).write_bytes((dataset / "train" / name).read_bytes())
    return override("IMAGES", folder)


def own_annotations(dataset, path, change=lambda content: None):
    """A copy of the training annotations, changed by ``change(content)``, as overrides."""
    content = json.loads((dataset / "symbols_train.json").read_text())
    change(content)
    path.write_text(json.dumps(content))
    return override("JSON", path)


def check_error(error, pattern):
    assert error is not None and error.startswith("error: ") and "\n" not in error
    assert re.search(pattern, error), error


def check_checkpoint(path, num_steps):
    """A checkpoint is complete and finite, and of this many steps."""
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["iteration"] == num_steps - 1
    assert all(tensor.isfinite().all() for tensor in checkpoint["model"].values())
