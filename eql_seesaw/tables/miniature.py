"""The config of a full-scale row in miniature: trained on the generated dataset, on a CPU."""

import os
from collections.abc import Mapping
from typing import Any

import yaml

from ..atomic_write import atomic_file
from ..config import ConfigFile, merge_config
from ..config_files import find_config_file
from .table import Row

CONFIG = os.path.join("configs", "miniature", "Base-miniature.yaml")
# Training images with annotations: of the tables' datasets, and of the miniature.
ANNOTATED_IMAGES = {"lvis_v0.5": 56_740, "lvis_v1": 99_388}
MINIATURE_IMAGES = 6_267
# Settings in shares of the training images; in miniature they are scaled to mean as many images.
FREQUENCY_KEYS = {
    "DATALOADER.REPEAT_THRESHOLD",
    "MODEL.ROI_BOX_HEAD.EQL.LAMBDA",
    "MODEL.ROI_BOX_HEAD.EQL.EXPONENTIAL",
    "MODEL.ROI_BOX_HEAD.EQL.GOMPERTZ",
    "MODEL.ROI_BOX_HEAD.SOFTMAX_EQL.LAMBDA",
    "MODEL.ROI_BOX_HEAD.DROP_LOSS.LAMBDA",
}


def write_miniature(row: Row, dataset: str, folder: str) -> str:
    """
    Write mini.yaml: a row's config with the miniature's dataset, backbone, sizes and solver, and
    with the row's own :data:`FREQUENCY_KEYS`, scaled from its dataset's size. Returns its path.
    """
    content = ConfigFile.load_yaml_with_base(CONFIG)
    # A row's own heads make a cascade.
    content["MODEL"]["ROI_HEADS"].pop("NAME", None)
    factor = ANNOTATED_IMAGES[dataset] / MINIATURE_IMAGES
    cfg = merge_config(row.config, as_overrides(row.overrides))
    box_head, eql = cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_BOX_HEAD.EQL
    scaled_eql: dict[str, Any] = {"LAMBDA": _scaled(eql.LAMBDA, factor)}
    # These two multiply the frequency.
    if eql.THRESHOLD_FUNCTION == "exponential":
        a, n = eql.EXPONENTIAL
        scaled_eql["EXPONENTIAL"] = [_scaled(a, 1 / factor), n]
    if eql.THRESHOLD_FUNCTION == "gompertz":
        a, b, c = eql.GOMPERTZ
        scaled_eql["GOMPERTZ"] = [a, b, _scaled(c, 1 / factor)]
    threshold = _scaled(cfg.DATALOADER.REPEAT_THRESHOLD, factor)
    content.setdefault("DATALOADER", {})["REPEAT_THRESHOLD"] = threshold
    content["MODEL"].setdefault("ROI_BOX_HEAD", {}).update(
        EQL=scaled_eql,
        SOFTMAX_EQL={"LAMBDA": _scaled(box_head.SOFTMAX_EQL.LAMBDA, factor)},
        DROP_LOSS={"LAMBDA": _scaled(box_head.DROP_LOSS.LAMBDA, factor)},
    )
    base = os.path.relpath(os.path.abspath(find_config_file(row.config)), os.path.realpath(folder))
    path = os.path.join(folder, "mini.yaml")
    with atomic_file(path) as f:
        f.write(yaml.safe_dump({"_BASE_": base, **content}, sort_keys=False))
    return path


def _scaled(value: float | None, factor: float) -> float | None:
    """None where the threshold is a number of images."""
    return None if value is None else float(f"{value * factor:.6g}")


def as_overrides(settings: Mapping[str, object]) -> list[str]:
    """KEY VALUE KEY VALUE ..."""
    return [str(part) for item in settings.items() for part in item]
