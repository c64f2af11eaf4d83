import torch

from eql_seesaw.losses import EffectiveClassMarginLoss
from tests.losses import reference
from tests.losses.batches import assert_equal

IMAGE_COUNTS = [0, 7, 100, 5000]
K = len(IMAGE_COUNTS)


def test_equals_the_released_code():
    """A class without images counts as one with one."""
    loss = EffectiveClassMarginLoss(K, image_counts=IMAGE_COUNTS, background_ratio=2.5)
    assert_equal(loss, reference.ecm, [1, 7, 100, 5000, 2.5 * 5108])


def test_scores_have_neither_factor_nor_margin():
    logits = torch.tensor([[0.0, 1.0, -1.0, 2.0, -2.0]])
    p = logits.sigmoid()[0]
    loss = EffectiveClassMarginLoss(K, image_counts=IMAGE_COUNTS)
    expected = torch.cat([p[:K] * (1 - p[K]), p[K:]])[None]
    torch.testing.assert_close(loss.probabilities(logits), expected)
