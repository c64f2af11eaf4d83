"""The interface that every classification loss has."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from .step_statistics import summed_together


class ClassificationLoss(nn.Module):
    """
    A classification loss together with all that depends on it.

    Shapes: R samples (proposals), K foreground classes, L logits. A ``gt_classes`` value is in
    [0, K]; K means background. A loss with ``background=False``, for image classification, knows
    labels in [0, K) only.

    A subclass implements :meth:`losses` and :meth:`probabilities`, and overrides the rest where it
    differs from one softmax over all logits.

    A loss that accumulates something in training registers int64 or float64 buffers and implements
    :meth:`label_statistics` or :meth:`logit_statistics`. Sums over ranks, evaluation and
    ``no_grad`` are then taken care of: buffers are identical on all ranks, and equal those of one
    process that sees the samples of all ranks. In training every rank must call the loss equally
    often, with an empty batch where it has no samples. With gradient accumulation each pass is a
    step of its own here.

    Over ranks, losses are normalised as in Detectron2: each rank divides by its own R, and
    DistributedDataParallel averages the gradients over ranks. This equals one process with the
    samples of all ranks if all have equally many, else up to the weight of a sample. A loss that
    draws at random, or divides by something other than R, does so for the samples of its rank.

    Attributes:
        num_classes (int): K.
        num_logits (int): L, the number of outputs of the classifier that feeds this loss.
        background (bool): whether samples may be background.
        normed_classifier (bool): whether the loss's paper takes an L2-normalised classifier.
        protected_classes (Tensor or None): bool (K,), the classes that the loss protects from the
            gradients of other classes; None where it knows no such set.
    """

    normed_classifier = False
    protected_classes: torch.Tensor | None
    # Of the step in progress: pairs of a buffer and what is to be added to it; else None.
    step_statistics: list[tuple[torch.Tensor, torch.Tensor]] | None = None

    def __init__(self, num_classes: int, num_logits: int, background: bool = True):
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        self.num_classes = num_classes
        self.num_logits = num_logits
        self.background = background
        # Not in checkpoints: it follows from the training set and the settings of a run.
        self.register_buffer("protected_classes", None, persistent=False)

    def forward(
        self,
        logits: torch.Tensor,
        gt_classes: torch.Tensor,
        annotated_classes: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """
        Args:
            logits: (R, L), any floating dtype; the loss is computed in float32 or better.
            gt_classes: (R,) integer labels in [0, K], or [0, K) without background.
            annotated_classes: bool (R, K) or None. True where a class is in the positive or
                negative set of the sample's image; used by losses that ask for it.

        Returns:
            Named scalars, to be summed by the caller. The names are always the same; an empty batch
            gives zeros that still reach the classifier's parameters.

        Raises:
            ValueError: a shape or dtype that does not fit, or (on CPU, where looking is free) a
                label out of range.
        """
        if logits.dim() != 2 or logits.shape[1] != self.num_logits:
            raise ValueError(
                f"{type(self).__name__} for {self.num_classes} classes takes logits of shape "
                f"(R, {self.num_logits}), got {tuple(logits.shape)}"
            )
        if gt_classes.shape != logits.shape[:1] or gt_classes.is_floating_point():
            raise ValueError(
                f"gt_classes must be integers of shape ({logits.shape[0]},), "
                f"got {gt_classes.dtype} of shape {tuple(gt_classes.shape)}"
            )
        gt_classes = gt_classes.long()
        with summed_together([self], [gt_classes]):
            losses = self.losses(logits, gt_classes, annotated_classes)
            if self.step_statistics is not None:
                with torch.no_grad():
                    step = self.logit_statistics(logits, gt_classes)
                self.step_statistics += self.with_buffers(step)
        return losses

    def losses(
        self,
        logits: torch.Tensor,
        gt_classes: torch.Tensor,
        annotated_classes: torch.Tensor | None,
    ) -> dict[str, torch.Tensor]:
        """The computation behind :meth:`forward`, on checked arguments."""
        raise NotImplementedError

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """
        Args:
            logits: (R, L).

        Returns:
            (R, K + 1) class probabilities, background last, or (R, K) without background; float32
            or better.
        """
        raise NotImplementedError

    def predicted_classes(self, logits: torch.Tensor) -> torch.Tensor:
        """
        Args:
            logits: (R, L).

        Returns:
            (R,) int64 labels, what the classifier says a sample is.
        """
        return logits.argmax(dim=1)

    def label_statistics(self, gt_classes: torch.Tensor) -> dict[str, torch.Tensor]:
        """
        What a training step adds to the statistics that the labels alone decide. It is summed over
        ranks and added before the step's loss is computed, which sees the new sums.

        Args:
            gt_classes: (R,) int64 in [0, K]; R may be 0.

        Returns:
            Name of a buffer of the loss to what this rank adds to it, of its shape and dtype. The
            names are always the same.
        """
        return {}

    def logit_statistics(
        self, logits: torch.Tensor, gt_classes: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """
        As :meth:`label_statistics`, for those that the logits decide. They are added after the
        step's loss, in a cascade after that of the last stage.

        Args:
            logits: (R, L).
            gt_classes: (R,) int64 in [0, K]; R may be 0.
        """
        return {}

    def with_buffers(
        self, statistics: dict[str, torch.Tensor]
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The buffers that these are to be added to, each with what is to be added."""
        return [(self.get_buffer(name), step) for name, step in statistics.items()]

    def check_labels(self, gt_classes: torch.Tensor) -> None:
        """
        Raises:
            ValueError: a label out of range; on CPU only, where looking is free.
        """
        if gt_classes.device.type == "cpu" and gt_classes.numel():
            low, high = (int(x) for x in torch.aminmax(gt_classes))
            if low < 0 or high >= self.num_classes + self.background:
                allowed = (
                    f"[0, {self.num_classes}], where {self.num_classes} means background"
                    if self.background
                    else f"[0, {self.num_classes}), as this loss is without background"
                )
                raise ValueError(f"gt_classes must be in {allowed}; got {low if low < 0 else high}")

    def sample_counts(self) -> torch.Tensor | None:
        """Foreground samples of each class counted in training, int64 (K,); None if not counted."""
        return None

    def init_classifier(self, classifier: nn.Linear) -> None:
        """
        Initialise the layer that computes the logits (in place).

        Args:
            classifier: with ``weight`` (L, channels) and ``bias`` (L,).

        Raises:
            ValueError: it has another number of outputs.
        """
        if len(classifier.weight) != self.num_logits:
            raise ValueError(
                f"{type(self).__name__} for {self.num_classes} classes takes a classifier with "
                f"{self.num_logits} outputs, got {len(classifier.weight)}"
            )
        nn.init.normal_(classifier.weight, std=0.01)
        nn.init.zeros_(classifier.bias)


