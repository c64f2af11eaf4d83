import copy
import json
import logging

import numpy as np
import pycocotools.mask as mask_utils
import pytest

from eql_seesaw.evaluation import evaluate_lvis

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


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(4))
def test_numbers_of_the_official_package(tmp_path, monkeypatch, seed, iou_type):
    ground_truth, results = random_case(seed)
    for max_detections in (300, 8):
        expected = official(tmp_path, monkeypatch, ground_truth, results, iou_type, max_detections)
        result = evaluate_lvis(ground_truth, results, iou_type, max_detections)
        assert list(result.metrics.values()) == [
            None if value == -1 else value * 100 for value in expected.get_results().values()
        ]
        precision = expected.eval["precision"][:, :, :, 0]
        for k in range(len(CATEGORY_IDS)):
            s = precision[:, :, k]
            ap = s[s > -1].mean() * 100 if (s > -1).any() else np.nan
            np.testing.assert_allclose(result.category_ap[k], ap, rtol=1e-12)
        assert list(result.metrics)[-4:] == [f"AR{a}@{max_detections}" for a in ("", "s", "m", "l")]
    assert 0 < result.metrics["AP"] < 100


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
    assert result.metrics["ARl@300"] is None

    ground_truth, results = tiny_case()
    ground_truth["annotations"] = []
    result = evaluate_lvis(ground_truth, results, "bbox")
    assert set(result.metrics.values()) == {None}
    assert np.isnan(result.category_ap).all()


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_no_detections_score_zero(iou_type):
    ground_truth, _ = tiny_case()
    result = evaluate_lvis(ground_truth, [], iou_type)
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


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_arguments_are_not_changed(iou_type):
    case = random_case(0)
    before = copy.deepcopy(case)
    evaluate_lvis(*case, iou_type)
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
def test_bad_mask_detection(segmentation, message):
    ground_truth, results = tiny_case()
    results[0]["segmentation"] = segmentation
    with pytest.raises(ValueError, match=message):
        evaluate_lvis(ground_truth, results, "segm")


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
    evaluate_lvis(*tiny_case(), "bbox")
    assert "float" not in vars(np)

    def fail(self):
        raise RuntimeError("stop")

    monkeypatch.setattr(LVISEval, "accumulate", fail)
    with pytest.raises(RuntimeError, match="stop"):
        evaluate_lvis(*tiny_case(), "bbox")
    assert "float" not in vars(np)


def test_numpy_float_of_somebody_else_stays(monkeypatch):
    theirs = np.float64
    monkeypatch.setattr(np, "float", theirs, raising=False)
    evaluate_lvis(*tiny_case(), "bbox")
    assert np.float is theirs


def test_the_official_package_is_silent(capfd, caplog):
    handlers = list(logging.getLogger().handlers)
    level = logging.getLogger("lvis").level
    evaluate_lvis(*tiny_case(), "bbox")
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger().handlers == handlers
    assert logging.getLogger("lvis").level == level
