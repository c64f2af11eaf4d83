import dataclasses

import hotcoco
import numpy as np
import pytest

from eql_seesaw.evaluation.detections import Detections
from eql_seesaw.evaluation.matches import Matches, calibration_bins

from .cases import annotation, detection, evaluate_lvis, evaluated, image, random_case


def matched(ground_truth, results, iou_type="bbox", **kwargs):
    return evaluated(ground_truth, results, [iou_type], **kwargs).matches(iou_type)


def small_case():
    """
    Image 1: an umbrella found twice, one missed, an anchor taken for an umbrella; image 2, where
    umbrellas are not exhaustively annotated: one that nobody annotated. Dice are unverified.
    """
    box, other, third = [0, 0, 40, 40], [50, 0, 40, 40], [0, 60, 40, 40]
    ground_truth = {
        "images": [image(1, negatives=[9]), image(2, negatives=[5], not_exhaustive=[2])],
        "annotations": [
            annotation(1, 1, 2, box),
            annotation(2, 1, 2, other),
            annotation(3, 1, 5, third),
            annotation(4, 2, 2, box),
        ],
        "categories": [
            {"id": k, "name": name, "frequency": "f"}
            for k, name in ((2, "umbrella"), (5, "anchor"), (7, "die"), (9, "star"))
        ],
    }
    results = [
        detection(1, 2, box, 0.9),
        detection(1, 2, box, 0.8),
        detection(1, 2, third, 0.7),
        detection(1, 7, box, 0.6),
        detection(1, 9, third, 0.2),
        detection(2, 2, other, 0.5),
        detection(2, 2, box, 0.4),
    ]
    return ground_truth, results


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_right_wrong_and_ignored(iou_type):
    matches = matched(*small_case(), iou_type)
    assert matches.image_ids.tolist() == [1, 1, 1, 1, 2, 2]
    assert matches.classes.tolist() == [0, 0, 0, 3, 0, 0]
    assert matches.scores.tolist() == [0.9, 0.8, 0.7, 0.2, 0.5, 0.4]
    assert matches.annotation_ids.tolist() == [1, 0, 0, 0, 0, 4]
    assert matches.ignored.tolist() == [False, False, False, False, True, False]
    assert matches.gt_image_ids.tolist() == [1, 1, 1, 2]
    assert matches.gt_classes.tolist() == [0, 0, 1, 0]
    assert matches.gt_annotation_ids.tolist() == [1, 2, 3, 4]
    assert matches.gt_scores == pytest.approx([0.9, np.nan, np.nan, 0.4], nan_ok=True)
    # The star, too, covers the anchor, but its score is low.
    assert matches.confusions.tolist() == [[1, 0, 1]]


def test_not_exhaustive_classes_are_no_confusion():
    ground_truth, results = small_case()
    ground_truth["images"][0]["not_exhaustive_category_ids"] = [2]
    assert matched(ground_truth, results).confusions.tolist() == []


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_ignored_objects_are_no_objects(iou_type):
    ground_truth, results = small_case()
    ground_truth["annotations"][0]["ignore"] = 1
    matches = matched(ground_truth, results, iou_type)
    assert matches.annotation_ids.tolist() == [0, 0, 0, 0, 0, 4]
    assert matches.ignored.tolist() == [True, False, False, False, True, False]
    assert matches.gt_annotation_ids.tolist() == [2, 3, 4]


def test_no_detections_and_no_objects():
    ground_truth, results = small_case()
    matches = matched(ground_truth, [])
    assert len(matches.scores) == len(matches.confusions) == 0
    assert np.isnan(matches.gt_scores).all() and len(matches.gt_scores) == 4
    matches = matched({**ground_truth, "annotations": []}, results)
    assert matches.scores.tolist() == [0.2]  # of the only class that is known to be absent
    assert matches.annotation_ids.tolist() == [0]


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_average_recall_at_half_is_the_share_of_found_objects(iou_type):
    ground_truth, results = random_case(2)
    matches = matched(ground_truth, results, iou_type)
    recall = evaluate_lvis(ground_truth, results, iou_type).recall[0, :, 0]
    for k in range(len(ground_truth["categories"])):
        found = ~np.isnan(matches.gt_scores[matches.gt_classes == k])
        assert recall[k] == (pytest.approx(found.mean()) if len(found) else -1)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(2))
def test_confusions_are_those_of_hotcoco(seed, iou_type):
    """Also of tied scores, and of objects of several classes in the same place."""
    ground_truth, results = random_case(seed)
    objects = [a for a in ground_truth["annotations"] if a["area"]]  # others are none for us
    ground_truth["annotations"] = [{**a, "ignore": 0, "iscrowd": 0} for a in objects]
    for twin in [{**a, "category_id": 5} for a in ground_truth["annotations"][::4]]:
        ground_truth["annotations"].append({**twin, "id": len(ground_truth["annotations"]) + 1000})
    category_ids = [category["id"] for category in ground_truth["categories"]]
    for entry in ground_truth["images"]:
        entry["not_exhaustive_category_ids"], entry["neg_category_ids"] = [], category_ids
    for result in results[::3]:
        result["category_id"] = category_ids[0]
    expected = np.zeros((len(category_ids), len(category_ids)))
    for entry in ground_truth["images"]:
        objects = [a for a in ground_truth["annotations"] if a["image_id"] == entry["id"]]
        of_image = [r for r in results if r["image_id"] == entry["id"]]
        found = Detections.from_results(entry["id"], of_image, [iou_type])
        counted = found.select(found.indices_that_count(iou_type, 300, entry, objects)).to_results()
        coco = hotcoco.COCO({**ground_truth, "images": [entry], "annotations": objects})
        found = coco.load_res([result for result in counted if result["score"] >= 0.3])
        evaluation = hotcoco.COCOeval(coco, found, iou_type)
        expected += evaluation.confusion_matrix(iou_thr=0.5, max_det=300)["matrix"][:-1, :-1]
    np.fill_diagonal(expected, 0)
    confusions = matched(ground_truth, results, iou_type).confusions
    assert len(confusions)
    counts = np.zeros_like(expected)
    counts[confusions[:, 0], confusions[:, 1]] = confusions[:, 2]
    np.testing.assert_array_equal(counts, expected)


def assert_equal(one, another):
    for field in dataclasses.fields(Matches):
        values = getattr(one, field.name), getattr(another, field.name)
        np.testing.assert_array_equal(*values, strict=True)


def test_any_number_of_processes_and_a_file(tmp_path):
    case = random_case(3)
    one, three = matched(*case), matched(*case, num_processes=3)
    assert_equal(one, three)
    assert len(one.scores) > 10
    one.save(str(tmp_path / "matches.npz"))
    assert_equal(one, Matches.load(str(tmp_path / "matches.npz")))


def test_calibration_bins():
    scores = np.array([0.0, 0.09, 0.1, 0.55, 0.51, 1.0])
    is_right = np.array([False, True, True, False, False, True])
    counts, mean_scores, accuracies = calibration_bins(scores, is_right)
    assert counts.tolist() == [2, 1, 0, 0, 0, 2, 0, 0, 0, 1]
    assert mean_scores == pytest.approx(
        [0.045, 0.1, *[np.nan] * 3, 0.53, *[np.nan] * 3, 1], nan_ok=True
    )
    assert accuracies == pytest.approx([0.5, 1, *[np.nan] * 3, 0, *[np.nan] * 3, 1], nan_ok=True)
