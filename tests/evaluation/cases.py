"""Ground truths and detections, and what the official package makes of them."""

import json

import numpy as np
import pycocotools.mask as mask_utils

from eql_seesaw.evaluation.detections import Detections
from eql_seesaw.evaluation.lvis_evaluation import LVISEvaluation
from eql_seesaw.evaluation.official_engine import evaluate_officially

CATEGORY_IDS = (2, 3, 5, 8, 13, 21)
SIZE = HEIGHT, WIDTH = 120, 160


def as_rle(mask):
    rle = mask_utils.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def rectangle(x, y, w, h, size=SIZE):
    mask = np.zeros(size, dtype=np.uint8)
    mask[y : y + h, x : x + w] = 1
    return as_rle(mask)


def image(image_id, negatives=(), not_exhaustive=(), size=SIZE):
    return {
        "id": image_id,
        "height": size[0],
        "width": size[1],
        "neg_category_ids": list(negatives),
        "not_exhaustive_category_ids": list(not_exhaustive),
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


def detection(image_id, category_id, bbox, score, size=SIZE):
    return {
        "image_id": image_id,
        "category_id": category_id,
        "bbox": bbox,
        "score": score,
        "segmentation": rectangle(*bbox, size),
    }


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


def random_case(seed):
    """
    A federated ground truth with masks of all forms, and detections of it with ties, duplicates and
    empty masks. Some objects are there twice, ignored, crowds, or of an area of 0 or on the border
    between small, medium and large.
    """
    rng = np.random.default_rng(seed)
    images, annotations, results = [], [], []
    for image_id in rng.permutation(np.arange(10, 90, 7)).tolist():
        # The last size is of an image whose boundaries are one pixel wide.
        size = height, width = [(150, 190), (190, 150), (131, 131), (24, 31)][rng.integers(4)]
        present = rng.choice(CATEGORY_IDS[:5], size=rng.integers(0, 4), replace=False).tolist()
        rest = [k for k in CATEGORY_IDS if k not in present]
        negatives = rng.choice(rest, size=2, replace=False).tolist()
        not_exhaustive = [*present[: rng.integers(0, 2)], *negatives[: rng.integers(0, 2)]]
        images.append(image(image_id, negatives, not_exhaustive, size))

        def detect(category_id, rle, score, image_id=image_id):
            results.append(
                {
                    "image_id": image_id,
                    "category_id": int(category_id),
                    "bbox": mask_utils.toBbox(rle).tolist(),
                    "score": score,
                    "segmentation": rle,
                }
            )

        for category_id in present:
            for _ in range(rng.integers(1, 4)):
                center = rng.uniform(0, (width, height))
                points = polygon(rng, size, center, rng.choice([9, 20, 70]))
                rle = polygon_rle(points, size)
                found = {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category_id,
                    "bbox": mask_utils.toBbox(rle).tolist(),
                    "area": float(mask_utils.area(rle)),
                    "segmentation": segmentation(points, size, form=rng.integers(4)),
                    "iscrowd": int(rng.random() < 0.2),
                }
                annotations.append(found)
                if rng.random() < 0.3:
                    area = int(rng.choice([0, 500, 1024, 9216]))
                    twin = {"id": len(annotations) + 1, "area": area}
                    annotations.append({**found, **twin, "ignore": int(rng.integers(2))})
                for _ in range(rng.integers(0, 4)):
                    shift = rng.choice([0, 0.5, 1, 2.5], p=[0.2, 0.4, 0.3, 0.1])
                    moved = points + rng.normal(0, shift, points.shape)
                    moved = np.clip(moved, 0, (width, height))
                    label = category_id if rng.random() < 0.8 else rng.choice(CATEGORY_IDS)
                    detect(label, polygon_rle(moved, size), round(float(rng.random()), 1))
        for _ in range(5):
            points = polygon(rng, size, rng.uniform(0, (width, height)), 15)
            score = round(float(rng.random()), 1)
            detect(rng.choice(CATEGORY_IDS), polygon_rle(points, size), score)
        detect(rng.choice(CATEGORY_IDS), as_rle(np.zeros(size)), 0.7)
    categories = [
        {"id": k, "name": f"class {k}", "frequency": f}
        for k, f in zip(CATEGORY_IDS, "rccffr", strict=True)
    ]
    return {"images": images, "annotations": annotations, "categories": categories}, results


def polygon(rng, size, center, radius):
    """(12, 2) points around one; clipped to the image."""
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    radii = radius * rng.uniform(0.7, 1.2, 12)
    points = center + np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)
    return np.clip(points, 0, size[::-1])


def polygon_rle(points, size):
    rle = mask_utils.frPyObjects([points.ravel().tolist()], *size)[0]
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def segmentation(points, size, form):
    """Polygons, a polygon of two parts, compressed RLE or uncompressed RLE."""
    rle = polygon_rle(points, size)
    if form == 0:
        return [points.ravel().tolist()]
    if form == 1:
        return [points.ravel().tolist(), (points * 0.5).ravel().tolist()]
    if form == 2:
        return rle
    runs = np.flatnonzero(np.diff(mask_utils.decode(rle).ravel(order="F"), prepend=0))
    return {"size": rle["size"], "counts": np.diff([0, *runs, size[0] * size[1]]).tolist()}


def official(folder, monkeypatch, ground_truth, results, iou_type, max_detections=300, engine=None):
    """
    The official package as its README uses it, on files, with the numpy.float it needs.

    ``engine``: a subclass of its LVISEval, or None for that itself.
    """
    from lvis import LVIS, LVISEval, LVISResults

    if iou_type == "segm":
        results = [{k: v for k, v in result.items() if k != "bbox"} for result in results]
    (folder / "gt.json").write_text(json.dumps(ground_truth))
    (folder / "dt.json").write_text(json.dumps(results))
    with monkeypatch.context() as patch:
        patch.setattr(np, "float", float, raising=False)
        gt = LVIS(str(folder / "gt.json"))
        dt = LVISResults(gt, str(folder / "dt.json"), max_dets=max_detections)
        lvis_eval = (engine or LVISEval)(gt, dt, iou_type)
        lvis_eval.run()
    return lvis_eval


def evaluated(ground_truth, results, iou_types, *arguments, num_processes=1):
    """An evaluation of results in LVIS's format, with images spread over processes."""
    options = {"boundary_ap": "boundary" in iou_types}
    merged, *evaluations = (
        LVISEvaluation(ground_truth, *arguments, **options) for _ in range(num_processes + 1)
    )
    of_images = {image["id"]: [] for image in ground_truth["images"]}
    for result in results:
        of_images[result["image_id"]].append(result)
    regions = ["segm" if iou_type == "boundary" else iou_type for iou_type in iou_types]
    for i, (image_id, of_image) in enumerate(of_images.items()):
        detections = Detections.from_results(image_id, of_image, regions)
        evaluations[i % num_processes].add(detections)
    for evaluation in evaluations:
        merged.merge(evaluation.state())
    merged.add_remaining(regions)
    return merged


def evaluate_lvis(ground_truth, results, iou_type, max_detections=300, engine="hotcoco"):
    if engine == "lvis":
        return evaluate_officially(ground_truth, results, iou_type, max_detections)
    return evaluated(ground_truth, results, [iou_type], max_detections).result(iou_type)
