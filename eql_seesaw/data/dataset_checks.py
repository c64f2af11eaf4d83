"""Checks of one dataset: annotation file and images against each other and the config."""

import math
import os
from collections import Counter
from collections.abc import Container, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from detectron2.config import CfgNode
from PIL import Image
from tqdm import tqdm

from .annotation_file import AnnotationFile
from .annotation_problems import (
    Problem,
    box_problem,
    category_ids_problem,
    coordinates_problem,
    image_file_name,
    name_problem,
    reference_problem,
    segmentation_problem,
    shorten,
    size_problem,
)
from .check_report import NUM_EXAMPLES, Report

# Boxes and polygons outside the image by at most this many pixels are rounding, a warning.
ROUNDING = 1.0
# EXIF orientations that swap width and height; Detectron2 applies them when it reads an image.
_EXIF_ORIENTATION, _EXIF_SWAPPED = 0x0112, (5, 6, 7, 8)


@dataclass
class Dataset:
    """Annotation file of a dataset, with what of it can be kept in memory and is readable."""

    name: str
    file: AnnotationFile
    image_root: str
    for_training: bool
    from_coco_url: bool
    images: dict[int, dict]
    categories: dict[int, dict]
    paths: dict[int, str] = field(default_factory=dict)  # of the images with a usable name

    @property
    def classes(self) -> list[Any]:
        """Class names in the order of the contiguous class ids."""
        return [self.categories[category_id].get("name") for category_id in sorted(self.categories)]


def check_categories(
    dataset: Dataset, annotated: Container[int], cfg: CfgNode, report: Report
) -> None:
    """
    Check the names of the categories, that they are as many as the model has, and that those to be
    learnt are among the ``annotated`` ones.
    """
    names: Counter[str] = Counter()
    for category_id, category in dataset.categories.items():
        problem = name_problem(category)
        if problem is None:
            names[category["name"]] += 1
        else:
            report.add(dataset.name, "error", problem, f"category {category_id}")
    for name, count in names.items():
        if count > 1:
            problem = Problem("duplicate category names", f"{shorten(name)} occurs {count} times")
            report.add(dataset.name, "warning", problem)
    if dataset.for_training:
        for category_id in sorted(k for k in dataset.categories if k not in annotated):
            detail = f"{shorten(dataset.categories[category_id].get('name'))} has no annotation"
            problem = Problem("categories that cannot be learnt", detail)
            report.add(dataset.name, "warning", problem, f"category {category_id}")
    num_classes = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    if dataset.categories and len(dataset.categories) != num_classes:
        detail = (
            f"MODEL.ROI_HEADS.NUM_CLASSES is {num_classes}, but {dataset.file.json_file} has "
            f"{len(dataset.categories)} categories"
        )
        report.add(dataset.name, "error", Problem("wrong number of classes", detail))


def check_images(dataset: Dataset, report: Report) -> None:
    """Check what the annotation file says about the images, and note their paths."""
    for image_id, image in dataset.images.items():
        where = f"image {image_id}"
        problem = size_problem(image)
        report.add(dataset.name, "error", problem, where)
        try:
            file_name = image_file_name(image, dataset.from_coco_url)
            dataset.paths[image_id] = os.path.join(dataset.image_root, file_name)
        except ValueError as error:
            problem = Problem("images without a usable file name", str(error))
            report.add(dataset.name, "error", problem, where)
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            problem = category_ids_problem(image, key, dataset.categories)
            report.add(dataset.name, "error", problem, where)


def check_annotations(dataset: Dataset, cfg: CfgNode, report: Report) -> set[int]:
    """
    Check boxes and masks of the annotations, and the images and categories they refer to.

    Returns:
        The category ids that they have.
    """

    def note(where: str, problem: Problem) -> None:
        report.add(dataset.name, "error", problem, where)

    annotated, num_annotations = set(), 0
    for annotation in dataset.file.entries("annotations", note):
        num_annotations += 1
        if isinstance(annotation.get("category_id"), int):
            annotated.add(annotation["category_id"])
        where = f"annotation {annotation['id']}"
        problem = reference_problem(annotation, "category_id", "categories", dataset.categories)
        report.add(dataset.name, "error", problem, where)
        problem = reference_problem(annotation, "image_id", "images", dataset.images)
        if problem is not None:
            report.add(dataset.name, "error", problem, where)
            continue
        image = dataset.images[annotation["image_id"]]
        if size_problem(image) is not None:
            continue
        where += f" in image {image['id']}"
        for severity, problem in _geometry_problems(annotation, image["height"], image["width"]):
            report.add(dataset.name, severity, problem, where)
        if cfg.MODEL.MASK_ON:
            problem = _mask_format_problem(annotation, cfg.INPUT.MASK_FORMAT, dataset.for_training)
            report.add(dataset.name, "error", problem, where)
    report.note(
        dataset.name,
        f"{dataset.file.json_file}: {len(dataset.images)} images, {num_annotations} annotations, "
        f"{len(dataset.categories)} categories",
    )
    return annotated


