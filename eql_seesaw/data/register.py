"""Datasets in COCO or LVIS format, registered with Detectron2 from the config alone."""

import difflib
import functools
import json
import logging
import os
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import pycocotools.mask as mask_util
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

logger = logging.getLogger(__name__)

# Beyond this, a coordinate is junk; the comparison is also False for NaN.
_MAX_COORDINATE = 1e9


class Problem(NamedTuple):
    """Something wrong in an annotation file: a kind, in the plural, and this one's details."""

    kind: str
    detail: str


def register_datasets(cfg: CfgNode) -> None:
    """
    Register the datasets of ``DATASETS.REGISTER``, and check the names in ``DATASETS.TRAIN`` and
    ``DATASETS.TEST``. Annotation files are read later, when Detectron2 asks for the dataset.

    A name that this function registered before is replaced.

    Raises:
        ValueError: an entry of ``DATASETS.REGISTER`` is malformed or takes the name of a dataset
            that something else registered, or a name in TRAIN or TEST is not registered.
        FileNotFoundError: the annotation file or image folder of a dataset in TRAIN or TEST
            does not exist.
    """
    own = {name: _own_paths(cfg, name) for name in cfg.DATASETS.REGISTER}
    for name, (json_file, image_root) in own.items():
        _check_name_is_free(name, json_file, image_root)
    for name, (json_file, image_root) in own.items():
        register_instances(name, json_file, image_root)

    for key in ("TRAIN", "TEST"):
        for name in cfg.DATASETS[key]:
            _check_files(cfg, f"DATASETS.{key}", name)


def register_instances(name: str, json_file: str, image_root: str) -> None:
    """
    Register one dataset in COCO or LVIS format, to be loaded with :func:`load_instances_json`
    and evaluated as LVIS is. A dataset of the same name is replaced.
    """
    if name in DatasetCatalog:
        DatasetCatalog.remove(name)
    if name in MetadataCatalog:
        MetadataCatalog.remove(name)
    loader = functools.partial(load_instances_json, json_file, image_root, name)
    DatasetCatalog.register(name, loader)
    MetadataCatalog.get(name).set(json_file=json_file, image_root=image_root, evaluator_type="lvis")


def is_own_dataset(name: str) -> bool:
    """Whether ``name`` was registered by :func:`register_instances`."""
    loader = DatasetCatalog[name] if name in DatasetCatalog else None
    return isinstance(loader, functools.partial) and loader.func is load_instances_json


def find_dataset(cfg: CfgNode, key: str, name: str) -> tuple[str, str] | None:
    """
    Annotation file and image folder of a dataset, whether or not they exist.

    Args:
        cfg: config whose ``DATASETS.REGISTER`` is looked into before Detectron2's catalog.
        key: key in which the name stands, for the error, e.g. ``"DATASETS.TRAIN"``.
        name: name of the dataset.

    Returns:
        ``(json_file, image_root)``, or None for a dataset registered without an annotation file.

    Raises:
        ValueError: the entry in ``DATASETS.REGISTER`` is malformed, or the name is unknown.
    """
    if name in cfg.DATASETS.REGISTER:
        return _own_paths(cfg, name)
    if name not in DatasetCatalog:
        known = [*cfg.DATASETS.REGISTER, *DatasetCatalog.list()]
        similar = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"similar names are {', '.join(similar)}" if similar else "no name is similar"
        raise ValueError(f"{key}: no dataset is registered as '{name}'; {hint}")
    metadata = MetadataCatalog.get(name)
    json_file = metadata.get("json_file")
    return (json_file, metadata.get("image_root")) if json_file else None


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
    categories = _entries_by_id(content, "categories", json_file)
    images = _entries_by_id(content, "images", json_file)
    annotations = _entries_by_id(content, "annotations", json_file)
    contiguous_ids = _contiguous_ids(categories, json_file)

    problems = _Problems(json_file)
    records = {}
    for image_id in sorted(images):
        record, problem = _image_record(images[image_id], image_root, contiguous_ids)
        problems.add(f"image {image_id}", problem)
        records[image_id] = record
    problems.raise_first()
    for annotation_id, annotation in annotations.items():
        record = _lookup(records, annotation.get("image_id"))
        problem = _add_annotation(annotation, record, contiguous_ids)
        problems.add(f"annotation {annotation_id}", problem)
    problems.raise_first()

    if dataset_name is not None:
        set_category_metadata(dataset_name, categories.values())
    logger.info(
        "Loaded %d images and %d annotations from %s", len(images), len(annotations), json_file
    )
    return list(records.values())


