import copy

import numpy as np
import pytest

from benchmarks.lvis_like_validation_set import (
    lvis_like_detections,
    lvis_like_ground_truth,
)
from eql_seesaw.config import LVIS_ENGINES

from .cases import (
    HEIGHT,
    WIDTH,
    annotation,
    detection,
    evaluate_lvis,
    evaluated,
    official,
    random_case,
    tiny_case,
)

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")
both_regions = pytest.mark.parametrize("iou_type", ["bbox", "segm"])
both_engines = pytest.mark.parametrize("engine", LVIS_ENGINES)


def assert_official_numbers(tmp_path, monkeypatch, case, iou_type, max_detections=300):
    """Both engines give the same bits as the official package used by hand."""
    category_ap = []
    expected = official(tmp_path, monkeypatch, *case, iou_type, max_detections)
    for engine in LVIS_ENGINES:
        result = evaluate_lvis(*case, iou_type, max_detections, engine)
        np.testing.assert_array_equal(result.precision, expected.eval["precision"], strict=True)
        np.testing.assert_array_equal(result.recall, expected.eval["recall"], strict=True)
        assert [result.metrics[name.split("@")[0]] for name in expected.get_results()] == [
            None if value == -1 else value * 100 for value in expected.get_results().values()
        ]
        category_ap.append(result.of_categories["AP"].tolist())
    assert str(category_ap[0]) == str(category_ap[-1])  # as text, where NaN is NaN
    return result


def as_it_is(case):
    return case


def with_ties(case):
    """Three scores for all detections."""
    ground_truth, results = case
    return ground_truth, [{**r, "score": float(round(r["score"] * 2))} for r in results]


def with_many_detections(case):
    """More than 300 in an image, many of them tied or twice the same."""
    ground_truth, results = case
    image_id = results[0]["image_id"]
    copies = [r for r in results if r["image_id"] == image_id] * 60
    assert len(copies) > 300
    return ground_truth, copies + results


def with_large_ids_in_any_order(case):
    ground_truth, results = copy.deepcopy(case)
    for entry in (*ground_truth["annotations"], *results):
        entry["image_id"] += 10**12
    for entry in ground_truth["images"]:
        entry["id"] += 10**12
    for a in ground_truth["annotations"]:
        a["id"] = 10**10 - a["id"]
    for entries in (ground_truth["images"], ground_truth["annotations"], results):
        np.random.default_rng(0).shuffle(entries)
    return ground_truth, results


@both_regions
@pytest.mark.parametrize(
    "change", [as_it_is, with_ties, with_many_detections, with_large_ids_in_any_order]
)
@pytest.mark.parametrize("seed", range(2))
def test_numbers_of_the_official_package(tmp_path, monkeypatch, seed, change, iou_type):
    case = change(random_case(seed))
    result = assert_official_numbers(tmp_path, monkeypatch, case, iou_type)
    assert 0 < result.metrics["AP"] < 100


@both_regions
@pytest.mark.parametrize("max_detections", [1, 8, -1])
def test_limits_other_than_300(tmp_path, monkeypatch, max_detections, iou_type):
    """Empty masks take places: they are dropped after the limit, not before."""
    case = with_many_detections(random_case(0))
    assert_official_numbers(tmp_path, monkeypatch, case, iou_type, max_detections)


def test_lvis_sized_classes(tmp_path, monkeypatch):
    """All 1,203 classes, most of them without ground truth."""
    ground_truth = lvis_like_ground_truth(num_images=12)
    results = [r for of_image in lvis_like_detections(ground_truth) for r in of_image]
    assert_official_numbers(tmp_path, monkeypatch, (ground_truth, results), "segm")


def test_numbers_of_categories_and_groups_are_means_of_the_arrays():
    ground_truth, results = random_case(0)
    result = evaluate_lvis(ground_truth, results, "segm")
    for k in range(len(ground_truth["categories"])):
        for values, mean in (
            (result.precision[:, :, k, 0], result.of_categories["AP"][k]),
            (result.precision[0, :, k, 0], result.of_categories["AP50"][k]),
            (result.recall[:, k, 0], result.of_categories["AR"][k]),
        ):
            expected = values[values > -1].mean() * 100 if (values > -1).any() else np.nan
            np.testing.assert_allclose(mean, expected, rtol=1e-12)
    assert np.isnan(result.of_categories["AP"]).any()
    for group in "rcf":
        of_group = [k for k, c in enumerate(ground_truth["categories"]) if c["frequency"] == group]
        expected = np.nanmean(result.of_categories["AR"][of_group])
        assert result.metrics[f"AR{group}"] == pytest.approx(expected)


