"""
Examine the datasets of a config before training::

    python -m eql_seesaw.data.check --config-file FILE [KEY VALUE ...]

Everything is looked at, whatever is found on the way. The exit status is 1 if there is any error;
warnings alone do not fail.
"""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from PIL import Image
from tqdm import tqdm

from .register import (
    Problem,
    box_problem,
    find_dataset,
    image_file_name,
    is_number,
    is_own_dataset,
    read_annotation_file,
    segmentation_problem,
    shorten,
    size_problem,
)

# Examples kept, and shown, of each kind of problem.
NUM_EXAMPLES = 3
# Boxes and polygons outside the image by at most this many pixels are rounding, a warning.
ROUNDING = 1.0
# EXIF orientations that swap width and height; Detectron2 applies them when it reads an image.
_EXIF_ORIENTATION, _EXIF_SWAPPED = 0x0112, (5, 6, 7, 8)


@dataclass
class Finding:
    """One kind of problem in one dataset: how many, and the first few in words."""

    dataset: str
    severity: str  # "error" or "warning"
    kind: str
    count: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass
class Report:
    """What a check found, in the order in which it was found."""

    findings: dict[tuple[str, str, str], Finding] = field(default_factory=dict)
    # Per dataset, what it holds and needs.
    notes: dict[str, list[str]] = field(default_factory=dict)

    def add(self, dataset: str, severity: str, problem: Problem, where: str = "") -> None:
        """Count a problem of a dataset, and keep it as an example if it is among the first."""
        key = (dataset, severity, problem.kind)
        finding = self.findings.setdefault(key, Finding(*key))
        finding.count += 1
        if len(finding.examples) < NUM_EXAMPLES:
            finding.examples.append(f"{where}: {problem.detail}" if where else problem.detail)

    def note(self, dataset: str, text: str) -> None:
        """Say something about a dataset that is not a problem."""
        self.notes.setdefault(dataset, []).append(text)

    @property
    def num_errors(self) -> int:
        return sum(f.count for f in self.findings.values() if f.severity == "error")

    def __str__(self) -> str:
        lines = []
        for dataset in dict.fromkeys([*self.notes, *(f.dataset for f in self.findings.values())]):
            lines.append(dataset)
            lines += [f"  {text}" for text in self.notes.get(dataset, [])]
            for finding in self.findings.values():
                if finding.dataset == dataset:
                    lines.append(f"  {finding.severity}: {finding.kind}: {finding.count}")
                    lines += [f"    {example}" for example in finding.examples]
                    if finding.count > len(finding.examples):
                        lines.append("    ...")
        count = self.num_errors
        lines.append("ok" if count == 0 else "1 problem" if count == 1 else f"{count} problems")
        return "\n".join(lines)


@dataclass
class _Dataset:
    """The readable part of an annotation file."""

    name: str
    json_file: str
    image_root: str
    for_training: bool
    names_from_coco_url: bool
    images: dict[int, dict]
    annotations: dict[int, dict]
    categories: dict[int, dict]
    paths: dict[int, str] = field(default_factory=dict)  # of the images with a usable name

    @property
    def classes(self) -> list[Any]:
        """Class names in the order of the contiguous class ids."""
        return [self.categories[category_id].get("name") for category_id in sorted(self.categories)]


def check_datasets(cfg: CfgNode) -> Report:
    """
    Examine the datasets in ``DATASETS.TRAIN`` and ``DATASETS.TEST``: annotation files and images.

    Args:
        cfg: a config with this project's keys. Nothing needs to be registered.
    """
    report = Report()
    datasets = []
    keys: dict[str, str] = {}
    for key in ("TRAIN", "TEST"):
        if not cfg.DATASETS[key]:
            problem = Problem("no dataset", f"DATASETS.{key} is empty")
            report.add(f"DATASETS.{key}", "error" if key == "TRAIN" else "warning", problem)
        for name in cfg.DATASETS[key]:
            keys.setdefault(name, key)
    for name, key in keys.items():
        dataset = _read_dataset(cfg, key, name, report)
        if dataset is not None:
            _check_categories(dataset, cfg, report)
            _check_images(dataset, report)
            _check_annotations(dataset, cfg, report)
            _check_image_files(dataset, report)
            datasets.append(dataset)
    _check_same_categories(datasets, report)
    _check_shared_images(datasets, cfg, report)
    return report


