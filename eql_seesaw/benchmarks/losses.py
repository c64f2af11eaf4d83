"""Forward and backward pass of each loss, beside PyTorch's, MMDetection's, or its plain form."""

import ctypes
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from detectron2.data.datasets.lvis_v1_category_image_count import LVIS_CATEGORY_IMAGE_COUNT
from torch import nn
from torch.nn import functional as F

from ..losses import build_loss
from . import peers
from .measure import Function, interleaved_seconds, peak_memory
from .plain_losses import PLAIN_LOSSES, build_plain_loss, one_hot
from .row import Row

# Anything that takes logits and labels, and gives a scalar or a dict of scalars.
Loss = Callable[[torch.Tensor, torch.Tensor], Any]

CROSS_ENTROPY = "F.cross_entropy"
BINARY_CROSS_ENTROPY = "F.binary_cross_entropy_with_logits"
# Without autocast, which computes both of them in float32.
CROSS_ENTROPY_BFLOAT16 = f"{CROSS_ENTROPY} in bfloat16"
BINARY_CROSS_ENTROPY_BFLOAT16 = f"{BINARY_CROSS_ENTROPY} in bfloat16"
MMDET = f"{peers.MMDET} SeesawLoss"
MMDET_BFLOAT16 = f"{MMDET} in bfloat16"
PLAIN = "plain PyTorch"

# Detectron2's samples for an image, and their share of foreground.
PROPOSALS_PER_IMAGE = 512
FOREGROUND_SHARE = 0.25
# Of the box head that feeds the classifier.
FEATURE_CHANNELS = 1024

# A row is repeated for about so long, within these bounds.
SECONDS_PER_ROW = 2.0
MIN_REPETITIONS, MAX_REPETITIONS = 5, 100


@dataclasses.dataclass(frozen=True)
class Comparison:
    """
    Attributes:
        loss: name for `build_loss`.
        against: one of the constants above.
        time_limit, memory_limit: aims, as in `Row`.
        arguments: of the loss, beside class statistics.
        all_foreground: whether no label is background.
    """

    loss: str
    against: str
    time_limit: float
    memory_limit: float | None = None
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    all_foreground: bool = False


@dataclasses.dataclass(frozen=True)
class Size:
    """
    Attributes:
        num_classes: K.
        num_samples: R.
        dtype: of the logits.
        autocast: None to measure the loss alone, from its logits; else whether the classifier that
            computes them, and the loss, run under autocast to float16.
    """

    num_classes: int
    num_samples: int
    dtype: torch.dtype
    autocast: bool | None = None


COMPARISONS = (
    Comparison("seesaw", CROSS_ENTROPY, 1.10, 1.25),
    Comparison("seesaw", MMDET, 1 / 3, 0.5),
    Comparison("seesaw", CROSS_ENTROPY, 1.10, 1.25, all_foreground=True),
    Comparison("seesaw", MMDET, 1 / 3, 0.5, all_foreground=True),
    Comparison("seesaw", CROSS_ENTROPY, 1.10, 1.25, {"objectness": False}),
    Comparison("eql", BINARY_CROSS_ENTROPY, 1.10, 1.10),
    *(Comparison(name, PLAIN, 1.0) for name in PLAIN_LOSSES),
)
BFLOAT16_COMPARISONS = (
    *COMPARISONS,
    Comparison("seesaw", CROSS_ENTROPY_BFLOAT16, 1.10, 1.25),
    Comparison("seesaw", MMDET_BFLOAT16, 1 / 3, 0.5),
    Comparison("seesaw", CROSS_ENTROPY_BFLOAT16, 1.10, 1.25, {"objectness": False}),
    Comparison("eql", BINARY_CROSS_ENTROPY_BFLOAT16, 1.10, 1.10),
)
# The largest one last: if memory runs out, the others are measured.
SIZES = (
    Size(1203, 2048, torch.float32),
    Size(1203, 8192, torch.float32),
    Size(1203, 2048, torch.bfloat16),
    Size(1203, 8192, torch.bfloat16),
    Size(1203, 512, torch.float32),
    Size(80, 2048, torch.float32),
    Size(13_000, 2048, torch.float32),
)
AUTOCAST_SIZES = (
    Size(1203, 2048, torch.float32, autocast=False),
    Size(1203, 2048, torch.float32, autocast=True),
)
QUICK_SIZES = (
    Size(20, 512, torch.float32),
    Size(20, 1024, torch.bfloat16),
    Size(40, 512, torch.float32),
)


