import pytest
import torch

from eql_seesaw.losses import EffectiveClassMarginLoss
from tests.losses import reference

IMAGE_COUNTS = [0, 7, 100, 5000]
K = len(IMAGE_COUNTS)


def test_equals_the_released_code():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(9, K + 1, generator=generator, dtype=torch.float64)
    gt_classes = torch.arange(9) % (K + 1)
    # A class without images counts as one with one.
    counts = [1, 7, 100, 5000, 2.5 * 5108]
    expected = reference.ecm(logits.tolist(), gt_classes.tolist(), counts)
    loss = EffectiveClassMarginLoss(K, image_counts=IMAGE_COUNTS, background_ratio=2.5)
    found = loss(logits, gt_classes)["loss_cls"].item()
    assert found == pytest.approx(expected, rel=1e-12)


def test_scores_have_neither_factor_nor_margin():
    logits = torch.tensor([[0.0, 1.0, -1.0, 2.0, -2.0]])
    p = logits.sigmoid()[0]
    loss = EffectiveClassMarginLoss(K, image_counts=IMAGE_COUNTS)
    expected = torch.cat([p[:K] * (1 - p[K]), p[K:]])[None]
    torch.testing.assert_close(loss.probabilities(logits), expected)
