"""Ground truth and detections of the size and shape of LVIS v1's validation set."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from detectron2.data.datasets.lvis_v1_categories import LVIS_CATEGORIES
from detectron2.data.datasets.lvis_v1_category_image_count import LVIS_CATEGORY_IMAGE_COUNT

from eql_seesaw.atomic_write import atomic_file

# LVIS v1: https://www.lvisdataset.org, arXiv 1908.03195.
NUM_TRAIN_IMAGES = 100_170
NUM_TRAIN_ANNOTATIONS = 1_270_141

IMAGE_SIZES = ((480, 640), (640, 480), (427, 640))
# Different coco_urls; each comes many times, with images of the same size.
NUM_IMAGE_FILES = 300
NEGATIVE_CLASSES_PER_IMAGE = 8
SHARE_NOT_EXHAUSTIVE = 0.1
# Of the detections that do not follow an object, those of a class verified in the image.
SHARE_VERIFIED = 0.3
CORNERS, DETECTIONS_PER_IMAGE = 14, 300


def lvis_like_ground_truth(num_images: int, corners: int = CORNERS) -> dict:
    """
    LVIS v1's categories with their real frequencies, and random objects that follow them: as many
    classes per image and objects per class as in the training set. Masks are polygons.

    Returns:
        A complete LVIS annotation dict.
    """
    rng = np.random.default_rng(0)
    categories = [
        {"id": c["id"], "name": c["name"], "frequency": c["frequency"]} for c in LVIS_CATEGORIES
    ]
    ids = np.array([category["id"] for category in categories])
    image_count = {c["id"]: c["image_count"] for c in LVIS_CATEGORY_IMAGE_COUNT}
    image_counts = np.array([image_count[k] for k in ids])
    probability = image_counts / image_counts.sum()
    classes_per_image = image_counts.sum() / NUM_TRAIN_IMAGES
    objects_per_class = NUM_TRAIN_ANNOTATIONS / image_counts.sum()

    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id in range(1, num_images + 1):
        file = image_id % NUM_IMAGE_FILES
        height, width = IMAGE_SIZES[file % len(IMAGE_SIZES)]
        num_classes = max(1, rng.poisson(classes_per_image))
        drawn = ids[rng.choice(len(ids), num_classes + NEGATIVE_CLASSES_PER_IMAGE, p=probability)]
        positive = np.unique(drawn[:num_classes])
        counts = rng.geometric(1 / objects_per_class, len(positive))
        boxes = _random_boxes(rng, int(counts.sum()), height, width)
        polygons = _polygons(rng, boxes, corners)
        for k, box, polygon in zip(np.repeat(positive, counts), boxes, polygons, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(k),
                    "bbox": box.tolist(),
                    "area": _polygon_area(polygon),
                    "segmentation": [polygon.tolist()],
                }
            )
        not_exhaustive = positive[rng.random(len(positive)) < SHARE_NOT_EXHAUSTIVE]
        images.append(
            {
                "id": image_id,
                "coco_url": f"http://images.cocodataset.org/train2017/{file:012d}.jpg",
                "height": height,
                "width": width,
                "neg_category_ids": np.setdiff1d(drawn[num_classes:], positive).tolist(),
                "not_exhaustive_category_ids": not_exhaustive.tolist(),
            }
        )
    return {"images": images, "annotations": annotations, "categories": categories}


def lvis_like_detections(ground_truth: dict) -> Iterator[list[dict[str, Any]]]:
    """
    300 detections, image by image: some near each object, with its class or one nearby, the others
    anywhere. One mask in fifty is empty, as mask heads give them.

    Yields:
        The LVIS results of one image, with "bbox" and "segmentation" (compressed RLE).
    """
    rng = np.random.default_rng(0)
    ids = np.array([category["id"] for category in ground_truth["categories"]])
    objects: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in ground_truth["images"]}
    for annotation in ground_truth["annotations"]:
        objects[annotation["image_id"]].append(annotation)
    for image in ground_truth["images"]:
        height, width = image["height"], image["width"]
        annotations = objects[image["id"]]
        follows = rng.integers(len(annotations), size=DETECTIONS_PER_IMAGE)
        is_near = rng.random(DETECTIONS_PER_IMAGE) < min(0.5, 0.02 * len(annotations))
        near = np.array([annotation["bbox"] for annotation in annotations])[follows]
        near = near + rng.normal(scale=0.1, size=near.shape) * near[:, [2, 3, 2, 3]]
        anywhere = _random_boxes(rng, DETECTIONS_PER_IMAGE, height, width)
        boxes = _inside(np.where(is_near[:, None], near, anywhere), height, width)

        classes = np.array([annotation["category_id"] for annotation in annotations])
        verified = np.concatenate([classes, image["neg_category_ids"]]).astype(int)
        others = np.where(
            rng.random(DETECTIONS_PER_IMAGE) < SHARE_VERIFIED,
            rng.choice(verified, DETECTIONS_PER_IMAGE),
            rng.choice(ids, DETECTIONS_PER_IMAGE),
        )
        is_right = is_near & (rng.random(DETECTIONS_PER_IMAGE) < 0.8)
        category_ids = np.where(is_right, classes[follows], others)
        # Float32, as a model's are, so that many are tied.
        scores = rng.beta(1, 6, DETECTIONS_PER_IMAGE) + 0.3 * is_right
        scores = np.minimum(scores, 1).astype(np.float32).round(3)

        polygons = _polygons(rng, boxes, CORNERS)
        masks = mask_util.frPyObjects(polygons.tolist(), height, width)
        empty = mask_util.encode(np.zeros((height, width), dtype=np.uint8, order="F"))
        yield [
            {
                "image_id": image["id"],
                "category_id": int(category_ids[i]),
                "bbox": boxes[i].tolist(),
                "score": float(scores[i]),
                "segmentation": {
                    "size": [height, width],
                    "counts": (empty if i % 50 == 49 else masks[i])["counts"].decode(),
                },
            }
            for i in range(DETECTIONS_PER_IMAGE)
        ]


def write_results(results_by_image: Iterator[list[dict[str, Any]]], path: str) -> None:
    """Write detections as a list in JSON, without holding them all."""
    with atomic_file(path) as f:
        separator = "[\n"
        for results in results_by_image:
            for result in results:
                f.write(separator + json.dumps(result))
                separator = ",\n"
        f.write("\n]\n")


def _random_boxes(rng: np.random.Generator, num_boxes: int, height: int, width: int) -> np.ndarray:
    """(N, 4) x, y, width, height; sizes as widely spread as LVIS's."""
    sides = np.exp(rng.normal(np.log(40), 0.9, (num_boxes, 2)))
    sides = np.clip(sides, 4, [width, height])
    corners = rng.random((num_boxes, 2)) * ([width, height] - sides)
    return np.concatenate([corners, sides], axis=1).round(2)


def _inside(boxes, height, width):
    corners = np.clip(boxes[:, :2], 0, [width - 2, height - 2])
    sides = np.clip(boxes[:, 2:], 2, [width, height] - corners)
    return np.concatenate([corners, sides], axis=1).round(2)


def _polygons(rng, boxes, corners):
    """(N, 2 * corners): bumpy ellipses inside the boxes, x and y in turn."""
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    radius = rng.uniform(0.35, 0.5, (len(boxes), corners))
    center = boxes[:, :2] + boxes[:, 2:] / 2
    x = center[:, :1] + np.cos(angles) * radius * boxes[:, 2:3]
    y = center[:, 1:] + np.sin(angles) * radius * boxes[:, 3:]
    return np.stack([x, y], axis=2).reshape(len(boxes), -1).round(2)


def _polygon_area(polygon):
    """Of the polygon itself, by the shoelace formula; LVIS stores such areas too."""
    x, y = polygon[::2], polygon[1::2]
    return float(abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2)
