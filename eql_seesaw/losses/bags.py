"""Balanced group softmax (BAGS)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .base import ClassificationLoss, class_vector, float32_or_better


class BalancedGroupSoftmax(ClassificationLoss):
    """
    Balanced group softmax of https://arxiv.org/abs/2006.10408.

    Classes with similar numbers of training instances form a group, each with a softmax of its own
    over its classes and "others". A further softmax tells foreground from background. The loss is
    the sum over groups of cross entropies. In each group it is over the samples of its classes and
    ``others_ratio`` times as many of the others, background or foreground, drawn at random; nothing
    in a group without samples.

    The probability of a class is that in its group times that of foreground; the probabilities of
    "others" are dropped.

    As in the released code, a group's loss is divided by the number of samples that it is over, and
    the loss of foreground / background by all R samples. The paper trains only the classifier, from
    a model trained with softmax cross entropy.

    Args:
        num_classes: K. Takes K + G + 2 logits for G groups: classes, "others" of each group,
            foreground, background.
        instance_counts: (K,) training instances of each class. Instances, not images.
        group_bounds: G - 1 ascending bounds. A class is in group n if its count is at least that of
            bound n - 1 and below bound n. A group may be without classes.
        others_ratio: beta, samples of "others" for each sample of the group's classes.
        generator: source of the draws, on the logits' device; None for torch's default generator,
            which ``torch.manual_seed`` seeds.
    """

    columns: Tensor
    class_groups: Tensor
    labels_in_groups: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        instance_counts: Sequence[float] | None = None,
        group_bounds: Sequence[float] = (10, 100, 1000),
        others_ratio: float = 8.0,
        generator: torch.Generator | None = None,
    ):
        num_groups = len(group_bounds) + 1
        super().__init__(num_classes, num_classes + num_groups + 2)
        bounds = torch.tensor(group_bounds, dtype=torch.float64, device="cpu")
        if not (bounds.diff() > 0).all():
            raise ValueError(f"group_bounds must ascend, got {tuple(group_bounds)}")
        if others_ratio < 0:
            raise ValueError(f"others_ratio must not be negative, got {others_ratio}")
        self.num_groups = num_groups
        self.others_ratio = others_ratio
        self.generator = generator
        counts = class_vector(instance_counts, num_classes, "instance_counts")
        groups = torch.bucketize(counts, bounds, right=True)
        # The groups' columns one group after the other, "others" first in each.
        others = torch.arange(num_groups, device="cpu")
        columns = torch.cat([others, groups]).argsort(stable=True)
        columns = torch.where(columns < num_groups, columns + num_classes, columns - num_groups)
        self.group_sizes = (groups.bincount(minlength=num_groups) + 1).tolist()
        positions = torch.cat([torch.arange(size, device="cpu") for size in self.group_sizes])
        positions_of_classes = torch.empty_like(positions).scatter_(0, columns, positions)
        # Not in checkpoints: they follow from the training set and the settings of this run.
        # Background, the last, is in no group, and "others" in all of them.
        buffers = {
            "columns": columns,
            "class_groups": F.pad(groups, (0, 1), value=-1),
            "labels_in_groups": F.pad(positions_of_classes[:num_classes], (0, 1)),
        }
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer, persistent=False)

    def losses(
        self, logits: Tensor, gt_classes: Tensor, annotated_classes: Tensor | None = None
    ) -> dict[str, Tensor]:
        groups = torch.arange(self.num_groups, device=logits.device)
        in_group = self.class_groups[gt_classes, None] == groups
        labels = self.labels_in_groups[gt_classes, None] * in_group
        included = in_group | self.sample_others(in_group)
        group_logits, objectness_logits = self._split(logits)
        # Not a matrix product, which autocast would compute in half precision.
        summed_losses = [
            (F.cross_entropy(z, label, reduction="none") * is_included).sum()
            for z, label, is_included in zip(group_logits, labels.T, included.T)
        ]
        group_losses = torch.stack(summed_losses) / included.sum(dim=0).clamp(min=1)
        background = (gt_classes == self.num_classes).long()
        objectness_loss = F.cross_entropy(objectness_logits, background, reduction="sum")
        return {
            "loss_cls": group_losses.sum(),
            "loss_cls_objectness": objectness_loss / max(len(logits), 1),
        }

    def sample_others(self, in_group: Tensor) -> Tensor:
        """
        Args:
            in_group: bool (R, G), True where the sample's class is in the group.

        Returns:
            bool (R, G), the samples drawn as "others"; in each group floor(ratio * samples in the
            group), or all if there are fewer.
        """
        draws = torch.empty_like(in_group, dtype=torch.float32)
        # Not torch.rand(generator=None), which torch.compile fails on at another number of samples.
        draws.uniform_(generator=self.generator)
        ranks = draws.masked_fill(in_group, 2.0).argsort(dim=0).argsort(dim=0)
        return (ranks < (self.others_ratio * in_group.sum(dim=0)).floor()) & ~in_group

    def probabilities(self, logits: Tensor) -> Tensor:
        group_logits, objectness_logits = self._split(logits)
        grouped = torch.cat([group.softmax(dim=1) for group in group_logits], dim=1)
        classes = grouped.index_select(1, self.columns.argsort()[: self.num_classes])
        foreground, background = objectness_logits.softmax(dim=1).split(1, dim=1)
        return torch.cat([classes * foreground, background], dim=1)

    def predicted_classes(self, logits: Tensor) -> Tensor:
        foreground, background = logits[:, -2:].unbind(dim=1)
        classes = self.probabilities(logits)[:, : self.num_classes].argmax(dim=1)
        return torch.where(foreground >= background, classes, self.num_classes)

    def extra_repr(self) -> str:
        sizes = ", ".join(str(size - 1) for size in self.group_sizes)
        return f"num_classes={self.num_classes} in groups of {sizes}, ratio={self.others_ratio}"

    def _split(self, logits: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """(R, 1 + classes of the group) logits of each group, "others" first; (R, 2) objectness."""
        logits = float32_or_better(logits)
        return logits.index_select(1, self.columns).split(self.group_sizes, dim=1), logits[:, -2:]
