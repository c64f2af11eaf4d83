import copy
import math

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.modeling.roi_heads import CascadeROIHeads, Res5ROIHeads, StandardROIHeads
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from eql_seesaw.losses import LOSSES
from eql_seesaw.modeling import LongTailFastRCNNOutputLayers

from .tiny_model import NUM_CLASSES as K
from .tiny_model import ROI_HEADS, tiny_config, training_batch

MODELS = [
    *((roi_heads, "seesaw") for roi_heads in ROI_HEADS),
    *(("LongTailROIHeads", name) for name in ("eql", "softmax_ce", "bags")),
]


def build(folder, roi_heads, name, *overrides):
    return build_model(
        tiny_config(folder, roi_heads, "MODEL.ROI_BOX_HEAD.CLS_LOSS", name, *overrides)
    )


@pytest.fixture(scope="module", params=MODELS, ids="-".join)
def model(request, tmp_path_factory):
    """A model of each kind and loss, with the names of both."""
    return build(tmp_path_factory.mktemp("statistics"), *request.param), *request.param


def box_predictors(model):
    return [x for x in model.modules() if isinstance(x, LongTailFastRCNNOutputLayers)]


def train_step(model, batch):
    model.train()
    model.zero_grad()
    with EventStorage() as storage:
        losses = model(batch)
        sum(losses.values()).backward()
    return losses, storage


def test_only_the_box_predictors_differ_from_detectron2s(model):
    model, roi_heads, name = model
    base = {
        "LongTailROIHeads": StandardROIHeads,
        "LongTailCascadeROIHeads": CascadeROIHeads,
        "LongTailRes5ROIHeads": Res5ROIHeads,
    }[roi_heads]
    assert isinstance(model.roi_heads, base) and model.roi_heads.mask_on
    predictors = box_predictors(model)
    assert len(predictors) == (3 if base is CascadeROIHeads else 1)
    assert all(type(predictor.loss) is LOSSES[name] for predictor in predictors)


def test_training_step(model):
    """Without ground truth the losses are the same, and finite."""
    model, roi_heads, name = model
    losses, _ = train_step(model, training_batch())
    terms = ["loss_cls", "loss_box_reg"] + ["loss_cls_objectness"] * (name in ("seesaw", "bags"))
    stages = ["_stage0", "_stage1", "_stage2"] if "Cascade" in roi_heads else [""]
    expected = {term + stage for term in terms for stage in stages}
    assert set(losses) == {*expected, "loss_mask", "loss_rpn_cls", "loss_rpn_loc"}
    for predictor in box_predictors(model):
        for parameter in predictor.parameters():
            assert parameter.grad.abs().sum() > 0
    for classes in (((0, 2), (4, 5)), ((), ()), ((), (0, 5))):
        losses_of_batch, _ = train_step(model, training_batch(classes))
        assert losses_of_batch.keys() == losses.keys()
        assert all(torch.isfinite(value) for value in losses_of_batch.values())
        for predictor in box_predictors(model):
            assert all(torch.isfinite(parameter.grad).all() for parameter in predictor.parameters())


def test_inference(model):
    model, *_ = model
    model.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        outputs = model([{"image": image["image"]} for image in training_batch()])
    for output in outputs:
        detections = output["instances"]
        assert 0 < len(detections) <= 10
        assert ((detections.scores >= 0) & (detections.scores <= 1)).all()
        assert ((detections.pred_classes >= 0) & (detections.pred_classes < K)).all()
        assert detections.pred_masks.shape == (len(detections), 64, 64)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_cascade_stages_have_their_own_transforms(tmp_path):
    cfg = tiny_config(tmp_path, "LongTailCascadeROIHeads")
    weights = [x.box2box_transform.weights for x in box_predictors(build_model(cfg))]
    expected = cfg.MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS
    assert [tuple(x) for x in weights] == [tuple(x) for x in expected]


def test_cascade_stages_count_on_their_own(tmp_path):
    """Each stage's counts are those of the samples that it saw itself."""
    model = build(tmp_path, "LongTailCascadeROIHeads", "seesaw")
    labels = []
    for predictor in box_predictors(model):
        predictor.loss.register_forward_pre_hook(lambda _, args: labels.append(args[1]))
    for _ in range(2):
        train_step(model, training_batch())
    counts = [predictor.loss.cumulative_counts for predictor in box_predictors(model)]
    for stage in range(3):
        seen = torch.cat(labels[stage::3])
        assert counts[stage].tolist() == seen.bincount(minlength=K + 1)[:K].tolist()
        assert counts[stage].sum() > 0
    assert len({tensor.data_ptr() for tensor in counts}) == 3
    saved = [key for key in model.state_dict() if key.endswith("loss.cumulative_counts")]
    assert len(saved) == 3


