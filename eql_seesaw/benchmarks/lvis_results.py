"""Time and memory from the detections of an image to LVIS results, beside Detectron2's."""

import dataclasses
import functools
from collections.abc import Callable, Iterator

import numpy as np
import torch
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.modeling import detector_postprocess
from detectron2.structures import Boxes, Instances

from ..evaluation.detections import Detections
from ..evaluation.rle_postprocessing import rle_postprocess
from .measure import interleaved_seconds, peak_memory
from .row import Row

BENCHMARK = "lvis_results"
# Of images in LVIS, and larger ones; (height, width).
IMAGE_SIZES = ((480, 640), (800, 1200))
DETECTIONS_PER_IMAGE = (10, 30, 100, 300)
NUM_CLASSES = 1203
# What the model sees of an image: resized to this shorter side.
MODEL_SIDE = 800
# Of the square root of a box's area, relative to the image's height.
MEDIAN_SIDE = 1 / 12
MASK_SIDE = 28
IMAGE_ID = 1
NOTE = "the number of classes does not matter: a detection has one mask"


def rows(device: str, quick: bool) -> Iterator[Row]:
    """See ``eql_seesaw.benchmarks``."""
    sizes = ((48, 64),) if quick else IMAGE_SIZES
    counts = (0, 5) if quick else DETECTIONS_PER_IMAGE
    repetitions = 2 if quick else 15
    for image_size in sizes:
        for num_detections in counts:
            raw = raw_detections(num_detections, image_size, device)
            ours = functools.partial(our_results, raw, image_size)
            theirs = functools.partial(detectron2_results, raw, image_size)
            row = _row(
                "detections of an image to LVIS results",
                "Detectron2: detector_postprocess, instances_to_coco_json",
                ours,
                theirs,
                (num_detections, image_size, device, repetitions),
            )
            yield dataclasses.replace(
                row, memory=peak_memory(ours, device), peer_memory=peak_memory(theirs, device)
            )
        pasted = detector_postprocess(copied(raw), *image_size)
        yield _row(
            "pasted masks of any model to LVIS results",
            "Detectron2: instances_to_coco_json",
            functools.partial(our_results_of_pasted, pasted),
            functools.partial(detectron2_results_of_pasted, pasted),
            (counts[-1], image_size, device, repetitions),
        )


def _row(
    work: str,
    against: str,
    ours: Callable[[], list],
    theirs: Callable[[], list],
    size: tuple[int, tuple[int, int], str, int],
) -> Row:
    num_detections, (height, width), device, repetitions = size
    seconds, peer_seconds = interleaved_seconds([ours, theirs], repetitions, device=device)
    return Row(
        benchmark=BENCHMARK,
        work=work,
        against=against,
        size=f"{num_detections} detections, {height} x {width} pixels",
        parameters={
            "num_detections": num_detections,
            "image": f"{height} x {width} pixels",
        },
        seconds=seconds,
        peer_seconds=peer_seconds,
        time_limit=0.5,
        identical=ours() == theirs(),
        note=NOTE,
    )


def raw_detections(
    num_detections: int, image_size: tuple[int, int], device: str, seed: int = 0
) -> Instances:
    """
    What an R-CNN gives before its post-processing: boxes in pixels of what the model sees, some
    beyond its edges, classes, scores and (N, 1, 28, 28) mask probabilities, blobs with rough edges.

    Args:
        num_detections: N.
        image_size: (height, width) of the image.
    """
    rng = np.random.default_rng(seed)
    scale = MODEL_SIDE / min(image_size)
    height, width = (round(scale * side) for side in image_size)
    sides = height * MEDIAN_SIDE * np.exp(rng.normal(scale=0.9, size=(num_detections, 2)))
    centers = rng.random((num_detections, 2)) * [width, height]
    boxes = np.concatenate([centers - sides / 2, centers + sides / 2], axis=1)

    axis = np.linspace(-1, 1, MASK_SIDE)
    distances = np.hypot(axis, axis[:, None])
    noise = rng.normal(scale=0.05, size=(num_detections, 1, MASK_SIDE, MASK_SIDE))
    mask_logits = 20 * (0.9 - distances + noise)

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
    """With boxes of their own, since ``detector_postprocess`` scales them in place."""
    return Instances(raw.image_size, **{**raw.get_fields(), "pred_boxes": raw.pred_boxes.clone()})


def category_id(predicted_class: int) -> int:
    """As for Detectron2's LVIS datasets."""
    return predicted_class + 1


def our_results(raw: Instances, image_size: tuple[int, int]) -> list[dict]:
    return our_results_of_pasted(rle_postprocess(copied(raw), *image_size))


def our_results_of_pasted(instances: Instances) -> list[dict]:
    return Detections.from_instances(IMAGE_ID, instances, category_id).to_results()


def detectron2_results(raw: Instances, image_size: tuple[int, int]) -> list[dict]:
    return detectron2_results_of_pasted(detector_postprocess(copied(raw), *image_size))


def detectron2_results_of_pasted(instances: Instances) -> list[dict]:
    """As its ``LVISEvaluator``."""
    results = instances_to_coco_json(instances.to("cpu"), IMAGE_ID)
    for result in results:
        result["category_id"] = category_id(result["category_id"])
    return results