class SoftmaxLoss(ClassificationLoss):
    r"""
    Common part of the losses with a softmax. Background is one more class of the softmax; or a
    separate foreground / background pair of logits, the objectness branch of the Seesaw paper
    (https://arxiv.org/abs/2008.10032, table 8); or absent.

    With the pair, the class loss is over foreground samples, a second cross entropy separates
    foreground from background, both divided by all R samples, and the probability of a class is
    :math:`\sigma^{det} = \sigma^{class} \sigma^{obj}`.

    A subclass implements :meth:`class_loss`.

    Args:
        num_classes: K.
        objectness: whether to use the pair. The logits are then K classes, foreground, background;
            otherwise K classes and background.
        background: if False, the logits are those of the K classes and there is no pair either.

    Attributes:
        num_columns (int): C, the number of logits in the softmax of the classes, the first ones.
    """

    def __init__(self, num_classes: int, objectness: bool, background: bool):
        objectness = objectness and background
        num_columns = num_classes + (background and not objectness)
        super().__init__(num_classes, num_columns + 2 * objectness, background)
        self.objectness = objectness
        self.num_columns = num_columns

    def class_loss(
        self, logits: torch.Tensor, gt_classes: torch.Tensor, included: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            logits: (R, L).
            gt_classes: (R,) int64 in [0, C); of no meaning where not included.
            included: bool (R,), the samples that take part; None for all.

        Returns:
            The loss over the first C logits, summed over the included samples; and the other
            logits, (R, L - C).
        """
        raise NotImplementedError

    def losses(
        self,
        logits: torch.Tensor,
        gt_classes: torch.Tensor,
        annotated_classes: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        num_samples = max(len(logits), 1)
        if not self.objectness:
            class_loss, _ = self.class_loss(logits, gt_classes, None)
            return {"loss_cls": class_loss / num_samples}

        background = gt_classes == self.num_classes
        class_loss, objectness_logits = self.class_loss(
            logits, gt_classes.masked_fill(background, 0), ~background
        )
        objectness_loss = F.cross_entropy(
            float32_or_better(objectness_logits), background.long(), reduction="sum"
        )
        return {
            "loss_cls": class_loss / num_samples,
            "loss_cls_objectness": objectness_loss / num_samples,
        }

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        logits = float32_or_better(logits)
        if not self.objectness:
            return logits.softmax(dim=1)
        classes = logits[:, : self.num_classes].softmax(dim=1)
        foreground, background = logits[:, self.num_classes :].softmax(dim=1).split(1, dim=1)
        return torch.cat([classes * foreground, background], dim=1)

    def predicted_classes(self, logits: torch.Tensor) -> torch.Tensor:
        if not self.objectness:
            return logits.argmax(dim=1)
        foreground, background = logits[:, self.num_classes :].unbind(dim=1)
        classes = logits[:, : self.num_classes].argmax(dim=1)
        return torch.where(foreground >= background, classes, self.num_classes)


class SigmoidLoss(ClassificationLoss):
    """
    Common part of the losses with one independent sigmoid per class and, but for those that say
    so, no background logit.

    The classifier's bias starts where every class has probability ``prior_probability``, as in
    the focal loss paper (https://arxiv.org/abs/1708.02002, section 4.1): with 1,203 classes and
    zero bias the loss would start at 1203 log 2 = 834.
    """

    def __init__(
        self, num_classes: int, prior_probability: float = 0.001, num_logits: int | None = None
    ):
        super().__init__(num_classes, num_logits or num_classes)
        if not 0 < prior_probability < 1:
            raise ValueError(f"prior_probability must be in (0, 1), got {prior_probability}")
        self.prior_probability = prior_probability

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """(R, K) logits to (R, K + 1); the background column is 0, as there is no such logit."""
        return F.pad(float32_or_better(logits).sigmoid(), (0, 1))

    def predicted_classes(self, logits: torch.Tensor) -> torch.Tensor:
        """The class of the largest logit, or background where no probability reaches 1/2."""
        largest, classes = logits.max(dim=1)
        return torch.where(largest >= 0, classes, self.num_classes)

    def init_classifier(self, classifier: nn.Linear) -> None:
        super().init_classifier(classifier)
        prior = torch.tensor(self.prior_probability, dtype=torch.float64)
        nn.init.constant_(classifier.bias, torch.logit(prior).item())


def float32_or_better(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself if float32 or float64, otherwise its float32 copy."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def class_vector(
    values: Sequence[float] | torch.Tensor | None, num_classes: int, argument: str
) -> torch.Tensor:
    """
    One non-negative number per class, as float64 (K,).

    Raises:
        ValueError: ``values`` is None, has another length, or a negative or infinite number.
    """
    if values is None:
        raise ValueError(f"this loss needs {argument}, one number per class")
    vector = torch.as_tensor(values, dtype=torch.float64).flatten().cpu()
    if len(vector) != num_classes:
        raise ValueError(f"{argument} has {len(vector)} entries for num_classes={num_classes}")
    if not (torch.isfinite(vector) & (vector >= 0)).all():
        raise ValueError(f"{argument} must be finite and not negative")
    return vector
