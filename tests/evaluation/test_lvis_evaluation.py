import copy
import json
import logging

import numpy as np
import pycocotools.mask as mask_utils
import pytest

from benchmarks.lvis_like_validation_set import (
    lvis_like_detections,
    lvis_like_ground_truth,
)
from eql_seesaw.config import LVIS_ENGINES
from eql_seesaw.evaluation import evaluate_lvis
from eql_seesaw.evaluation.detections import Detections
from eql_seesaw.evaluation.lvis_evaluation import LVISEvaluation

HEIGHT, WIDTH = 120, 160
CATEGORY_IDS = (2, 3, 5, 8, 13, 21)
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")


def rectangle_rle(x, y, w, h):
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8, order="F")
    mask[round(y) : round(y + h), round(x) : round(x + w)] = 1
    rle = mask_utils.encode(mask)
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def detection(image_id, category_id, bbox, score):
    return {
        "image_id": image_id,
        "category_id": category_id,
        "bbox": bbox,
        "score": score,
        "segmentation": rectangle_rle(*bbox),
    }


def annotation(annotation_id, image_id, category_id, bbox):
    x, y, w, h = bbox
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": bbox,
        "area": w * h,
        "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
    }


def image(image_id, negatives=(), not_exhaustive=()):
    return {
        "id": image_id,
        "height": HEIGHT,
        "width": WIDTH,
        "neg_category_ids": list(negatives),
        "not_exhaustive_category_ids": list(not_exhaustive),
    }


def random_case(seed):
    """A federated ground truth, and detections of it with ties, duplicates and empty areas."""
    rng = np.random.default_rng(seed)
    images, annotations, results = [], [], []
    for image_id in rng.permutation(np.arange(10, 90, 7)).tolist():
        present = rng.choice(CATEGORY_IDS[:5], size=rng.integers(0, 4), replace=False).tolist()
        rest = [k for k in CATEGORY_IDS if k not in present]
        negatives = rng.choice(rest, size=2, replace=False).tolist()
        images.append(image(image_id, negatives, present[: rng.integers(0, 2)]))
        for category_id in present:
            for _ in range(rng.integers(1, 4)):
                x, y = rng.integers(0, 60, 2).tolist()
                w, h = rng.integers(4, 60, 2).tolist() if rng.random() < 0.7 else (100, 99)
                annotations.append(
                    annotation(len(annotations) + 1, image_id, category_id, [x, y, w, h])
                )
                for _ in range(rng.integers(0, 3)):
                    dx, dy, dw, dh = rng.integers(-2, 3, 4).tolist()
                    box = [max(x + dx, 0), max(y + dy, 0), w + dw, h + dh]
                    label = category_id if rng.random() < 0.8 else int(rng.choice(CATEGORY_IDS))
                    results.append(detection(image_id, label, box, round(float(rng.random()), 1)))
        for _ in range(6):
            box = [*rng.integers(0, 60, 2).tolist(), *rng.integers(0, 40, 2).tolist()]
            results.append(
                detection(image_id, int(rng.choice(CATEGORY_IDS)), box, float(rng.random()))
            )
    categories = [
        {"id": k, "name": f"class {k}", "frequency": f}
        for k, f in zip(CATEGORY_IDS, "rccffr", strict=True)
    ]
    return {"images": images, "annotations": annotations, "categories": categories}, results


def official(tmp_path, monkeypatch, ground_truth, results, iou_type, max_detections):
    """The official package as its README uses it, on files, with the numpy.float it needs."""
    from lvis import LVIS, LVISEval, LVISResults

    if iou_type == "segm":
        results = [{k: v for k, v in result.items() if k != "bbox"} for result in results]
    (tmp_path / "gt.json").write_text(json.dumps(ground_truth))
    (tmp_path / "dt.json").write_text(json.dumps(results))
    with monkeypatch.context() as patch:
        patch.setattr(np, "float", float, raising=False)
        gt = LVIS(str(tmp_path / "gt.json"))
        dt = LVISResults(gt, str(tmp_path / "dt.json"), max_dets=max_detections)
        lvis_eval = LVISEval(gt, dt, iou_type)
        lvis_eval.run()
    return lvis_eval


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
        category_ap.append(result.category_ap.tolist())
    assert str(category_ap[0]) == str(category_ap[-1])  # as text, where NaN is NaN
    return result


