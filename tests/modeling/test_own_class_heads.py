"""Heads that compute only the classes that are used, beside Detectron2's: the same numbers."""

import copy

import pytest
import torch
from detectron2.export.torchscript_patch import freeze_training_mode, patch_instances
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from eql_seesaw.losses import build_loss
from eql_seesaw.modeling import (
    LongTailFastRCNNOutputLayers,
    NormedMaskRCNNConvUpsampleHead,
    OwnClassMaskRCNNConvUpsampleHead,
)
from eql_seesaw.modeling.mask_head import BOXES_AT_A_TIME
from tests.ranks import run_on_ranks

from .tiny_model import ROI_HEADS, tiny_config, training_batch

K, CHANNELS, SIDE = 9, 5, 4
SHAPE = ShapeSpec(channels=CHANNELS, height=SIDE, width=SIDE)
# Boxes of each image: several blocks, one that is not full, an image with none.
NUM_BOXES = (BOXES_AT_A_TIME + 3, 0, BOXES_AT_A_TIME)
HEADS = [OwnClassMaskRCNNConvUpsampleHead, NormedMaskRCNNConvUpsampleHead]


def ours_and_theirs(head_class, num_classes=K, **kwargs):
    """One of our heads with random parameters, and Detectron2's with the same predictor layer."""
    torch.manual_seed(0)
    kwargs = {"num_classes": num_classes, "conv_dims": [6, 8], **kwargs}
    ours, theirs = head_class(SHAPE, **kwargs), MaskRCNNConvUpsampleHead(SHAPE, **kwargs)
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    if head_class is NormedMaskRCNNConvUpsampleHead:
        theirs.predictor = copy.deepcopy(ours.predictor)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def boxes_of_images(num_boxes=NUM_BOXES, num_classes=K):
    """Features of all boxes, and each image's instances with random classes and masks."""
    torch.manual_seed(1)
    images = []
    for number in num_boxes:
        instances = Instances((20, 20))
        instances.proposal_boxes = Boxes(torch.tensor([[2.0, 2, 18, 18]]).repeat(number, 1))
        instances.gt_classes = torch.randint(num_classes, (number,))
        instances.gt_masks = BitMasks(torch.rand(number, 20, 20) < 0.5)
        instances.pred_classes = torch.randint(num_classes, (number,))
        images.append(instances)
    return torch.randn(sum(num_boxes), CHANNELS, SIDE, SIDE), images


def train_step(head, x, images):
    """Loss, logged metrics, gradients of the features and of every parameter, buffers."""
    x = x.clone().requires_grad_()
    with EventStorage() as storage:
        loss = head(x, images)["loss_mask"]
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in head.named_parameters()}
    return {
        "loss": loss,
        **storage.latest(),
        "x": x.grad,
        **gradients,
        **dict(head.named_buffers()),
    }


@pytest.mark.parametrize("head_class", HEADS)
@pytest.mark.parametrize("conv_norm", ["", "BN"])
def test_training(head_class, conv_norm):
    ours, theirs = ours_and_theirs(head_class, conv_norm=conv_norm, loss_weight=0.5)
    found, expected = (train_step(head, *boxes_of_images()) for head in (ours, theirs))
    assert expected["predictor.weight"].count_nonzero() > 0
    assert "mask_rcnn/false_positive" in expected
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("head_class", HEADS)
def test_training_without_foreground(head_class):
    ours, _ = ours_and_theirs(head_class)
    values = train_step(ours, *boxes_of_images((0, 0)))
    assert all((values[name] == 0).all() for name, _ in ours.named_parameters())


@pytest.mark.parametrize("head_class", HEADS)
@pytest.mark.parametrize("num_boxes", [NUM_BOXES, (0,)])
def test_inference(head_class, num_boxes):
    ours, theirs = (head.eval() for head in ours_and_theirs(head_class))
    (x, found), (_, expected) = boxes_of_images(num_boxes), boxes_of_images(num_boxes)
    with torch.no_grad():
        ours(x, found)
        theirs(x, expected)
    for own, their in zip(found, expected, strict=True):
        assert own.pred_masks.shape == (len(own), 1, 2 * SIDE, 2 * SIDE)
        torch.testing.assert_close(own.pred_masks, their.pred_masks, rtol=0, atol=1e-6)


@pytest.mark.parametrize("head_class", HEADS)
def test_mixed_precision(head_class):
    """About as far from float32 as Detectron2's head, and with gradients in float32."""
    ours, theirs = ours_and_theirs(head_class)
    exact = train_step(copy.deepcopy(theirs), *boxes_of_images())
    with torch.autocast("cpu", torch.bfloat16):
        results = [train_step(head, *boxes_of_images()) for head in (ours, theirs)]
    for name in ("loss", *dict(ours.named_parameters())):
        assert results[0][name].dtype == torch.float32
        error, their_error = ((result[name] - exact[name]).norm() for result in results)
        assert error < 2 * their_error + 0.01 * exact[name].norm()


