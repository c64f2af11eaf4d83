import pytest
import torch
from torch.nn import functional as F

from eql_seesaw.losses import LDAMLoss
from tests.losses import reference
from tests.losses.batches import assert_equal, random_batch

INSTANCE_COUNTS = [16, 256, 0, 81]
K = len(INSTANCE_COUNTS)
# n^(-1/4) is 1/2, 1/4, 1 and 1/3, of which the largest becomes 0.5.
MARGINS = [0.25, 0.125, 0.5, 1 / 6, 0.0]


@pytest.mark.parametrize("scale", [None, 30.0])
def test_equals_the_equation(scale):
    def offsets(y):
        return [-(scale or 20) * MARGINS[y] if j == y else 0.0 for j in range(K + 1)]

    loss = LDAMLoss(K, instance_counts=INSTANCE_COUNTS, scale=scale)
    assert loss.margins.tolist() == pytest.approx(MARGINS)
    assert_equal(loss, reference.offset_softmax, offsets)


def test_without_a_margin_it_is_cross_entropy():
    logits, gt_classes = random_batch(K, K + 1)
    loss = LDAMLoss(K, instance_counts=INSTANCE_COUNTS, max_margin=0.0)
    found = loss(logits, gt_classes)["loss_cls"]
    torch.testing.assert_close(found, F.cross_entropy(logits, gt_classes))