def set_category_metadata(dataset_name: str, categories: Iterable[dict[str, Any]]) -> None:
    """
    Put "thing_classes" and "thing_dataset_id_to_contiguous_id" into a dataset's metadata.

    Args:
        dataset_name: name of the dataset.
        categories: the "categories" of its annotation file, in any order.
    """
    in_order = sorted(categories, key=lambda category: category["id"])
    MetadataCatalog.get(dataset_name).set(
        thing_classes=[category["name"] for category in in_order],
        thing_dataset_id_to_contiguous_id={c["id"]: i for i, c in enumerate(in_order)},
    )


def read_annotation_file(json_file: str) -> dict[str, Any]:
    """
    Read a JSON file that holds an object.

    Raises:
        ValueError: the file is not JSON, is cut off, or holds something else.
    """
    try:
        with PathManager.open(json_file, "rb") as f:
            content = json.loads(f.read())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{json_file}: not JSON, or not complete: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{json_file}: holds no object but a {type(content).__name__}")
    return content


def image_file_name(image: dict[str, Any], from_coco_url: bool = False) -> str:
    """
    Path of an image relative to the image folder.

    Args:
        image: entry of the "images" of an annotation file.
        from_coco_url: take "coco_url" even where there is a "file_name".

    Raises:
        ValueError: there is no name, or it leads out of the image folder.
    """
    file_name, url = image.get("file_name"), image.get("coco_url")
    if from_coco_url or file_name is None:
        file_name = "/".join(url.split("/")[-2:]) if isinstance(url, str) else None
    if not isinstance(file_name, str) or not file_name:
        raise ValueError('no "file_name" and no "coco_url"')
    path = PurePosixPath(file_name.replace("\\", "/"))
    if path.is_absolute() or os.path.isabs(file_name) or ".." in path.parts:
        raise ValueError(f"'{file_name}' leads out of the image folder")
    return file_name


def is_number(value: Any) -> bool:
    """Whether a value from JSON is a finite number that can be a coordinate."""
    return type(value) in (int, float) and -_MAX_COORDINATE < value < _MAX_COORDINATE


def size_problem(image: dict[str, Any]) -> Problem | None:
    """What is wrong with the "height" and "width" of an annotation file's image, if any."""
    size = [image.get("height"), image.get("width")]
    if all(type(side) is int and 0 < side < _MAX_COORDINATE for side in size):
        return None
    return Problem(
        "images without a size", f"height and width are {shorten(size)}, not positive integers"
    )


def box_problem(bbox: Any) -> Problem | None:
    """What is wrong with the "bbox" of an annotation, if it is not four numbers."""
    if isinstance(bbox, list) and len(bbox) == 4 and all(map(is_number, bbox)):
        return None
    return Problem(
        "annotations without a box", f"bbox is {shorten(bbox)}, expected [x, y, width, height]"
    )


