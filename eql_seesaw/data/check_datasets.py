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

from .annotation_file import AnnotationFile, Needs
from .dataset_checks import CHECKS, SHARE_REFUSED, Columns, make_columns
from .findings import NUM_EXAMPLES, Findings
from .pictures import DEEP, TURNED, allow_pixels, oddity, read_size, reading_error
from .register import find_dataset, names_from_coco_url
from .training_set import check_num_classes, check_same_classes


class Report:
    """
    Report on the datasets of a config; as a string, for a person to read.

    Attributes:
        findings, notes: by dataset, or by key where it names none.
        columns: of each dataset that could be read.
        paths: of the images of each of them, by image id.
    """

    def __init__(self) -> None:
        self.findings: dict[str, Findings] = {}
        self.notes: defaultdict[str, list[str]] = defaultdict(list)
        self.columns: dict[str, Columns] = {}
        self.paths: dict[str, dict[int, str]] = {}

    def add(self, source: str, severity: str, kind: str, example: str) -> None:
        """Add a finding about a dataset or key."""
        self.findings.setdefault(source, Findings(source)).add(severity, kind, example)

    @property
    def num_errors(self) -> int:
        """Number of errors in all datasets."""
        return sum(e.count for found in self.findings.values() for e in found.of("error"))

    def __str__(self) -> str:
        lines = []
        for source, findings in self.findings.items():
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
    report = Report()
    for key, severity in (("TRAIN", "error"), ("TEST", "warning")):
        if not cfg.DATASETS[key]:
            report.add(f"DATASETS.{key}", severity, "no dataset", f"DATASETS.{key} is empty")
    for name in dict.fromkeys([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]):
        _check_dataset(cfg, name, report)
    _check_classes(cfg, report)
    _check_learnable(cfg, report)
    _check_shared_images(cfg, report)
    return report


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
    index_of = {image_id: index for index, image_id in enumerate(file.images)}
    report.columns[name] = columns = make_columns(
        is_train,
        images=list(file.images.values()),
        class_names={k: category["name"] for k, category in file.categories.items()},
        annotations=((index_of[x.image_id], x) for _, x in file.annotations()),
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
    report.paths[name] = {
        image_id: os.path.join(image_root, file_name)
        for image_id, file_name in file.file_names.items()
    }
    is_skipped = cfg.DATALOADER.UNREADABLE_IMAGES == "skip" and name not in cfg.DATASETS.TEST
    _check_image_files(name, report, "warning" if is_skipped else "error")


def _needs(cfg: CfgNode, name: str) -> Needs:
    """Needs of all that is done with a dataset."""
    from_coco_url = name not in cfg.DATASETS.REGISTER and names_from_coco_url(name)
    keys = [key for key in ("TRAIN", "TEST") if name in cfg.DATASETS[key]]
    each = [Needs.of(cfg, key == "TRAIN", from_coco_url) for key in keys]
    return Needs(*map(max, zip(*each, strict=True)))._replace(whole_rles=True)


def _check_image_files(name: str, report: Report, severity: str) -> None:
    """Read every image file, and note the folders that hold them."""
    columns, paths = report.columns[name], report.paths[name]
    folders = Counter(os.path.dirname(path) for path in paths.values())
    for folder, count in folders.most_common(NUM_EXAMPLES):
        report.notes[name].append(f"{count} images needed from {folder}")
    if len(folders) > NUM_EXAMPLES:
        more = len(folders) - NUM_EXAMPLES
        report.notes[name].append(f"and images from {more} more folders")
    sizes = dict(zip(columns.image_ids.tolist(), columns.sizes.tolist(), strict=True))
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes without Python's lock
        looks = pool.map(lambda k: _look_at(paths[k], *sizes[k]), paths)
        seen = dict(zip(paths, tqdm(looks, name, len(paths), unit="image", disable=None)))
    kinds = Counter(kind for kind, _ in seen.values())
    are_deep_refused = columns.is_train and kinds[DEEP] >= SHARE_REFUSED * len(seen)
    severities = {TURNED: "warning", DEEP: "error" if are_deep_refused else "warning"}
    for image_id, (kind, text) in seen.items():
        if kind:
            report.add(name, severities.get(kind, severity), kind, f"image {image_id}: {text}")


def _look_at(path: str, width: int, height: int) -> tuple[str, str]:
    """
    Kind of what is wrong with an image, decoded as Detectron2 does, and a line about it; ("", "")
    where it is as it is annotated.
    """
    if not os.path.isfile(path):
        return "missing images", path
    try:
        with Image.open(path) as picture:
            kind, odd = oddity(picture, width, height)
            picture.convert("RGB")
            size = read_size(picture)
    except Exception as error:  # Pillow's decoders raise many kinds
        return "unreadable images", f"{path}: {reading_error(error)}"
    if size != (width, height):
        reason = f"; EXIF: {odd}" if kind == TURNED else ""
        text = f"{path} is {size[0]} x {size[1]}, annotated as {width} x {height}{reason}"
        return "images of another size", text
    return kind, f"{path}: {odd}"


def _check_classes(cfg: CfgNode, report: Report) -> None:
    """Do the checks of a training, whose errors become findings."""

    def check(name: str, check: Callable, *arguments: Any) -> None:
        try:
            check(*arguments)
        except ValueError as error:
            report.add(name, "error", "other classes", str(error))

    classes = {
        # Detectron2 has names of its own for LVIS, in which training and test sets agree.
        name: MetadataCatalog.get(name).get("thing_classes") or list(columns.class_names.values())
        for name, columns in report.columns.items()
    }
    for name, names in classes.items():
        check(name, check_num_classes, name, names, cfg.MODEL.ROI_HEADS.NUM_CLASSES)
    in_train = [name for name in cfg.DATASETS.TRAIN if name in classes]
    in_test = [name for name in cfg.DATASETS.TEST if name in classes]
    for key, names in (("DATASETS.TRAIN", in_train[1:]), ("DATASETS.TEST", in_test)):
        for name in names if in_train else ():
            first = in_train[0]
            check(name, check_same_classes, key, name, classes[name], first, classes[first])


def _check_learnable(cfg: CfgNode, report: Report) -> None:
    """Find classes of which no training set has an object: the model can never learn them."""
    names = [name for name in cfg.DATASETS.TRAIN if name in report.columns]
    columns = [report.columns[name] for name in names]
    if len({len(each.class_names) for each in columns}) != 1:
        return  # there are none, or with other classes, as was said
    num_classes = len(columns[0].class_names)
    counts, learnt = np.zeros((2, num_classes), dtype=np.int64)
    for each in columns:
        counts += np.bincount(each.classes, minlength=num_classes)
        learnt += np.bincount(each.classes[~each.is_crowd], minlength=num_classes)
    for k in np.flatnonzero(learnt == 0).tolist():
        what = "crowds only" if counts[k] else "no annotation"
        text = f"{columns[0].describe_class(k)} has {what}"
        report.add(names[0], "warning", "categories that cannot be learnt", text)


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
