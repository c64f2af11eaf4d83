"""Examination of the datasets of a config before training, and the report on it."""

import os
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from PIL import Image
from tqdm import tqdm

from .annotation_file import AnnotationFile, Needs, image_file_name
from .dataset_checks import CHECKS, SHARE_REFUSED, Columns, read_columns
from .findings import NUM_EXAMPLES, Findings
from .pictures import DEEP, TURNED, allow_pixels, did_you_mean, oddity, read_size, reading_error
from .register import find_dataset, names_from_coco_url
from .training_set import check_num_classes, check_same_categories, check_same_classes


class Report:
    """
    Report on the datasets of a config; as a string, for a person to read.

    Attributes:
        findings, notes: by dataset, or by key where it names none.
        class_names, category_ids: of each dataset that could be read.
        objects: of each class, in each of them: all, and those that are no crowds.
        paths: of the images of each of them, by image id.
    """

    def __init__(self) -> None:
        self.findings: dict[str, Findings] = {}
        self.notes: defaultdict[str, list[str]] = defaultdict(list)
        self.class_names: dict[str, list[str]] = {}
        self.category_ids: dict[str, list[int]] = {}
        self.objects: dict[str, tuple[np.ndarray, ...]] = {}
        self.paths: dict[str, dict[int, str]] = {}

    def add(self, source: str, severity: str, kind: str, example: str) -> None:
        """Add a finding about a dataset or key."""
        self.findings.setdefault(source, Findings(source)).add(severity, kind, example)

    def num_examples(self, source: str, severity: str, kind: str) -> int:
        """Number of examples of a kind so far."""
        finding = self.findings[source].found.get((severity, kind))
        return len(finding.examples) if finding else 0

    @property
    def num_errors(self) -> int:
        """Number of errors in all datasets."""
        return sum(e.count for found in self.findings.values() for e in found.of("error"))

    def __str__(self) -> str:
        lines = []
        for source, findings in self.findings.items():
            if not findings.found and not self.notes[source]:
                continue
            lines += [source, *(f"  {text}" for text in self.notes[source])]
            for finding in findings.found.values():
                lines.append(f"  {finding.severity}: {finding.kind}: {finding.count}")
                lines += [f"    {example}" for example in finding.examples]
                if finding.count > len(finding.examples):
                    lines.append("    ...")
        count = self.num_errors
        lines.append("ok" if count == 0 else "1 problem" if count == 1 else f"{count} problems")
        return "\n".join(lines)


def check_datasets(cfg: CfgNode) -> Report:
    """
    Examine the datasets in ``DATASETS.TRAIN`` and ``DATASETS.TEST``: annotation files and images.

    Args:
        cfg: a config with this project's keys. Nothing needs to be registered.
    """
    allow_pixels(cfg.INPUT.MAX_IMAGE_PIXELS)
    report, train, test = Report(), cfg.DATASETS.TRAIN, cfg.DATASETS.TEST
    if not train:
        report.add("DATASETS.TRAIN", "error", "no dataset", "DATASETS.TRAIN is empty")
    if not test:
        report.add("DATASETS.TEST", "warning", "no dataset", "DATASETS.TEST is empty")
    for name in dict.fromkeys([*train, *test]):
        _check_dataset(cfg, name, report)
    classes = {
        name: MetadataCatalog.get(name).get("thing_classes") or names
        for name, names in report.class_names.items()
    }
    for name, names in classes.items():
        _try(report, name, check_num_classes, name, names, cfg.MODEL.ROI_HEADS.NUM_CLASSES)
    in_train = [name for name in train if name in classes]
    for name in in_train[1:]:
        _try(report, name, check_same_classes, {n: classes[n] for n in (in_train[0], name)})
    for name in test:
        if in_train and name in classes:
            first = in_train[0]
            _try(report, name, check_same_categories, first, classes[first], {name: classes[name]})
    _check_learnable(in_train, report)
    _check_shared_images(cfg, report)
    return report


def _check_learnable(names: list[str], report: Report) -> None:
    """Find classes of which no training set has an object: the model can never learn them."""
    objects = [report.objects[name] for name in names]
    if not names or len({len(counts) for counts, _ in objects}) > 1:
        return  # other classes, as was said
    name = names[0]
    counts, learnt = (np.sum(columns, axis=0) for columns in zip(*objects, strict=True))
    for k in np.flatnonzero(learnt == 0).tolist():
        what = "crowds only" if counts[k] else "no annotation"
        text = f"category {report.category_ids[name][k]}: {report.class_names[name][k]} has {what}"
        report.add(name, "warning", "categories that cannot be learnt", text)


def _try(report: Report, name: str, check: Callable, *arguments: Any) -> None:
    """Do a check of a training, whose error becomes a finding."""
    try:
        check(*arguments)
    except ValueError as error:
        report.add(name, "error", "other classes", str(error))


