"""Detectron2's post-processing is the specification."""

import copy

import pytest
import torch
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.modeling import GeneralizedRCNN, build_model, detector_postprocess
from detectron2.structures import Boxes, Instances, ROIMasks
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import eql_seesaw.modeling  # noqa: F401 (registers the heads)
from eql_seesaw.evaluation.detections import Detections
from eql_seesaw.evaluation.rle_postprocessing import RLEModel, rle_postprocess, with_rles
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
    assert Detections.from_instances(7, detections, int).to_results() == expected
    return expected


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(*[COORDINATES] * 4), max_size=4), st.tuples(SIDES, SIDES), SIDES, SIDES)
def test_any_boxes(boxes, model_size, height, width):
    """Also upside down, empty, or outside of the image, most of them."""
    torch.manual_seed(0)
    assert_same_results(raw_detections(boxes, model_size), height, width)


def test_boxes_in_the_image():
    boxes = torch.rand(40, 2, 2).sort(dim=1).values.flatten(1) * 100
    raw = raw_detections(boxes.tolist(), (100, 100))
    assert len(assert_same_results(raw, 131, 57)) == 40


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
        results = Detections.from_instances(1, output["instances"], int).to_results()
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
