"""The interface that every classification loss has."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from .step_statistics import StepStatistics, summed_together


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
    step of its own here, and so is one that activation checkpointing repeats: leave the loss out.

    Over ranks, losses are normalised as in Detectron2: each rank divides by its own R, and
    DistributedDataParallel averages the gradients over ranks. This equals one process with the
    samples of all ranks if all have equally many, else up to the weight of a sample. A loss that
    draws at random, or divides by something other than R, does so for the samples of its rank.

    Buffers hold numbers of the training set and of training, no weights: they are made on the CPU,
    under ``torch.device("meta")`` too, and keep values and dtype where a model is cast
    (``.half()``) or given memory (``.to_empty``).

    Attributes:
        num_classes (int): K.
        num_logits (int): L, the number of outputs of the classifier that feeds this loss.
        background (bool): True if samples may be background.
        link (str or None): "softmax" where the probabilities are the softmax of all logits,
            "sigmoid" where each class's is the sigmoid of its own logit and there is no other;
            None where they are something else. Test-time calibration depends on it.
        normed_classifier (bool): True if the loss's paper takes an L2-normalised classifier.
        protected_classes (Tensor or None): bool (K,), the classes that the loss protects from the
            gradients of other classes; None where it knows no such set.
    """

    normed_classifier = False
    link: str | None = None
    protected_classes: Tensor | None
    # Of the step in progress, those of the logits so far; else None.
    step_statistics: list[StepStatistics] | None = None

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
        self, logits: Tensor, gt_classes: Tensor, annotated_classes: Tensor | None = None
    ) -> dict[str, Tensor]:
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
                self.step_statistics.append((self, step))
        return losses

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        # The one place through which a module's buffers are moved and cast.
        return super()._apply(
            lambda buffer: fn(buffer) if buffer.is_meta else buffer.to(fn(buffer).device), recurse
        )

    def losses(
        self, logits: Tensor, gt_classes: Tensor, annotated_classes: Tensor | None
    ) -> dict[str, Tensor]:
        """The computation behind :meth:`forward`, on checked arguments."""
        raise NotImplementedError

    def probabilities(self, logits: Tensor) -> Tensor:
        """
        Args:
            logits: (R, L).

        Returns:
            (R, K + 1) class probabilities, background last, or (R, K) without background; float32
            or better.
        """
        raise NotImplementedError

    def predicted_classes(self, logits: Tensor) -> Tensor:
        """
        Args:
            logits: (R, L).

        Returns:
            (R,) int64 labels in [0, K], the classifier's decisions.
        """
        return logits.argmax(dim=1)

    def label_statistics(self, gt_classes: Tensor) -> dict[str, Tensor]:
        """
        Contribution of a training step to the statistics that the labels alone decide. It is summed
        over ranks and added before the step's loss is computed, which sees the new sums.

        Args:
            gt_classes: (R,) int64 in [0, K]; R may be 0.

        Returns:
            Name of a buffer of the loss to what this rank adds to it, of its shape and dtype. The
            names are always the same. With an :meth:`update_statistics` of its own, a loss may
            return whatever int64 and float64 tensors that takes.
        """
        return {}

    def logit_statistics(self, logits: Tensor, gt_classes: Tensor) -> dict[str, Tensor]:
        """
        As :meth:`label_statistics`, for those that the logits decide. They are added after the
        step's loss, in a cascade after that of the last stage.

        Args:
            logits: (R, L).
            gt_classes: (R,) int64 in [0, K]; R may be 0.
        """
        return {}

    def update_statistics(self, sums: dict[str, Tensor]) -> None:
        """
        Take up what a step contributes: here, add it to the buffers of the same names. A loss
        whose statistics decay overrides this. A buffer is replaced, not changed in place: the
        backward pass, which is yet to come, may need it as it was.

        Args:
            sums: of :meth:`label_statistics` or of :meth:`logit_statistics`, over all ranks.
        """
        for name, total in sums.items():
            setattr(self, name, self.get_buffer(name) + total)

    def check_labels(self, gt_classes: Tensor) -> None:
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

    def sample_counts(self) -> Tensor | None:
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


def float32_or_better(tensor: Tensor) -> Tensor:
    """The tensor itself if float32 or float64, otherwise its float32 copy."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def computation_dtype(logits: Tensor) -> torch.dtype:
    """float64 for float64, float32 for all others."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def class_vector(
    values: Sequence[float] | Tensor | None, num_classes: int, argument: str
) -> Tensor:
    """
    One non-negative number per class, as float64 (K,) on the CPU.

    Raises:
        ValueError: ``values`` is None, has another length, or a negative or infinite number.
    """
    if values is None:
        raise ValueError(f"this loss needs {argument}, one number per class")
    vector = torch.as_tensor(values, dtype=torch.float64, device="cpu").flatten()
    if len(vector) != num_classes:
        raise ValueError(f"{argument} has {len(vector)} entries for num_classes={num_classes}")
    if not (torch.isfinite(vector) & (vector >= 0)).all():
        raise ValueError(f"{argument} must be finite and not negative")
    return vector