def with_ties(case):
    """Three scores for all detections."""
    ground_truth, results = case
    return ground_truth, [{**r, "score": float(round(r["score"] * 2))} for r in results]


def with_many_detections(case):
    """More than 300 in an image, many of them tied or twice the same."""
    ground_truth, results = case
    image_id = results[0]["image_id"]
    copies = [r for r in results if r["image_id"] == image_id] * 40
    assert len(copies) > 300
    return ground_truth, copies + results


def with_rle_ground_truth(case):
    ground_truth, results = case
    for a in ground_truth["annotations"]:
        a["segmentation"] = rectangle_rle(*a["bbox"])
    return ground_truth, results


def with_empty_ground_truth(case):
    """Objects of no area, which the official code drops."""
    ground_truth, results = case
    for a in ground_truth["annotations"][::3]:
        a.update(bbox=[*a["bbox"][:2], 0, 10], area=0, segmentation=rectangle_rle(0, 0, 0, 0))
    return ground_truth, results


def with_class_of_empty_objects_only(case):
    """A class whose only objects in an image are empty is not verified there by them."""
    ground_truth, results = case
    first = ground_truth["images"][0]
    kept = [a for a in ground_truth["annotations"] if a["image_id"] != first["id"]]
    kept.append({**annotation(10**6, first["id"], 2, [0, 0, 30, 30]), "area": 0})
    first["neg_category_ids"], first["not_exhaustive_category_ids"] = [3], []
    extra = [detection(first["id"], 2, [0, 0, 30, 30], 1.5)]
    return {**ground_truth, "annotations": kept}, results + extra


def with_crowds(case):
    """Which the official code takes for objects as all others."""
    ground_truth, results = case
    for a in ground_truth["annotations"]:
        a["iscrowd"] = a["id"] % 2
    return ground_truth, results


def with_ignored_objects(case):
    ground_truth, results = case
    for a in ground_truth["annotations"]:
        a["ignore"] = int(a["id"] % 3 == 0)
    return ground_truth, results


def with_large_ids(case):
    ground_truth, results = copy.deepcopy(case)
    for entry in (*ground_truth["annotations"], *results):
        entry["image_id"] += 10**12
    for entry in ground_truth["images"]:
        entry["id"] += 10**12
    for a in ground_truth["annotations"]:
        a["id"] = 10**10 - a["id"]
    return ground_truth, results


def with_edge_areas(case):
    """Areas on the borders of small, medium and large."""
    ground_truth, results = case
    for a, area in zip(ground_truth["annotations"], (1024, 9216, 1024, 9216), strict=False):
        a["area"] = area
    return ground_truth, results


def without_ground_truth_of_some_images(case):
    ground_truth, results = case
    image_id = ground_truth["images"][0]["id"]
    kept = [a for a in ground_truth["annotations"] if a["image_id"] != image_id]
    assert len(kept) < len(ground_truth["annotations"])
    return {**ground_truth, "annotations": kept}, results


def with_not_exhaustive_classes_only(case):
    """An image whose only detections are of classes that are not exhaustively annotated in it."""
    ground_truth, results = case
    first = ground_truth["images"][0]
    first["not_exhaustive_category_ids"] = [2, 3]
    first["neg_category_ids"] = [2]
    return ground_truth, [r for r in results if r["image_id"] != first["id"]] + [
        detection(first["id"], k, [0, 0, 30, 30], 0.5) for k in (2, 3)
    ]


def shuffled(case):
    ground_truth, results = case
    rng = np.random.default_rng(0)
    for key in ("images", "annotations"):
        rng.shuffle(ground_truth[key])
    results = list(results)
    rng.shuffle(results)
    return ground_truth, results


def as_it_is(case):
    return case


