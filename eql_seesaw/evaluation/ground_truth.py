"""Ground truth for LVIS evaluation, from annotation files in LVIS or COCO format."""

import logging
import os
from collections import defaultdict
from collections.abc import Sequence
from itertools import repeat
from operator import itemgetter
from typing import Any

import pycocotools.mask as mask_util
from detectron2.data import MetadataCatalog

from ..data.annotation_entries import Annotation, Image, compressed_rle
from ..data.annotation_file import (
    NO_NEEDS,
    AnnotationFile,
    Needs,
    image_file_name,
    paused_garbage_collector,
)
from ..data.register import names_from_coco_url

logger = logging.getLogger(__name__)


@paused_garbage_collector()
def load_ground_truth(
    json_file: str, groups: Sequence[str] | None = None, needs: Needs = NO_NEEDS
) -> dict:
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
        needs: of whoever evaluates with a model.

    Returns:
        ``images`` in the file's order, ``annotations`` with ids 1, 2, ..., and
        ``categories`` in ascending order of id, complete as an LVIS file is. The file itself is
        left as it is.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is malformed or lacks the frequencies. One line with the file, the
            first offending id, and how many have the same problem.
    """
    file = AnnotationFile(json_file, needs._replace(whole_rles=True))
    # In COCO's images, by id.
    crowds: defaultdict[int, set[int]] = defaultdict(set)
    present: defaultdict[int, set[int]] = defaultdict(set)
    annotations: list[dict[str, Any]] = []
    for _, annotation in file.annotations():
        image = file.images[annotation.image_id]
        of_image = present
        if "neg_category_ids" not in image and annotation.iscrowd:
            of_image = crowds
        else:
            annotations.append(_completed(annotation, len(annotations) + 1, image))
        of_image[image["id"]].add(annotation.category_id)
    _fill_in_frequencies(file, groups)
    file.findings.settle(logger)
    for image_id, image in file.images.items():
        if "neg_category_ids" not in image:
            annotated = present[image_id] | crowds[image_id]
            image["neg_category_ids"] = [k for k in file.categories if k not in annotated]
        not_exhaustive = crowds[image_id].union(image.get("not_exhaustive_category_ids", ()))
        image["not_exhaustive_category_ids"] = sorted(not_exhaustive)
    return {
        "images": list(file.images.values()),
        "annotations": annotations,
        "categories": list(file.categories.values()),
    }


def with_images_of(ground_truth: dict, images_of: str) -> dict:
    """
    Ground truth of some of its images.

    Args:
        ground_truth: of :func:`load_ground_truth`.
        images_of: annotation file, whose images' ids are those to keep; or "minival", those of
            LVIS's validation set that are not in COCO's train2017, by their ``coco_url``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no image is left, or the file is no annotation file.
    """
    if images_of == "minival":
        kept = {
            image["id"]
            for image in ground_truth["images"]
            if "/train2017/" not in image.get("coco_url", "/train2017/")
        }
    else:
        file = AnnotationFile(images_of)
        file.findings.settle(logger)
        kept = set(file.images)
    images = [image for image in ground_truth["images"] if image["id"] in kept]
    if not images:
        raise ValueError(f"--images-of {images_of}: none of its images is in the dataset")
    annotations = [x for x in ground_truth["annotations"] if x["image_id"] in kept]
    return {**ground_truth, "images": images, "annotations": annotations}


def test_images(ground_truth: dict, dataset_name: str) -> list[dict[str, Any]]:
    """
    Images of a dataset to evaluate on, for Detectron2's ``build_detection_test_loader``.

    Args:
        ground_truth: of the dataset, from :func:`load_ground_truth` with ``Needs.file_names``.
        dataset_name: a registered dataset whose metadata has ``image_root``.

    Returns:
        "file_name", "height", "width" and "image_id" of each image, in ascending order of id.
    """
    image_root = MetadataCatalog.get(dataset_name).image_root
    from_coco_url = names_from_coco_url(dataset_name)
    return [
        {
            "file_name": os.path.join(image_root, image_file_name(image, from_coco_url)),
            "height": image["height"],
            "width": image["width"],
            "image_id": image["id"],
        }
        for image in sorted(ground_truth["images"], key=itemgetter("id"))
    ]


def _fill_in_frequencies(file: AnnotationFile, groups: Sequence[str] | None) -> None:
    num_classes = len(file.categories)
    if groups is not None and len(groups) != num_classes and not file.findings.of("error"):
        raise ValueError(
            f"{file.json_file}: {num_classes} categories, but frequency groups of "
            f"{len(groups)} classes"
        )
    for category, group in zip(file.categories.values(), groups or repeat(None)):
        if category.get("frequency") is None:
            category["frequency"] = group
            if group is None:
                text = 'no "frequency"; give a config whose training set it can be counted in'
                kind = "categories without a frequency"
                file.findings.add("error", kind, f"category {category['id']}: {text}")


def _completed(annotation: Annotation, annotation_id: int, image: Image) -> dict[str, Any]:
    """The annotation as an LVIS file has it."""
    height, width = image["height"], image["width"]
    completed: dict[str, Any] = {
        "id": annotation_id,
        "image_id": annotation.image_id,
        "category_id": annotation.category_id,
        "bbox": annotation.box(height, width),
        "area": annotation.area,
    }
    if annotation.segmentation:
        completed["segmentation"] = annotation.segmentation
    if not annotation.area:
        if annotation.segmentation:
            rle = compressed_rle(annotation.segmentation, height, width)
            completed["area"] = float(mask_util.area(rle))
        else:
            completed["area"] = completed["bbox"][2] * completed["bbox"][3]
    return completed