def segmentation_problem(segmentation: Any, height: int, width: int) -> Problem | None:
    """
    What is wrong with the form of an annotation's "segmentation", if anything. Coordinates of
    polygons and the inside of a compressed RLE are not looked at.
    """
    if isinstance(segmentation, list):
        for polygon in segmentation:
            if not isinstance(polygon, list):
                return Problem("broken polygons", f"polygon is {shorten(polygon)}, expected a list")
            if len(polygon) < 6 or len(polygon) % 2:
                return Problem("broken polygons", f"polygon with {len(polygon)} numbers")
        return None
    if not isinstance(segmentation, dict):
        return Problem("broken masks", f"segmentation is {shorten(segmentation)}")
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size != [height, width]:
        expected = f"but the image has [{height}, {width}]"
        return Problem("RLE masks of the wrong size", f"RLE of size {shorten(size)}, {expected}")
    if isinstance(counts, list):
        if not all(type(count) is int and count >= 0 for count in counts):
            return Problem("broken RLE masks", "RLE counts are not all integers from 0")
        if sum(counts) != height * width:
            expected = f"but the image has {height * width}"
            return Problem(
                "RLE masks of the wrong size", f"RLE of {sum(counts)} pixels, {expected}"
            )
    elif not isinstance(counts, str) or not counts:
        return Problem("broken RLE masks", f"RLE counts are {shorten(counts)}")
    return None


def shorten(value: Any) -> str:
    """A value from JSON as text of at most 40 characters."""
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _own_paths(cfg: CfgNode, name: str) -> tuple[str, str]:
    key, entry = f"DATASETS.REGISTER.{name}", cfg.DATASETS.REGISTER[name]
    allowed = "{JSON: annotation file, IMAGES: image folder}"
    if not isinstance(entry, dict):
        raise ValueError(f"{key} is {entry!r}, expected {allowed}")
    for entry_key in entry:
        if entry_key not in ("JSON", "IMAGES"):
            raise ValueError(f"{key}.{entry_key}: no such key; the keys are JSON and IMAGES")
    for entry_key in ("JSON", "IMAGES"):
        value = entry.get(entry_key)
        if not isinstance(value, str) or not value:
            raise ValueError(f"{key}.{entry_key} is {value!r}, expected a path; give {allowed}")
    return os.path.expanduser(entry.JSON), os.path.expanduser(entry.IMAGES)


def _check_name_is_free(name: str, json_file: str, image_root: str) -> None:
    if name not in DatasetCatalog or is_own_dataset(name):
        return
    metadata = MetadataCatalog.get(name)
    if (metadata.get("json_file"), metadata.get("image_root")) != (json_file, image_root):
        raise ValueError(
            f"DATASETS.REGISTER.{name}: Detectron2 or another library already has a dataset of "
            f"this name ({metadata.get('json_file', 'no annotation file')}); choose another name"
        )


def _check_files(cfg: CfgNode, key: str, name: str) -> None:
    paths = find_dataset(cfg, key, name)
    if paths is None:
        return
    json_file, image_root = paths
    missing = None
    if not PathManager.isfile(json_file):
        missing = "JSON", f"no such file: {json_file}"
    elif not PathManager.isdir(image_root):
        missing = "IMAGES", f"no such folder: {image_root}"
    if missing is None:
        return
    entry_key, text = missing
    if name in cfg.DATASETS.REGISTER:
        raise FileNotFoundError(f"DATASETS.REGISTER.{name}.{entry_key}: {text}")
    raise FileNotFoundError(
        f"{key}: '{name}': {text}; datasets/README.md says what to download, and the environment "
        "variable DETECTRON2_DATASETS names the folder that holds all datasets"
    )


class _Problems:
    """Problems of one annotation file, counted by kind; the first is raised as one line."""

    def __init__(self, json_file: str) -> None:
        self.json_file = json_file
        self.first: dict[str, str] = {}
        self.counts: dict[str, int] = {}

    def add(self, where: str, problem: Problem | None) -> None:
        if problem is not None:
            self.first.setdefault(problem.kind, f"{where}: {problem.detail}")
            self.counts[problem.kind] = self.counts.get(problem.kind, 0) + 1

    def raise_first(self) -> None:
        for kind, text in self.first.items():
            count = self.counts[kind]
            more = f" (the first of {count} {kind})" if count > 1 else ""
            raise ValueError(f"{self.json_file}: {text}{more}")


