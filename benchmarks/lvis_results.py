"""
Detections of an image to LVIS results, beside Detectron2's detector_postprocess and
instances_to_coco_json: the same results.

    python -m benchmarks.lvis_results
"""

import functools

import numpy as np
import torch
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.modeling import detector_postprocess
from detectron2.structures import Boxes, Instances

from eql_seesaw.evaluation.detections import Detections
from eql_seesaw.evaluation.rle_postprocessing import rle_postprocess

from .measure import arguments, compare, print_table

NUM_CLASSES = 1203
# The model sees an image resized to this shorter side; mean of the boxes' sides in image heights.
MODEL_SIDE, MEDIAN_SIDE, MASK_SIDE = 800, 1 / 12, 28


def raw_detections(num_detections: int, image_size: tuple[int, int], device: str) -> Instances:
    """
    Detections of an R-CNN before its post-processing: boxes in pixels of its input, some beyond the
    edges, classes, scores and (N, 1, 28, 28) mask probabilities, blobs with rough edges.
    """
    rng = np.random.default_rng(0)
    scale = MODEL_SIDE / min(image_size)
    height, width = (round(scale * side) for side in image_size)
    sides = height * MEDIAN_SIDE * np.exp(rng.normal(scale=0.9, size=(num_detections, 2)))
    centers = rng.random((num_detections, 2)) * [width, height]
    boxes = np.concatenate([centers - sides / 2, centers + sides / 2], axis=1)
    axis = np.linspace(-1, 1, MASK_SIDE)
    noise = rng.normal(scale=0.05, size=(num_detections, 1, MASK_SIDE, MASK_SIDE))
    mask_logits = 20 * (0.9 - np.hypot(axis, axis[:, None]) + noise)

    instances = Instances((height, width))
    instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32, device=device))
    instances.pred_boxes.clip((height, width))
    scores = np.sort(rng.random(num_detections))[::-1].copy()
    instances.scores = torch.tensor(scores, dtype=torch.float32, device=device)
    classes = rng.integers(NUM_CLASSES, size=num_detections)
    instances.pred_classes = torch.tensor(classes, device=device)
    instances.pred_masks = torch.tensor(mask_logits, dtype=torch.float32, device=device).sigmoid()
    return instances


def copied(raw: Instances) -> Instances:
    """With boxes of their own, since detector_postprocess scales them in place."""
    return Instances(raw.image_size, **{**raw.get_fields(), "pred_boxes": raw.pred_boxes.clone()})


def ours(raw: Instances, image_size: tuple[int, int]) -> list[dict]:
    instances = rle_postprocess(copied(raw), *image_size)
    return Detections.from_instances(1, instances, np.arange(1, NUM_CLASSES + 1)).to_results()


def theirs(raw: Instances, image_size: tuple[int, int]) -> list[dict]:
    instances = detector_postprocess(copied(raw), *image_size)
    results = instances_to_coco_json(instances.to("cpu"), 1)
    return [{**result, "category_id": result["category_id"] + 1} for result in results]


def main() -> None:
    args = arguments(__doc__)
    rows = []
    for image_size in ((48, 64),) if args.quick else ((480, 640), (800, 1200)):
        for num_detections in (5,) if args.quick else (10, 30, 100, 300):
            raw = raw_detections(num_detections, image_size, args.device)
            functions = [functools.partial(f, raw, image_size) for f in (ours, theirs)]
            assert functions[0]() == functions[1]()
            against = "detector_postprocess, instances_to_coco_json"
            size = f"{num_detections} detections, {image_size[0]} x {image_size[1]} pixels"
            rows.append(compare("detections to LVIS results", against, size, *functions, args))
    print_table("Detections to LVIS results", rows)


if __name__ == "__main__":
    main()
