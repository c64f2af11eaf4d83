import copy
import math

import numpy as np
import pycocotools.mask as mask_utils
import pytest

from eql_seesaw.evaluation import boundary
from eql_seesaw.evaluation.detections import Detections
from eql_seesaw.evaluation.lvis_evaluation import LVISEvaluation

CATEGORY_IDS = (2, 3, 5, 8, 13, 21)
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")


def encode(mask):
    rle = mask_utils.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def rectangle(image, x, y, w, h):
    mask = np.zeros((image["height"], image["width"]), dtype=np.uint8)
    mask[y : y + h, x : x + w] = 1
    return encode(mask)


def make_image(image_id, height, width, negatives=(), not_exhaustive=()):
    return {
        "id": image_id,
        "height": height,
        "width": width,
        "neg_category_ids": list(negatives),
        "not_exhaustive_category_ids": list(not_exhaustive),
    }


def make_categories(ids=CATEGORY_IDS, frequencies="rccffr"):
    return [{"id": k, "frequency": f} for k, f in zip(ids, frequencies, strict=True)]


def blob(rng, image, x, y, radius):
    """Polygon around a point; it may reach over the image's border and have any orientation."""
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    radii = radius * rng.uniform(0.7, 1.2, 12)
    points = np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], axis=1)
    return np.clip(points, 0, (image["width"], image["height"]))


def polygon_rle(points, image):
    size = image["height"], image["width"]
    rle = mask_utils.frPyObjects([points.ravel().tolist()], *size)[0]
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def ground_truth_segmentation(rng, points, image):
    """Polygons, a polygon of two parts, compressed RLE or uncompressed RLE."""
    rle = polygon_rle(points, image)
    kind = rng.integers(4)
    if kind == 0:
        return [points.ravel().tolist()]
    if kind == 1:
        return [points.ravel().tolist(), (points * 0.5).ravel().tolist()]
    if kind == 2:
        return rle
    runs = np.flatnonzero(np.diff(mask_utils.decode(rle).ravel(order="F"), prepend=0))
    pixels = rle["size"][0] * rle["size"][1]
    return {"size": rle["size"], "counts": np.diff([0, *runs, pixels]).tolist()}


def annotation_mask(annotation, image):
    segmentation, size = annotation["segmentation"], (image["height"], image["width"])
    if isinstance(segmentation, list):
        segmentation = mask_utils.merge(mask_utils.frPyObjects(segmentation, *size))
    elif isinstance(segmentation["counts"], list):
        segmentation = mask_utils.frPyObjects(segmentation, *size)
    return mask_utils.decode(segmentation).astype(bool)


def random_case(seed):
    """A federated ground truth, and detections with ties, duplicates and empty masks."""
    rng = np.random.default_rng(seed)
    images, annotations, results = [], [], []
    for image_id in rng.permutation(np.arange(10, 90, 7)).tolist():
        # The last size is of an image whose boundaries are one pixel wide.
        height, width = [(150, 190), (190, 150), (131, 131), (24, 31)][rng.integers(4)]
        present = rng.choice(CATEGORY_IDS[:5], size=rng.integers(0, 4), replace=False).tolist()
        rest = [k for k in CATEGORY_IDS if k not in present]
        negatives = rng.choice(rest, size=2, replace=False).tolist()
        not_exhaustive = [*present[: rng.integers(0, 2)], *negatives[: rng.integers(0, 2)]]
        image = make_image(image_id, height, width, negatives, not_exhaustive)
        images.append(image)

        def detect(category_id, segmentation, score, image_id=image_id):
            results.append(
                {
                    "image_id": image_id,
                    "category_id": int(category_id),
                    "score": score,
                    "segmentation": segmentation,
                }
            )

        for category_id in present:
            for _ in range(rng.integers(1, 4)):
                x, y = rng.uniform(0, width), rng.uniform(0, height)
                points = blob(rng, image, x, y, rng.choice([9, 20, 70]))
                annotation = {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category_id,
                    "segmentation": ground_truth_segmentation(rng, points, image),
                }
                annotation["area"] = float(annotation_mask(annotation, image).sum())
                annotations.append(annotation)
                if rng.random() < 0.3:
                    # The same object twice, and an area that is not that of the mask.
                    twin = {"id": len(annotations) + 1, "area": rng.choice([0, 500, 1024])}
                    annotations.append({**annotation, **twin, "ignore": int(rng.integers(2))})
                for _ in range(rng.integers(0, 4)):
                    shift = rng.choice([0, 0.5, 1, 2.5], p=[0.2, 0.4, 0.3, 0.1])
                    moved = points + rng.normal(0, shift, points.shape)
                    moved = np.clip(moved, 0, (width, height))
                    label = category_id if rng.random() < 0.8 else rng.choice(CATEGORY_IDS)
                    detect(label, polygon_rle(moved, image), round(float(rng.random()), 1))
        for _ in range(5):
            points = blob(rng, image, rng.uniform(0, width), rng.uniform(0, height), 15)
            score = round(float(rng.random()), 1)
            detect(rng.choice(CATEGORY_IDS), polygon_rle(points, image), score)
        empty = encode(np.zeros((height, width)))
        detect(rng.choice(CATEGORY_IDS), empty, 0.7)
    ground_truth = {
        "images": images,
        "annotations": annotations,
        "categories": make_categories(),
    }
    return ground_truth, results


