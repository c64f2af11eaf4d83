"""pycocotools and Detectron2's ``paste_masks_in_image`` are the specification."""

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.layers import paste_masks_in_image
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from eql_seesaw.evaluation import mask_encoding
from eql_seesaw.evaluation.mask_encoding import encode_masks, paste_and_encode


def coco_rles(masks):
    encoded = [mask_util.encode(np.asfortranarray(mask, dtype=np.uint8)) for mask in masks]
    return [{"size": rle["size"], "counts": rle["counts"].decode()} for rle in encoded]


@pytest.fixture(params=[1, 3], ids=["one at a time", "three at a time"])
def at_a_time(request, monkeypatch):
    """Three, as on a GPU."""

    def parts(num_masks, num_pixels, device):
        return [slice(i, i + request.param) for i in range(0, num_masks, request.param)]

    monkeypatch.setattr(mask_encoding, "_parts", parts)


@settings(deadline=None, max_examples=200)
@given(arrays.arrays(np.bool_, st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9))))
def test_any_masks(masks):
    assert encode_masks(torch.from_numpy(masks)) == coco_rles(masks)


def some_masks():
    """Empty, full, its first and last pixel, columns, rows, a checkerboard, noise."""
    masks = np.zeros((9, 50, 70), dtype=bool)
    masks[1] = True
    masks[2, 0, 0] = masks[3, -1, -1] = True
    masks[4, :, 20:30] = True
    masks[5, 20:30] = True
    masks[6, ::2, ::2] = masks[6, 1::2, 1::2] = True
    masks[7] = np.random.default_rng(0).random((50, 70)) < 0.5
    masks[8, -1, 3] = masks[8, 0, 4] = True
    return masks


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32, torch.int64])
def test_types(dtype, at_a_time):
    masks = torch.from_numpy(some_masks()).to(dtype)
    assert encode_masks(masks) == coco_rles(some_masks())


def test_views_of_other_masks(at_a_time):
    masks = torch.from_numpy(some_masks())
    assert encode_masks(masks.transpose(1, 2)) == coco_rles(some_masks().transpose(0, 2, 1))
    assert encode_masks(masks[::2, 5:, ::3]) == coco_rles(some_masks()[::2, 5:, ::3])


def test_long_runs():
    masks = torch.zeros(1, 3000, 2000, dtype=torch.bool)
    masks[0, 1000, 1000:] = True
    assert encode_masks(masks) == coco_rles(masks.numpy())


def test_no_masks():
    assert encode_masks(torch.zeros(0, 5, 6, dtype=torch.bool)) == []
    assert paste_and_encode(torch.zeros(0, 28, 28), torch.zeros(0, 4), (5, 6)) == []


def assert_as_pasted(probs, boxes, image_size):
    pasted = paste_masks_in_image(probs, boxes, image_size)
    assert paste_and_encode(probs, boxes, image_size) == coco_rles(pasted.numpy())
    return pasted


@pytest.mark.parametrize("image_size", [(1, 1), (1, 40), (37, 1), (61, 83)])
@pytest.mark.parametrize("mask_side", [1, 2, 28])
def test_boxes_of_all_sizes(image_size, mask_side, at_a_time):
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


def test_boxes_beyond_the_image(at_a_time):
    """Detectron2 clips them before."""
    centers = torch.rand(50, 2) * torch.tensor([40, 30])
    sides = 5 + torch.rand(50, 2) * 60
    boxes = torch.cat([centers - sides / 2, centers + sides / 2], dim=1)
    assert_as_pasted(torch.ones(50, 28, 28), boxes, (30, 40))
    outside = torch.tensor([[-9.0, 3, -4, 8], [3, -9, 8, -4], [44, 3, 60, 8], [3, 33, 8, 60]])
    for box in outside.split(1):
        assert paste_and_encode(torch.ones(1, 28, 28), box, (30, 40)) == coco_rles(
            np.zeros((1, 30, 40))
        )


def test_probabilities_at_the_threshold(at_a_time):
    boxes = torch.tensor([[2.0, 3.0, 30.0, 31.0], [2.5, 3.0, 16.5, 45.0], [0.0, 0.0, 60.0, 50.0]])
    probs = torch.rand(3, 28, 28).round(decimals=1)
    probs[:, ::2] = 0.5
    assert_as_pasted(probs, boxes, (50, 60))
    assert_as_pasted(torch.full_like(probs, 0.5), boxes, (50, 60))
    assert_as_pasted(torch.full_like(probs, torch.nan), boxes, (50, 60))
