import pytest
import torch

from eql_seesaw.losses import DropLoss
from tests.losses import reference
from tests.losses.batches import random_batch

IMAGE_COUNTS = [0, 50, 100, 101, 5000]
RARE = [1, 1, 1, 0, 0]
K = len(IMAGE_COUNTS)


@pytest.mark.parametrize(
    "link, term", [("sigmoid", reference.sigmoid_term), ("gumbel", reference.gumbel_term)]
)
def test_equals_the_equation(link, term):
    """Also with the Gumbel link, which makes it GOL; below -4 its positive term is another."""
    logits, gt_classes = random_batch(K, K, num_samples=40)
    logits = logits.clamp(min=-4)
    loss = DropLoss(K, image_counts=IMAGE_COUNTS, link=link)
    kept = []
    draw = loss.draw_kept
    loss.draw_kept = lambda *arguments: kept.append(draw(*arguments)) or kept[-1]
    found = loss(logits, gt_classes)["loss_cls"].item()
    (beta,) = kept
    assert 0 < beta.double().mean() < 1
    expected = reference.drop_loss(logits.tolist(), gt_classes.tolist(), RARE, beta.tolist(), term)
    assert found == pytest.approx(expected, rel=1e-12)


def test_share_of_rare_samples():
    loss = DropLoss(K, image_counts=IMAGE_COUNTS)
    assert loss.rare_share(torch.tensor([0, 2, 4, K, K, 3, 1, 1])).item() == pytest.approx(4 / 6)
    assert loss.rare_share(torch.tensor([4, K])).item() == 0.0
    # Without foreground nothing is dropped.
    assert loss.rare_share(torch.tensor([K, K])).item() == 1.0
    draws = loss.draw_kept(torch.zeros(2000, K), torch.tensor(0.25))
    assert draws.double().mean().item() == pytest.approx(0.25, abs=0.02)


def test_without_rare_foreground_background_does_not_touch_rare_classes():
    logits = torch.zeros(3, K, requires_grad=True)
    loss = DropLoss(K, image_counts=IMAGE_COUNTS)
    loss(logits, torch.tensor([4, K, K]))["loss_cls"].backward()
    assert not logits.grad[:, :3].any() and logits.grad[:, 3:].all()
