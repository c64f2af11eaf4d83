"""Gradient that each class gets from its own samples, and from all others."""

import torch
import torch.distributed as dist
from torch import nn

from ..losses.step_statistics import sum_over_ranks


class ClassGradients(nn.Module):
    r"""
    Sums, over training, of :math:`|\partial L / \partial z_{rj}|` for every class j, apart for
    the samples r of the class (positive) and for all other samples, background included (negative).
    The losses of Seesaw and EQL v2 are about their ratio. L is what training minimises: the sum of
    all losses, with their weights, averaged over processes and over the passes of a step.

    A step is complete after :func:`add_step`, whatever its number of passes.

    Args:
        num_classes: K.

    Attributes:
        sums: (2, K) float64, positive and negative; saved with the model.
        step_sums: (2, K) float64, of the running step on this process alone.
    """

    sums: torch.Tensor
    step_sums: torch.Tensor

    def __init__(self, num_classes: int):
        super().__init__()
        self.register_buffer("sums", torch.zeros(2, num_classes, dtype=torch.float64))
        self.register_buffer("step_sums", torch.zeros_like(self.sums), persistent=False)

    def watch(self, logits: torch.Tensor, gt_classes: torch.Tensor) -> None:
        """
        Collect the gradient of these logits when it is computed; nothing in evaluation, nor where
        no gradient is asked for.

        Args:
            logits: (R, L), L >= K, those of the classes first.
            gt_classes: (R,) in [0, K], K for background.
        """
        if self.training and logits.requires_grad:
            logits.register_hook(lambda gradient: self._collect(gradient, gt_classes))

    @torch.no_grad()
    def _collect(self, gradient: torch.Tensor, gt_classes: torch.Tensor) -> None:
        classes = torch.arange(self.sums.shape[1], device=gt_classes.device)
        is_positive = gt_classes[:, None] == classes
        magnitude = gradient[:, : len(classes)].abs()
        self.step_sums[0] += magnitude.masked_fill(~is_positive, 0).sum(0, dtype=torch.float64)
        self.step_sums[1] += magnitude.masked_fill(is_positive, 0).sum(0, dtype=torch.float64)


def class_gradients(model: nn.Module) -> list[ClassGradients]:
    """Class gradients of a model, in the order of its cascade stages."""
    return [module for module in model.modules() if isinstance(module, ClassGradients)]


@torch.no_grad()
def add_step(model: nn.Module, loss_scale: float = 1.0) -> None:
    """
    Add what the step's passes have collected on all processes, in one all-reduce, to every
    :class:`ClassGradients` of a model. Not part of the backward pass, where processes need not
    agree on the order of DDP's own all-reduces and this one. Every process must call it in every
    step.

    Args:
        model: with at least one :class:`ClassGradients`.
        loss_scale: what mixed precision had multiplied the loss with; infinite for a step that it
            left out. Gradients that are not finite are left out too.
    """
    modules = class_gradients(model)
    sums = torch.stack([module.step_sums for module in modules]) / loss_scale
    (sums,) = sum_over_ranks([sums])
    if dist.is_available() and dist.is_initialized():
        # DDP averages gradients; the collected ones are those of each process's own loss.
        sums /= dist.get_world_size()
    sums = torch.where(torch.isfinite(sums).all(), sums, 0)
    for module, step_sums in zip(modules, sums, strict=True):
        module.sums += step_sums
        module.step_sums.zero_()
