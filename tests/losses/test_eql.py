import math

import pytest
import torch
from torch.nn import functional as F

from eql_seesaw.losses import EqualizationLoss, SigmoidCrossEntropy
from tests.losses import reference
from tests.losses.batches import assert_equal, random_batch

IMAGE_COUNTS = [1, 10, 11, 100, 101, 5000]
K = len(IMAGE_COUNTS)
NUM_IMAGES = 6000


def build(**arguments):
    return EqualizationLoss(K, image_counts=IMAGE_COUNTS, num_images=NUM_IMAGES, **arguments)


@pytest.mark.parametrize("excluding_function", [True, False])
@pytest.mark.parametrize("threshold_function", ["threshold", "exponential", "gompertz"])
def test_equals_the_equations(excluding_function, threshold_function):
    loss = build(excluding_function=excluding_function, threshold_function=threshold_function)
    rarity = []
    for count in IMAGE_COUNTS:
        f = count / NUM_IMAGES
        if threshold_function == "threshold":
            rarity.append(1.0 if count <= 100 else 0.0)
        elif threshold_function == "exponential":
            rarity.append(max(0.0, 1 - (400 * f) ** 2))
        else:
            rarity.append(1 - math.exp(-80 * math.exp(-3000 * f)))
    # The weights themselves are float32.
    assert_equal(loss, reference.eql, rarity, excluding_function, rel=1e-7)


def test_by_hand():
    # One foreground proposal of the frequent class 1; class 0 is rare. All probabilities 1/2.
    loss = EqualizationLoss(2, image_counts=[5, 500])
    logits = torch.zeros(1, 2, requires_grad=True)
    value = loss(logits, torch.tensor([1]))["loss_cls"]
    value.backward()
    assert value.item() == pytest.approx(math.log(2))  # the rare class adds nothing
    assert logits.grad.tolist() == [[0.0, -0.5]]
    # Background pushes every class down, the rare one too.
    logits = torch.zeros(1, 2, requires_grad=True)
    value = loss(logits, torch.tensor([2]))["loss_cls"]
    value.backward()
    assert value.item() == pytest.approx(2 * math.log(2))
    assert logits.grad.tolist() == [[0.5, 0.5]]


def test_threshold_is_inclusive_in_images_and_strict_in_frequency():
    assert build().protected_classes.tolist() == [True] * 4 + [False] * 2
    assert build(max_image_count=10).protected_classes.tolist() == [True] * 2 + [False] * 4
    assert build(lambda_=100 / NUM_IMAGES).protected_classes.tolist() == [True] * 3 + [False] * 3


def test_tail_ratio():
    assert build().tail_ratio == pytest.approx(122 / 5223)


def test_lambda_zero_is_sigmoid_cross_entropy():
    logits, gt_classes = random_batch(K, K)
    plain = SigmoidCrossEntropy(K)(logits, gt_classes)["loss_cls"]
    torch.testing.assert_close(build(lambda_=0.0)(logits, gt_classes)["loss_cls"], plain)
    target = F.one_hot(gt_classes, K + 1)[:, :K].double()
    expected = F.binary_cross_entropy_with_logits(logits, target, reduction="sum") / len(logits)
    torch.testing.assert_close(plain, expected)


def test_annotated_classes_keep_their_weight():
    logits, gt_classes = random_batch(K, K)
    kept = torch.rand(len(logits), K, generator=torch.Generator().manual_seed(1)) < 0.5
    rarity = [1.0] * 4 + [0.0] * 2
    value = build(keep_annotated=True)(logits, gt_classes, annotated_classes=kept)["loss_cls"]
    expected = reference.eql(logits.tolist(), gt_classes.tolist(), rarity, kept=kept.tolist())
    assert value.item() == pytest.approx(expected)
    # Without the option the same argument changes nothing.
    plain = build()
    torch.testing.assert_close(
        plain(logits, gt_classes, annotated_classes=kept), plain(logits, gt_classes)
    )


def test_probabilities_and_predicted_classes():
    logits = torch.tensor([[0.0, 2, -1], [-1, -2, -3]])
    loss = SigmoidCrossEntropy(3)
    probabilities = loss.probabilities(logits)
    assert probabilities.shape == (2, 4)
    assert probabilities[0].tolist() == pytest.approx(
        [0.5, reference.sigmoid(2), reference.sigmoid(-1), 0]
    )
    assert loss.predicted_classes(logits).tolist() == [1, 3]


def test_precision_at_small_probabilities():
    """The loss is a sum of ~1,200 tiny terms; a plain log(1 - p) in float32 would lose digits."""
    generator = torch.Generator().manual_seed(0)
    logits = -12 + torch.randn(64, 1203, generator=generator)
    gt_classes = torch.full((64,), 1203)
    loss = SigmoidCrossEntropy(1203)
    single, double = (loss(z, gt_classes)["loss_cls"].item() for z in (logits, logits.double()))
    assert single == pytest.approx(double, rel=1e-6)
