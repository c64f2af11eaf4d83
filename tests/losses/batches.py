"""Samples to compare a loss with its slow form on."""

import torch


def random_batch(num_classes, num_logits, seed=0, num_samples=9):
    """float64 logits (R, L), which ask for a gradient, and labels (R,) in [0, K]."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(num_samples, num_logits, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, num_classes + 1, (num_samples,), generator=generator)
    return logits.requires_grad_(), labels
