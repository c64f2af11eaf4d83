"""Training accuracy of the box classifier, for any number of logits and by frequency group."""

from collections.abc import Sequence

import torch
from detectron2.utils.events import EventStorage

from ..data.frequency_groups import GROUP_NAMES

# Accuracies are over this many steps and then logged: the period of Detectron2's writers. Numbers
# leave the device only then.
PERIOD = 20


class ClassificationAccuracy:
    """
    Logs Detectron2's own ``fast_rcnn/cls_accuracy``, ``fg_cls_accuracy`` and ``false_negative``,
    right for every loss, and ``fg_cls_accuracy_rare``, ``_common`` and ``_frequent``.

    Args:
        num_classes: K.
        class_groups: K of "r", "c", "f", or None to leave the groups out.

    Attributes:
        sums: float32 (3, groups + 1), over the period so far: samples, right ones, those taken for
            background, by group, background last. A resumed run goes on from a copy of them.
    """

    def __init__(self, num_classes: int, class_groups: Sequence[str] | None = None):
        self.groups = sorted(set(class_groups)) if class_groups is not None else ["f"]
        self.log_groups = class_groups is not None
        of_class = class_groups if class_groups is not None else ["f"] * num_classes
        columns = [self.groups.index(group) for group in of_class]
        # Column of each class; background has the last one.
        self.column = torch.tensor([*columns, len(self.groups)])
        self.sums = torch.zeros(3, len(self.groups) + 1)
        self.latest_iteration = -1

    @torch.no_grad()
    def update(
        self, predicted_classes: torch.Tensor, gt_classes: torch.Tensor, storage: EventStorage
    ) -> None:
        """
        Count samples. May be called several times in an iteration.

        Args:
            predicted_classes, gt_classes: (R,) in [0, K], K for background.
            storage: receives the scalars, in every :data:`PERIOD`-th iteration; the last ones of an
                iteration are over all samples of the period.
        """
        self.column = self.column.to(gt_classes.device)
        self.sums = self.sums.to(gt_classes.device)
        if storage.iter % PERIOD == 0 and storage.iter != self.latest_iteration:
            self.sums.zero_()
        self.latest_iteration = storage.iter
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
            for name, value in self._scalars().items():
                # Without smoothing, a median that writers take over partial values as well.
                storage.put_scalar(f"fast_rcnn/{name}", value, smoothing_hint=False)

    def _scalars(self) -> dict[str, float]:
        total, right, as_background = self.sums.tolist()
        scalars = {}
        if sum(total):
            scalars["cls_accuracy"] = sum(right) / sum(total)
        foreground = sum(total[:-1])
        if foreground:
            scalars["fg_cls_accuracy"] = sum(right[:-1]) / foreground
            scalars["false_negative"] = sum(as_background[:-1]) / foreground
        if self.log_groups:
            for column, group in enumerate(self.groups):
                if total[column]:
                    name = f"fg_cls_accuracy_{GROUP_NAMES[group]}"
                    scalars[name] = right[column] / total[column]
        return scalars
