"""
Forward and backward pass of each loss from its logits: Seesaw beside F.cross_entropy and
MMDetection's own file (installed from PyPI into output/benchmarks), EQL beside
F.binary_cross_entropy_with_logits, the others beside the one of the two that they change.

    python -m benchmarks.losses
"""

import ctypes
import importlib
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from detectron2.data.datasets.lvis_v1_category_image_count import LVIS_CATEGORY_IMAGE_COUNT
from torch import nn
from torch.nn import functional as F

from eql_seesaw.losses import LOSSES, build_loss
from eql_seesaw.losses.sigmoid import SigmoidLoss

from .measure import arguments, compare, print_table

MMDET, PEERS = "mmdet==3.3.0", Path("output/benchmarks/peers")
# Classes, samples, dtype of the logits. The largest one last: if memory runs out, the others are
# measured.
SIZES = (
    (1203, 2048, torch.float32),
    (1203, 8192, torch.float32),
    (1203, 2048, torch.bfloat16),
    (1203, 8192, torch.bfloat16),
    (1203, 512, torch.float32),
    (80, 2048, torch.float32),
    (13_000, 2048, torch.float32),
)
QUICK_SIZES = ((20, 512, torch.float32), (20, 512, torch.bfloat16))


def binary_cross_entropy(logits: torch.Tensor, gt_classes: torch.Tensor) -> torch.Tensor:
    """In float32; a row of background is all 0 where there is no column for it."""
    targets = torch.zeros(len(logits), logits.shape[1] + 1, device=logits.device)
    targets.scatter_(1, gt_classes[:, None], 1)
    loss = F.binary_cross_entropy_with_logits(logits.float(), targets[:, :-1], reduction="sum")
    return loss / len(logits)


def in_float32(loss: Callable) -> Callable:
    return lambda logits, gt_classes: loss(logits.float(), gt_classes)


def mmdet_seesaw_loss() -> type[nn.Module] | None:
    """
    MMDetection's Seesaw loss from its own unmodified file, imported without the packages around it,
    which need MMCV and its compiled operators. None without a network to download it.
    """
    folder = PEERS / MMDET
    if not folder.is_dir():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", MMDET]
        if subprocess.run([*command, "--target", str(folder)]).returncode:
            return None
    registry = types.ModuleType("mmdet.registry")  # it only keeps classes by name
    registry.MODELS = types.SimpleNamespace(  # type: ignore[attr-defined]
        register_module=lambda: lambda cls: cls
    )
    sys.modules["mmdet.registry"] = registry
    for name in ("mmdet", "mmdet.models", "mmdet.models.losses"):
        package = sys.modules.setdefault(name, types.ModuleType(name))
        package.__path__ = [str(folder.joinpath(*name.split(".")))]
    module = importlib.import_module("mmdet.models.losses.seesaw_loss")
    return module.SeesawLoss


def image_counts(num_classes: int) -> torch.Tensor:
    """LVIS v1's, (K,); for other numbers of classes as many, along the same curve."""
    lvis = sorted(LVIS_CATEGORY_IMAGE_COUNT, key=lambda category: category["id"])
    counts = np.array([category["image_count"] for category in lvis])
    if num_classes != len(counts):
        places = np.linspace(0, len(counts) - 1, num_classes)
        counts = np.interp(places, range(len(counts)), np.sort(counts)).astype(int)
    return torch.from_numpy(counts)


def sample_labels(counts: torch.Tensor, num_samples: int, foreground: float) -> torch.Tensor:
    """int64 (R,) in [0, K], shuffled; classes as likely as their images are many."""
    generator = torch.Generator().manual_seed(0)
    num_foreground = int(foreground * num_samples)
    labels = torch.full((num_samples,), len(counts))
    labels[:num_foreground] = torch.multinomial(
        counts.double(), num_foreground, replacement=True, generator=generator
    )
    return labels[torch.randperm(num_samples, generator=generator)]


def step(loss: Callable, num_logits: int, gt_classes: torch.Tensor, dtype: torch.dtype) -> Callable:
    """A forward and backward pass, from logits to their gradient."""
    torch.manual_seed(0)
    logits = torch.randn(len(gt_classes), num_logits, device=gt_classes.device).to(dtype)
    logits.requires_grad_()

    def run() -> None:
        losses = loss(logits, gt_classes)
        total = sum(losses.values()) if isinstance(losses, dict) else losses
        torch.autograd.grad(total, logits)

    return run


def main() -> None:
    args = arguments(__doc__)
    # Until a process has called a vectorised pow, PyTorch on CPUs with AVX-512 computes log1p
    # several times slower. The peers shall be at their best.
    torch.rand(1000).pow(6)
    # malloc keeps freed memory: fresh pages would cost more than the arithmetic, by luck.
    malloc = ctypes.CDLL(None)
    malloc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
    malloc.mallopt(-4, 0)  # M_MMAP_MAX
    mmdet = None if args.quick else mmdet_seesaw_loss()
    rows = []
    for num_classes, num_samples, dtype in QUICK_SIZES if args.quick else SIZES:
        counts = image_counts(num_classes)
        statistics = {"image_counts": counts, "instance_counts": counts, "num_images": 100_170}
        statistics["num_steps"] = 0  # what starts late, has started
        size = f"{num_samples:,} x {num_classes:,}, {str(dtype)[6:]}"
        softmax = ("F.cross_entropy in float32", in_float32(F.cross_entropy), num_classes + 1)
        for name in LOSSES:
            loss = build_loss(name, num_classes, **statistics).to(args.device)
            if isinstance(loss, SigmoidLoss):
                against = "F.binary_cross_entropy_with_logits in float32"
                peers = [(against, binary_cross_entropy, loss.num_logits)]
            else:
                peers = [softmax]
            if name == "seesaw" and dtype != torch.float32:
                peers.append(("F.cross_entropy in bfloat16", F.cross_entropy, num_classes + 1))
            if name == "seesaw" and mmdet:
                peer = mmdet(num_classes=num_classes).to(args.device)
                peers.append((f"{MMDET} SeesawLoss", in_float32(peer), loss.num_logits))
            for share, text in (0.25, "a quarter foreground"), (1.0, "all foreground"):
                if share == 1 and name != "seesaw":
                    continue
                gt_classes = sample_labels(counts, num_samples, share).to(args.device)
                ours = step(loss, loss.num_logits, gt_classes, dtype)
                for against, peer, num_logits in peers:
                    theirs = step(peer, num_logits, gt_classes, dtype)
                    rows.append(compare(name, against, f"{size}, {text}", ours, theirs, args))
    print_table("Losses, forward and backward", rows)


if __name__ == "__main__":
    main()
