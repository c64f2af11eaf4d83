"""Loading instance annotations in COCO or LVIS format."""

import logging
import os
from collections.abc import Container, Iterable, Sequence
from typing import Any

import msgspec
from detectron2.data import MetadataCatalog
from detectron2.utils.file_io import PathManager

from .annotation_columns import annotation_columns
from .annotation_file import (
    Problem,
    Problems,
    box_problem,
    entries_by_id,
    image_file_name,
    image_problem,
    name_problem,
    parse_annotation_file,
    reference_problem,
    segmentation_problem,
)
from .large_json import paused_garbage_collector
from .serialized_instances import (
    RawAnnotation,
    SerializedInstances,
    serialize_instances,
    standard_instance,
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
    with paused_garbage_collector():
        return list(read_instances_json(json_file, image_root, dataset_name))


def read_instances_json(
    json_file: str, image_root: str, dataset_name: str | None = None
) -> Sequence[dict[str, Any]]:
    """
    As :func:`load_instances_json`, but with much less memory: the dicts are made anew whenever
    one is asked for, by a :class:`~eql_seesaw.data.serialized_instances.SerializedInstances`.
    A file with unusual values is loaded into a list.
    """
    with PathManager.open(json_file, "rb") as f:
        text = f.read()
    loaded: tuple[Sequence[dict[str, Any]], dict] | None
    with paused_garbage_collector():
        loaded = _serialize_file(text, image_root)
    if loaded is None:
        loaded = _load_file(parse_annotation_file(text, json_file), json_file, image_root)
    dataset, categories = loaded
    if dataset_name is not None:
        contiguous_ids = _contiguous_ids(categories)
        MetadataCatalog.get(dataset_name).set(
            thing_classes=[categories[category_id]["name"] for category_id in contiguous_ids],
            thing_dataset_id_to_contiguous_id=contiguous_ids,
        )
    num_annotations = len(annotation_columns(dataset).classes)
    logger.info(
        "Loaded %d images and %d annotations from %s", len(dataset), num_annotations, json_file
    )
    return dataset


def read_lvis_as_detectron2(json_file: str, image_root: str) -> SerializedInstances | None:
    """
    What Detectron2's ``load_lvis_json`` gives: file names from "coco_url", and the ids of the file
    in "neg_category_ids" and "not_exhaustive_category_ids". In a small part of its time and memory.

    Args:
        json_file: an LVIS annotation file.
        image_root: folder of the images, with "/" at its end, since Detectron2 only appends.

    Returns:
        The images; None where something in the file is unusual.
    """
    with PathManager.open(json_file, "rb") as f:
        text = f.read()
    with paused_garbage_collector():
        loaded = _serialize_file(text, image_root, as_detectron2=True)
    if loaded is None:
        return None
    dataset, categories = loaded
    # Detectron2 subtracts 1 from the ids, whatever they are.
    if sorted(categories) != list(range(1, len(categories) + 1)) or dataset.columns.is_crowd.any():
        return None
    logger.info("Loaded %d images in the LVIS format from %s", len(dataset), json_file)
    return dataset


class _AnnotationFile(msgspec.Struct):
    images: list[dict[str, Any]]
    annotations: list[RawAnnotation]
    categories: list[dict[str, Any]]


def _serialize_file(
    text: bytes, image_root: str, as_detectron2: bool = False
) -> tuple[SerializedInstances, dict] | None:
    """The images and the categories by id; None unless all is as expected."""
    try:
        content = msgspec.json.decode(text, type=_AnnotationFile)
    except (ValueError, RecursionError):  # text that is not UTF-8 is no DecodeError
        return None
    categories, category_problems = entries_by_id(msgspec.structs.asdict(content), "categories")
    images, image_problems = entries_by_id(msgspec.structs.asdict(content), "images")
    if category_problems or image_problems or not content.annotations:
        return None
    if any(map(name_problem, categories.values())):
        return None
    if any(_image_problem(image, categories, as_detectron2) for image in images.values()):
        return None
    # Detectron2 refuses objects without polygons.
    if as_detectron2 and not all(map(_has_polygons, content.annotations)):
        return None
    contiguous_ids = _contiguous_ids(categories)
    records = [
        _image_record(images[i], image_root, contiguous_ids, as_detectron2) for i in sorted(images)
    ]
    dataset = serialize_instances(records, content.annotations, contiguous_ids)
    return None if dataset is None else (dataset, categories)


def _has_polygons(annotation: RawAnnotation) -> bool:
    return bytes(annotation.segmentation).startswith(b"[[")


def _load_file(
    content: dict[str, Any], json_file: str, image_root: str
) -> tuple[list[dict[str, Any]], dict]:
    """
    The images and the categories by id, of a file that is not as :func:`_serialize_file` expects.

    Raises:
        ValueError: it is unusable.
    """
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

    contiguous_ids = _contiguous_ids(categories)
    records = {
        i: {**_image_record(images[i], image_root, contiguous_ids), "annotations": []}
        for i in sorted(images)
    }
    for annotation in annotations.values():
        record = records[annotation["image_id"]]
        category_id = contiguous_ids[annotation["category_id"]]
        instance = standard_instance(annotation, category_id, record["height"], record["width"])
        record["annotations"].append(instance)
    return list(records.values()), categories


def _contiguous_ids(category_ids: Iterable[int]) -> dict[int, int]:
    return {category_id: i for i, category_id in enumerate(sorted(category_ids))}


def _image_problem(
    image: dict[str, Any], category_ids: Container[int], as_detectron2: bool = False
) -> Problem | None:
    try:
        image_file_name(image, from_coco_url=as_detectron2)
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
    image: dict[str, Any],
    image_root: str,
    contiguous_ids: dict[int, int],
    as_detectron2: bool = False,
) -> dict[str, Any]:
    record = {
        "file_name": os.path.join(image_root, image_file_name(image, from_coco_url=as_detectron2)),
        "height": image["height"],
        "width": image["width"],
        "image_id": image["id"],
    }
    for key in ("neg_category_ids", "not_exhaustive_category_ids"):
        if as_detectron2:
            record[key] = image.get(key, [])
        elif key in image:
            record[key] = [contiguous_ids[category_id] for category_id in image[key]]
    return record
