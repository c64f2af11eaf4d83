import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn

from eql_seesaw.losses import LOSSES, EqualizationLoss, SeesawLoss, build_loss
from eql_seesaw.modeling import (
    EQLFastRCNNOutputLayers,
    LongTailFastRCNNOutputLayers,
    NormedLinear,
    SeesawFastRCNNOutputLayers,
    SoftmaxEQLFastRCNNOutputLayers,
)

from .tiny_model import GROUPS, IMAGE_COUNTS, IMAGE_SIZE, STATISTICS, tiny_config
from .tiny_model import NUM_CLASSES as K

SHAPE = ShapeSpec(channels=8)
TRANSFORM = Box2BoxTransform((10.0, 10.0, 5.0, 5.0))
every_loss = pytest.mark.parametrize("name", LOSSES)
# A logit per class, one for background, a pair for objectness, and groups of logits.
every_layout = pytest.mark.parametrize("name", ["eql", "softmax_ce", "seesaw", "bags"])


def build(name, **kwargs):
    return LongTailFastRCNNOutputLayers(
        SHAPE,
        box2box_transform=TRANSFORM,
        num_classes=K,
        loss=build_loss(name, K, **STATISTICS),
        **kwargs,
    )


def sampled_proposals(*gt_classes):
    """One image for each list of labels; an image whose labels are None has no ground truth."""
    return [_image(labels) for labels in gt_classes]


def _image(labels):
    proposals = Instances((IMAGE_SIZE, IMAGE_SIZE))
    num_proposals = 3 if labels is None else len(labels)
    corners = 30 * torch.rand(num_proposals, 2)
    boxes = torch.cat([corners, corners + 5 + 20 * torch.rand(num_proposals, 2)], dim=1)
    proposals.proposal_boxes = Boxes(boxes)
    if labels is None:
        proposals.gt_classes = torch.full((num_proposals,), K)
    else:
        proposals.gt_classes = torch.tensor(labels, dtype=torch.int64)
        proposals.gt_boxes = Boxes(boxes + torch.rand(num_proposals, 4))
    return proposals


def features(proposals):
    return torch.randn(sum(len(x) for x in proposals), SHAPE.channels)


def losses_of(predictor, predictions, proposals):
    torch.manual_seed(1)  # softmax_eql draws beta
    with EventStorage():
        return predictor.losses(predictions, proposals)


@every_layout
def test_losses_are_the_loss_and_detectron2s_box_loss(name):
    predictor = build(name)
    with torch.no_grad():
        predictor.bbox_pred.weight.normal_()
    theirs = FastRCNNOutputLayers(SHAPE, box2box_transform=TRANSFORM, num_classes=K)
    theirs.bbox_pred.load_state_dict(predictor.bbox_pred.state_dict())
    proposals = sampled_proposals([0, 3, K, K], [5, K])
    x = features(proposals)
    logits, deltas = predictor(x)
    losses = losses_of(predictor, (logits, deltas), proposals)
    with EventStorage():
        expected_box_loss = theirs.losses(theirs(x), proposals)["loss_box_reg"]
    torch.testing.assert_close(losses.pop("loss_box_reg"), expected_box_loss)
    torch.manual_seed(1)
    expected = build_loss(name, K, **STATISTICS)(logits, torch.tensor([0, 3, K, K, 5, K]))
    assert list(losses) == list(expected)
    for key, value in expected.items():
        torch.testing.assert_close(losses[key], value)


@pytest.mark.parametrize(
    "agnostic, box_reg_loss_type, gt_classes",
    [
        (True, "smooth_l1", [[0, 3, K], [5, K]]),
        (False, "giou", [None, [2, K]]),
        (False, "smooth_l1", [[K, K], None]),
    ],
    ids=str,
)
def test_softmax_ce_is_detectron2s_predictor(agnostic, box_reg_loss_type, gt_classes):
    settings = dict(
        cls_agnostic_bbox_reg=agnostic,
        box_reg_loss_type=box_reg_loss_type,
        loss_weight={"loss_cls": 0.5, "loss_box_reg": 3.0},
        test_score_thresh=0.05,
        test_topk_per_image=7,
    )
    ours = build("softmax_ce", **settings)
    theirs = FastRCNNOutputLayers(SHAPE, box2box_transform=TRANSFORM, num_classes=K, **settings)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.5)
    ours.load_state_dict(theirs.state_dict())
    proposals = sampled_proposals(*gt_classes)
    x = features(proposals)

    losses = losses_of(ours, ours(x), proposals)
    expected = losses_of(theirs, theirs(x), proposals)
    assert losses.keys() == expected.keys()
    for key in expected:
        torch.testing.assert_close(losses[key], expected[key])
    sum(losses.values()).backward()
    sum(expected.values()).backward()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)

    detections, kept = ours.inference(ours(x), proposals)
    expected_detections, expected_kept = theirs.inference(theirs(x), proposals)
    for a, b in zip(detections, expected_detections, strict=True):
        assert len(a) > 0
        torch.testing.assert_close(a.pred_boxes.tensor, b.pred_boxes.tensor)
        torch.testing.assert_close(a.scores, b.scores)
        assert a.pred_classes.tolist() == b.pred_classes.tolist()
    for a, b in zip(kept, expected_kept, strict=True):
        assert a.tolist() == b.tolist()


