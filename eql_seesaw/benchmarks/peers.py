"""Packages that only the benchmarks need. They are kept in a folder of their own."""

import importlib
import subprocess
import sys
import types
from pathlib import Path

from torch import nn

from ..atomic_write import atomic_folder

PEERS_FOLDER = Path("output/benchmarks/peers")
MMDET = "mmdet==3.3.0"


class PeerMissing(Exception):
    """A package could not be installed; the message is one line that says why."""


def mmdet_seesaw_loss(num_classes: int, folder: Path = PEERS_FOLDER) -> nn.Module:
    """
    MMDetection's Seesaw loss with its default p and q, computed by its own unmodified file.

    Args:
        num_classes: K. It takes K + 2 logits, as ours.
        folder: where MMDetection is, or is to be installed.

    Raises:
        PeerMissing: it could not be installed.
    """
    install(MMDET, folder)
    module = import_without_package(folder / MMDET, "mmdet.models.losses.seesaw_loss")
    return module.SeesawLoss(num_classes=num_classes)


def install(requirement: str, folder: Path) -> None:
    """
    Install one package, without what it depends on, into a folder of its name, unless it is there.

    Args:
        requirement: as for pip, with its version.
        folder: where the package's folder is made.

    Raises:
        PeerMissing: pip could not do so.
    """
    if (folder / requirement).is_dir():
        return
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_folder(folder / requirement) as target:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
        pip = subprocess.run([*command, str(target), requirement], capture_output=True, text=True)
        if pip.returncode != 0:
            lines = pip.stderr.strip().splitlines() or [f"status {pip.returncode}"]
            reason = lines[-1].removeprefix("ERROR: ")
            raise PeerMissing(f"{requirement} is not installed, as pip failed: {reason}")


def import_without_package(folder: Path, name: str) -> types.ModuleType:
    """
    Import one module of MMDetection without the code of the packages around it, which needs MMCV
    and its compiled operators. The modules beside it are imported as it asks for them; in place of
    MMDetection's registry, which only keeps classes by name, stands one that keeps nothing.

    Args:
        folder: what holds the package.
        name: of the module, with dots.
    """
    registry = types.ModuleType("mmdet.registry")
    models = types.SimpleNamespace(register_module=lambda: lambda cls: cls)
    registry.MODELS = models  # type: ignore[attr-defined]
    sys.modules[registry.__name__] = registry
    packages = name.split(".")[:-1]
    for depth in range(1, len(packages) + 1):
        package = types.ModuleType(".".join(packages[:depth]))
        package.__path__ = [str(folder.joinpath(*packages[:depth]))]
        sys.modules[package.__name__] = package
    return importlib.import_module(name)