CASES = (
    as_it_is,
    with_ties,
    with_many_detections,
    with_rle_ground_truth,
    with_empty_ground_truth,
    with_class_of_empty_objects_only,
    with_crowds,
    with_ignored_objects,
    with_large_ids,
    with_edge_areas,
    without_ground_truth_of_some_images,
    with_not_exhaustive_classes_only,
    shuffled,
)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("change", CASES)
@pytest.mark.parametrize("seed", range(3))
def test_numbers_of_the_official_package(tmp_path, monkeypatch, seed, change, iou_type):
    case = change(random_case(seed))
    result = assert_official_numbers(tmp_path, monkeypatch, case, iou_type)
    assert 0 < result.metrics["AP"] < 100


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("max_detections", [1, 8, -1])
@pytest.mark.parametrize("change", [as_it_is, with_ties, with_many_detections])
def test_limits_other_than_300(tmp_path, monkeypatch, change, max_detections, iou_type):
    """Empty masks take places: they are dropped after the limit, not before."""
    case = change(random_case(0))
    assert_official_numbers(tmp_path, monkeypatch, case, iou_type, max_detections)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_lvis_sized_classes(tmp_path, monkeypatch, iou_type):
    """All 1,203 classes, most of them without ground truth."""
    ground_truth = lvis_like_ground_truth(num_images=12)
    results = [r for of_image in lvis_like_detections(ground_truth) for r in of_image]
    assert_official_numbers(tmp_path, monkeypatch, (ground_truth, results), iou_type)


def test_category_numbers_are_means_of_the_arrays(tmp_path, monkeypatch):
    result = evaluate_lvis(*random_case(0), "segm")
    for k in range(len(CATEGORY_IDS)):
        for values, mean in (
            (result.precision[:, :, k, 0], result.category_ap[k]),
            (result.precision[0, :, k, 0], result.category_ap50[k]),
            (result.recall[:, k, 0], result.category_ar[k]),
        ):
            expected = values[values > -1].mean() * 100 if (values > -1).any() else np.nan
            np.testing.assert_allclose(mean, expected, rtol=1e-12)
    assert np.isnan(result.category_ap).any()


def test_average_recall_of_groups():
    ground_truth, results = random_case(0)
    result = evaluate_lvis(ground_truth, results, "bbox")
    for group in "rcf":
        of_group = [k for k, c in enumerate(ground_truth["categories"]) if c["frequency"] == group]
        expected = np.nanmean(result.category_ar[of_group])
        assert result.metrics[f"AR{group}"] == pytest.approx(expected)


@pytest.mark.parametrize("num_processes", [2, 3, 9])
def test_parts_of_the_images_in_several_processes(num_processes):
    """The same bits, whoever has matched which images, and if nobody has."""
    ground_truth, results = with_ties(random_case(1))
    states = []
    for process in range(num_processes):
        part = LVISEvaluation(ground_truth, ["segm"])
        for image in ground_truth["images"][process::num_processes]:
            of_image = [r for r in results if r["image_id"] == image["id"]]
            if of_image:
                part.add(Detections.from_results(image["id"], of_image, ["segm"]))
        states.append(part.state())
    merged = LVISEvaluation(ground_truth, ["segm"])
    merged.merge(states)
    merged.add_remaining()
    merged = merged.matchings["segm"].result()
    expected = evaluate_lvis(ground_truth, results, "segm")
    np.testing.assert_array_equal(merged.precision, expected.precision)
    np.testing.assert_array_equal(merged.recall, expected.recall)
    assert merged.metrics == expected.metrics


def test_image_that_comes_twice_counts_once():
    ground_truth, results = tiny_case()
    evaluation = LVISEvaluation(ground_truth, ["bbox"])
    evaluation.add(Detections.from_results(1, results, ["bbox"]))
    evaluation.add(Detections.from_results(1, [], ["bbox"]))
    expected = evaluate_lvis(ground_truth, results, "bbox").metrics
    assert evaluation.matchings["bbox"].result().metrics == expected
    with pytest.raises(ValueError, match="image 2: the ground truth has no image"):
        evaluation.add(Detections.from_results(2, [], ["bbox"]))


def test_image_of_two_processes_is_named():
    ground_truth, results = tiny_case()
    states = []
    for _ in range(2):
        part = LVISEvaluation(ground_truth, ["bbox"])
        part.add(Detections.from_results(1, results, ["bbox"]))
        states.append(part.state())
    with pytest.raises(ValueError, match="Image 1 was evaluated by two processes"):
        LVISEvaluation(ground_truth, ["bbox"]).merge(states)


def test_unknown_engine():
    with pytest.raises(ValueError, match="TEST.LVIS_ENGINE is 'coco'; .* one of hotcoco, lvis"):
        evaluate_lvis(*tiny_case(), "bbox", engine="coco")