@every_layout
@pytest.mark.parametrize(
    "gt_classes",
    [[], [[], []], [None, [], [0, 5, K]], [[K, K, K]]],
    ids=["no images", "no proposals", "images without", "background"],
)
def test_unusual_batches(name, gt_classes):
    """The same keys, finite values, and a gradient for every parameter."""
    predictor = build(name)
    usual = sampled_proposals([0, 1, K])
    keys = list(losses_of(predictor, predictor(features(usual)), usual))
    proposals = sampled_proposals(*gt_classes)
    losses = losses_of(predictor, predictor(features(proposals)), proposals)
    assert list(losses) == keys
    assert all(torch.isfinite(value) for value in losses.values())
    sum(losses.values()).backward()
    for parameter in predictor.parameters():
        assert torch.isfinite(parameter.grad).all()


@every_layout
def test_predict_probs(name):
    predictor = build(name)
    proposals = sampled_proposals([0, 1, K], [], [2])
    logits, deltas = predictor(10 * features(proposals))
    probabilities = predictor.predict_probs((logits, deltas), proposals)
    assert [p.shape for p in probabilities] == [(3, K + 1), (0, K + 1), (1, K + 1)]
    torch.testing.assert_close(torch.cat(probabilities), predictor.loss.probabilities(logits))
    assert len(predictor.predict_probs(predictor(torch.empty(0, 8)), [])) == 0


@every_layout
def test_inference_finds_every_class(name):
    """One sure proposal for each class, the last one too, and one for background."""
    predictor = build(name, test_score_thresh=0.5)
    num_logits = predictor.loss.num_logits
    logits = torch.full((K + 1, num_logits), -9.0)
    logits[:K, :K].fill_diagonal_(9)
    if num_logits == K + 1:
        logits[K, K] = 9
    if num_logits > K + 1:  # foreground, background
        logits[:K, -2] = logits[K, -1] = 9
    proposals = sampled_proposals([K] * (K + 1))
    (detections,), (kept,) = predictor.inference((logits, torch.zeros(K + 1, 4 * K)), proposals)
    order = kept.argsort()
    assert detections.pred_classes[order].tolist() == list(range(K))
    assert kept[order].tolist() == list(range(K))
    assert (detections.scores > 0.99).all()
    boxes = proposals[0].proposal_boxes.tensor
    torch.testing.assert_close(detections.pred_boxes.tensor[order], boxes[:K])


@pytest.mark.parametrize("name", ["eql", "seesaw"])
@pytest.mark.parametrize(
    "loss_weight, cls_weight, box_weight",
    [(0.5, 0.5, 0.5), ({"loss_cls": 3.0, "loss_box_reg": 2.0}, 3, 2)],
    ids=str,
)
def test_loss_weight(name, loss_weight, cls_weight, box_weight):
    """The weight "loss_cls" is that of all terms of the classification."""
    predictor, weighted = build(name), build(name, loss_weight=loss_weight)
    weighted.load_state_dict(predictor.state_dict())
    proposals = sampled_proposals([0, 3, K], [5, K])
    x = features(proposals)
    losses = losses_of(predictor, predictor(x), proposals)
    weighted_losses = losses_of(weighted, weighted(x), proposals)
    assert losses.keys() == weighted_losses.keys()
    for key, value in losses.items():
        weight = box_weight if key == "loss_box_reg" else cls_weight
        torch.testing.assert_close(weighted_losses[key], weight * value)


@every_loss
def test_classifier_that_a_loss_asks_for(name):
    """Sigmoid losses start with the prior probability for every logit; others with zero bias."""
    classifier = build(name).cls_score
    assert isinstance(classifier, NormedLinear) == (name in ("seesaw", "ldam", "ecm"))
    bias = classifier.bias
    sigmoid = ("sigmoid_ce", "eql", "focal", "class_balanced", "eql_v2", "balanced_sigmoid")
    if name in (*sigmoid, "equalized_focal", "drop_loss", "federated", "acsl", "fcbl"):
        prior = 0.01 if name in ("federated", "acsl") else 0.001
        torch.testing.assert_close(bias.sigmoid(), torch.full_like(bias, prior))
    else:
        assert (bias == 0).all()


