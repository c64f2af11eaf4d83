"""Ground truth for LVIS evaluation, from annotation files in LVIS or COCO format."""

import json
import math
import os
from collections import defaultdict

import pycocotools.mask as mask_util
from detectron2.utils.file_io import PathManager

from ..data.class_statistics import ClassStatistics
from ..data.frequency_groups import GROUP_NAMES


def load_ground_truth(json_file: str, class_statistics: ClassStatistics | None = None) -> dict:
    """
    Read an annotation file and fill in what LVIS evaluation needs and COCO files lack.

    - A category without ``frequency`` gets its group from the training set's class statistics.
    - An image without ``neg_category_ids`` counts as exhaustively annotated: every category that
      is not annotated in it is a negative. Without ``not_exhaustive_category_ids`` it has none.
    - ``iscrowd: 1`` annotations are dropped and their category becomes not exhaustive in that
      image: its unmatched detections there are ignored, which is LVIS's own way to say "crowd".
    - A missing (or zero) ``area`` comes from the segmentation, or else the box; a missing
      ``bbox`` from the segmentation.
    - Annotation ids are numbered anew from 1: the official code loses matches to id 0.

    Args:
        json_file: annotation file; category ids may have gaps and any order.
        class_statistics: class statistics of the training set, of which only ``groups`` is read:
            "r", "c" or "f" for each class, in ascending order of category id. Needed for files
            without ``frequency``.

    Returns:
        ``images`` in the file's order, ``annotations`` with ids 1, 2, ..., and
        ``categories`` in ascending order of id, complete as an LVIS file is. The file itself is
        left as it is.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is malformed or lacks the frequencies; one line with file and id.
    """
    dataset = _read_json(json_file)
    try:
        categories = _complete_categories(_records(dataset, "categories"), class_statistics)
        images = _check_images(_records(dataset, "images"))
        category_ids = [category["id"] for category in categories]
        annotations, crowds = _complete_annotations(
            _records(dataset, "annotations"), {image["id"]: image for image in images}, category_ids
        )
        _complete_images(images, annotations, crowds, category_ids)
    except ValueError as error:
        raise ValueError(f"{json_file}: {error}") from None
    return {"images": images, "annotations": annotations, "categories": categories}


def _read_json(json_file):
    path = PathManager.get_local_path(json_file)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"Annotation file {json_file} does not exist.")
    try:
        with open(path, encoding="utf-8") as f:
            return json.load(f)
    except ValueError as error:
        raise ValueError(f"{json_file} is not a JSON file: {error}.") from None


def _records(dataset, key):
    """The list of dicts under "images", "annotations" or "categories"."""
    records = dataset.get(key) if isinstance(dataset, dict) else None
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise ValueError(f"has no list of {key!r}; expected an annotation file in LVIS format.")
    if not records and key != "annotations":
        raise ValueError(f"its list of {key!r} is empty.")
    return records


def _check_unique_ids(records, what, types):
    seen = set()
    for position, record in enumerate(records):
        if not isinstance(record.get("id"), types):
            raise ValueError(f"{what} number {position} has id {record.get('id')!r}.")
        if record["id"] in seen:
            raise ValueError(f"{what} id {record['id']!r} occurs twice.")
        seen.add(record["id"])


def _complete_categories(categories, class_statistics):
    _check_unique_ids(categories, "category", int)
    categories = sorted(categories, key=lambda category: category["id"])
    groups = None if class_statistics is None else class_statistics.groups
    if groups is not None and len(groups) != len(categories):
        raise ValueError(
            f"lists {len(categories)} categories, but the class statistics are of {len(groups)}."
        )
    for k, category in enumerate(categories):
        if category.get("frequency") is None:
            if groups is None:
                raise ValueError(
                    f"category {category['id']} has no 'frequency'; pass the class statistics of "
                    "the training set, from which it can be derived."
                )
            category["frequency"] = groups[k]
        if category["frequency"] not in tuple(GROUP_NAMES):
            raise ValueError(
                f"category {category['id']} has frequency {category['frequency']!r}; "
                "expected 'r', 'c' or 'f'."
            )
    return categories


