"""
Forward and backward pass of each loss from its logits: Seesaw beside F.cross_entropy and
MMDetection's own file (installed from PyPI into output/benchmarks), EQL beside
F.binary_cross_entropy_with_logits, the others beside their equations in plain PyTorch.

    python -m benchmarks.losses
"""

import ctypes
import functools
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

from eql_seesaw.losses import build_loss

from .measure import arguments, chosen, compare, print_table

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

# The plain forms take logits (R, L), gt_classes (R,) and image counts (K,), and compute in float32.


def one_hot(gt_classes: torch.Tensor, num_columns: int) -> torch.Tensor:
    """float32 (R, C); a row of background is all 0 where there is no column for it."""
    targets = torch.zeros(len(gt_classes), num_columns + 1, device=gt_classes.device)
    return targets.scatter_(1, gt_classes[:, None], 1)[:, :num_columns]


def binary_cross_entropy(logits, gt_classes, weights=None):
    targets = one_hot(gt_classes, logits.shape[1])
    loss = F.binary_cross_entropy_with_logits(logits.float(), targets, weights, reduction="sum")
    return loss / len(logits)


def softmax_ce(logits, gt_classes, counts):
    return F.cross_entropy(logits.float(), gt_classes)


def sigmoid_ce(logits, gt_classes, counts):
    return binary_cross_entropy(logits, gt_classes)


def softmax_eql(logits, gt_classes, counts, gamma=0.95, max_image_count=100):
    """EQL paper, eq. 9 to 11."""
    beta = (torch.rand_like(logits, dtype=torch.float32) < gamma).float()
    rare = F.pad((counts <= max_image_count).float(), (0, 1))
    weights = 1 - beta * rare * (1 - one_hot(gt_classes, logits.shape[1]))
    return F.cross_entropy(logits.float() + weights.log(), gt_classes)


def focal(logits, gt_classes, counts, alpha=0.25, gamma=2.0):
    targets, p = one_hot(gt_classes, logits.shape[1]), logits.float().sigmoid()
    p_t = p * targets + (1 - p) * (1 - targets)
    alpha_t = alpha * targets + (1 - alpha) * (1 - targets)
    cross_entropy = F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none")
    return (alpha_t * (1 - p_t) ** gamma * cross_entropy).sum() / len(logits)


def class_balanced(logits, gt_classes, counts, beta=0.999):
    weights = (1 - beta) / (1 - beta ** counts.double().clamp(min=1))
    weights = F.pad(weights / weights.sum() * len(weights), (0, 1), value=1.0).float()
    return binary_cross_entropy(logits, gt_classes, weights[gt_classes, None].expand_as(logits))


def bags(logits, gt_classes, counts, bounds=(10, 100, 1000), others_ratio=8.0):
    """Balanced group softmax, section 3.2; K classes, "others", foreground, background."""
    logits, num_classes = logits.float(), len(counts)
    groups = torch.bucketize(counts, counts.new_tensor(bounds), right=True)
    loss = F.cross_entropy(logits[:, -2:], (gt_classes == num_classes).long())
    group_of_sample = F.pad(groups, (0, 1), value=-1)[gt_classes]
    for group in range(len(bounds) + 1):
        classes = (groups == group).nonzero()[:, 0]
        own = (group_of_sample == group).nonzero()[:, 0]
        others = (group_of_sample != group).nonzero()[:, 0]
        others = others[torch.randperm(len(others), device=others.device)]
        others = others[: int(others_ratio * len(own))]
        columns = torch.cat([classes.new_tensor([num_classes + group]), classes])
        labels = 1 + torch.searchsorted(classes, gt_classes[own])
        labels = torch.cat([labels, torch.zeros_like(others)])
        if len(labels):
            rows = logits[torch.cat([own, others])]
            loss = loss + F.cross_entropy(rows[:, columns], labels)
    return loss


def eql_v2(logits, gt_classes, counts, gamma=12.0, mu=0.8, alpha=4.0, statistics=None):
    """Equalization loss v2, eq. 5 to 9; ``statistics`` (2, K) are added to in place."""
    ratio = (statistics[0] / statistics[1]).nan_to_num(nan=100.0, posinf=100.0)
    negative = F.pad(torch.sigmoid(gamma * (ratio - mu)), (0, 1), value=1.0).float()
    targets = one_hot(gt_classes, logits.shape[1])
    weights = (1 + alpha * (1 - negative)) * targets + negative * (1 - targets)
    with torch.no_grad():
        gradients = (logits.float().sigmoid() - targets).abs() * weights
        statistics[0] += (gradients * targets).sum(dim=0)[:-1]
        statistics[1] += (gradients * (1 - targets)).sum(dim=0)[:-1]
    return binary_cross_entropy(logits, gt_classes, weights)


