import pytest
import torch
from torch.nn import functional as F

from eql_seesaw.losses import SoftmaxEqualizationLoss
from tests.losses import reference

IMAGE_COUNTS = [1, 50, 100, 101, 5000]
K = len(IMAGE_COUNTS)


def batch(seed, num_samples=8):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(num_samples, K + 1, generator=generator, dtype=torch.float64)
    return logits, torch.randint(0, K + 1, (num_samples,), generator=generator)


def build(gamma, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return SoftmaxEqualizationLoss(K, image_counts=IMAGE_COUNTS, gamma=gamma, generator=generator)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.95, 1.0])
def test_equals_the_equations(gamma):
    logits, gt_classes = batch(1)
    beta = torch.rand(logits.shape, generator=torch.Generator().manual_seed(5)) < gamma
    expected = reference.softmax_eql(
        logits.tolist(), gt_classes.tolist(), [1, 1, 1, 0, 0, 0], beta.int().tolist()
    )
    value = build(gamma, seed=5)(logits, gt_classes)["loss_cls"].item()
    assert value == pytest.approx(expected, rel=1e-12)


def test_gamma_zero_is_softmax_cross_entropy():
    logits, gt_classes = batch(2)
    torch.testing.assert_close(
        build(0.0)(logits, gt_classes)["loss_cls"], F.cross_entropy(logits, gt_classes)
    )


def test_a_rare_class_gets_no_gradient_from_other_classes_at_gamma_one():
    logits = torch.zeros(2, K + 1, requires_grad=True)
    build(1.0)(logits, torch.tensor([4, 0]))["loss_cls"].backward()
    assert logits.grad[0, :3].tolist() == [0, 0, 0]
    assert (logits.grad[0, 3:] != 0).all()
    # A sample of a rare class still pulls its own class up and pushes the unprotected ones down.
    assert logits.grad[1, 0] < 0 and (logits.grad[1, 3:] > 0).all()


def test_background_is_never_left_out():
    logits = torch.zeros(1, K + 1, requires_grad=True)
    build(1.0)(logits, torch.tensor([0]))["loss_cls"].backward()
    assert logits.grad[0, K] > 0