@pytest.mark.parametrize("name", ["eql", "seesaw"])
@pytest.mark.parametrize("value, normed", [("auto", None), ("true", True), (False, False)])
def test_normed_classifier_from_config(tmp_path, name, value, normed):
    cfg = tiny_config(
        tmp_path,
        "LongTailROIHeads",
        *("MODEL.ROI_BOX_HEAD.CLS_LOSS", name),
        *("MODEL.ROI_BOX_HEAD.NORMED_CLASSIFIER", value),
        *("MODEL.ROI_BOX_HEAD.TEMPERATURE", 12.0),
    )
    classifier = LongTailFastRCNNOutputLayers(cfg, SHAPE).cls_score
    assert isinstance(classifier, NormedLinear) == (name == "seesaw" if normed is None else normed)
    assert getattr(classifier, "temperature", 12) == 12
    prior = 0.001 if name == "eql" else 0.5
    torch.testing.assert_close(classifier.bias.sigmoid(), torch.full_like(classifier.bias, prior))


@pytest.mark.parametrize("scale, expected", [(None, 30), (12.0, 12)])
def test_margins_of_ldam_have_the_temperature_of_the_classifier(tmp_path, scale, expected):
    settings = {"CLS_LOSS": "ldam", "TEMPERATURE": 30.0, "LDAM.SCALE": scale}
    overrides = [x for key, value in settings.items() for x in (f"MODEL.ROI_BOX_HEAD.{key}", value)]
    predictor = LongTailFastRCNNOutputLayers(
        tiny_config(tmp_path, "LongTailROIHeads", *overrides), SHAPE
    )
    assert predictor.cls_score.temperature == 30 and predictor.loss.scale == expected


@every_layout
def test_from_config(tmp_path, name):
    cfg = tiny_config(
        tmp_path,
        "LongTailROIHeads",
        *("MODEL.ROI_BOX_HEAD.CLS_LOSS", name),
        *("MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT", 4.0),
        *("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True),
        *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.125),
    )
    predictor = LongTailFastRCNNOutputLayers(cfg, SHAPE)
    assert type(predictor.loss) is LOSSES[name]
    assert predictor.loss.num_classes == predictor.num_classes == K
    assert predictor.class_groups == GROUPS
    assert predictor.loss_weight["loss_box_reg"] == 4
    assert predictor.bbox_pred.out_features == 4
    assert predictor.test_score_thresh == 0.125


def test_keys_and_statistics_reach_the_loss(tmp_path):
    cfg = tiny_config(
        tmp_path,
        "LongTailROIHeads",
        *("MODEL.ROI_BOX_HEAD.EQL.MAX_IMAGE_COUNT", 10),
        *("MODEL.ROI_BOX_HEAD.SOFTMAX_EQL.LAMBDA", 0.21),
        *("MODEL.ROI_BOX_HEAD.SEESAW.P", 0.25),
        *("MODEL.ROI_BOX_HEAD.SEESAW.COUNTS", "fixed"),
    )
    eql = EQLFastRCNNOutputLayers(cfg, SHAPE).loss
    assert eql.protected_classes.tolist() == [count <= 10 for count in IMAGE_COUNTS]
    softmax_eql = SoftmaxEQLFastRCNNOutputLayers(cfg, SHAPE).loss
    # 0.21 of 500 images is 105
    assert softmax_eql.protected_classes.tolist() == [count <= 101 for count in IMAGE_COUNTS]
    seesaw = SeesawFastRCNNOutputLayers(cfg, SHAPE).loss
    assert seesaw.p == 0.25
    assert seesaw.cumulative_counts.tolist() == STATISTICS["instance_counts"]


def test_length_of_the_training(tmp_path):
    """Which is of forward passes."""
    name = ("MODEL.ROI_BOX_HEAD.CLS_LOSS", "pcb", "MODEL.ROI_BOX_HEAD.PCB.START", 0.5)
    schedule = ("SOLVER.MAX_ITER", 30, "SOLVER.ACCUMULATION_STEPS", 2)
    cfg = tiny_config(tmp_path, "LongTailROIHeads", *name, *schedule)
    assert LongTailFastRCNNOutputLayers(cfg, SHAPE).loss.start_step == 30


