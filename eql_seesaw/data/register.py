"""Datasets in COCO or LVIS format, registered with Detectron2 from the config alone."""

import difflib
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import get_lvis_instances_meta, load_lvis_json
from detectron2.utils.file_io import PathManager

from .instances_json import load_instances_json, read_instances_json, read_lvis_as_detectron2
from .serialized_instances import SerializedInstances


def register_datasets(cfg: CfgNode) -> None:
    """
    Register the datasets of ``DATASETS.REGISTER``, and check the names in ``DATASETS.TRAIN`` and
    ``DATASETS.TEST``. Annotation files are read later, when Detectron2 asks for the dataset.

    A name that this function registered before is replaced. Other datasets in TRAIN and TEST that
    have an annotation file and an image folder are from now on refused, when they are loaded, if
    a file name leads out of that folder.

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
            if not is_own_dataset(name):
                _stay_in_image_folder(name)


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


def _stay_in_image_folder(name: str) -> None:
    """Detectron2's loaders join folder and file name unseen; :func:`load_instances_json` looks."""
    metadata, loader = MetadataCatalog.get(name), DatasetCatalog[name]
    is_checked = isinstance(loader, functools.partial) and loader.func is _load_in_image_folder
    if is_checked or not (metadata.get("json_file") and metadata.get("image_root")):
        return
    DatasetCatalog.remove(name)
    DatasetCatalog.register(name, functools.partial(_load_in_image_folder, loader, name))


def _load_in_image_folder(load: Callable[[], list[dict[str, Any]]], name: str) -> list[dict]:
    dataset_dicts = load()
    metadata = MetadataCatalog.get(name)
    folder = os.path.join(os.path.abspath(metadata.image_root), "")
    for image in dataset_dicts:
        # As written: links within the folder may well lead elsewhere.
        if not os.path.abspath(image["file_name"]).startswith(folder):
            raise ValueError(
                f"{metadata.json_file}: image {image.get('image_id')}: '{image['file_name']}' "
                f"leads out of the image folder {metadata.image_root}"
            )
    return dataset_dicts


def is_own_dataset(name: str) -> bool:
    """Whether ``name`` was registered by :func:`register_instances`."""
    loader = DatasetCatalog[name] if name in DatasetCatalog else None
    return isinstance(loader, functools.partial) and loader.func is load_instances_json


def load_dataset(name: str) -> Sequence[dict[str, Any]]:
    """As ``DatasetCatalog.get``; a :func:`serialized_dataset` where that is possible."""
    dataset = serialized_dataset(name)
    return DatasetCatalog.get(name) if dataset is None else dataset


def serialized_dataset(name: str) -> SerializedInstances | None:
    """
    What ``DatasetCatalog.get`` gives, in a fraction of its time and memory: for datasets that
    :func:`register_instances` or Detectron2's ``register_lvis_instances`` registered. None for
    others, and where something in the annotation file is unusual.
    """
    if is_own_dataset(name):
        dataset = read_instances_json(*DatasetCatalog[name].args)
        return dataset if isinstance(dataset, SerializedInstances) else None
    return _read_detectron2_lvis(name)


def _read_detectron2_lvis(name: str) -> SerializedInstances | None:
    loader = DatasetCatalog[name] if name in DatasetCatalog else None
    if isinstance(loader, functools.partial) and loader.func is _load_in_image_folder:
        loader, _ = loader.args
    if getattr(loader, "__module__", None) != load_lvis_json.__module__:
        return None
    metadata = MetadataCatalog.get(name)
    try:
        thing_metadata = get_lvis_instances_meta(name)
    except (AssertionError, ValueError):  # a name without an LVIS version: its loader says so
        return None
    if "thing_dataset_id_to_contiguous_id" in thing_metadata:  # LVIS's images, COCO's classes
        return None
    if not metadata.image_root.endswith("/"):
        return None
    dataset = read_lvis_as_detectron2(
        PathManager.get_local_path(metadata.json_file), metadata.image_root
    )
    if dataset is not None:
        metadata.set(**thing_metadata)
    return dataset


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
    return os.path.expanduser(entry["JSON"]), os.path.expanduser(entry["IMAGES"])


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