def _geometry_problems(annotation: dict, height: int, width: int) -> Iterable[tuple[str, Problem]]:
    """Problems of the box and the masks of an annotation, each with its severity."""
    bbox: Any = annotation.get("bbox")
    problem = box_problem(bbox)
    if problem is not None:
        yield "error", problem
    else:
        x, y, w, h = bbox
        if w <= 0 or h <= 0:
            yield "error", Problem("empty boxes", f"bbox {bbox} [x, y, width, height]")
        overshoot = max(-x, -y, x + w - width, y + h - height)
        detail = f"bbox {bbox} [x, y, width, height]"
        if 0 <= x < w <= width and 0 <= y < h <= height:
            detail += ", which would fit as [x0, y0, x1, y1],"
        yield from _outside("boxes", overshoot, detail, height, width)

    segmentation = annotation.get("segmentation")
    if not segmentation:
        return
    problem = segmentation_problem(segmentation, height, width)
    max_pixels = Image.MAX_IMAGE_PIXELS or math.inf  # None is no limit
    if problem is not None:
        yield "error", problem
    elif isinstance(segmentation, list):
        yield from _polygon_problems(segmentation, height, width)
    elif isinstance(segmentation["counts"], str) and height * width <= max_pixels:
        if not _is_decodable(segmentation):
            yield "error", Problem("broken RLE masks", f"RLE {shorten(segmentation['counts'])}")


def _is_decodable(rle: dict) -> bool:
    try:
        # Of a mask that ends early, pycocotools fills the rest with whatever is in memory.
        return int(mask_util.decode(rle).sum()) == int(mask_util.area(rle))
    except ValueError:
        return False


def _polygon_problems(
    polygons: list[list], height: int, width: int
) -> Iterable[tuple[str, Problem]]:
    problem = coordinates_problem(polygons)
    if problem is not None:
        yield "error", problem
        return
    overshoot = 0.0
    for polygon in polygons:
        points = np.array(polygon, dtype=np.float64).reshape(-1, 2)
        overshoot = max(overshoot, -points.min(), (points.max(axis=0) - (width, height)).max())
    detail = f"polygon {overshoot:.2f} pixels"
    yield from _outside("polygons", overshoot, detail, height, width)


def _outside(
    what: str, overshoot: float, detail: str, height: int, width: int
) -> Iterable[tuple[str, Problem]]:
    # Sums of coordinates like x + width are off by some 1e-13 where they should be equal.
    if overshoot <= 1e-6:
        return
    detail = f"{detail} outside of {width} x {height} (width x height)"
    if overshoot > ROUNDING:
        yield "error", Problem(f"{what} outside the image", detail)
    else:
        yield "warning", Problem(f"{what} at most {ROUNDING:g} pixel outside the image", detail)


def _mask_format_problem(annotation: dict, mask_format: str, for_training: bool) -> Problem | None:
    segmentation = annotation.get("segmentation")
    if annotation.get("iscrowd", 0):
        return None
    if not segmentation:
        return Problem("annotations without segmentation", "but MODEL.MASK_ON is True")
    if for_training and mask_format == "polygon" and isinstance(segmentation, dict):
        return Problem("RLE masks", "training on them needs INPUT.MASK_FORMAT bitmask, not polygon")
    return None


def check_image_files(dataset: Dataset, report: Report) -> None:
    """Read every image, and note the folders that hold them."""
    folders = Counter(os.path.dirname(path) for path in dataset.paths.values())
    missing_folders = {folder for folder in folders if not os.path.isdir(folder)}
    for folder, count in folders.most_common(NUM_EXAMPLES):
        report.note(dataset.name, f"{count} images needed from {folder}")
    if len(folders) > NUM_EXAMPLES:
        report.note(dataset.name, f"and images from {len(folders) - NUM_EXAMPLES} more folders")
    for folder, count in folders.items():
        if folder in missing_folders:
            problem = Problem("missing image folders", f"{folder}, for {count} images")
            report.add(dataset.name, "error", problem)
    image_ids = [
        image_id
        for image_id, path in dataset.paths.items()
        if os.path.dirname(path) not in missing_folders
    ]
    # Pillow decodes without holding Python's lock.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        problems = pool.map(
            lambda image_id: _image_problem(dataset.paths[image_id], dataset.images[image_id]),
            image_ids,
        )
        progress = tqdm(problems, dataset.name, len(image_ids), unit="image", disable=None)
        for image_id, problem in zip(image_ids, progress, strict=True):
            report.add(dataset.name, "error", problem, f"image {image_id}")


def _image_problem(path: str, image: dict) -> Problem | None:
    """Decode an image as Detectron2 does, and compare its size."""
    if not os.path.isfile(path):
        return Problem("missing images", path)
    try:
        with Image.open(path) as picture:
            picture.convert("RGB")
            width, height = picture.size
            if picture.getexif().get(_EXIF_ORIENTATION) in _EXIF_SWAPPED:
                width, height = height, width
    except Exception as error:  # Pillow's decoders raise many kinds
        return Problem("unreadable images", f"{path}: {error}")
    expected = (image.get("width"), image.get("height"))
    if size_problem(image) is None and (width, height) != expected:
        detail = f"{path} is {width} x {height}, annotated as {expected[0]} x {expected[1]}"
        return Problem("images of another size", detail)
    return None
