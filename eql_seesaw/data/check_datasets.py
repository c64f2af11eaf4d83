"""Check of a config's datasets: each by itself, and against each other."""

import os

from detectron2.config import CfgNode

from .annotation_file import AnnotationFile
from .annotation_problems import Problem, shorten
from .check_report import Report
from .dataset_checks import (
    Dataset,
    check_annotations,
    check_categories,
    check_image_files,
    check_images,
)
from .register import find_dataset, names_from_coco_url


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
            check_images(dataset, report)
            annotated = check_annotations(dataset, cfg, report)
            check_categories(dataset, annotated, cfg, report)
            check_image_files(dataset, report)
            datasets.append(dataset)
    _check_same_categories(datasets, report)
    _check_shared_images(datasets, cfg, report)
    return report


def _read_dataset(cfg: CfgNode, key: str, name: str, report: Report) -> Dataset | None:
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
        file = AnnotationFile(json_file)
    except OSError as error:
        hint = "" if name in cfg.DATASETS.REGISTER else "; see datasets/README.md"
        problem = Problem("unreadable annotation file", f"{json_file}: {error.strerror}{hint}")
        report.add(name, "error", problem)
        return None
    except ValueError as error:
        report.add(name, "error", Problem("unreadable annotation file", str(error)))
        return None

    def note(where: str, problem: Problem) -> None:
        report.add(name, "error", problem, where)

    return Dataset(
        name=name,
        file=file,
        image_root=image_root,
        for_training=key == "TRAIN",
        from_coco_url=name not in cfg.DATASETS.REGISTER and names_from_coco_url(name),
        images={image["id"]: image for image in file.entries("images", note)},
        categories={category["id"]: category for category in file.entries("categories", note)},
    )


def _check_same_categories(datasets: list[Dataset], report: Report) -> None:
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


def _check_shared_images(datasets: list[Dataset], cfg: CfgNode, report: Report) -> None:
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
                same = os.path.realpath(train_dataset.file.json_file) == os.path.realpath(
                    dataset.file.json_file
                )
                problem = Problem("images shared with training", f"{path} in {train_dataset.name}")
                report.add(
                    dataset.name, "warning" if same else "error", problem, f"image {image_id}"
                )
