"""Ground truth for LVIS evaluation, from annotation files in LVIS or COCO format."""

import os
from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from operator import itemgetter
from typing import Any

import pycocotools.mask as mask_util
from detectron2.data import MetadataCatalog
from detectron2.utils.file_io import PathManager

from ..data.annotation_file import AnnotationFile, paused_garbage_collector
from ..data.annotation_problems import (
    Problem,
    Problems,
    box_problem,
    coordinates_problem,
    image_file_name,
    image_problem,
    is_number,
    reference_problem,
    segmentation_problem,
    shorten,
)
from ..data.frequency_groups import GROUP_NAMES
from ..data.register import names_from_coco_url

# hotcoco takes detections as an array of float64, which knows larger integers roughly only.
MAX_ID = 2**53


@paused_garbage_collector()
def load_ground_truth(json_file: str, groups: Sequence[str] | None = None) -> dict:
    """
    Read an annotation file and fill in what LVIS evaluation needs and COCO files lack.

    - A category without ``frequency`` gets its group of the training set.
    - An image without ``neg_category_ids`` counts as exhaustively annotated: every category that
      is not annotated in it is a negative. Without ``not_exhaustive_category_ids`` it has none.
    - In such an image ``iscrowd: 1`` annotations are dropped and their category becomes not
      exhaustive: its unmatched detections there are ignored, which is LVIS's own way to say
      "crowd". In images with ``neg_category_ids`` they are objects like all others, as for the
      official code, which does not know ``iscrowd``.
    - A missing (or zero) ``area`` comes from the segmentation, or else the box; a missing
      ``bbox`` from the segmentation.
    - Annotation ids are numbered anew from 1: the official code loses matches to id 0.

    Args:
        json_file: annotation file; category ids may have gaps and any order.
        groups: "r", "c" or "f" of each class in the training set, in ascending order of category
            id (``ClassStatistics.groups``). Needed for files without ``frequency``.

    Returns:
        ``images`` in the file's order, ``annotations`` with ids 1, 2, ..., and
        ``categories`` in ascending order of id, complete as an LVIS file is. The file itself is
        left as it is.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is malformed or lacks the frequencies. One line with the file, the
            first offending id, and how many have the same problem.
    """
    if not PathManager.isfile(json_file):
        raise FileNotFoundError(f"no such file: {json_file}")
    file = AnnotationFile(json_file)
    problems = Problems(json_file)
    # Unlike the others, annotations may be none: an image set without objects can be evaluated.
    categories, images, annotations = (
        {entry["id"]: entry for entry in file.entries(section, problems.add, may_be_empty)}
        for section, may_be_empty in (
            ("categories", False),
            ("images", False),
            ("annotations", True),
        )
    )
    problems.raise_first()

    if groups is not None and len(groups) != len(categories):
        raise ValueError(
            f"{json_file}: {len(categories)} categories, but frequency groups of "
            f"{len(groups)} classes"
        )
    for k, category_id in enumerate(sorted(categories)):
        category = categories[category_id]
        if category.get("frequency") is None and groups is not None:
            category["frequency"] = groups[k]
        problem = _id_problem(category_id) or _frequency_problem(category)
        problems.add(f"category {category_id}", problem)
    problems.raise_first()
    for image_id, image in images.items():
        problems.add(f"image {image_id}", _id_problem(image_id) or image_problem(image, categories))
    problems.raise_first()
    for annotation_id, annotation in annotations.items():
        problem = _annotation_problem(annotation, images, categories)
        problems.add(f"annotation {annotation_id}", problem)
    problems.raise_first()

    crowds = defaultdict(set)
    completed: list[dict[str, Any]] = []
    for annotation in annotations.values():
        if _is_crowd(annotation, images):
            crowds[annotation["image_id"]].add(annotation["category_id"])
        else:
            _complete_shape(annotation, images[annotation["image_id"]])
            annotation["id"] = len(completed) + 1
            completed.append(annotation)
    category_ids = sorted(categories)
    _complete_images(images, completed, crowds, category_ids)
    return {
        "images": list(images.values()),
        "annotations": completed,
        "categories": [categories[category_id] for category_id in category_ids],
    }