def equalized_focal(logits, gt_classes, counts, alpha=0.25, gamma=2.0, scale=8.0, statistics=None):
    """Equalized focal loss, eq. 5 to 7; ``statistics`` (2, K) are added to in place."""
    ratio = (statistics[0] / statistics[1]).nan_to_num(nan=1.0).clamp(max=1)
    exponents = (gamma + scale * (1 - ratio)).float()
    targets, z = one_hot(gt_classes, logits.shape[1]), logits.float()
    p = z.sigmoid()
    p_t = p * targets + (1 - p) * (1 - targets)
    weights = (alpha * targets + (1 - alpha) * (1 - targets)) * exponents / gamma
    cross_entropy = F.binary_cross_entropy_with_logits(z, targets, reduction="none")
    with torch.no_grad():
        focusing = (1 - p_t) ** exponents
        gradients = weights * focusing * (1 - p_t + exponents * p_t * cross_entropy)
        statistics[0] += (gradients * targets).sum(dim=0)
        statistics[1] += (gradients * (1 - targets)).sum(dim=0)
    return (weights * (1 - p_t) ** exponents * cross_entropy).sum() / len(logits)


def softmax_eql_v2(logits, gt_classes, counts, tau=1.0, floor=0.05, statistics=None):
    """Gradient-driven softmax EQL; the first of ``statistics``, (2, K), is added to in place."""
    gradients = statistics[0].clamp(min=floor)
    shifts = F.pad(tau * (gradients / gradients.mean()).log(), (0, 1)).float()
    losses = F.cross_entropy(logits.float() + shifts, gt_classes, reduction="none")
    with torch.no_grad():
        own = F.pad(statistics[0], (0, 1)).scatter_add_(0, gt_classes, 1 - (-losses.double()).exp())
        statistics[0] = own[:-1]
    return losses.mean()


def equilibrium(logits, gt_classes, counts, momentum=0.99, statistics=None):
    """LOCE's loss; ``statistics``, (1, K), are mean scores, which are changed in place."""
    z, scores = logits.float(), statistics[0].clamp(min=1e-6)
    shifts = F.pad(scores, (0, 1), value=0.01).log().float()
    with torch.no_grad():
        targets = one_hot(gt_classes, len(counts))
        samples = targets.sum(dim=0).double()
        step = (z.softmax(dim=1)[:, :-1] * targets).sum(dim=0).double()
        kept = momentum**samples
        statistics[0] = kept * statistics[0] + (1 - kept) * step / samples.clamp(min=1)
    return F.cross_entropy(z + shifts, gt_classes)


def fcbl(logits, gt_classes, counts, alpha=0.85, threshold=0.7, statistics=None):
    """BACL's loss; ``statistics``, (K, K + 1) of probabilities and samples, are added to."""
    z, num_classes = logits.float(), len(counts)
    foreground = gt_classes < num_classes
    labels = gt_classes[foreground]
    log_confusion = (
        (statistics[:, :-1] / statistics[:, -1:].clamp(min=1)).clamp(min=1e-3).log().float()
    )
    margins, weights = torch.zeros_like(z), torch.ones_like(z)
    margins[foreground, :-1] = alpha * (log_confusion - log_confusion.T)[labels]
    scores = z.detach().sigmoid()
    scores = (scores[:, :-1] * (1 - scores[:, -1:]))[foreground]
    suppressed = (scores >= scores.gather(1, labels[:, None])) | (scores >= threshold)
    weights[foreground, :-1] = suppressed.float()
    probabilities = z.detach()[foreground, :-1].double().softmax(dim=1)
    statistics.index_add_(0, labels, F.pad(probabilities, (0, 1), value=1.0))
    return binary_cross_entropy(z + margins, gt_classes, weights)


def drop_loss(logits, gt_classes, counts, max_image_count=100):
    """DropLoss's weights with the Gumbel link, as in the released code of GOL."""
    is_rare, foreground = counts <= max_image_count, gt_classes < len(counts)
    share = is_rare[gt_classes[foreground]].float().mean()
    targets = one_hot(gt_classes, logits.shape[1])
    kept = (torch.rand_like(targets) < share) & ~foreground[:, None]
    weights = (targets.bool() | ~is_rare | kept).float()
    p = torch.exp(-torch.exp(-logits.float().clamp(-4, 10)))
    return F.binary_cross_entropy(p, targets, weights, reduction="sum") / len(logits)