@pytest.mark.parametrize("iou_type", ["segm", "boundary"])
def test_parts_of_the_images_in_several_processes(iou_type):
    """The same bits, whoever has matched which images, and if nobody has."""
    ground_truth, results = with_ties(random_case(1))
    results = [r for r in results if r["image_id"] != ground_truth["images"][-1]["id"]]
    case = ground_truth, results, [iou_type]
    one, several = (evaluated(*case, num_processes=n).result(iou_type) for n in (1, 3))
    np.testing.assert_array_equal(several.precision, one.precision)
    np.testing.assert_array_equal(several.recall, one.recall)
    assert several.metrics == one.metrics and one.metrics["AP"] > 0


def test_image_of_two_processes():
    evaluation = evaluated(*tiny_case(), ["bbox"])
    with pytest.raises(ValueError, match="Image 1 was evaluated by two processes"):
        evaluation.merge(evaluation.state())


@both_regions
def test_hand_computed(iou_type):
    result = evaluate_lvis(*tiny_case(), iou_type)
    expected = {"APr": 100, "APc": 50, "APf": 0, "AP": 50, "AP50": 50, "APm": 50}
    assert {name: result.metrics[name] for name in expected} == pytest.approx(expected)
    assert result.of_categories["AP"] == pytest.approx([100, 50, 0, np.nan], nan_ok=True)


def test_no_ground_truth_is_none_not_a_number():
    ground_truth, results = tiny_case()
    metrics = evaluate_lvis(ground_truth, results, "bbox").metrics
    assert [metrics[name] for name in ("APs", "APl", "ARl")] == [None] * 3
    ground_truth["annotations"] = []
    result = evaluate_lvis(ground_truth, results, "bbox")
    assert set(result.metrics.values()) == {None}
    assert np.isnan(result.of_categories["AP"]).all()


@both_regions
def test_no_detections_score_zero(iou_type):
    result = evaluate_lvis(tiny_case()[0], [], iou_type)
    assert [result.metrics[name] for name in METRICS] == [0, 0, 0, None, 0, None, 0, 0, 0]
    assert result.of_categories["AP"] == pytest.approx([0, 0, 0, np.nan], nan_ok=True)


@both_engines
def test_of_objects_with_equal_ious_the_last_is_found(engine):
    """So that the second detection has the first object, which it alone covers enough."""
    ground_truth, _ = tiny_case()
    boxes = [0, 0, 40, 40], [16, 0, 40, 40]
    ground_truth["annotations"] = [annotation(i + 1, 1, 1, box) for i, box in enumerate(boxes)]
    results = [detection(1, 1, [8, 0, 40, 40], 0.9), detection(1, 1, boxes[0], 0.8)]
    result = evaluate_lvis(ground_truth, results, "bbox", engine=engine)
    assert result.metrics["AP50"] == pytest.approx(100)


@both_engines
def test_arguments_are_not_changed(engine):
    case = random_case(0)
    before = copy.deepcopy(case)
    evaluate_lvis(*case, "segm", engine=engine)
    assert case == before


@pytest.mark.parametrize(
    "segmentation, message",
    [
        ([[0, 0, 9, 0, 9, 9]], "image 1 has a broken mask: 'list' object is not an instance"),
        ({"size": [WIDTH, HEIGHT], "counts": "0"}, r"mask of size \[160, 120\], but the image is"),
        ({"size": [HEIGHT, WIDTH], "counts": "ooooooo1"}, "image 1 has a broken mask: .*RLE"),
    ],
)
def test_bad_mask_detection(segmentation, message):
    ground_truth, results = tiny_case()
    results[0]["segmentation"] = segmentation
    with pytest.raises(ValueError, match=message):
        evaluate_lvis(ground_truth, results, "segm")


def test_ground_truth_without_masks():
    ground_truth, results = tiny_case()
    del ground_truth["annotations"][2]["segmentation"]
    assert evaluate_lvis(ground_truth, results, "bbox").metrics["AP"] > 0
    with pytest.raises(ValueError, match="annotation 3 of image 1 has no 'segmentation'"):
        evaluate_lvis(ground_truth, [], "segm")


def test_the_official_package_is_silent(capfd, caplog):
    evaluate_lvis(*tiny_case(), "bbox", engine="lvis")
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")
