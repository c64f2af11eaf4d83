import pytest
import torch

from eql_seesaw.losses import AdaptiveClassSuppressionLoss
from tests.losses import reference

IMAGE_COUNTS = [0, 10, 11, 100, 101]
GROUPS = [0, 0, 1, 1, 2]
K = len(IMAGE_COUNTS)


def build(**arguments):
    return AdaptiveClassSuppressionLoss(K, image_counts=IMAGE_COUNTS, **arguments)


def batch(num_samples=60):
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(num_samples, K + 1, generator=generator, dtype=torch.float64)
    gt_classes = torch.randint(0, K + 1, (num_samples,), generator=generator)
    gt_classes[::2] = K
    return logits, gt_classes


@pytest.mark.parametrize("shares", [(0.01, 0.1), (0.2, 0.5)])
def test_equals_the_equation(shares):
    logits, gt_classes = batch()
    loss = build(background_shares=shares)
    counted = []
    draw = loss.draw_background
    loss.draw_background = lambda background: counted.append(draw(background)) or counted[-1]
    found = loss(logits, gt_classes)["loss_cls"].item()
    expected = reference.acsl(
        logits.tolist(), gt_classes.tolist(), GROUPS, counted[0].tolist(), threshold=0.7
    )
    assert found == pytest.approx(expected, rel=1e-12)


def test_drawn_background():
    """A hundredth and a tenth, rounded down; and all of them for frequent classes."""
    for num_background, expected in ((99, [0, 9, 99]), (200, [2, 20, 200]), (0, [0, 0, 0])):
        background = torch.arange(num_background + 50) >= 50
        counted = build().draw_background(background)
        assert counted.sum(dim=0).tolist() == expected
        assert not counted[~background].any()


def test_a_foreground_sample_suppresses_what_it_is_mistaken_for_alone():
    loss = build(score_threshold=0.5)
    logits = torch.tensor([[0.0, -0.1, 3.0, -4.0, 0.0, -0.1]], requires_grad=True)
    loss(logits, torch.tensor([0]))["loss_cls"].backward()
    # Itself, and classes with a probability from a half; background not, which is below.
    assert logits.grad[0].ne(0).tolist() == [True, False, True, False, True, False]


def test_scores_are_sigmoids_and_background_is_not_multiplied_in():
    logits = torch.tensor([[0.0, 1.0, -1.0, 2.0, -2.0, 5.0]])
    assert torch.equal(build().probabilities(logits), logits.sigmoid())
