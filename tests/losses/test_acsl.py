import pytest
import torch

from eql_seesaw.losses import AdaptiveClassSuppressionLoss
from tests.losses import reference
from tests.losses.batches import random_batch

IMAGE_COUNTS = [0, 10, 11, 100, 101]
GROUPS = [0, 0, 1, 1, 2]
K = len(IMAGE_COUNTS)


def build(**arguments):
    return AdaptiveClassSuppressionLoss(K, image_counts=IMAGE_COUNTS, **arguments)


@pytest.mark.parametrize("shares, threshold", [((0.01, 0.1), 0.7), ((0.2, 0.5), 0.4)])
def test_equals_the_equation(shares, threshold):
    logits, gt_classes = random_batch(K, K + 1, num_samples=60)
    gt_classes[::2] = K
    loss = build(background_shares=shares, score_threshold=threshold)
    counted = []
    draw = loss.draw_background
    loss.draw_background = lambda background: counted.append(draw(background)) or counted[-1]
    found = loss(logits, gt_classes)["loss_cls"].item()
    expected = reference.acsl(
        logits.tolist(), gt_classes.tolist(), GROUPS, counted[0].tolist(), threshold
    )
    assert found == pytest.approx(expected, rel=1e-12)


def test_drawn_background():
    """A hundredth and a tenth, rounded down; and all of them for frequent classes."""
    for num_background, expected in ((99, [0, 9, 99]), (200, [2, 20, 200]), (0, [0, 0, 0])):
        background = torch.arange(num_background + 50) >= 50
        counted = build().draw_background(background)
        assert counted.sum(dim=0).tolist() == expected
        assert not counted[~background].any()


def test_scores_are_sigmoids_and_background_is_not_multiplied_in():
    logits = torch.tensor([[0.0, 1.0, -1.0, 2.0, -2.0, 5.0]])
    assert torch.equal(build().probabilities(logits), logits.sigmoid())
