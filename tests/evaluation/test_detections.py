import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import BitMasks, Boxes, Instances

from eql_seesaw.evaluation.detections import Detections


def mask(pixels):
    """Of an 8 x 8 image, with this many pixels."""
    array = np.zeros(64, dtype=np.uint8)
    array[:pixels] = 1
    rle = mask_util.encode(np.asfortranarray(array.reshape(8, 8)))
    return {"size": [8, 8], "counts": rle["counts"].decode()}


def detections(scores=(0.1, 0.9, 0.5, 0.9), category_ids=(1, 2, 1, 3), pixels=(5, 0, 7, 9)):
    boxes = np.array([[0, 0, n, 1] for n in pixels], dtype=np.float64)
    return Detections(4, np.array(category_ids), np.array(scores), boxes, [mask(n) for n in pixels])


def counted(of_image, iou_type, max_detections, verified=(1, 2, 3)):
    image = {"height": 8, "width": 8, "neg_category_ids": list(verified)}
    return of_image.select(of_image.indices_that_count(iou_type, max_detections, image, []))


def instances(number, masks=torch.as_tensor):
    found = Instances((30, 40))
    found.pred_boxes = Boxes(torch.rand(number, 4) * 40)
    found.scores = torch.rand(number)
    found.pred_classes = torch.randint(9, (number,))
    if masks:
        found.pred_masks = masks(torch.rand(number, 30, 40) < 0.3)
    return found


@pytest.mark.parametrize("masks", [torch.as_tensor, BitMasks, None])
@pytest.mark.parametrize("number", [0, 20])
def test_instances_as_detectron2_writes_them(number, masks):
    found = instances(number, masks)
    ours = Detections.from_instances(5, found, 3 * np.arange(9) + 1)
    # Also without detections: mask AP is then 0, not absent.
    assert ours.iou_types == (("bbox", "segm") if masks else ("bbox",))
    assert ours.category_ids.dtype == np.int64
    assert ours.scores.dtype == ours.boxes.dtype == np.float64 and ours.boxes.shape == (number, 4)
    expected = instances_to_coco_json(found, 5)
    for result in expected:
        result["category_id"] = 3 * result["category_id"] + 1
    assert ours.to_results() == expected


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_what_counts(iou_type):
    def scores(max_detections, verified=(1, 2, 3)):
        return counted(detections(), iou_type, max_detections, verified).scores.tolist()

    assert scores(-1) == scores(4) == [0.9, 0.5, 0.1]
    # Of the two tied ones the first counts, and takes its place although it is empty.
    assert scores(1) == []
    assert scores(2) == [0.9]
    assert scores(3) == [0.9, 0.5]
    assert scores(-1, verified={1}) == [0.5, 0.1]
    assert scores(2, verified={1}) == []
    nothing = Detections.from_results(4, [], ["bbox", "segm"])
    assert len(counted(nothing, iou_type, 300).scores) == 0


def test_masks_that_do_not_fit_matter_only_where_they_count():
    wrong = detections()
    wrong.masks[0]["size"] = [8, 9]
    counted(wrong, "segm", 3)
    counted(wrong, "bbox", -1)
    with pytest.raises(ValueError, match=r"image 4 has a mask of size \[8, 9\], .* \[8, 8\]"):
        counted(wrong, "segm", -1)
