"""The benchmark of a training step compares what it says it compares."""

import pytest
import torch

from eql_seesaw.benchmarks import train_step
from eql_seesaw.benchmarks.train_step import (
    TINY_MODEL,
    Step,
    build_detectron2_trainer,
    build_trainer,
    random_batch,
    random_model,
    rows,
    share_weights,
)
from eql_seesaw.losses import LOSSES

K = 6
DETECTRON2 = ("MODEL.ROI_HEADS.NAME", "StandardROIHeads")
TINY = ("MODEL.DEVICE", "cpu", *TINY_MODEL)


@pytest.fixture(scope="module")
def batch():
    return random_batch(2, 64, 64, K)


def logged(trainer):
    step = Step(trainer)
    step()
    return {name: value for name, (value, _) in step.storage.latest().items() if "loss" in name}


def test_a_row_for_each_loss():
    measured = list(rows("cpu", quick=True))
    assert [row.work for row in measured] == [f"training step, {name}" for name in LOSSES]
    for row in measured:
        assert row.benchmark == "train_step" and row.against == "Detectron2, softmax"
        assert len(row.seconds) == len(row.peer_seconds) == 1 and row.time_ratio > 0
        assert row.time_limit == 1.02 and row.size == "1 x 64 x 64, 6 classes"
        assert row.parameters == {"num_classes": K, "num_images": 1, "dtype": "float32"}
    normed = [row.work for row in measured if row.note]
    assert normed == ["training step, seesaw"]


def test_number_of_classes_grows(monkeypatch):
    cases = []
    monkeypatch.setattr(
        train_step, "_rows_of_losses", lambda losses, k, *_: cases.append((k, losses)) or []
    )
    assert not list(rows("cpu", quick=False))
    growth = [(k, (loss,)) for k in (80, 13_000) for loss in ("softmax_ce", "eql", "seesaw")]
    assert cases == [(1203, tuple(LOSSES)), *growth]
    assert not list(rows("cuda", quick=False)) and len(cases) == 3 * 7


def test_plain_softmax_is_detectron2s_step(batch):
    """With the same weights all losses are the same: same proposals, same images."""
    peer = random_model("softmax_ce", K, *TINY, *DETECTRON2)
    model = random_model("softmax_ce", K, *TINY)
    missing = model.load_state_dict(peer.state_dict(), strict=False).missing_keys
    assert not missing
    losses = logged(build_trainer(model, batch, False))
    peer_losses = logged(build_detectron2_trainer(peer, batch, False))
    assert losses == pytest.approx(peer_losses, rel=1e-5)
    assert {"loss_cls", "loss_box_reg", "loss_mask", "loss_rpn_cls", "total_loss"} <= set(losses)


def test_all_but_the_box_predictor_is_shared(batch):
    peer, model = random_model("softmax_ce", K, *TINY, *DETECTRON2), random_model("eql", K, *TINY)
    share_weights(peer, model)
    own = dict(model.named_parameters())
    for name, parameter in peer.named_parameters():
        assert (own[name] is parameter) == ("box_predictor" not in name)


def test_steps_are_alike(batch):
    trainer = build_trainer(random_model("seesaw", K, *TINY), batch, False)
    before = {name: x.clone() for name, x in trainer.model.named_parameters()}
    first, second = logged(trainer), logged(trainer)
    # Seesaw counts; all else is the same again.
    del first["loss_cls"], first["total_loss"], second["loss_cls"], second["total_loss"]
    assert first == pytest.approx(second, rel=1e-4)
    after = dict(trainer.model.named_parameters())
    torch.testing.assert_close(after, before)
    assert any(not after[name].equal(before[name]) for name in before)