def test_the_random_cases_meet_what_is_special_about_lvis():
    ground_truth, results = random_case(0)
    assert any(result["bbox"][2] * result["bbox"][3] == 0 for result in results)
    assert any(i["not_exhaustive_category_ids"] for i in ground_truth["images"])
    scores = [(result["image_id"], result["score"]) for result in results]
    assert len(set(scores)) < len(scores)


def tiny_case():
    """Rare class found, common class found behind a false positive, frequent class missed."""
    boxes = [0, 0, 40, 40], [50, 0, 40, 40], [0, 60, 40, 40]
    ground_truth = {
        "images": [image(1, negatives=[4])],
        "annotations": [annotation(i + 1, 1, i + 1, box) for i, box in enumerate(boxes)],
        "categories": [
            {"id": i + 1, "name": str(i), "frequency": frequency}
            for i, frequency in enumerate("rcff")
        ],
    }
    results = [
        detection(1, 1, boxes[0], 0.9),
        detection(1, 2, [100, 80, 40, 40], 0.8),
        detection(1, 2, boxes[1], 0.7),
    ]
    return ground_truth, results


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_hand_computed(iou_type):
    result = evaluate_lvis(*tiny_case(), iou_type)
    expected = {"APr": 100, "APc": 50, "APf": 0, "AP": 50, "AP50": 50, "APm": 50}
    assert {name: result.metrics[name] for name in expected} == pytest.approx(expected)
    assert result.category_ap == pytest.approx([100, 50, 0, np.nan], nan_ok=True)


def test_no_ground_truth_is_none_not_a_number():
    result = evaluate_lvis(*tiny_case(), "bbox")
    assert result.metrics["APs"] is None
    assert result.metrics["APl"] is None
    assert result.metrics["ARl"] is None

    ground_truth, results = tiny_case()
    ground_truth["annotations"] = []
    result = evaluate_lvis(ground_truth, results, "bbox")
    assert set(result.metrics.values()) == {None}
    assert np.isnan(result.category_ap).all()


@pytest.mark.parametrize("engine", LVIS_ENGINES)
@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_no_detections_score_zero(iou_type, engine):
    ground_truth, _ = tiny_case()
    result = evaluate_lvis(ground_truth, [], iou_type, engine=engine)
    assert [result.metrics[name] for name in METRICS] == [0, 0, 0, None, 0, None, 0, 0, 0]
    assert result.category_ap == pytest.approx([0, 0, 0, np.nan], nan_ok=True)


def test_only_verified_classes_count():
    ground_truth, results = tiny_case()

    def first_class_ap():
        return evaluate_lvis(ground_truth, results, "bbox").category_ap[0]

    assert first_class_ap() == pytest.approx(100)
    results.append(detection(1, 1, [0, 0, 20, 20], 0.95))
    assert first_class_ap() == pytest.approx(50)
    ground_truth["images"][0]["not_exhaustive_category_ids"] = [1]
    assert first_class_ap() == pytest.approx(100)

    ground_truth["images"][0]["not_exhaustive_category_ids"] = []
    ground_truth["images"].append(image(2))
    results[-1]["image_id"] = 2
    assert first_class_ap() == pytest.approx(100)
    ground_truth["images"][1]["neg_category_ids"] = [1]
    assert first_class_ap() == pytest.approx(50)


@pytest.mark.parametrize("engine", ["hotcoco", "lvis"])
def test_of_objects_with_equal_ious_the_last_is_found(engine):
    """So that the second detection has the first object, which it alone covers enough."""
    ground_truth, _ = tiny_case()
    boxes = [0, 0, 40, 40], [16, 0, 40, 40]
    ground_truth["annotations"] = [annotation(i + 1, 1, 1, box) for i, box in enumerate(boxes)]
    results = [detection(1, 1, [8, 0, 40, 40], 0.9), detection(1, 1, boxes[0], 0.8)]
    result = evaluate_lvis(ground_truth, results, "bbox", engine=engine)
    assert result.metrics["AP50"] == pytest.approx(100)


def test_max_detections_are_of_the_whole_image():
    ground_truth, results = tiny_case()
    result = evaluate_lvis(ground_truth, results, "bbox", max_detections=2)
    assert result.category_ap[:2] == pytest.approx([100, 0])


