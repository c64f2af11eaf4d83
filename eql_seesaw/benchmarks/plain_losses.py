"""
The losses as one would write them in an afternoon: their equations on whole (R, C) matrices, with
autograd. What `losses.py` measures ours beside; the tests hold both to the same loss and gradient.

Shapes as in :mod:`eql_seesaw.losses`: R samples, K classes, logits (R, L) of any floating dtype,
``gt_classes`` int64 (R,) in [0, K] where K is background. All return the sum of the loss's terms, a
float32 scalar; half-precision logits are computed in float32, as autocast does.
"""

import functools
from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F

PlainLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

# The defaults of build_loss.
MAX_IMAGE_COUNT = 100
GROUP_BOUNDS = (10, 100, 1000)
INITIAL_GRADIENT_RATIO = 100.0


def softmax_ce(logits: torch.Tensor, gt_classes: torch.Tensor) -> torch.Tensor:
    """Cross entropy of a softmax over K classes and background, Detectron2's own."""
    return F.cross_entropy(logits.float(), gt_classes)


def sigmoid_ce(logits: torch.Tensor, gt_classes: torch.Tensor) -> torch.Tensor:
    """EQL paper, eq. 2 to 4 (https://arxiv.org/abs/2003.05176): a binary cross entropy a class."""
    targets = one_hot(gt_classes, logits.shape[1])
    loss = F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="sum")
    return loss / len(logits)


def softmax_eql(
    logits: torch.Tensor, gt_classes: torch.Tensor, rare: torch.Tensor, gamma: float = 0.95
) -> torch.Tensor:
    """
    EQL paper, eq. 9 to 11 (https://arxiv.org/abs/2003.05176).

    Args:
        rare: (K,), T(f_k), 1 for the classes that are left out of other classes' softmax ...
        gamma: ... with this probability.
    """
    logits = logits.float()
    beta = (torch.rand_like(logits) < gamma).float()
    targets = one_hot(gt_classes, logits.shape[1])
    weights = 1 - beta * F.pad(rare, (0, 1)) * (1 - targets)
    return F.cross_entropy(logits + weights.log(), gt_classes)


def focal(
    logits: torch.Tensor, gt_classes: torch.Tensor, alpha: float = 0.25, gamma: float = 2.0
) -> torch.Tensor:
    """Focal loss, eq. 5 (https://arxiv.org/abs/1708.02002)."""
    logits = logits.float()
    targets = one_hot(gt_classes, logits.shape[1])
    p = logits.sigmoid()
    p_t = p * targets + (1 - p) * (1 - targets)
    alpha_t = alpha * targets + (1 - alpha) * (1 - targets)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (alpha_t * (1 - p_t) ** gamma * cross_entropy).sum() / len(logits)


def class_balanced(
    logits: torch.Tensor,
    gt_classes: torch.Tensor,
    instance_counts: torch.Tensor,
    beta: float = 0.999,
) -> torch.Tensor:
    """
    Class-balanced loss, eq. 4 and 6 (https://arxiv.org/abs/1901.05555).

    Args:
        instance_counts: float64 (K,), n_i.
        beta: the weight of a sample of class i is proportional to (1 - beta) / (1 - beta^n_i).
    """
    weights = (1 - beta) / (1 - beta ** instance_counts.clamp(min=1))
    weights = weights / weights.sum() * len(weights)
    weights = F.pad(weights, (0, 1), value=1.0).float()
    targets = one_hot(gt_classes, logits.shape[1])
    loss = F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none")
    return (loss * weights[gt_classes, None]).sum() / len(logits)


def bags(
    logits: torch.Tensor,
    gt_classes: torch.Tensor,
    groups: torch.Tensor,
    others_ratio: float = 8.0,
) -> torch.Tensor:
    """
    Balanced group softmax, section 3.2 (https://arxiv.org/abs/2006.10408).

    Args:
        groups: int64 (K,), each class's group out of G = len(GROUP_BOUNDS) + 1. The logits are K
            classes, "others" of each group, foreground, background.
        others_ratio: samples drawn of a group's "others" for each sample of its classes.
    """
    logits = logits.float()
    num_classes = len(groups)
    background = (gt_classes == num_classes).long()
    loss = F.cross_entropy(logits[:, -2:], background)
    group_of_sample = F.pad(groups, (0, 1), value=-1)[gt_classes]
    for group in range(len(GROUP_BOUNDS) + 1):
        classes = (groups == group).nonzero()[:, 0]
        own = (group_of_sample == group).nonzero()[:, 0]
        others = (group_of_sample != group).nonzero()[:, 0]
        others = others[torch.randperm(len(others), device=others.device)]
        others = others[: int(others_ratio * len(own))]
        columns = torch.cat([classes.new_tensor([num_classes + group]), classes])
        labels = torch.cat(
            [1 + torch.searchsorted(classes, gt_classes[own]), torch.zeros_like(others)]
        )
        samples = torch.cat([own, others])
        if len(samples):
            loss = loss + F.cross_entropy(logits[samples][:, columns], labels)
    return loss