def _entries_by_id(content: dict, section: str, json_file: str) -> dict[int, dict]:
    entries = content.get(section)
    if not isinstance(entries, list):
        raise ValueError(f'{json_file}: no list "{section}"; expected COCO or LVIS format')
    if not entries:
        raise ValueError(f'{json_file}: the list "{section}" is empty')
    problems = _Problems(json_file)
    by_id: dict[int, dict] = {}
    for index, entry in enumerate(entries):
        entry_id = entry.get("id") if isinstance(entry, dict) else None
        if type(entry_id) is not int:
            problem = Problem(f"{section} without an id", 'no integer "id"')
            problems.add(f"{section}[{index}]", problem)
        elif entry_id in by_id:
            problems.add(section, Problem("duplicate ids", f"id {entry_id} occurs more than once"))
        else:
            by_id[entry_id] = entry
    problems.raise_first()
    return by_id


def _contiguous_ids(categories: dict[int, dict], json_file: str) -> dict[int, int]:
    for category_id, category in categories.items():
        if not isinstance(category.get("name"), str):
            raise ValueError(f'{json_file}: category {category_id}: no "name"')
    return {category_id: i for i, category_id in enumerate(sorted(categories))}


def _lookup(mapping: dict[int, Any], key: Any) -> Any:
    # A key from JSON may be a list, which cannot be looked up.
    return mapping.get(key) if type(key) is int else None


def _image_record(
    image: dict, image_root: str, contiguous_ids: dict[int, int]
) -> tuple[dict[str, Any], Problem | None]:
    problem = size_problem(image)
    try:
        file_name = os.path.join(image_root, image_file_name(image))
    except ValueError as error:
        return {}, Problem("images without a usable file name", str(error))
    record = {
        "file_name": file_name,
        "height": image.get("height"),
        "width": image.get("width"),
        "image_id": image["id"],
        "annotations": [],
    }
    for key in ("neg_category_ids", "not_exhaustive_category_ids"):
        if key in image:
            category_ids = image[key] if isinstance(image[key], list) else [image[key]]
            record[key] = [_lookup(contiguous_ids, category_id) for category_id in category_ids]
            if None in record[key]:
                unknown = category_ids[record[key].index(None)]
                detail = f"{key} holds {shorten(unknown)}, which is not in categories"
                problem = Problem("unknown categories", detail)
    return record, problem


def _add_annotation(
    annotation: dict, record: dict[str, Any] | None, contiguous_ids: dict[int, int]
) -> Problem | None:
    """Append an annotation to its image's record, or say what is wrong with it."""
    if record is None:
        image_id = shorten(annotation.get("image_id"))
        return Problem("unknown images", f"image_id {image_id} is not in images")
    category_id = _lookup(contiguous_ids, annotation.get("category_id"))
    if category_id is None:
        unknown = shorten(annotation.get("category_id"))
        return Problem("unknown categories", f"category_id {unknown} is not in categories")
    bbox = annotation.get("bbox")
    problem = box_problem(bbox)
    if problem is not None:
        return problem

    instance = {"bbox": bbox, "bbox_mode": BoxMode.XYWH_ABS, "category_id": category_id}
    if "iscrowd" in annotation:
        instance["iscrowd"] = annotation["iscrowd"]
    segmentation = annotation.get("segmentation")
    if segmentation:
        height, width = record["height"], record["width"]
        problem = segmentation_problem(segmentation, height, width)
        if problem is not None:
            return problem
        if isinstance(segmentation, dict) and isinstance(segmentation["counts"], list):
            segmentation = mask_util.frPyObjects(segmentation, height, width)
        instance["segmentation"] = segmentation
    record["annotations"].append(instance)
    return None