def test_cascade_loss_weights_leave_the_features_gradient_undivided(tmp_path):
    """
    With a third for each stage the features get what Detectron2 gives them, a third of the sum of
    all gradients; losses and the stages' own gradients are a third of Detectron2's.
    """
    weights = "MODEL.ROI_BOX_CASCADE_HEAD.STAGE_LOSS_WEIGHTS"
    batch, results, state = training_batch(), [], None
    for overrides in ([], [weights, [1 / 3] * 3]):
        model = build(tmp_path, "LongTailCascadeROIHeads", "softmax_ce", *overrides)
        state = state or copy.deepcopy(model.state_dict())
        model.load_state_dict(state)
        torch.manual_seed(0)
        losses, _ = train_step(model, batch)
        results.append((losses, {name: p.grad for name, p in model.named_parameters()}))
    for theirs, ours in zip(*results, strict=True):
        for name, value in theirs.items():
            is_of_stage = "_stage" in name or "box_head" in name or "box_predictor" in name
            expected = value / 3 if is_of_stage else value
            torch.testing.assert_close(ours[name], expected, rtol=1e-3, atol=1e-6)


def test_cascade_averages_logits(tmp_path):
    """Stages that give class 0 odds of 1, 8 and 27 to the rest give it 6, their geometric mean."""
    key = "MODEL.ROI_BOX_CASCADE_HEAD.AVERAGED"
    heads = build(tmp_path, "LongTailCascadeROIHeads", "softmax_ce", key, "logits").roi_heads
    proposals = [Instances((64, 64), proposal_boxes=Boxes([[8.0, 8, 40, 32]]))]
    outputs = []
    for odds in (1, 8, 27):
        logits = torch.zeros(1, K + 1)
        logits[0, 0] = math.log(odds * K)
        outputs.append(((logits, torch.zeros(1, 4)), proposals))
    boxes = [proposals[0].proposal_boxes.tensor]
    (detections,) = heads._box_detections(outputs, boxes, [(64, 64)])
    assert detections.scores[0].item() == pytest.approx(6 / 7)


@pytest.mark.parametrize("roi_heads", ROI_HEADS)
def test_one_sum_over_ranks_for_all_stages(tmp_path, monkeypatch, roi_heads):
    """In a training step one, with the statistics of every stage; in passes to validate none."""
    sums = []
    monkeypatch.setattr(
        "eql_seesaw.losses.step_statistics.sum_over_ranks",
        lambda tensors: sums.append(len(tensors)) or tensors,
    )
    model = build(tmp_path, roi_heads, "eql_v2")
    train_step(model, training_batch())
    assert [x for x in sums if x] == [2 * len(box_predictors(model))]
    sums.clear()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad(), EventStorage():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
        losses = model(training_batch())  # still in training mode
        model.eval()(training_batch())
    assert any(key.startswith("loss_cls") for key in losses) and not any(sums)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("roi_heads", ROI_HEADS)
def test_annotated_classes_reach_the_loss_of_every_predictor(tmp_path, roi_heads):
    """Every proposal of an image gets the row of that image, whatever object it matches."""
    model = build(tmp_path, roi_heads, "eql")
    batch = training_batch(((0, 2), (4, 5), ()))
    rows = torch.tensor([[True] * 3 + [False] * 3, [False, True] * 3])
    nothing = torch.zeros(1, K, dtype=torch.bool)
    for image, row in zip(batch, [*rows, nothing], strict=True):
        image["instances"].gt_annotated_classes = row.expand(len(image["instances"]), -1)
    received = []
    for predictor in box_predictors(model):
        predictor.loss.register_forward_pre_hook(lambda _, args: received.append(args[2]))
    train_step(model, batch)
    assert len(received) == len(box_predictors(model))
    for annotated in received:
        # Without ground truth the image has no row to hand on: no class is annotated there.
        by_image = torch.unique_consecutive(annotated, dim=0)
        assert torch.equal(by_image, torch.cat([rows, nothing]))


def test_accuracy_is_logged_for_each_stage(tmp_path):
    model = build(tmp_path, "LongTailCascadeROIHeads", "seesaw")
    with EventStorage(19) as storage:
        model(training_batch())
    for stage in range(3):
        assert f"stage{stage}/fast_rcnn/fg_cls_accuracy_rare" in storage.latest()