class LargestTensor(TorchDispatchMode):
    """Number of elements of the largest tensor that any operator gave."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        for tensor in output if isinstance(output, (tuple, list)) else [output]:
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return output


@pytest.mark.parametrize("head_class", HEADS)
def test_masks_of_all_classes_never_exist(head_class):
    """Nothing grows with the number of classes but the parameters and their gradients."""
    ours, theirs = ours_and_theirs(head_class, num_classes=200)
    sizes = {}
    for head in (ours, theirs):
        with LargestTensor() as largest:
            train_step(head, *boxes_of_images())
            with torch.no_grad():
                head.eval()(*boxes_of_images())
        sizes[head] = largest.numel
    assert sizes[theirs] >= sum(NUM_BOXES) * 200 * (2 * SIDE) ** 2
    assert sizes[ours] <= sum(NUM_BOXES) * 20 * 20  # the ground truth


def test_gradients_are_deterministic_by_their_operators():
    ours, _ = ours_and_theirs(OwnClassMaskRCNNConvUpsampleHead)
    operators = set()

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            operators.add(func.overloadpacket)
            return func(*args, **(kwargs or {}))

    with Record():
        train_step(ours, *boxes_of_images())
    aten = torch.ops.aten
    assert aten.embedding_dense_backward in operators
    # On a GPU, or with several threads, these add in any order.
    assert not operators & {aten.index_put, aten.index_put_, aten.index_add, aten.index_add_}


def test_scripting():
    ours, theirs = (head.eval() for head in ours_and_theirs(OwnClassMaskRCNNConvUpsampleHead))
    x, (expected,) = boxes_of_images((7,))
    theirs(x, [expected])
    fields = {"pred_classes": torch.Tensor, "pred_masks": torch.Tensor}
    with patch_instances(fields) as scripted_instances, freeze_training_mode(ours):
        scripted = torch.jit.script(ours)
        instances = scripted_instances((20, 20))
        instances.pred_classes = expected.pred_classes
        assert torch.equal(scripted(x, [instances])[0].pred_masks, expected.pred_masks)


@pytest.mark.parametrize("roi_heads", ROI_HEADS)
def test_default_of_our_models(tmp_path, roi_heads):
    """A checkpoint of a model with Detectron2's head loads, and gives the same."""
    name = "MODEL.ROI_MASK_HEAD.NAME"
    default = build_model(tiny_config(tmp_path, roi_heads))
    named = build_model(tiny_config(tmp_path, roi_heads, name, "MaskRCNNConvUpsampleHead"))
    assert type(default.roi_heads.mask_head) is OwnClassMaskRCNNConvUpsampleHead
    assert type(named.roi_heads.mask_head) is MaskRCNNConvUpsampleHead
    default.load_state_dict(named.state_dict())
    batch = training_batch()
    losses, detections = [], []
    for model in (default, named):
        torch.manual_seed(0)
        with EventStorage():
            losses.append(model(batch))
        with torch.no_grad():
            detections.append(model.eval().inference(batch, do_postprocess=False))
    torch.testing.assert_close(*losses)
    for own, their in zip(*detections, strict=True):
        assert len(own) > 0
        assert torch.equal(own.pred_classes, their.pred_classes)
        torch.testing.assert_close(own.pred_masks, their.pred_masks, rtol=0, atol=1e-6)


def test_class_agnostic_masks_are_detectron2s(monkeypatch):
    def fail(*_):
        raise AssertionError

    monkeypatch.setattr(OwnClassMaskRCNNConvUpsampleHead, "own_class_logits", fail)
    ours, theirs = ours_and_theirs(OwnClassMaskRCNNConvUpsampleHead, num_classes=1)
    found, expected = (train_step(head, *boxes_of_images()) for head in (ours, theirs))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def box_predictors(num_classes=K, **kwargs):
    """Ours and Detectron2's box predictor with the same random parameters."""
    torch.manual_seed(0)
    kwargs = {"box2box_transform": Box2BoxTransform((10.0, 10.0, 5.0, 5.0)), **kwargs}
    kwargs = {"num_classes": num_classes, "test_topk_per_image": 20, **kwargs}
    theirs = FastRCNNOutputLayers(ShapeSpec(channels=16), **kwargs)
    loss = build_loss("softmax_ce", num_classes)
    ours = LongTailFastRCNNOutputLayers(ShapeSpec(channels=16), loss=loss, **kwargs)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def proposals_of_images(num_proposals, num_classes=K):
    """Features of all proposals, and each image's proposals with random boxes and classes."""
    torch.manual_seed(1)
    images = []
    for number in num_proposals:
        corners, sides = 50 * torch.rand(number, 2), 5 + 40 * torch.rand(number, 2)
        boxes = Boxes(torch.cat([corners, corners + sides], dim=1))
        classes = torch.randint(num_classes + 1, (number,))
        images.append(Instances((90, 100), proposal_boxes=boxes, gt_boxes=boxes.clone()))
        images[-1].gt_boxes.tensor += torch.rand(number, 4)
        images[-1].gt_classes = classes
    return torch.randn(sum(num_proposals), 16), images