def eql_v2(
    logits: torch.Tensor,
    gt_classes: torch.Tensor,
    positive_gradients: torch.Tensor,
    negative_gradients: torch.Tensor,
    gamma: float = 12.0,
    mu: float = 0.8,
    alpha: float = 4.0,
) -> torch.Tensor:
    """
    Equalization loss v2, eq. 5 to 9 (https://arxiv.org/abs/2012.08548).

    Args:
        positive_gradients, negative_gradients: float64 (K,), of the steps so far; this step's are
            added in place.
    """
    logits = logits.float()
    ratio = positive_gradients / negative_gradients
    ratio = ratio.nan_to_num(nan=INITIAL_GRADIENT_RATIO, posinf=INITIAL_GRADIENT_RATIO)
    negative_weights = F.pad(torch.sigmoid(gamma * (ratio - mu)), (0, 1), value=1.0).float()
    positive_weights = 1 + alpha * (1 - negative_weights)
    targets = one_hot(gt_classes, logits.shape[1])
    weights = positive_weights * targets + negative_weights * (1 - targets)
    loss = F.binary_cross_entropy_with_logits(logits, targets, weights, reduction="sum")
    with torch.no_grad():
        gradients = (logits.sigmoid() - targets).abs() * weights
        positive_gradients += (gradients * targets).sum(dim=0)[:-1]
        negative_gradients += (gradients * (1 - targets)).sum(dim=0)[:-1]
    return loss / len(logits)


def federated(
    logits: torch.Tensor,
    gt_classes: torch.Tensor,
    image_counts: torch.Tensor,
    num_sampled: int = 50,
) -> torch.Tensor:
    """
    Federated loss of CenterNet2 (https://arxiv.org/abs/2103.07461).

    Args:
        image_counts: (K,); classes are drawn with probability proportional to their square roots.
        num_sampled: classes of the loss, background among them: those of the batch, and drawn ones.
    """
    num_classes = logits.shape[1]
    present = gt_classes.unique()
    chance = F.pad(image_counts.sqrt(), (0, 1))
    chance[present] = 0
    num_drawn = min(max(num_sampled - len(present), 0), int((chance > 0).sum()))
    sampled = torch.zeros(num_classes + 1, device=logits.device)
    sampled[present] = 1
    if num_drawn:
        sampled[torch.multinomial(chance, num_drawn)] = 1
    targets = one_hot(gt_classes, num_classes)
    loss = F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none")
    return (loss * sampled[:-1]).sum() / len(logits)


def one_hot(gt_classes: torch.Tensor, num_columns: int) -> torch.Tensor:
    """float32 (R, C); a row of background is all 0 where there is no column for it."""
    targets = torch.zeros(len(gt_classes), num_columns + 1, device=gt_classes.device)
    return targets.scatter_(1, gt_classes[:, None], 1)[:, :num_columns]


def build_plain_loss(name: str, image_counts: Sequence[int], device: str = "cpu") -> PlainLoss:
    """
    A loss of :data:`PLAIN_LOSSES` with the settings that `build_loss` has by default.

    Args:
        name: as for `build_loss`.
        image_counts: (K,), taken for instance counts too.
        device: of the logits.
    """
    return PLAIN_LOSSES[name](torch.tensor(image_counts, dtype=torch.float64, device=device))


def _softmax_eql(counts):
    return functools.partial(softmax_eql, rare=(counts <= MAX_IMAGE_COUNT).float())


def _class_balanced(counts):
    return functools.partial(class_balanced, instance_counts=counts)


def _bags(counts):
    bounds = torch.tensor(GROUP_BOUNDS, dtype=counts.dtype, device=counts.device)
    return functools.partial(bags, groups=torch.bucketize(counts, bounds, right=True))


def _eql_v2(counts):
    return functools.partial(
        eql_v2,
        positive_gradients=torch.zeros_like(counts),
        negative_gradients=torch.zeros_like(counts),
    )


def _federated(counts):
    return functools.partial(federated, image_counts=counts)


# Name of a loss to what makes its plain form from image counts, float64 (K,).
PLAIN_LOSSES: dict[str, Callable[[torch.Tensor], PlainLoss]] = {
    "softmax_ce": lambda counts: softmax_ce,
    "sigmoid_ce": lambda counts: sigmoid_ce,
    "softmax_eql": _softmax_eql,
    "focal": lambda counts: focal,
    "class_balanced": _class_balanced,
    "bags": _bags,
    "eql_v2": _eql_v2,
    "federated": _federated,
}
