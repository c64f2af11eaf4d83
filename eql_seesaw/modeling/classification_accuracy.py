"""Training accuracy of the box classifier, for any number of logits and by frequency group."""

from collections.abc import Sequence

import torch
from detectron2.utils.events import EventStorage

from ..data.frequency_groups import GROUP_NAMES

# Accuracies are averaged over this many steps and then logged: the period of Detectron2's writers.
# Numbers leave the device only then.
PERIOD = 20


class ClassificationAccuracy:
    """
    Logs Detectron2's own ``fast_rcnn/cls_accuracy``, ``fg_cls_accuracy`` and ``false_negative``,
    right for every loss, and ``fg_cls_accuracy_rare``, ``_common`` and ``_frequent``.

    Args:
        num_classes: K.
        class_groups: K of "r", "c", "f", or None to leave the groups out.
    """

    def __init__(self, num_classes: int, class_groups: Sequence[str] | None = None):
        self.groups = sorted(set(class_groups)) if class_groups is not None else ["f"]
        self.log_groups = class_groups is not None
        of_class = class_groups if class_groups is not None else ["f"] * num_classes
        columns = [self.groups.index(group) for group in of_class]
        # Column of each class; background has the last one.
        self.column = torch.tensor([*columns, len(self.groups)])
        # Rows: samples, right ones, those taken for background.
        self.sums = torch.zeros(3, len(self.groups) + 1)

    @torch.no_grad()
    def update(
        self, predicted_classes: torch.Tensor, gt_classes: torch.Tensor, storage: EventStorage
    ) -> None:
        """
        Args:
            predicted_classes, gt_classes: (R,) in [0, K], K for background.
            storage: receives the scalars, once in :data:`PERIOD` steps.
        """
        self.column = self.column.to(gt_classes.device)
        self.sums = self.sums.to(gt_classes.device)
        background = len(self.column) - 1
        samples = torch.stack(
            [
                torch.ones_like(gt_classes),
                predicted_classes == gt_classes,
                predicted_classes == background,
            ]
        )
        self.sums.index_add_(1, self.column[gt_classes], samples.to(self.sums.dtype))
        if (storage.iter + 1) % PERIOD == 0:
            self._log(storage)
            self.sums.zero_()

    def _log(self, storage: EventStorage) -> None:
        total, right, as_background = self.sums.tolist()
        if sum(total):
            storage.put_scalar("fast_rcnn/cls_accuracy", sum(right) / sum(total))
        foreground = sum(total[:-1])
        if foreground:
            storage.put_scalar("fast_rcnn/fg_cls_accuracy", sum(right[:-1]) / foreground)
            storage.put_scalar("fast_rcnn/false_negative", sum(as_background[:-1]) / foreground)
        if self.log_groups:
            for group, group_total, group_right in zip(self.groups, total, right):
                if group_total:
                    name = f"fast_rcnn/fg_cls_accuracy_{GROUP_NAMES[group]}"
                    storage.put_scalar(name, group_right / group_total)
