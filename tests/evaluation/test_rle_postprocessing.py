"""Detectron2's post-processing is the specification."""

import copy

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.layers import paste_masks_in_image
from detectron2.modeling import GeneralizedRCNN, build_model, detector_postprocess
from detectron2.structures import Boxes, Instances, ROIMasks
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import eql_seesaw.modeling  # noqa: F401 (registers the heads)
from eql_seesaw.evaluation.detections import Detections
from eql_seesaw.evaluation.rle_postprocessing import (
    RLEModel,
    paste_and_encode,
    rle_postprocess,
    with_rles,
)
from tests.modeling.tiny_model import tiny_config

SIDES = st.integers(1, 50)
COORDINATES = st.one_of(
    st.floats(-20, 70, width=32), st.integers(-2, 52).map(float), st.just(1e-40)
)


def raw_detections(boxes, image_size, has_masks=True):
    raw = Instances(image_size)
    raw.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    raw.scores = torch.rand(len(boxes))
    raw.pred_classes = torch.randint(80, (len(boxes),))
    if has_masks:
        raw.pred_masks = torch.rand(len(boxes), 1, 28, 28).sqrt()
    return raw


def assert_same_results(raw, height, width):
    expected = detector_postprocess(copy.deepcopy(raw), height, width)
    expected = instances_to_coco_json(expected, 7)
    detections = rle_postprocess(copy.deepcopy(raw), height, width)
    assert not detections.has("pred_masks")
    assert Detections.from_instances(7, detections, np.arange(80)).to_results() == expected
    return expected


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(*[COORDINATES] * 4), max_size=4), st.tuples(SIDES, SIDES), SIDES, SIDES)
def test_any_boxes(boxes, model_size, height, width):
    """Also upside down, empty, or outside of the image, most of them."""
    torch.manual_seed(0)
    assert_same_results(raw_detections(boxes, model_size), height, width)


def test_masks_of_another_head():
    raw = raw_detections([[1, 2, 30, 40], [5, 5, 5, 9], [40, 3, 90, 99]], (100, 100))
    raw.pred_masks = ROIMasks(raw.pred_masks[:, 0])
    assert len(assert_same_results(raw, 131, 57)) == 2


def test_without_masks():
    raw = raw_detections([[1, 2, 30, 40], [5, 5, 5, 9]], (100, 100), has_masks=False)
    (result,) = assert_same_results(raw, 50, 200)
    assert result["bbox"] == [2, 1, 58, 19]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return build_model(tiny_config(tmp_path_factory.mktemp("model"))).eval()


def images():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (3, 64, 64), generator=generator, dtype=torch.uint8)
    return [{"image": pixels, "height": 90, "width": 41}, {"image": pixels.flip(1)}]


@torch.no_grad()
def test_model(model):
    outputs = with_rles(model)(images())
    for output, expected in zip(outputs, model(images()), strict=True):
        results = Detections.from_instances(1, output["instances"], np.arange(80)).to_results()
        assert results == instances_to_coco_json(expected["instances"], 1)
        assert len(results) > 0 and "segmentation" in results[0]


def test_state_of_the_model_is_restored(model):
    """As Detectron2's ``inference_context`` restores it."""
    for is_training in (True, False):
        model.train(is_training)
        wrapped = with_rles(model)
        assert wrapped.training == is_training
        wrapped.eval()
        assert not model.training
        wrapped.train(is_training)
        assert model.training == is_training
    model.eval()


def test_which_models(model):
    class OtherPostprocessing(GeneralizedRCNN):
        pass

    assert isinstance(with_rles(model), RLEModel)
    other = OtherPostprocessing.__new__(OtherPostprocessing)
    nn.Module.__init__(other)
    assert with_rles(other) is other


def coco_rles(masks):
    encoded = [mask_util.encode(np.asfortranarray(mask, dtype=np.uint8)) for mask in masks]
    return [{"size": rle["size"], "counts": rle["counts"].decode()} for rle in encoded]


def assert_as_pasted(probs, boxes, image_size):
    pasted = paste_masks_in_image(probs, boxes, image_size)
    assert paste_and_encode(probs, boxes, image_size) == coco_rles(pasted.numpy())
    return pasted


@pytest.mark.parametrize(
    "image_size, mask_side",
    [((1, 1), 28), ((1, 40), 2), ((37, 1), 1), ((61, 83), 1), ((61, 83), 28)],
)
def test_boxes_of_all_sizes(image_size, mask_side):
    height, width = image_size
    sides = torch.tensor([width, height] * 2)
    corners = torch.rand(60, 2, 2).sort(dim=1).values.flatten(1) * sides
    # The whole image; half pixels; thin; tiny.
    corners[0] = torch.tensor([0, 0, width, height])
    corners[1:20] = (2 * corners[1:20]).round() / 2
    corners[20:30, 2] = corners[20:30, 0] + 1e-3
    corners[30:35, 2:] = corners[30:35, :2] + 1e-6
    corners = corners.clamp(max=sides)
    boxes = corners[(corners[:, 2:] > corners[:, :2]).all(dim=1)]
    probs = torch.rand(len(boxes), mask_side, mask_side)
    probs[::3] = 1
    probs[1] = 0
    pasted = assert_as_pasted(probs, boxes, image_size)
    assert pasted.any()


def test_probabilities_at_the_threshold():
    boxes = torch.tensor([[2.0, 3.0, 30.0, 31.0], [2.5, 3.0, 16.5, 45.0], [0.0, 0.0, 60.0, 50.0]])
    probs = torch.rand(3, 28, 28).round(decimals=1)
    probs[:, ::2] = 0.5
    assert_as_pasted(probs, boxes, (50, 60))
    assert_as_pasted(torch.full_like(probs, 0.5), boxes, (50, 60))
    assert_as_pasted(torch.full_like(probs, torch.nan), boxes, (50, 60))


def test_no_masks_and_long_runs():
    assert paste_and_encode(torch.zeros(0, 28, 28), torch.zeros(0, 4), (5, 6)) == []
    boxes = torch.tensor([[1000.0, 1000, 2000, 1001]])
    assert_as_pasted(torch.ones(1, 28, 28), boxes, (3000, 2000))
    # float16 rounds the column beyond the box's right side to that side.
    boxes = torch.tensor([[0.0, 0, 2100, 5]])
    assert_as_pasted(torch.ones(1, 28, 28, dtype=torch.float16), boxes, (5, 6000))