def test_images(ground_truth: dict, dataset_name: str) -> list[dict[str, Any]]:
    """
    Images of a dataset to evaluate on, for Detectron2's ``build_detection_test_loader``.

    Args:
        ground_truth: of the dataset, from :func:`load_ground_truth`.
        dataset_name: a registered dataset whose metadata has ``image_root``.

    Returns:
        "file_name", "height", "width" and "image_id" of each image, in ascending order of id.

    Raises:
        ValueError: an image has no file name, or one that leads out of the image folder. One line.
    """
    metadata = MetadataCatalog.get(dataset_name)
    from_coco_url = names_from_coco_url(dataset_name)
    problems = Problems(metadata.json_file)
    records = []
    for image in sorted(ground_truth["images"], key=itemgetter("id")):
        try:
            file_name = image_file_name(image, from_coco_url)
        except ValueError as error:
            problem = Problem("images without a usable file name", str(error))
            problems.add(f"image {image['id']}", problem)
            continue
        records.append(
            {
                "file_name": os.path.join(metadata.image_root, file_name),
                "height": image["height"],
                "width": image["width"],
                "image_id": image["id"],
            }
        )
    problems.raise_first()
    return records


def _id_problem(entry_id: int) -> Problem | None:
    if 0 <= entry_id <= MAX_ID:
        return None
    return Problem("ids out of range", f"the id is not between 0 and {MAX_ID}")


def _frequency_problem(category: dict[str, Any]) -> Problem | None:
    frequency = category.get("frequency")
    if frequency is None:
        detail = 'no "frequency"; give a config whose training set it can be counted in'
        return Problem("categories without a frequency", detail)
    if frequency not in list(GROUP_NAMES):
        return Problem("broken frequencies", f"frequency is {shorten(frequency)}, not r, c or f")
    return None


def _annotation_problem(
    annotation: dict[str, Any], images: Mapping[int, dict], category_ids: Container[int]
) -> Problem | None:
    problem = reference_problem(annotation, "image_id", "images", images) or reference_problem(
        annotation, "category_id", "categories", category_ids
    )
    if problem is not None or _is_crowd(annotation, images):
        return problem
    image, segmentation = images[annotation["image_id"]], annotation.get("segmentation")
    if segmentation:
        problem = segmentation_problem(segmentation, image["height"], image["width"])
        if problem is None and isinstance(segmentation, list):
            problem = coordinates_problem(segmentation)
    # A box can be made of the mask.
    if not segmentation or annotation.get("bbox") is not None:
        problem = problem or box_problem(annotation.get("bbox"))
    area = annotation.get("area")
    if problem is None and area is not None and not is_number(area):
        detail = f"area is {shorten(area)}, expected a number of pixels"
        return Problem("annotations without an area", detail)
    return problem


def _is_crowd(annotation: dict[str, Any], images: Mapping[int, dict]) -> bool:
    is_coco_style = "neg_category_ids" not in images[annotation["image_id"]]
    return is_coco_style and bool(annotation.get("iscrowd"))


def _complete_shape(annotation: dict[str, Any], image: dict[str, Any]) -> None:
    """Fill in box and area, in place."""
    segmentation: Any = annotation.get("segmentation")
    if not segmentation:
        annotation.pop("segmentation", None)
    if annotation.get("bbox") is None:
        annotation["bbox"] = mask_util.toBbox(_rle(segmentation, image)).tolist()
    if not annotation.get("area"):
        if segmentation:
            annotation["area"] = float(mask_util.area(_rle(segmentation, image)))
        else:
            annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]


def _rle(segmentation: list | dict, image: dict[str, Any]) -> dict[str, Any]:
    height, width = image["height"], image["width"]
    if isinstance(segmentation, list):
        return mask_util.merge(mask_util.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return mask_util.frPyObjects(segmentation, height, width)
    return segmentation


def _complete_images(
    images: Mapping[int, dict],
    annotations: list[dict[str, Any]],
    crowds: Mapping[int, set[int]],
    category_ids: list[int],
) -> None:
    """Fill in the negative and the not exhaustively annotated categories, in place."""
    present = defaultdict(set)
    for annotation in annotations:
        present[annotation["image_id"]].add(annotation["category_id"])
    for image_id, image in images.items():
        crowded = crowds[image_id]
        if "neg_category_ids" not in image:
            annotated = present[image_id] | crowded
            image["neg_category_ids"] = [k for k in category_ids if k not in annotated]
        not_exhaustive = image.get("not_exhaustive_category_ids", ())
        image["not_exhaustive_category_ids"] = sorted(crowded.union(not_exhaustive))