def federated(logits, gt_classes, counts, num_sampled=50):
    """Federated loss of CenterNet2; background is one of the classes."""
    present = gt_classes.unique()
    chance = F.pad(counts.double().sqrt(), (0, 1))
    chance[present] = 0
    num_drawn = min(max(num_sampled - len(present), 0), int((chance > 0).sum()))
    sampled = torch.zeros(len(chance), device=logits.device)
    sampled[present] = 1
    if num_drawn:
        sampled[torch.multinomial(chance, num_drawn)] = 1
    return binary_cross_entropy(logits, gt_classes, sampled[:-1].expand_as(logits))


# Of those that accumulate something, what they begin with.
STATISTICS = {
    eql_v2: lambda num_classes: torch.zeros(2, num_classes),
    equalized_focal: lambda num_classes: torch.zeros(2, num_classes),
    softmax_eql_v2: lambda num_classes: torch.zeros(2, num_classes),
    equilibrium: lambda num_classes: torch.full((1, num_classes), 0.01),
    fcbl: lambda num_classes: torch.zeros(num_classes, num_classes + 1),
}
# Of the loss, where the plain form is not that of its defaults.
ARGUMENTS = {drop_loss: {"link": "gumbel"}}
PLAIN = (
    softmax_ce,
    sigmoid_ce,
    softmax_eql,
    focal,
    class_balanced,
    bags,
    *STATISTICS,
    drop_loss,
    federated,
)


def mmdet_seesaw_loss(num_classes: int) -> nn.Module:
    """
    MMDetection's Seesaw loss with its default p and q, from its own unmodified file, imported
    without the packages around it, which need MMCV and its compiled operators.
    """
    folder = PEERS / MMDET
    if not folder.is_dir():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", MMDET]
        subprocess.run([*command, "--target", str(folder)], check=True)
    registry = types.ModuleType("mmdet.registry")  # it only keeps classes by name
    registry.MODELS = types.SimpleNamespace(  # type: ignore[attr-defined]
        register_module=lambda: lambda cls: cls
    )
    sys.modules["mmdet.registry"] = registry
    for name in ("mmdet", "mmdet.models", "mmdet.models.losses"):
        package = sys.modules.setdefault(name, types.ModuleType(name))
        package.__path__ = [str(folder.joinpath(*name.split(".")))]
    module = importlib.import_module("mmdet.models.losses.seesaw_loss")
    return module.SeesawLoss(num_classes=num_classes)


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
    rows = []
    for num_classes, num_samples, dtype in chosen(args, SIZES, QUICK_SIZES):
        counts = image_counts(num_classes)

        def add(name, against, peer, foreground, num_peer_logits=None, **loss_arguments):
            gt_classes = sample_labels(counts, num_samples, foreground).to(args.device)
            loss = build_loss(
                name, num_classes, image_counts=counts, instance_counts=counts, **loss_arguments
            ).to(args.device)
            ours = step(loss, loss.num_logits, gt_classes, dtype)
            theirs = step(peer, num_peer_logits or loss.num_logits, gt_classes, dtype)
            share = "all foreground" if foreground == 1 else "a quarter foreground"
            size = f"{num_samples:,} x {num_classes:,}, {str(dtype)[6:]}, {share}"
            rounds = 1 if args.quick else 5 if num_samples * num_classes > 2e7 else 20
            rows.append(compare(name, against, size, ours, theirs, rounds, args.device))

        for foreground in (0.25, 1.0):
            peer = functools.partial(softmax_ce, counts=counts)
            add("seesaw", "F.cross_entropy in float32", peer, foreground, num_classes + 1)
            if dtype == torch.bfloat16:
                name = "F.cross_entropy in bfloat16"
                add("seesaw", name, F.cross_entropy, foreground, num_classes + 1)
            if not (args.quick or args.offline):
                mmdet = mmdet_seesaw_loss(num_classes).to(args.device)

                def peer(logits, gt_classes, mmdet=mmdet):
                    return mmdet(logits.float(), gt_classes)

                add("seesaw", f"{MMDET} SeesawLoss", peer, foreground)
        on_device = counts.to(args.device)
        peer = functools.partial(sigmoid_ce, counts=on_device)
        add("eql", "F.binary_cross_entropy_with_logits", peer, 0.25)
        for plain in PLAIN:
            peer = functools.partial(plain, counts=on_device)
            if plain in STATISTICS:
                statistics = STATISTICS[plain](num_classes).double().to(args.device)
                peer = functools.partial(peer, statistics=statistics)
            add(plain.__name__, "plain PyTorch", peer, 0.25, **ARGUMENTS.get(plain, {}))
    print_table("Losses, forward and backward", rows)


if __name__ == "__main__":
    main()