def test_statistics_of_another_dataset(tmp_path):
    cfg = tiny_config(tmp_path, "LongTailROIHeads", "MODEL.ROI_HEADS.NUM_CLASSES", K + 1)
    with pytest.raises(
        ValueError, match=f"{K} classes, but MODEL.ROI_HEADS.NUM_CLASSES is {K + 1}"
    ):
        LongTailFastRCNNOutputLayers(cfg, SHAPE)


def test_without_a_config():
    eql = EQLFastRCNNOutputLayers(
        SHAPE,
        box2box_transform=TRANSFORM,
        num_classes=K,
        loss={"image_counts": IMAGE_COUNTS, "max_image_count": 10},
    )
    assert isinstance(eql.loss, EqualizationLoss) and eql.loss.protected_classes.sum() == 2
    seesaw = SeesawFastRCNNOutputLayers(SHAPE, box2box_transform=TRANSFORM, num_classes=K)
    assert isinstance(seesaw.loss, SeesawLoss) and seesaw.loss.num_classes == K
    own = SeesawLoss(K, p=0.5)
    seesaw = SeesawFastRCNNOutputLayers(SHAPE, box2box_transform=TRANSFORM, num_classes=K, loss=own)
    assert seesaw.loss is own
    for predictor in (eql, seesaw):
        proposals = sampled_proposals([0, 5, K])
        losses = losses_of(predictor, predictor(features(proposals)), proposals)
        assert all(torch.isfinite(value) for value in losses.values())


def test_wrong_arguments():
    settings = dict(box2box_transform=TRANSFORM, num_classes=K)
    with pytest.raises(ValueError, match="LongTailFastRCNNOutputLayers needs loss="):
        LongTailFastRCNNOutputLayers(SHAPE, **settings)
    with pytest.raises(ValueError, match="a loss for 80 classes, but num_classes=6"):
        LongTailFastRCNNOutputLayers(SHAPE, loss=build_loss("softmax_ce", 80), **settings)
    with pytest.raises(ValueError, match="image_counts"):
        EQLFastRCNNOutputLayers(SHAPE, **settings)
    with pytest.raises(ValueError, match="'seesaw' takes no argument 'gamma'"):
        SeesawFastRCNNOutputLayers(SHAPE, loss={"gamma": 1}, **settings)


@pytest.mark.parametrize("keep_annotated", [True, False])
def test_annotated_classes_reach_the_loss(keep_annotated):
    """Foreground proposals of class 5 push the rare class 0 down only where it is annotated."""
    predictor = EQLFastRCNNOutputLayers(
        SHAPE,
        box2box_transform=TRANSFORM,
        num_classes=K,
        loss={"image_counts": IMAGE_COUNTS, "keep_annotated": keep_annotated},
    )
    proposals = sampled_proposals([5, 5], [5], None, [5])
    annotated = torch.zeros(1, K, dtype=torch.bool)
    proposals[0].gt_annotated_classes = annotated.expand(2, -1)  # class 0 is not annotated
    annotated = annotated.clone()
    annotated[0, 0] = True
    proposals[1].gt_annotated_classes = annotated
    # The third image has no ground truth, the fourth no such field.
    logits, deltas = predictor(features(proposals))
    logits.retain_grad()
    losses_of(predictor, (logits, deltas), proposals)["loss_cls"].backward()
    pushed_down = (logits.grad[:, 0] > 0).tolist()
    background = [True, True, True]  # keeps weight 1 for every class
    assert pushed_down == [False, False, keep_annotated, *background, False]


@every_loss
def test_what_a_loss_adds_to_checkpoints(name):
    """Accumulated statistics, under names that stay, and nothing else."""
    of_loss = {
        "seesaw": {"loss.cumulative_counts"},
        "eql_v2": {"loss.positive_gradients", "loss.negative_gradients"},
        "softmax_eql_v2": {"loss.positive_gradients"},
        "equilibrium": {"loss.mean_scores"},
        "fcbl": {"loss.probability_sums", "loss.samples"},
        "pcb": {"loss.confusion", "loss.samples", "loss.steps"},
        "equalized_focal": {"loss.positive_gradients", "loss.negative_gradients"},
    }.get(name, set())
    predictor, resumed = build(name), build(name)
    layers = {"cls_score.weight", "cls_score.bias", "bbox_pred.weight", "bbox_pred.bias"}
    assert set(predictor.state_dict()) == layers | of_loss
    proposals = sampled_proposals([0, 5, 5, K])
    losses_of(predictor, predictor(features(proposals)), proposals)
    resumed.load_state_dict(predictor.state_dict())
    for key in of_loss:
        assert resumed.state_dict()[key].any()
        assert torch.equal(resumed.state_dict()[key], predictor.state_dict()[key])