def _check_dataset(cfg: CfgNode, name: str, report: Report) -> None:
    is_train = name in cfg.DATASETS.TRAIN
    key = "DATASETS.TRAIN" if is_train else "DATASETS.TEST"
    try:
        paths = find_dataset(cfg, key, name)
    except ValueError as error:
        report.add(name, "error", "not registered", str(error))
        return
    if paths is None:
        text = "registered by code, cannot be examined"
        report.add(name, "warning", "no annotation file", text)
        return
    json_file, image_root = paths
    needs = _needs(cfg, name)
    try:
        file = AnnotationFile(json_file, needs)
    except (OSError, ValueError) as error:
        hint = "" if name in cfg.DATASETS.REGISTER else "; see datasets/README.md"
        report.add(name, "error", "unreadable annotation file", f"{error}{hint}")
        return
    report.findings[name] = file.findings
    columns = read_columns(file, is_train)
    report.class_names[name] = columns.class_names
    report.category_ids[name] = columns.category_ids
    report.objects[name] = tuple(
        np.bincount(classes, minlength=len(columns.class_names))
        for classes in (columns.classes, columns.classes[~columns.is_crowd])
    )
    report.notes[name].append(
        f"{json_file}: {len(columns.image_ids)} images, {len(columns.ids)} annotations, "
        f"{len(columns.class_names)} categories"
    )
    if is_train and columns.is_crowd.all() and not file.findings.of("error"):
        report.add(name, "error", "no annotations", f"{json_file}: no annotations to train on")
    for check in CHECKS:
        kind, is_suspect, describe, cannot_be_meant = check(columns)
        rows = np.flatnonzero(is_suspect).tolist()
        is_refused = is_train and cannot_be_meant and len(rows) >= SHARE_REFUSED * len(is_suspect)
        for place, row in enumerate(rows):
            text = describe(row) if place < NUM_EXAMPLES else ""
            report.add(name, "error" if is_refused else "warning", kind, text)
    report.paths[name] = _image_paths(file, image_root, needs.from_coco_url)
    is_skipped = cfg.DATALOADER.UNREADABLE_IMAGES == "skip" and name not in cfg.DATASETS.TEST
    severity = "warning" if is_skipped else "error"
    _check_image_files(name, columns, report, severity)


def _needs(cfg: CfgNode, name: str) -> Needs:
    """Needs of all that is done with a dataset."""
    from_coco_url = name not in cfg.DATASETS.REGISTER and names_from_coco_url(name)
    keys = [key for key in ("TRAIN", "TEST") if name in cfg.DATASETS[key]]
    each = [Needs.of(cfg, key == "TRAIN", from_coco_url) for key in keys]
    sizes = [needs.max_size for needs in each if needs.max_size]
    together = Needs(*map(max, zip(*each, strict=True)))
    return together._replace(max_size=min(sizes, default=0), whole_rles=True)


def _image_paths(file: AnnotationFile, image_root: str, from_coco_url: bool) -> dict[int, str]:
    paths = {}
    for image_id, image in file.images.items():
        try:
            paths[image_id] = os.path.join(image_root, image_file_name(image, from_coco_url))
        except ValueError:
            pass  # which is among the findings
    return paths


def _check_image_files(name: str, columns: Columns, report: Report, severity: str) -> None:
    """Read every image file, and note the folders that hold them."""
    paths = report.paths[name]
    folders = Counter(os.path.dirname(path) for path in paths.values())
    for folder, count in folders.most_common(NUM_EXAMPLES):
        report.notes[name].append(f"{count} images needed from {folder}")
    if len(folders) > NUM_EXAMPLES:
        more = len(folders) - NUM_EXAMPLES
        report.notes[name].append(f"and images from {more} more folders")
    missing = {folder for folder in folders if not os.path.isdir(folder)}
    for folder in missing:
        first = next(path for path in paths.values() if os.path.dirname(path) == folder)
        text = f"{folder}, for {folders[folder]} images{did_you_mean(first)}"
        report.add(name, severity, "missing image folders", text)
    sizes = dict(zip(columns.image_ids.tolist(), columns.sizes.tolist(), strict=True))
    files = {
        path: (path, *sizes[image_id])
        for image_id, path in paths.items()
        if os.path.dirname(path) not in missing
    }
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes without Python's lock
        looks = pool.map(_look_at, *zip(*files.values(), strict=True)) if files else ()
        seen = dict(zip(files, tqdm(looks, name, len(files), unit="image", disable=None)))
    num_deep = sum(odd_kind == DEEP for _, _, _, (odd_kind, _) in seen.values())
    for image_id, (width, height) in sizes.items():
        path = paths.get(image_id)
        if path not in seen:
            continue
        kind, text, size, (odd_kind, odd) = seen[path]
        if size is not None and size != (width, height):
            kind = "images of another size"
            text = f"{path} is {size[0]} x {size[1]}, annotated as {width} x {height}"
        if kind == "missing images" and report.num_examples(name, severity, kind) < NUM_EXAMPLES:
            text += did_you_mean(path)
        if kind:
            reason = f"; EXIF: {odd}" if odd_kind == TURNED else ""
            report.add(name, severity, kind, f"image {image_id}: {text}{reason}")
        elif odd:
            is_refused = (
                columns.is_train and odd_kind == DEEP and num_deep >= SHARE_REFUSED * len(seen)
            )
            odd_severity = "error" if is_refused else "warning"
            report.add(name, odd_severity, odd_kind, f"image {image_id}: {path}: {odd}")


def _look_at(
    path: str, width: int, height: int
) -> tuple[str, str, tuple[int, int] | None, tuple[str, str]]:
    """
    Kind of error and its text, or the size of an image, decoded as Detectron2 does, and a line
    where it is read differently than it looks.
    """
    if not os.path.isfile(path):
        return "missing images", path, None, ("", "")
    try:
        with Image.open(path) as picture:
            odd = oddity(picture, width, height)
            picture.convert("RGB")
            return "", "", read_size(picture), odd
    except Exception as error:  # Pillow's decoders raise many kinds
        return "unreadable images", f"{path}: {reading_error(error)}", None, ("", "")


def _check_shared_images(cfg: CfgNode, report: Report) -> None:
    train_images = {
        os.path.realpath(path): name
        for name in cfg.DATASETS.TRAIN
        for path in report.paths.get(name, {}).values()
    }
    for name in cfg.DATASETS.TEST:
        for image_id, path in report.paths.get(name, {}).items():
            train_name = train_images.get(os.path.realpath(path))
            if train_name is not None:
                text = f"image {image_id}: {path} in {train_name}"
                report.add(name, "warning", "images shared with training", text)
