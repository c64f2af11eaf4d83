"""Softmax cross entropy with offsets, and what the losses with a softmax have in common."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from .base import ClassificationLoss, computation_dtype, float32_or_better
from .row_blocks import row_blocks

# (block of logits (r, C), its rows) -> (r, C), a_rj, with a_ry = 0; called without gradient.
Offsets = Callable[[Tensor, slice], Tensor]


def offset_softmax(logits: Tensor, gt_classes: Tensor, offsets: Offsets) -> Tensor:
    r"""
    Softmax cross entropy in which sample r sees class j with weight :math:`e^{a_{rj}}`:

    .. math:: L_r = -\log \frac{e^{z_{ry}}}{\sum_j e^{z_{rj} + a_{rj}}}, \qquad a_{ry} = 0

    Both S eq. 4 (Seesaw, https://arxiv.org/abs/2008.10032) and E eq. 10 (softmax EQL,
    https://arxiv.org/abs/2003.05176) have this form. No gradient flows through the offsets.

    Args:
        logits: (R, C), any floating dtype; computed in float32 or better.
        gt_classes: (R,) int64 in [0, C).
        offsets: called once per block of rows.

    Returns:
        (R,), float32 or better.
    """
    return _OffsetSoftmax.apply(logits, gt_classes[:, None], offsets)


def shifted_softmax(logits: Tensor, gt_classes: Tensor, shifts: Tensor) -> Tensor:
    r"""
    Softmax cross entropy of logits that are shifted in training, :math:`z_j + b_j`.

    Args:
        logits, gt_classes: as for :func:`offset_softmax`.
        shifts: (C,), b.

    Returns:
        (R,), float32 or better.
    """
    b = shifts.to(computation_dtype(logits))
    return offset_softmax(logits, gt_classes, lambda z, rows: b - b[gt_classes[rows], None])


def own_log_probabilities(logits: Tensor, gt_classes: Tensor) -> Tensor:
    """
    Args:
        logits: (R, C), any floating dtype; computed in float32 or better.
        gt_classes: (R,) int64. A label from C on, of a background sample without a logit of its
            own, is taken for C - 1.

    Returns:
        (R,) float64, log of the softmax probability of the sample's own class.
    """
    labels = gt_classes.clamp(max=logits.shape[1] - 1)
    return -F.cross_entropy(float32_or_better(logits), labels, reduction="none").double()


class _OffsetSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, own, offsets):
        dtype = computation_dtype(logits)
        losses = logits.new_empty(len(logits), 1, dtype=dtype)
        # Softmax minus one-hot. bfloat16 has the range of float32, float16 has not.
        kept_dtype = logits.dtype if logits.dtype == torch.bfloat16 else dtype
        gradients = torch.empty_like(logits, dtype=kept_dtype)
        for rows in row_blocks(logits):
            z = logits[rows].to(dtype)
            log_p = (z + offsets(z, rows)).log_softmax(dim=1)
            log_own = log_p.gather(1, own[rows])
            losses[rows] = -log_own
            # p - 1 without cancellation where p is near 1
            gradients[rows] = log_p.exp_().scatter_(1, own[rows], log_own.expm1())
        ctx.save_for_backward(logits, own, gradients)
        return losses[:, 0]

    @staticmethod
    def backward(ctx, grad_losses):
        logits, own, gradients = ctx.saved_tensors
        if torch.is_grad_enabled():  # a graph of the gradient is asked for
            one_hot = torch.zeros_like(gradients, dtype=grad_losses.dtype).scatter_(1, own, 1)
            # log p up to a constant of each row, and with the derivatives of z
            log_p = (gradients + one_hot).log() + (logits - logits.detach())
            gradients = log_p.softmax(dim=1) - one_hot
        return (gradients * grad_losses[:, None]).to(logits.dtype), None, None


class SoftmaxLoss(ClassificationLoss):
    r"""
    Common part of the losses with a softmax. Background is one more class of the softmax; or a
    separate foreground / background pair of logits, the objectness branch of the Seesaw paper
    (https://arxiv.org/abs/2008.10032, table 8); or absent.

    With the pair, the class loss is over foreground samples, a second cross entropy separates
    foreground from background, both divided by all R samples, and the probability of a class is
    :math:`\sigma^{det} = \sigma^{class} \sigma^{obj}`.

    A subclass implements :meth:`sample_losses`.

    Args:
        num_classes: K. Takes K + 1 logits, background last; K + 2 with ``objectness``; K without
            ``background``.
        objectness: use of the pair. The logits are then K classes, foreground, background.
        background: False for image classification without a background class; there is then no
            objectness either.

    Attributes:
        num_columns (int): C, the number of logits in the softmax of the classes, the first ones.
    """

    def __init__(self, num_classes: int, objectness: bool, background: bool):
        objectness = objectness and background
        num_columns = num_classes + (background and not objectness)
        super().__init__(num_classes, num_columns + 2 * objectness, background)
        self.link = None if objectness else "softmax"
        self.objectness = objectness
        self.num_columns = num_columns

    def sample_losses(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        """Loss of each sample (R,), of logits (R, C) and labels (R,) in [0, C)."""
        raise NotImplementedError

    def losses(
        self, logits: Tensor, gt_classes: Tensor, annotated_classes: Tensor | None
    ) -> dict[str, Tensor]:
        num_samples = max(len(logits), 1)
        if not self.objectness:
            return {"loss_cls": self.sample_losses(logits, gt_classes).sum() / num_samples}

        class_logits, objectness_logits = logits.split([self.num_columns, 2], dim=1)
        foreground = gt_classes < self.num_classes
        objectness_loss = F.cross_entropy(
            float32_or_better(objectness_logits), (~foreground).long(), reduction="sum"
        )
        if _are_few(foreground):
            class_losses = self.sample_losses(class_logits[foreground], gt_classes[foreground])
        else:  # multiplied with 0, so that what is not finite stays so and is noticed
            # Not a class that may be masked with -inf.
            labels = gt_classes.where(foreground, class_logits.argmax(dim=1))
            class_losses = self.sample_losses(class_logits, labels) * foreground
        return {
            "loss_cls": class_losses.sum() / num_samples,
            "loss_cls_objectness": objectness_loss / num_samples,
        }

    def probabilities(self, logits: Tensor) -> Tensor:
        logits = float32_or_better(logits)
        if not self.objectness:
            return logits.softmax(dim=1)
        classes = logits[:, : self.num_classes].softmax(dim=1)
        foreground, background = logits[:, self.num_classes :].softmax(dim=1).split(1, dim=1)
        return torch.cat([classes * foreground, background], dim=1)

    def predicted_classes(self, logits: Tensor) -> Tensor:
        if not self.objectness:
            return logits.argmax(dim=1)
        foreground, background = logits[:, self.num_classes :].unbind(dim=1)
        classes = logits[:, : self.num_classes].argmax(dim=1)
        return torch.where(foreground >= background, classes, self.num_classes)


def _are_few(samples: Tensor) -> bool:
    """True where it pays to select them first. On a GPU the host would have to wait for them."""
    return samples.device.type == "cpu" and bool(2 * samples.sum() < len(samples))