def _read_dataset(cfg: CfgNode, key: str, name: str, report: Report) -> _Dataset | None:
    try:
        paths = find_dataset(cfg, f"DATASETS.{key}", name)
    except ValueError as error:
        report.add(name, "error", Problem("not registered", str(error)))
        return None
    if paths is None:
        problem = Problem("no annotation file", "registered by code, cannot be examined")
        report.add(name, "warning", problem)
        return None
    json_file, image_root = paths
    try:
        content = read_annotation_file(json_file)
    except OSError as error:
        hint = "" if name in cfg.DATASETS.REGISTER else "; see datasets/README.md"
        problem = Problem("unreadable annotation file", f"{json_file}: {error.strerror}{hint}")
        report.add(name, "error", problem)
        return None
    except ValueError as error:
        report.add(name, "error", Problem("unreadable annotation file", str(error)))
        return None

    sections = {
        section: _entries_by_id(content, section, name, report)
        for section in ("images", "annotations", "categories")
    }
    counts = ", ".join(f"{len(entries)} {section}" for section, entries in sections.items())
    report.note(name, f"{json_file}: {counts}")
    own = name in cfg.DATASETS.REGISTER or is_own_dataset(name)
    return _Dataset(
        name=name,
        json_file=json_file,
        image_root=image_root,
        for_training=key == "TRAIN",
        # Detectron2's loader of LVIS does not look at "file_name".
        names_from_coco_url=not own and MetadataCatalog.get(name).get("evaluator_type") == "lvis",
        **sections,
    )


def _entries_by_id(content: dict, section: str, name: str, report: Report) -> dict[int, dict]:
    entries = content.get(section)
    if not isinstance(entries, list) or not entries:
        what = "is empty" if entries == [] else "is missing or not a list"
        report.add(name, "error", Problem("missing sections", f'"{section}" {what}'))
        return {}
    by_id: dict[int, dict] = {}
    for index, entry in enumerate(entries):
        entry_id = entry.get("id") if isinstance(entry, dict) else None
        if type(entry_id) is not int:
            problem = Problem(f"{section} without an id", f'{shorten(entry)}: no integer "id"')
            report.add(name, "error", problem, f"{section}[{index}]")
        elif entry_id in by_id:
            problem = Problem(f"duplicate ids of {section}", f"id {entry_id}")
            report.add(name, "error", problem, f"{section}[{index}]")
        else:
            by_id[entry_id] = entry
    return by_id


def _check_categories(dataset: _Dataset, cfg: CfgNode, report: Report) -> None:
    names = Counter()
    for category_id, category in dataset.categories.items():
        name = category.get("name")
        if isinstance(name, str):
            names[name] += 1
        else:
            problem = Problem("categories without a name", f"name is {shorten(name)}")
            report.add(dataset.name, "error", problem, f"category {category_id}")
    for name, count in names.items():
        if count > 1:
            problem = Problem("duplicate category names", f"{shorten(name)} occurs {count} times")
            report.add(dataset.name, "warning", problem)
    num_classes = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    if dataset.categories and len(dataset.categories) != num_classes:
        detail = (
            f"MODEL.ROI_HEADS.NUM_CLASSES is {num_classes}, but {dataset.json_file} has "
            f"{len(dataset.categories)} categories"
        )
        report.add(dataset.name, "error", Problem("wrong number of classes", detail))


def _check_images(dataset: _Dataset, report: Report) -> None:
    """Check what the annotation file says about the images, and note their paths."""
    for image_id, image in dataset.images.items():
        where = f"image {image_id}"
        problem = size_problem(image)
        if problem is not None:
            report.add(dataset.name, "error", problem, where)
        try:
            file_name = image_file_name(image, dataset.names_from_coco_url)
            dataset.paths[image_id] = os.path.join(dataset.image_root, file_name)
        except ValueError as error:
            problem = Problem("images without a usable file name", str(error))
            report.add(dataset.name, "error", problem, where)
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            if key in image:
                problem = _category_ids_problem(key, image[key], dataset.categories)
                if problem is not None:
                    report.add(dataset.name, "error", problem, where)


def _category_ids_problem(key: str, ids: Any, categories: dict[int, dict]) -> Problem | None:
    if not isinstance(ids, list):
        return Problem(f"broken {key}", f"{key} is {shorten(ids)}, expected a list")
    unknown = [i for i in ids if type(i) is not int or i not in categories]
    if unknown:
        return Problem(f"unknown {key}", f"{key} holds {shorten(unknown[0])}, not in categories")
    return None