def _check_images(images):
    _check_unique_ids(images, "image", (int, str))
    if len({type(image["id"]) for image in images}) > 1:
        raise ValueError("image ids are partly numbers and partly strings.")
    for image in images:
        if not all(isinstance(image.get(key), int) for key in ("height", "width")):
            raise ValueError(f"image {image['id']!r} has no integer 'height' and 'width'.")
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            if not isinstance(image.get(key, []), (list, type(None))):
                raise ValueError(f"{key!r} of image {image['id']!r} is not a list.")
    return images


def _complete_annotations(annotations, images, category_ids):
    """Returns the annotations that are no crowds, and {image id: category ids of its crowds}."""
    known_categories = set(category_ids)
    completed, crowds = [], defaultdict(set)
    for position, annotation in enumerate(annotations):
        name = f"annotation {annotation.get('id', f'number {position}')!r}"
        image_id, category_id = annotation.get("image_id"), annotation.get("category_id")
        if not isinstance(image_id, (int, str)) or image_id not in images:
            raise ValueError(f"{name} has image_id {image_id!r}, which 'images' does not list.")
        if not isinstance(category_id, int) or category_id not in known_categories:
            raise ValueError(
                f"{name} has category_id {category_id!r}, which 'categories' does not list."
            )
        if annotation.get("iscrowd"):
            crowds[image_id].add(category_id)
            continue
        try:
            _complete_shape(annotation, images[image_id])
        except ValueError as error:
            raise ValueError(f"{name} {error}") from None
        annotation["id"] = len(completed) + 1
        completed.append(annotation)
    return completed, crowds


def _complete_shape(annotation, image):
    segmentation = annotation.get("segmentation")
    if segmentation:
        _check_segmentation(segmentation, image)
    elif annotation.get("bbox") is None:
        raise ValueError("has neither 'bbox' nor 'segmentation'.")
    else:
        annotation.pop("segmentation", None)

    if annotation.get("bbox") is None:
        annotation["bbox"] = mask_util.toBbox(_rle(segmentation, image)).tolist()
    bbox = annotation["bbox"]
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(map(_is_finite, bbox)):
        raise ValueError(f"has bbox {bbox!r}; expected [x, y, width, height].")

    if not annotation.get("area"):
        if segmentation:
            annotation["area"] = float(mask_util.area(_rle(segmentation, image)))
        else:
            annotation["area"] = bbox[2] * bbox[3]
    if not _is_finite(annotation["area"]):
        raise ValueError(f"has area {annotation['area']!r}; expected a number of pixels.")


def _is_finite(value):
    return isinstance(value, (int, float)) and math.isfinite(value)


def _check_segmentation(segmentation, image):
    """pycocotools takes a polygon of 4 numbers for a box, so malformed ones must stop here."""
    if isinstance(segmentation, list):
        for polygon in segmentation:
            if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
                numbers = len(polygon) if isinstance(polygon, list) else polygon
                raise ValueError(
                    f"has a polygon of {numbers} numbers; expected [x1, y1, x2, y2, x3, y3, ...]."
                )
            if not all(map(_is_finite, polygon)):
                raise ValueError("has a polygon with coordinates that are not numbers.")
    elif isinstance(segmentation, dict) and isinstance(segmentation.get("counts"), (str, list)):
        if segmentation.get("size") != [image["height"], image["width"]]:
            raise ValueError(
                f"has a mask of size {segmentation.get('size')}, but its image {image['id']!r} "
                f"is [{image['height']}, {image['width']}]."
            )
    else:
        raise ValueError("has a 'segmentation' that is neither polygons nor RLE.")


def _rle(segmentation, image):
    height, width = image["height"], image["width"]
    if isinstance(segmentation, list):
        return mask_util.merge(mask_util.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return mask_util.frPyObjects(segmentation, height, width)
    return segmentation


def _complete_images(images, annotations, crowds, category_ids):
    """Fill in the negative and the not exhaustively annotated categories, in place."""
    present = defaultdict(set)
    for annotation in annotations:
        present[annotation["image_id"]].add(annotation["category_id"])
    for image in images:
        crowded = crowds[image["id"]]
        if image.get("neg_category_ids") is None:
            annotated = present[image["id"]] | crowded
            image["neg_category_ids"] = [k for k in category_ids if k not in annotated]
        not_exhaustive = image.get("not_exhaustive_category_ids") or []
        image["not_exhaustive_category_ids"] = sorted(crowded.union(not_exhaustive))