def rows(device: str, quick: bool) -> Iterator[Row]:
    """See `eql_seesaw.benchmarks`. Without a GPU, "cuda" gives rows that are not measured."""
    # Until a process has called a vectorised pow, PyTorch on CPUs with AVX-512 computes log1p and
    # logsigmoid several times slower. The peers shall be at their best.
    torch.rand(1000).pow(6)
    _keep_freed_memory()
    missing = missing_peers(device, quick)
    sizes = QUICK_SIZES if quick else SIZES
    for size in (*sizes, *AUTOCAST_SIZES) if device == "cuda" else sizes:
        is_bfloat16 = size.dtype == torch.bfloat16
        for comparison in BFLOAT16_COMPARISONS if is_bfloat16 else COMPARISONS:
            row = empty_row(comparison, size, device)
            if note := missing.get(comparison.against):
                yield dataclasses.replace(row, note=note)
            else:
                yield dataclasses.replace(row, **measure(comparison, size, device, quick))


def _keep_freed_memory() -> None:
    """
    Let glibc's malloc not give memory back to the system. By default whether a call gets fresh
    pages, which cost more than the arithmetic, depends on what was allocated before it.
    """
    m_trim_threshold, m_mmap_max = -1, -4
    malloc = ctypes.CDLL(None)
    malloc.mallopt(m_trim_threshold, 2**31 - 1)
    malloc.mallopt(m_mmap_max, 0)


def missing_peers(device: str, quick: bool) -> dict[str, str]:
    """Why rows against a peer cannot be measured; nothing for peers that can."""
    if device == "cuda" and not torch.cuda.is_available():
        return dict.fromkeys(
            (comparison.against for comparison in BFLOAT16_COMPARISONS), "no GPU on this machine"
        )
    if quick:
        return dict.fromkeys((MMDET, MMDET_BFLOAT16), "not in a quick run")
    try:
        peers.mmdet_seesaw_loss(num_classes=1)
    except (peers.PeerMissing, ImportError) as error:
        return dict.fromkeys((MMDET, MMDET_BFLOAT16), str(error))
    return {}


def empty_row(comparison: Comparison, size: Size, device: str) -> Row:
    """What is to be measured, without measurements."""
    labels = "all foreground" if comparison.all_foreground else "a quarter foreground"
    without = "" if comparison.arguments.get("objectness", True) else " without objectness"
    dtype = str(size.dtype).removeprefix("torch.")
    classifier = ""
    if size.autocast is not None:
        classifier = " and its classifier"
        dtype = "autocast to float16" if size.autocast else "float32, no autocast"
    return Row(
        benchmark="losses",
        work=f"{comparison.loss}{without}{classifier}, forward and backward",
        against=comparison.against,
        size=f"{size.num_samples:,} samples × {size.num_classes:,} classes, {dtype}, {labels}",
        parameters={
            "num_classes": size.num_classes,
            "num_images": size.num_samples // PROPOSALS_PER_IMAGE,
            "dtype": dtype,
            "labels": labels,
        },
        seconds=[],
        peer_seconds=[],
        # The classifier, which is in both, would make them easier to reach.
        time_limit=comparison.time_limit if size.autocast is None else None,
        memory_limit=comparison.memory_limit if size.autocast is None else None,
        note="malloc keeps freed memory" if device == "cpu" else "",
    )


def measure(comparison: Comparison, size: Size, device: str, quick: bool) -> dict[str, Any]:
    """The measured fields of a `Row`."""
    counts = image_counts(size.num_classes)
    gt_classes = sample_labels(counts, size.num_samples, comparison.all_foreground).to(device)
    loss = build_loss(
        comparison.loss,
        size.num_classes,
        image_counts=counts,
        instance_counts=counts,
        **comparison.arguments,
    ).to(device)
    peer, num_peer_logits = build_peer(comparison, loss.num_logits, counts, gt_classes)
    functions = [
        forward_and_backward(loss, loss.num_logits, gt_classes, size),
        forward_and_backward(peer, num_peer_logits, gt_classes, size),
    ]
    repetitions = 1
    if not quick:
        seconds_of_a_round = sum(map(sum, interleaved_seconds(functions, 1, 1, device)))
        repetitions = int(SECONDS_PER_ROW / seconds_of_a_round)
        repetitions = min(max(repetitions, MIN_REPETITIONS), MAX_REPETITIONS)
    seconds, peer_seconds = interleaved_seconds(functions, repetitions, 1, device)
    memory, peer_memory = (peak_memory(function, device) for function in functions)
    return {
        "seconds": seconds,
        "peer_seconds": peer_seconds,
        "memory": memory,
        "peer_memory": peer_memory,
    }