def _check_annotations(dataset: _Dataset, cfg: CfgNode, report: Report) -> None:
    for annotation_id, annotation in dataset.annotations.items():
        where = f"annotation {annotation_id}"
        image_id, category_id = annotation.get("image_id"), annotation.get("category_id")
        image = dataset.images.get(image_id) if type(image_id) is int else None
        if type(category_id) is not int or category_id not in dataset.categories:
            detail = f"category_id {shorten(category_id)} is not in categories"
            report.add(dataset.name, "error", Problem("unknown categories", detail), where)
        if image is None:
            detail = f"image_id {shorten(image_id)} is not in images"
            report.add(dataset.name, "error", Problem("unknown images", detail), where)
            continue
        if size_problem(image) is not None:
            continue
        where += f" in image {image_id}"
        for severity, problem in _geometry_problems(annotation, image["height"], image["width"]):
            report.add(dataset.name, severity, problem, where)
        if cfg.MODEL.MASK_ON:
            problem = _mask_format_problem(annotation, cfg.INPUT.MASK_FORMAT, dataset.for_training)
            if problem is not None:
                report.add(dataset.name, "error", problem, where)


def _geometry_problems(annotation: dict, height: int, width: int) -> Iterable[tuple[str, Problem]]:
    """What is wrong with the box and the masks of an annotation, with its severity."""
    bbox = annotation.get("bbox")
    problem = box_problem(bbox)
    if problem is not None:
        yield "error", problem
    else:
        x, y, w, h = bbox
        if w <= 0 or h <= 0:
            yield "error", Problem("empty boxes", f"bbox {bbox} [x, y, width, height]")
        overshoot = max(-x, -y, x + w - width, y + h - height)
        yield from _outside("boxes", overshoot, f"bbox {bbox}", height, width)

    segmentation = annotation.get("segmentation")
    if not segmentation:
        return
    problem = segmentation_problem(segmentation, height, width)
    if problem is not None:
        yield "error", problem
    elif isinstance(segmentation, list):
        yield from _polygon_problems(segmentation, height, width)
    elif isinstance(segmentation["counts"], str) and height * width <= Image.MAX_IMAGE_PIXELS:
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
    overshoot = 0.0
    for polygon in polygons:
        if not all(map(is_number, polygon)):
            yield "error", Problem("broken polygons", f"{shorten(polygon)} is not all numbers")
            return
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


def _check_image_files(dataset: _Dataset, report: Report) -> None:
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
            if problem is not None:
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


def _check_same_categories(datasets: list[_Dataset], report: Report) -> None:
    for dataset in datasets[1:]:
        first = datasets[0]
        pairs = list(zip(first.classes, dataset.classes, strict=False))
        differing = [i for i, (a, b) in enumerate(pairs) if a != b]
        if differing:
            a, b = pairs[differing[0]]
            detail = f"class {differing[0]} is {shorten(b)}, but {shorten(a)} in {first.name}"
        elif len(first.classes) != len(dataset.classes):
            detail = f"{len(dataset.classes)} classes, but {len(first.classes)} in {first.name}"
        else:
            continue
        report.add(dataset.name, "error", Problem("categories of another dataset", detail))


def _check_shared_images(datasets: list[_Dataset], cfg: CfgNode, report: Report) -> None:
    train_images = {
        os.path.realpath(path): dataset
        for dataset in datasets
        if dataset.for_training
        for path in dataset.paths.values()
    }
    for dataset in datasets:
        if dataset.name not in cfg.DATASETS.TEST:
            continue
        for image_id, path in dataset.paths.items():
            train_dataset = train_images.get(os.path.realpath(path))
            if train_dataset is not None:
                # The same file for both is meant so; the same image in two files is a leak.
                same = os.path.realpath(train_dataset.json_file) == os.path.realpath(
                    dataset.json_file
                )
                problem = Problem("images shared with training", f"{path} in {train_dataset.name}")
                report.add(
                    dataset.name, "warning" if same else "error", problem, f"image {image_id}"
                )


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    # Not at the top: data knows nothing of the engine, but the command needs its config.
    from ..engine.setup import load_config

    parser = argparse.ArgumentParser(
        prog="python -m eql_seesaw.data.check",
        description="Examine the datasets of a config before training.",
    )
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE")
    args = parser.parse_args(arguments)
    try:
        cfg = load_config(args.config_file, args.opts)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    report = check_datasets(cfg)
    print(report)
    return 1 if report.num_errors else 0


if __name__ == "__main__":
    sys.exit(main())
