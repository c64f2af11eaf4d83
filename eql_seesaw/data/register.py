"""Datasets in COCO or LVIS format, registered with Detectron2 from the config alone."""

import difflib
import functools
import logging
import os
from typing import Annotated, Any

import msgspec
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_lvis_json
from detectron2.utils.file_io import PathManager

from .annotated_images import AnnotatedImages, read_annotated_images
from .annotation_file import NO_NEEDS, AnnotationFile, Needs

logger = logging.getLogger(__name__)


def register_datasets(cfg: CfgNode) -> None:
    """
    Register the datasets of ``DATASETS.REGISTER``, and check the names in ``DATASETS.TRAIN`` and
    ``DATASETS.TEST``. Annotation files are read later, when Detectron2 asks for the dataset.

    A dataset of the same name is replaced. LVIS, as Detectron2 registers it, is from now on read by
    :func:`read_dataset` as well.

    Raises:
        ValueError: an entry of ``DATASETS.REGISTER`` is malformed, or a name in TRAIN or TEST is
            not registered.
        FileNotFoundError: the annotation file or image folder of a dataset in TRAIN or TEST
            does not exist.
    """
    for name in cfg.DATASETS.REGISTER:
        register_instances(name, *_own_paths(cfg, name))
    for key in ("TRAIN", "TEST"):
        for name in cfg.DATASETS[key]:
            _check_files(cfg, f"DATASETS.{key}", name)
            if getattr(DatasetCatalog[name], "__module__", None) == load_lvis_json.__module__:
                DatasetCatalog.remove(name)
                DatasetCatalog.register(name, functools.partial(load_instances_json, name))


def register_instances(name: str, json_file: str, image_root: str) -> None:
    """
    Register one dataset in COCO or LVIS format, to be read with :func:`read_dataset` and evaluated
    as LVIS is. A dataset of the same name is replaced.
    """
    if name in DatasetCatalog:
        DatasetCatalog.remove(name)
    if name in MetadataCatalog:
        MetadataCatalog.remove(name)
    DatasetCatalog.register(name, functools.partial(load_instances_json, name))
    MetadataCatalog.get(name).set(
        json_file=json_file, image_root=image_root, evaluator_type="lvis", from_coco_url=False
    )


def is_own_dataset(name: str) -> bool:
    """True for a dataset that :func:`load_instances_json` loads."""
    loader = DatasetCatalog[name] if name in DatasetCatalog else None
    return isinstance(loader, functools.partial) and loader.func is load_instances_json


def names_from_coco_url(name: str) -> bool:
    """True for LVIS as Detectron2 registers it: its loader does not look at "file_name"."""
    metadata = MetadataCatalog.get(name)
    return metadata.get("from_coco_url", metadata.get("evaluator_type") == "lvis")


def read_dataset(name: str, needs: Needs = NO_NEEDS) -> AnnotatedImages:
    """
    Images of an own dataset (see :func:`is_own_dataset`), whose classes are put into its metadata.

    Args:
        name: of the dataset.
        needs: of training with it, beyond usable file names.

    Raises:
        ValueError: the annotation file is malformed, or has other classes than the metadata.
    """
    metadata = MetadataCatalog.get(name)
    needs = needs._replace(from_coco_url=names_from_coco_url(name))
    images = read_annotated_images(metadata.json_file, metadata.image_root, needs)
    num_annotations = len(images.columns.classes)
    logger.info(
        f"Loaded {len(images)} images and {num_annotations} annotations from {metadata.json_file}"
    )
    known = metadata.get("thing_classes")
    if known is None:
        metadata.set(
            thing_classes=images.class_names,
            thing_dataset_id_to_contiguous_id=images.contiguous_ids,
        )
    elif len(known) != len(images.class_names):
        raise ValueError(
            f"{metadata.json_file}: {len(images.class_names)} categories, but dataset '{name}' "
            f"has {len(known)} classes"
        )
    return images


def load_instances_json(name: str) -> list[dict[str, Any]]:
    """Loader of own datasets in Detectron2's ``DatasetCatalog``; see :func:`read_dataset`."""
    return list(read_dataset(name))


def class_metadata(name: str) -> dict[str, list] | None:
    """
    Classes of a registered dataset.

    Returns:
        {"thing_classes": K names, "category_ids": K ids in the annotation file}, in order of
        contiguous class; None where neither the dataset's metadata nor its annotation file is
        there to say.

    Raises:
        ValueError: the annotation file is malformed.
    """
    metadata = MetadataCatalog.get(name)
    names = metadata.get("thing_classes")
    if not names:
        if not os.path.isfile(metadata.get("json_file", "")):
            return None
        file = AnnotationFile(metadata.json_file)
        file.findings.settle(logger)
        names = [category["name"] for category in file.categories.values()]
        return {"thing_classes": names, "category_ids": list(file.categories)}
    to_contiguous = metadata.get("thing_dataset_id_to_contiguous_id")
    if to_contiguous is None:  # Detectron2's LVIS datasets, whose ids are 1 to K
        category_ids = list(range(1, len(names) + 1))
    else:
        category_ids = sorted(to_contiguous, key=to_contiguous.get)
    # Plain types, which torch.load takes for safe.
    return {"thing_classes": list(map(str, names)), "category_ids": list(map(int, category_ids))}


def find_dataset(cfg: CfgNode, key: str, name: str) -> tuple[str, str] | None:
    """
    Annotation file and image folder of a dataset, whether or not they exist.

    Args:
        cfg: config whose ``DATASETS.REGISTER`` is looked into before Detectron2's catalog.
        key: key in which the name stands, for the error, e.g. ``"DATASETS.TRAIN"``.
        name: name of the dataset.

    Returns:
        ``(json_file, image_root)``, or None for a dataset registered without an annotation file.
        ``image_root`` is "" where a loader of somebody else's places the images itself.

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
    return (json_file, metadata.get("image_root") or "") if json_file else None


_Path = Annotated[str, msgspec.Meta(min_length=1)]


class _Paths(msgspec.Struct, forbid_unknown_fields=True):
    JSON: _Path
    IMAGES: _Path


def _own_paths(cfg: CfgNode, name: str) -> tuple[str, str]:
    try:
        paths = msgspec.convert(cfg.DATASETS.REGISTER[name], _Paths)
    except msgspec.ValidationError as error:
        expected = "{JSON: annotation file, IMAGES: image folder}"
        raise ValueError(f"DATASETS.REGISTER.{name}: {error}; give {expected}") from None
    return os.path.expanduser(paths.JSON), os.path.expanduser(paths.IMAGES)


def _check_files(cfg: CfgNode, key: str, name: str) -> None:
    json_file, image_root = find_dataset(cfg, key, name) or ("", "")
    if json_file and not PathManager.isfile(json_file):
        entry_key, text = "JSON", f"no such file: {json_file}"
    elif image_root and not PathManager.isdir(image_root):
        entry_key, text = "IMAGES", f"no such folder: {image_root}"
    else:
        return
    if name in cfg.DATASETS.REGISTER:
        raise FileNotFoundError(f"DATASETS.REGISTER.{name}.{entry_key}: {text}")
    raise FileNotFoundError(
        f"{key}: '{name}': {text}; datasets/README.md says what to download, and the environment "
        "variable DETECTRON2_DATASETS names the folder that holds all datasets"
    )