def of_image(image_id, results):
    chosen = [result for result in results if result["image_id"] == image_id]
    return Detections.from_results(image_id, chosen, ["segm"])


def boundary_metrics(evaluation):
    evaluation.add_remaining()
    metrics = evaluation.matchings["boundary"].result().metrics
    return {name: metrics[name] for name in METRICS}


def evaluate_boundary_ap(ground_truth, results, dilation_ratio=0.008):
    evaluation = LVISEvaluation(ground_truth, ["boundary"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boundary, "DILATION_RATIO", dilation_ratio)
        for image_id in {result["image_id"] for result in results}:
            evaluation.add(of_image(image_id, results))
        return boundary_metrics(evaluation)


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


def official(monkeypatch, ground_truth, results, dilation_ratio=0.008):
    """The official package with the IoU of the paper, and the numpy.float the package needs."""
    from lvis import LVIS, LVISEval, LVISResults

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

    with monkeypatch.context() as patch:
        patch.setattr(np, "float", float, raising=False)
        patch.setattr(LVIS, "_load_json", lambda self, path: copy.deepcopy(ground_truth))
        gt = LVIS("ground truth")
        dt = LVISResults(gt, copy.deepcopy(results))
        lvis_eval = BoundaryEval(gt, dt, "segm")
        lvis_eval.run()
    numbers = lvis_eval.get_results()
    return {name: None if numbers[name] == -1 else numbers[name] * 100 for name in METRICS}


@pytest.mark.parametrize("seed", range(5))
def test_numbers_of_the_official_package(monkeypatch, seed):
    ground_truth, results = random_case(seed)
    for dilation_ratio in (0.008, 0.02):
        expected = official(monkeypatch, ground_truth, results, dilation_ratio)
        assert evaluate_boundary_ap(ground_truth, results, dilation_ratio) == expected
        assert 0 < expected["AP"] < 100


def one_object(*annotation_box, detection_box=None, size=(100, 100)):
    """An image with one rectangle of a frequent class, and one detection."""
    image = make_image(1, *size)
    annotation = {
        "id": 1,
        "image_id": 1,
        "category_id": 1,
        "area": float(annotation_box[2] * annotation_box[3]),
        "segmentation": rectangle(image, *annotation_box),
    }
    result = {
        "image_id": 1,
        "category_id": 1,
        "score": 0.5,
        "segmentation": rectangle(image, *(detection_box or annotation_box)),
    }
    ground_truth = {
        "images": [image],
        "annotations": [annotation],
        "categories": make_categories((1, 2), "fr"),
    }
    return ground_truth, [result]


def test_shifted_square():
    """
    Squares of 40 pixels, two pixels apart: mask IoU 1520 / 1680.

    With boundaries of 1 pixel (0.008 * 141 = 1.1), 156 pixels each, those in common are 38 of the
    upper side and 38 of the lower: IoU 76 / 236. With 3 pixels (0.02 * 141 = 2.8), 444 each: 3 rows
    of 38 above, 3 below, and 1 + 1 in each of the 34 rows between: IoU 296 / 592, exactly 0.5.
    """
    case = one_object(10, 10, 40, 40, detection_box=(12, 10, 40, 40))
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
    case = one_object(0, 0, 100, 100, detection_box=(0, 0, 100, 99))
    assert evaluate_boundary_ap(*case)["AP"] == pytest.approx(20)


def test_the_mask_iou_counts_where_it_is_smaller():
    """
    A square of 40 pixels with a hole of 28, found without the hole: mask IoU 816 / 1600, which is
    below 0.55, and boundary IoU, with 156 pixels outside and 116 around the hole, 156 / 272.
    """
    ground_truth, results = one_object(10, 10, 40, 40)
    mask = np.zeros((100, 100), dtype=np.uint8)
    mask[10:50, 10:50] = 1
    mask[16:44, 16:44] = 0
    ground_truth["annotations"][0]["segmentation"] = encode(mask)
    assert evaluate_boundary_ap(ground_truth, results)["AP"] == pytest.approx(10)


def test_boundaries_have_at_least_one_pixel():
    metrics = evaluate_boundary_ap(*one_object(2, 2, 6, 6, size=(12, 12)), dilation_ratio=0.001)
    assert metrics["AP"] == pytest.approx(100)


def test_perfect_detections():
    ground_truth, _ = random_case(1)
    ground_truth["annotations"] = [
        a for a in ground_truth["annotations"] if a["area"] and not a.get("ignore")
    ]
    images = {image["id"]: image for image in ground_truth["images"]}
    results = [
        {
            "image_id": a["image_id"],
            "category_id": a["category_id"],
            "score": 0.9,
            "segmentation": encode(annotation_mask(a, images[a["image_id"]])),
        }
        for a in ground_truth["annotations"]
    ]
    metrics = evaluate_boundary_ap(ground_truth, results)
    assert metrics["AP"] == metrics["APr"] == metrics["APf"] == pytest.approx(100)


@pytest.mark.parametrize("empty_masks", [False, True])
def test_no_detections_score_zero_and_no_ground_truth_nothing(empty_masks):
    ground_truth, results = one_object(10, 10, 40, 40, detection_box=(0, 0, 0, 0))
    metrics = evaluate_boundary_ap(ground_truth, results if empty_masks else [])
    assert [metrics[name] for name in METRICS] == [0, 0, 0, None, 0, None, None, None, 0]

    ground_truth["annotations"] = []
    metrics = evaluate_boundary_ap(ground_truth, results)
    assert list(metrics) == list(METRICS)
    assert set(metrics.values()) == {None}


def test_images_in_any_order_by_several_processes():
    """With the width of the paper, the default."""
    ground_truth, results = random_case(2)
    expected = evaluate_boundary_ap(ground_truth, results, 0.02)
    image_ids = [image["id"] for image in ground_truth["images"]]
    parts = [LVISEvaluation(ground_truth, ["boundary"]) for _ in range(3)]
    for i, image_id in enumerate(np.random.default_rng(0).permutation(image_ids).tolist()):
        parts[i % 2].add(of_image(image_id, results))
    merged = LVISEvaluation(ground_truth, ["boundary"])
    merged.merge(part.state() for part in parts)
    assert boundary_metrics(merged) == expected
    assert boundary_metrics(parts[0]) != expected


def test_empty_object_does_not_verify_its_class():
    """In a second image, where the class is neither annotated otherwise nor known to be absent."""
    ground_truth, results = one_object(10, 10, 40, 40)
    empty = {**ground_truth["annotations"][0], "id": 2, "image_id": 2, "area": 0}
    ground_truth["images"].append({**ground_truth["images"][0], "id": 2, "neg_category_ids": []})
    ground_truth["annotations"].append(empty)
    results.append({**results[0], "image_id": 2, "score": 0.99})
    assert evaluate_boundary_ap(ground_truth, results)["AP"] == pytest.approx(100)


def test_ground_truth_without_masks():
    ground_truth, results = one_object(10, 10, 40, 40)
    del ground_truth["annotations"][0]["segmentation"]
    with pytest.raises(ValueError, match="annotation 1 of image 1 has no 'segmentation'") as error:
        evaluate_boundary_ap(ground_truth, results)
    assert "\n" not in str(error.value)


def test_arguments_are_not_changed():
    case = random_case(0)
    before = copy.deepcopy(case)
    evaluate_boundary_ap(*case)
    assert case == before
