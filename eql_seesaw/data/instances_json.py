"""Loading instance annotations in COCO or LVIS format."""

import logging
import os
from collections.abc import Container
from typing import Any

import pycocotools.mask as mask_util
from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode

from .annotation_file import (
    Problem,
    Problems,
    box_problem,
    image_file_name,
    image_problem,
    name_problem,
    read_annotation_file,
    reference_problem,
    segmentation_problem,
)

logger = logging.getLogger(__name__)


def load_instances_json(
    json_file: str, image_root: str, dataset_name: str | None = None
) -> list[dict[str, Any]]:
    """
    Load instance annotations in COCO or LVIS format.

    Args:
        json_file: annotation file, with "images", "annotations" and "categories".
        image_root: folder that an image's "file_name" is relative to. Where that is absent, as in
            LVIS v1, the last two parts of "coco_url" are taken, and this is the folder that holds
            ``train2017`` and ``val2017``.
        dataset_name: if given, "thing_classes" and "thing_dataset_id_to_contiguous_id" are put
            into the metadata of this dataset.

    Returns:
        One dict per image in Detectron2's standard format, in ascending order of image id.
        Class ids, also those in "neg_category_ids" and "not_exhaustive_category_ids" (absent
        where the file has none), are contiguous, in ascending order of the file's category ids.
        Annotations have "bbox" (XYWH, pixels), "category_id", and where the file has them
        "iscrowd" and "segmentation" (polygons, or compressed RLE).

    Raises:
        ValueError: the file is not such a file. One line names the file, the first offending
            id, and how many have the same problem.
    """
    content = read_annotation_file(json_file)
    problems = Problems(json_file)
    categories = problems.entries(content, "categories")
    images = problems.entries(content, "images")
    annotations = problems.entries(content, "annotations")
    for category_id, category in categories.items():
        problems.add(f"category {category_id}", name_problem(category))
    problems.raise_first()
    for image_id, image in images.items():
        problems.add(f"image {image_id}", _image_problem(image, categories))
    problems.raise_first()
    for annotation_id, annotation in annotations.items():
        problem = _annotation_problem(annotation, images, categories)
        problems.add(f"annotation {annotation_id}", problem)
    problems.raise_first()

    contiguous_ids = {category_id: i for i, category_id in enumerate(sorted(categories))}
    records = {i: _image_record(images[i], image_root, contiguous_ids) for i in sorted(images)}
    for annotation in annotations.values():
        record = records[annotation["image_id"]]
        record["annotations"].append(_instance(annotation, record, contiguous_ids))

    if dataset_name is not None:
        MetadataCatalog.get(dataset_name).set(
            thing_classes=[categories[category_id]["name"] for category_id in contiguous_ids],
            thing_dataset_id_to_contiguous_id=contiguous_ids,
        )
    logger.info(
        "Loaded %d images and %d annotations from %s", len(images), len(annotations), json_file
    )
    return list(records.values())


def _image_problem(image: dict[str, Any], category_ids: Container[int]) -> Problem | None:
    try:
        image_file_name(image)
    except ValueError as error:
        return Problem("images without a usable file name", str(error))
    return image_problem(image, category_ids)


def _annotation_problem(
    annotation: dict[str, Any], images: dict[int, dict], category_ids: Container[int]
) -> Problem | None:
    problem = (
        reference_problem(annotation, "image_id", "images", images)
        or reference_problem(annotation, "category_id", "categories", category_ids)
        or box_problem(annotation.get("bbox"))
    )
    segmentation = annotation.get("segmentation")
    if problem is not None or not segmentation:
        return problem
    image = images[annotation["image_id"]]
    return segmentation_problem(segmentation, image["height"], image["width"])


def _image_record(
    image: dict[str, Any], image_root: str, contiguous_ids: dict[int, int]
) -> dict[str, Any]:
    record = {
        "file_name": os.path.join(image_root, image_file_name(image)),
        "height": image["height"],
        "width": image["width"],
        "image_id": image["id"],
        "annotations": [],
    }
    for key in ("neg_category_ids", "not_exhaustive_category_ids"):
        if key in image:
            record[key] = [contiguous_ids[category_id] for category_id in image[key]]
    return record


def _instance(
    annotation: dict[str, Any], record: dict[str, Any], contiguous_ids: dict[int, int]
) -> dict[str, Any]:
    instance = {
        "bbox": annotation["bbox"],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": contiguous_ids[annotation["category_id"]],
    }
    if "iscrowd" in annotation:
        instance["iscrowd"] = annotation["iscrowd"]
    segmentation = annotation.get("segmentation")
    if segmentation:
        if isinstance(segmentation, dict) and isinstance(segmentation["counts"], list):
            segmentation = mask_util.frPyObjects(segmentation, record["height"], record["width"])
        instance["segmentation"] = segmentation
    return instance