@pytest.mark.parametrize("box_reg_loss_type", ["smooth_l1", "giou"])
@pytest.mark.parametrize("num_classes", [K, 1])
def test_box_losses(box_reg_loss_type, num_classes):
    results = []
    for predictor in box_predictors(num_classes, box_reg_loss_type=box_reg_loss_type):
        x, proposals = proposals_of_images((30, 0, 10), num_classes)
        x.requires_grad_()
        with EventStorage():
            losses = predictor.losses(predictor(x), proposals)
        sum(losses.values()).backward()
        gradients = {name: p.grad for name, p in predictor.named_parameters()}
        results.append({**losses, "x": x.grad, **gradients})
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-6)


def test_box_losses_in_mixed_precision():
    results = []
    for predictor in box_predictors():
        x, proposals = proposals_of_images((40,))
        with torch.autocast("cpu", torch.bfloat16), EventStorage():
            loss = predictor.losses(predictor(x), proposals)["loss_box_reg"]
        loss.backward()
        results.append((loss, predictor.bbox_pred.weight.grad, predictor.bbox_pred.bias.grad))
    torch.testing.assert_close(*results, rtol=0.02, atol=1e-3)


def test_deltas_of_all_classes_never_exist_in_training():
    sizes = []
    for predictor in box_predictors(num_classes=500):
        x, proposals = proposals_of_images((40,), 500)
        with LargestTensor() as largest, EventStorage():
            predictor.losses(predictor(x), proposals)["loss_box_reg"].backward()
        sizes.append(largest.numel)
    assert sizes[1] >= 40 * 500 * 4 > sizes[0]


def test_boxes_of_predictions_in_training():
    """As MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES asks for them."""
    x, proposals = proposals_of_images((6, 3))
    found, expected = (
        [*p.predict_boxes(p(x), proposals), *p.predict_boxes_for_gt_classes(p(x), proposals)]
        for p in box_predictors()
    )
    torch.testing.assert_close(found, expected)


# Of the last only some classes' boxes are decoded.
@pytest.mark.parametrize("num_proposals, num_classes", [((0,), K), ((30, 0, 10), K), ((200,), 300)])
def test_detections_are_detectron2s_to_the_bit(num_proposals, num_classes):
    x, proposals = proposals_of_images(num_proposals, num_classes)
    results = []
    with torch.no_grad():
        for predictor in (p.eval() for p in box_predictors(num_classes)):
            results.append(predictor.inference(predictor(x), proposals))
    (detections, rows), (expected, expected_rows) = results
    for own, their in zip(detections, expected, strict=True):
        assert torch.equal(own.pred_boxes.tensor, their.pred_boxes.tensor)
        assert torch.equal(own.scores, their.scores)
        assert torch.equal(own.pred_classes, their.pred_classes)
    assert all(torch.equal(*pair) for pair in zip(rows, expected_rows, strict=True))


@pytest.mark.parametrize("value", [torch.inf, torch.nan, 3e38])
def test_rows_with_a_box_that_is_not_finite(value):
    """Detectron2 leaves out the proposal, also where another class is detected."""
    x, proposals = proposals_of_images((30,))
    logits = 20 * torch.eye(K + 1)[torch.arange(30) % K]
    deltas = torch.zeros(30, 4 * K)
    deltas[3, 4 * 7] = value  # its class is 3
    settings = {"test_nms_thresh": 1.0, "test_score_thresh": 0.5, "test_topk_per_image": -1}
    ours, theirs = (p.eval() for p in box_predictors(**settings))
    (found,), (rows,) = ours.inference((logits, deltas), proposals)
    (expected,), (expected_rows,) = theirs.inference((logits, deltas), proposals)
    assert len(rows) == 29 and torch.equal(rows, expected_rows)
    assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)


def run_rank(rank, folder):
    ours, _ = ours_and_theirs(OwnClassMaskRCNNConvUpsampleHead)
    model = DistributedDataParallel(ours)
    # The second rank has no foreground.
    values = train_step(model, *boxes_of_images((40,) if rank == 0 else (0,)))
    torch.save(
        {name: values[f"module.{name}"] for name, _ in ours.named_parameters()},
        folder / f"{rank}.pt",
    )


@pytest.mark.slow
def test_two_ranks(tmp_path):
    run_on_ranks(2, run_rank, tmp_path)
    _, theirs = ours_and_theirs(OwnClassMaskRCNNConvUpsampleHead)
    expected = train_step(theirs, *boxes_of_images((40,)))
    for rank in range(2):
        for name, gradient in torch.load(tmp_path / f"{rank}.pt").items():
            torch.testing.assert_close(gradient, expected[name] / 2, rtol=1e-4, atol=1e-6)
