import math

import numpy as np
import pycocotools.mask as mask_utils
import pytest

from eql_seesaw.evaluation import boundary

from .cases import annotation, as_rle, detection, evaluated, image, official, random_case

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")


def evaluate_boundary_ap(ground_truth, results, dilation_ratio=0.008):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boundary, "DILATION_RATIO", dilation_ratio)
        metrics = evaluated(ground_truth, results, ["boundary"]).result("boundary").metrics
    return {name: metrics[name] for name in METRICS}


def slow_boundary(mask, dilation_ratio):
    """Pixels of the mask that have an outside pixel in the (2d + 1) x (2d + 1) square around."""
    height, width = mask.shape
    d = max(1, round(dilation_ratio * math.sqrt(height**2 + width**2)))
    padded = np.pad(mask, d)
    inside = np.ones_like(mask)
    for dy in range(2 * d + 1):
        for dx in range(2 * d + 1):
            inside &= padded[dy : dy + height, dx : dx + width]
    return mask & ~inside


def slow_iou(one, other):
    union = np.count_nonzero(one | other)
    return np.count_nonzero(one & other) / union if union else 0.0


@pytest.mark.parametrize("dilation_ratio, seed", [(0.008, 0), (0.02, 1)])
def test_numbers_of_the_official_package_with_the_iou_of_the_paper(
    tmp_path, monkeypatch, dilation_ratio, seed
):
    from lvis import LVISEval

    class BoundaryEval(LVISEval):
        def compute_iou(self, img_id, cat_id):
            gt, dt = self._gts[img_id, cat_id], self._dts[img_id, cat_id]
            if not gt or not dt:
                return []
            dt = sorted(dt, key=lambda d: -d["score"])
            gt = [mask_utils.decode(g["segmentation"]).astype(bool) for g in gt]
            dt = [mask_utils.decode(d["segmentation"]).astype(bool) for d in dt]
            gt = [(g, slow_boundary(g, dilation_ratio)) for g in gt]
            dt = [(d, slow_boundary(d, dilation_ratio)) for d in dt]
            return np.array(
                [[min(slow_iou(d[0], g[0]), slow_iou(d[1], g[1])) for g in gt] for d in dt]
            )

    case = random_case(seed)
    numbers = official(tmp_path, monkeypatch, *case, "segm", engine=BoundaryEval).get_results()
    expected = {name: None if numbers[name] == -1 else numbers[name] * 100 for name in METRICS}
    assert evaluate_boundary_ap(*case, dilation_ratio) == expected
    assert 0 < expected["AP"] < 100


def one_object(box, detected_box, size=(100, 100)):
    """An image with one rectangle of a frequent class, and one detection."""
    ground_truth = {
        "images": [image(1, size=size)],
        "annotations": [annotation(1, 1, 1, box)],
        "categories": [{"id": 1, "frequency": "f"}, {"id": 2, "frequency": "r"}],
    }
    return ground_truth, [detection(1, 1, detected_box, 0.5, size)]


def test_shifted_square():
    """
    Squares of 40 pixels, two pixels apart: mask IoU 1520 / 1680.

    With boundaries of 1 pixel (0.008 * 141 = 1.1), 156 pixels each, those in common are 38 of the
    upper side and 38 of the lower: IoU 76 / 236. With 3 pixels (0.02 * 141 = 2.8), 444 each: 3 rows
    of 38 above, 3 below, and 1 + 1 in each of the 34 rows between: IoU 296 / 592, exactly 0.5.
    """
    case = one_object([10, 10, 40, 40], [12, 10, 40, 40])
    assert evaluate_boundary_ap(*case)["AP"] == 0
    metrics = evaluate_boundary_ap(*case, dilation_ratio=0.02)
    assert metrics["AP"] == pytest.approx(10)
    assert metrics["AP50"] == pytest.approx(100)
    assert metrics["AP75"] == 0


def test_the_border_of_the_image_is_boundary():
    """
    The whole image, found but for its last row: 396 and 394 pixels of boundary, of which 100 above,
    97 left, 97 right and 2 below are common: IoU 296 / 494, which 0.5 and 0.55 do not exceed.
    """
    case = one_object([0, 0, 100, 100], [0, 0, 100, 99])
    assert evaluate_boundary_ap(*case)["AP"] == pytest.approx(20)


def test_the_mask_iou_counts_where_it_is_smaller():
    """
    A square of 40 pixels with a hole of 28, found without the hole: mask IoU 816 / 1600, which is
    below 0.55, and boundary IoU, with 156 pixels outside and 116 around the hole, 156 / 272.
    """
    ground_truth, results = one_object([10, 10, 40, 40], [10, 10, 40, 40])
    mask = np.zeros((100, 100), dtype=np.uint8)
    mask[10:50, 10:50] = 1
    mask[16:44, 16:44] = 0
    ground_truth["annotations"][0]["segmentation"] = as_rle(mask)
    assert evaluate_boundary_ap(ground_truth, results)["AP"] == pytest.approx(10)


def test_boundaries_have_at_least_one_pixel():
    case = one_object([2, 2, 6, 6], [2, 2, 6, 6], size=(12, 12))
    assert evaluate_boundary_ap(*case, dilation_ratio=0.001)["AP"] == pytest.approx(100)


@pytest.mark.parametrize("empty_masks", [False, True])
def test_no_detections_score_zero_and_no_ground_truth_nothing(empty_masks):
    ground_truth, results = one_object([10, 10, 40, 40], [0, 0, 0, 0])
    metrics = evaluate_boundary_ap(ground_truth, results if empty_masks else [])
    assert list(metrics.values()) == [0, 0, 0, None, 0, None, None, None, 0]
    ground_truth["annotations"] = []
    assert set(evaluate_boundary_ap(ground_truth, results).values()) == {None}
