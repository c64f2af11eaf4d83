import pytest
import torch

from eql_seesaw.losses import SoftmaxEqualizationLoss
from tests.losses import reference
from tests.losses.batches import random_batch

IMAGE_COUNTS = [1, 50, 100, 101, 5000]
K = len(IMAGE_COUNTS)


def build(gamma, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return SoftmaxEqualizationLoss(K, image_counts=IMAGE_COUNTS, gamma=gamma, generator=generator)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_equals_the_equations(gamma):
    logits, gt_classes = random_batch(K, K + 1)
    beta = torch.rand(logits.shape, generator=torch.Generator().manual_seed(5)) < gamma
    expected = reference.softmax_eql(
        logits.tolist(), gt_classes.tolist(), [1, 1, 1, 0, 0, 0], beta.int().tolist()
    )
    value = build(gamma, seed=5)(logits, gt_classes)["loss_cls"].item()
    assert value == pytest.approx(expected, rel=1e-12)


def test_a_rare_class_gets_no_gradient_from_other_classes_at_gamma_one():
    logits = torch.zeros(2, K + 1, requires_grad=True)
    build(1.0)(logits, torch.tensor([4, 0]))["loss_cls"].backward()
    assert logits.grad[0, :3].tolist() == [0, 0, 0]
    assert (logits.grad[0, 3:] != 0).all()
    # A sample of a rare class still pulls its own class up and pushes the unprotected ones down.
    assert logits.grad[1, 0] < 0 and (logits.grad[1, 3:] > 0).all()