def build_peer(
    comparison: Comparison, num_logits: int, counts: list[int], gt_classes: torch.Tensor
) -> tuple[Loss, int]:
    """
    Args:
        comparison: what to compare.
        num_logits: of our loss.
        counts: (K,) image counts.
        gt_classes: (R,) labels, on the device to measure on.

    Returns:
        The peer and its number of logits. It computes in float32, as under autocast, unless its
        name says otherwise.
    """
    num_classes, device = len(counts), gt_classes.device
    if comparison.against == CROSS_ENTROPY:
        return lambda logits, labels: F.cross_entropy(logits.float(), labels), num_classes + 1
    if comparison.against == CROSS_ENTROPY_BFLOAT16:
        return F.cross_entropy, num_classes + 1
    if comparison.against in (BINARY_CROSS_ENTROPY, BINARY_CROSS_ENTROPY_BFLOAT16):
        is_bfloat16 = comparison.against == BINARY_CROSS_ENTROPY_BFLOAT16
        dtype = torch.bfloat16 if is_bfloat16 else torch.float32
        targets = one_hot(gt_classes, num_classes).to(dtype).contiguous()
        return functools.partial(binary_cross_entropy, targets), num_classes
    if comparison.against == MMDET:
        loss = peers.mmdet_seesaw_loss(num_classes).to(device)
        return lambda logits, labels: loss(logits.float(), labels), num_logits
    if comparison.against == MMDET_BFLOAT16:
        return peers.mmdet_seesaw_loss(num_classes).to(device), num_logits
    return build_plain_loss(comparison.loss, counts, str(device)), num_logits


def binary_cross_entropy(
    targets: torch.Tensor, logits: torch.Tensor, gt_classes: torch.Tensor
) -> torch.Tensor:
    """Sum over classes, mean over samples, in the dtype of targets (R, K) that are ready made."""
    logits = logits.to(targets.dtype)
    loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
    return loss / len(gt_classes)


def forward_and_backward(
    loss: Loss, num_logits: int, gt_classes: torch.Tensor, size: Size
) -> Function:
    """One pass of the loss, from logits or from the classifier's features, with the gradients."""
    device = gt_classes.device
    torch.manual_seed(0)
    if size.autocast is None:
        classifier: nn.Module = nn.Identity()
        features = torch.randn(len(gt_classes), num_logits, device=device).to(size.dtype)
    else:
        classifier = nn.Linear(FEATURE_CHANNELS, num_logits, device=device)
        features = torch.randn(len(gt_classes), FEATURE_CHANNELS, device=device)
    inputs = [features.requires_grad_(), *classifier.parameters()]

    def step() -> None:
        with torch.autocast(device.type, torch.float16, enabled=bool(size.autocast)):
            losses = loss(classifier(features), gt_classes)
        total: Any = sum(losses.values()) if isinstance(losses, dict) else losses
        torch.autograd.grad(total, inputs)

    return step


def sample_labels(counts: list[int], num_samples: int, all_foreground: bool) -> torch.Tensor:
    """
    Labels as a Detectron2 head sees them.

    Args:
        counts: (K,) image counts, to which the chances of the classes are proportional.
        num_samples: R.
        all_foreground: whether no label is background.

    Returns:
        int64 (R,) in [0, K], shuffled; a quarter foreground unless all are.
    """
    generator = torch.Generator().manual_seed(0)
    num_foreground = num_samples if all_foreground else int(FOREGROUND_SHARE * num_samples)
    chances = torch.tensor(counts, dtype=torch.float64)
    labels = torch.full((num_samples,), len(counts))
    labels[:num_foreground] = torch.multinomial(
        chances, num_foreground, replacement=True, generator=generator
    )
    return labels[torch.randperm(num_samples, generator=generator)]


def image_counts(num_classes: int) -> list[int]:
    """LVIS v1's image counts; for other numbers of classes as many, along the same curve."""
    lvis = sorted(LVIS_CATEGORY_IMAGE_COUNT, key=lambda category: category["id"])
    counts = [category["image_count"] for category in lvis]
    if num_classes == len(counts):
        return counts
    places = np.linspace(0, len(counts) - 1, num_classes)
    return np.interp(places, range(len(counts)), sorted(counts)).astype(int).tolist()