def test_mask_areas_are_those_of_the_masks():
    """A thin mask in a large box is a small object."""
    ground_truth, results = tiny_case()
    for record in (ground_truth["annotations"][0], results[0]):
        record["segmentation"] = rectangle_rle(0, 0, 100, 10)
        record["bbox"] = [0, 0, 100, 100]
    ground_truth["annotations"][0]["area"] = 1000
    results.append({**results[0], "segmentation": rectangle_rle(0, 50, 100, 10), "score": 0.95})
    assert evaluate_lvis(ground_truth, results, "segm").metrics["APs"] == pytest.approx(50)


@pytest.mark.parametrize("engine", LVIS_ENGINES)
@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_arguments_are_not_changed(iou_type, engine):
    case = random_case(0)
    before = copy.deepcopy(case)
    evaluate_lvis(*case, iou_type, engine=engine)
    assert case == before


@pytest.mark.parametrize(
    "change, message",
    [
        ({"image_id": 77}, "image 77"),
        ({"category_id": 55}, "image 1: .* no category id 55"),
        ({"score": float("nan")}, "image 1 of category 1 has score nan"),
        ({"bbox": [0, 0, float("inf"), 3]}, "image 1 has bbox"),
        ({"bbox": [0, 0, 3]}, "image 1 has bbox"),
    ],
)
def test_bad_box_detection(change, message):
    ground_truth, results = tiny_case()
    results[0].update(change)
    with pytest.raises(ValueError, match=message) as error:
        evaluate_lvis(ground_truth, results, "bbox")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "segmentation, message",
    [
        ([[0, 0, 9, 0, 9, 9]], "image 1 has a 'segmentation' that is no compressed RLE"),
        ({"size": [WIDTH, HEIGHT], "counts": "0"}, r"mask of size \[160, 120\], but the image is"),
    ],
)
@pytest.mark.parametrize("engine", LVIS_ENGINES)
def test_bad_mask_detection(segmentation, message, engine):
    ground_truth, results = tiny_case()
    results[0]["segmentation"] = segmentation
    with pytest.raises(ValueError, match=message):
        evaluate_lvis(ground_truth, results, "segm", engine=engine)


@pytest.mark.parametrize("engine", LVIS_ENGINES)
def test_broken_mask(engine):
    ground_truth, results = tiny_case()
    results[0]["segmentation"]["counts"] = "ooooooo1"
    with pytest.raises(ValueError, match="Detection in image 1 has a broken mask: .*RLE"):
        evaluate_lvis(ground_truth, results, "segm", engine=engine)


def test_masks_are_asked_for_but_absent():
    ground_truth, results = tiny_case()
    del results[1]["segmentation"]
    with pytest.raises(ValueError, match="Detection in image 1 has no 'segmentation'"):
        evaluate_lvis(ground_truth, results, "segm")
    del ground_truth["annotations"][2]["segmentation"]
    with pytest.raises(ValueError, match="annotation 3 of image 1 has no 'segmentation'"):
        evaluate_lvis(ground_truth, [], "segm")


def test_bad_arguments():
    with pytest.raises(ValueError, match="iou_type is 'keypoints'"):
        evaluate_lvis(*tiny_case(), "keypoints")
    with pytest.raises(ValueError, match="max_detections is 0"):
        evaluate_lvis(*tiny_case(), "bbox", max_detections=0)


def test_numpy_float_is_not_left_behind(monkeypatch):
    from lvis import LVISEval

    monkeypatch.delattr(np, "float", raising=False)
    evaluate_lvis(*tiny_case(), "bbox", engine="lvis")
    assert "float" not in vars(np)

    def fail(self):
        raise RuntimeError("stop")

    monkeypatch.setattr(LVISEval, "accumulate", fail)
    with pytest.raises(RuntimeError, match="stop"):
        evaluate_lvis(*tiny_case(), "bbox", engine="lvis")
    assert "float" not in vars(np)


def test_numpy_float_of_somebody_else_stays(monkeypatch):
    theirs = np.float64
    monkeypatch.setattr(np, "float", theirs, raising=False)
    evaluate_lvis(*tiny_case(), "bbox", engine="lvis")
    assert np.float is theirs


def test_the_official_package_is_silent(capfd, caplog):
    handlers = list(logging.getLogger().handlers)
    level = logging.getLogger("lvis").level
    evaluate_lvis(*tiny_case(), "bbox", engine="lvis")
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger().handlers == handlers
    assert logging.getLogger("lvis").level == level
