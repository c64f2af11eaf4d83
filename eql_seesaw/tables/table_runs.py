"""The trainings behind a table's rows: their folders, configs and commands."""

from __future__ import annotations

import dataclasses
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from ..atomic_write import atomic_file
from .table import Row, Table, load_table

if TYPE_CHECKING:
    from detectron2.config import CfgNode

SCALES = ("full", "mini")
# The folder of all runs.
DEFAULT_OUTPUT = "output/tables"
# The dataset of tables that are miniatures themselves.
GENERATED_DATASET = "symbols"
# The table whose inputs, the weights to start from, all rows take in miniature.
MINIATURE_TABLE = "miniature"
MINIATURE_CONFIG = os.path.join("configs", "miniature", "Base-miniature.yaml")
# Training images with annotations: of the tables' datasets, and of the miniature.
ANNOTATED_IMAGES = {"lvis_v0.5": 56_740, "lvis_v1": 99_388}
MINIATURE_IMAGES = 6_267
# What makes a row the method it is, and stays the row's own in miniature.
METHOD_KEYS = {
    "DATALOADER.SAMPLER_TRAIN",
    "MODEL.ROI_BOX_HEAD.CLS_LOSS",
    "MODEL.ROI_BOX_HEAD.DECOUPLED",
    "MODEL.ROI_BOX_HEAD.NORMED_CLASSIFIER",
    "MODEL.ROI_BOX_HEAD.TEMPERATURE",
    "MODEL.ROI_HEADS.NAME",
    "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK",
    "MODEL.ROI_MASK_HEAD.NAME",
    "MODEL.ROI_MASK_HEAD.TEMPERATURE",
}
# Settings in shares of the training images; in miniature they are scaled to mean as many images.
FREQUENCY_KEYS = {
    "DATALOADER.REPEAT_THRESHOLD",
    "MODEL.ROI_BOX_HEAD.EQL.LAMBDA",
    "MODEL.ROI_BOX_HEAD.EQL.EXPONENTIAL",
    "MODEL.ROI_BOX_HEAD.EQL.GOMPERTZ",
    "MODEL.ROI_BOX_HEAD.SOFTMAX_EQL.LAMBDA",
}


@dataclasses.dataclass(frozen=True)
class TableRun:
    """
    One training: a row with one seed.

    Attributes:
        name: "table/row", of the row that asked for it.
        dataset: the table's.
        scale: "full" or "mini".
        output: the folder of all tables.
        inputs: files of other runs: (config key, run, file in its folder).
    """

    name: str
    row: Row
    dataset: str
    scale: str
    output: str
    seed: int
    inputs: tuple[tuple[str, TableRun, str], ...]

    @property
    def is_miniature_of_row(self) -> bool:
        return self.scale == "mini" and self.dataset != GENERATED_DATASET

    @property
    def folder(self) -> str:
        """OUTPUT_DIR. Rows that are trained alike share it, in whatever tables they are."""
        config = self.row.config.removeprefix("configs/").removesuffix(".yaml")
        overrides = [f"{key}={_in_file_name(x)}" for key, x in self.row.overrides.items()]
        name = ",".join([config, *overrides])
        return os.path.join(self.output, self.scale, name, f"seed_{self.seed}")

    @property
    def config_file(self) -> str:
        return (
            os.path.join(self.folder, "mini.yaml") if self.is_miniature_of_row else self.row.config
        )

    @property
    def settings(self) -> dict[str, object]:
        """KEY: VALUE after the config file."""
        files = {key: os.path.join(run.folder, file) for key, run, file in self.inputs}
        # In miniature they are in mini.yaml, scaled.
        left_out = FREQUENCY_KEYS if self.is_miniature_of_row else ()
        overrides = {key: x for key, x in self.row.overrides.items() if key not in left_out}
        return {**overrides, **files, "SEED": self.seed, "OUTPUT_DIR": self.folder}

    def __str__(self) -> str:
        return f"{self.name} seed {self.seed}"


def table_scale(table: Table, scale: str) -> str:
    """A table of the generated dataset has no other scale than "mini"."""
    return "mini" if table.dataset == GENERATED_DATASET else scale


def select_rows(table: Table, names: list[str] | None) -> list[Row]:
    """
    Rows by name, in the table's order; all without names.

    Raises:
        ValueError: the table has no such row.
    """
    chosen = [table.row(name) for name in names or ()]
    return [row for row in table.rows if not names or row in chosen]


def row_run(table: Table, row: Row, scale: str, output: str, seed: int) -> TableRun:
    """The run of a row, with the runs that its inputs come from."""
    run = TableRun(
        f"{table.name}/{row.name}", row, table.dataset, table_scale(table, scale), output, seed, ()
    )
    common = load_table(MINIATURE_TABLE).inputs if run.is_miniature_of_row else {}
    inputs = []
    for key, source in {**common, **row.inputs}.items():
        table_name, _, row_name = source.row.partition("/")
        input_table = load_table(table_name)
        input_row = input_table.row(row_name)
        input_run = row_run(input_table, input_row, scale, output, source.seed or seed)
        inputs.append((key, input_run, source.file))
    return dataclasses.replace(run, inputs=tuple(inputs))


def seeds_with_folders(run: TableRun) -> set[int]:
    """The seeds of a run's row that have a folder, finished or not."""
    names = [path.name for path in Path(run.folder).parent.glob("seed_*")]
    numbers = [name.removeprefix("seed_") for name in names]
    return {int(number) for number in numbers if number.isdecimal()}


def runs_with_inputs(runs: list[TableRun]) -> list[TableRun]:
    """
    Each run once, after the runs that its inputs come from.

    Raises:
        ValueError: two rows of one folder and different inputs or overrides.
    """
    ordered: dict[str, TableRun] = {}

    def add(run):
        for _, input_run, _ in run.inputs:
            add(input_run)
        same = ordered.setdefault(run.folder, run)
        if same.settings != run.settings:
            raise ValueError(
                f"{same.name} and {run.name} differ in their inputs or overrides, but would be "
                f"trained in one folder, {run.folder}; give one of them a config of its own"
            )

    for run in runs:
        add(run)
    return list(ordered.values())


class NotTrained(NamedTuple):
    """Why a row has no run of its own at a scale; the row that is trained alike, if that is why."""

    reason: str
    same_as: str = ""


def rows_not_trained(table: Table, scale: str) -> dict[str, NotTrained]:
    """{name of a row that can have no run of its own at a scale: why}"""
    rows = {}
    # {what is trained: the first run of it}
    miniatures: dict[str, TableRun] = {}
    for row in table.rows:
        run = row_run(table, row, scale, "", 1)
        if row.split != "val":
            reason = f"published on {row.split}, which only LVIS's server evaluates"
            rows[row.name] = NotTrained(reason)
        elif run.is_miniature_of_row:
            cfg = expected_config(run)
            first = miniatures.setdefault(_what_is_trained(cfg), run)
            if cfg.MODEL.ROI_HEADS.NAME == "LongTailRes5ROIHeads":
                rows[row.name] = NotTrained("a C4 model has no miniature")
            elif first.folder != run.folder:
                same = first.row.name
                rows[row.name] = NotTrained(f"in miniature the same as row {same}", same)
    return rows


def expected_config(run: TableRun) -> CfgNode:
    """
    The config that a run has to be trained with, at the batch size of its config file.

    Raises:
        ValueError, FileNotFoundError: as :func:`load_config`, with the row's name.
    """
    # Only here, as it takes seconds.
    from ..config import load_config

    overrides = as_overrides(run.settings)
    try:
        if not run.is_miniature_of_row:
            return load_config(run.config_file, overrides)
        with tempfile.TemporaryDirectory() as folder:
            return load_config(_write_miniature(run, folder), overrides)
    except (ValueError, FileNotFoundError) as error:
        raise type(error)(f"{run.name}: {error}") from None


def write_config_file(run: TableRun) -> None:
    """Write the config file of a run in miniature of a full-scale row; others have theirs."""
    if run.is_miniature_of_row:
        os.makedirs(run.folder, exist_ok=True)
        _write_miniature(run, run.folder)


def train_command(run: TableRun, num_gpus: int, resume: bool, scaled: dict) -> list[str]:
    """
    Arguments for Python.

    Args:
        num_gpus: ignored in miniature.
        scaled: settings of :func:`.batch.batch_settings`.
    """
    command = ["train_net.py", "--config-file", run.config_file]
    if run.scale == "full":
        command += ["--num-gpus", str(num_gpus)]
    if resume:
        command.append("--resume")
    return [*command, *as_overrides({**run.settings, **scaled})]


def as_overrides(settings: Mapping[str, object]) -> list[str]:
    return [str(part) for item in settings.items() for part in item]


def _what_is_trained(cfg):
    """The config's text without keys that do nothing."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.OUTPUT_DIR = ""
    if not cfg.MODEL.MASK_ON:
        cfg.MODEL.ROI_MASK_HEAD.clear()
    return cfg.dump()


def _in_file_name(value: object) -> str:
    """An override's value without blanks, brackets and quotes."""
    return re.sub(r"""[\s\[\](){}'"]""", "", str(value))


def _write_miniature(run: TableRun, folder: str) -> str:
    """
    Write mini.yaml: a row's config with the miniature's dataset, backbone, sizes and solver, and
    with the row's frequencies scaled.
    """
    from detectron2.config import CfgNode

    content = _without_method(CfgNode.load_yaml_with_base(MINIATURE_CONFIG))
    for key, value in _scaled_frequencies(run).items():
        *sections, last = key.split(".")
        node = content
        for section in sections:
            node = node.setdefault(section, {})
        node[last] = value
    base = os.path.relpath(os.path.abspath(run.row.config), os.path.realpath(folder))
    path = os.path.join(folder, "mini.yaml")
    with atomic_file(path) as f:
        f.write(yaml.safe_dump({"_BASE_": base, **content}, sort_keys=False))
    return path


def _scaled_frequencies(run: TableRun) -> dict[str, Any]:
    """Values in miniature of the :data:`FREQUENCY_KEYS` that the row's config reads, by key."""
    from ..config import merge_config

    cfg = merge_config(run.row.config, as_overrides(run.row.overrides))
    factor = ANNOTATED_IMAGES[run.dataset] / MINIATURE_IMAGES
    eql, softmax_eql = cfg.MODEL.ROI_BOX_HEAD.EQL, cfg.MODEL.ROI_BOX_HEAD.SOFTMAX_EQL
    frequencies = {
        "DATALOADER.REPEAT_THRESHOLD": cfg.DATALOADER.REPEAT_THRESHOLD,
        "MODEL.ROI_BOX_HEAD.EQL.LAMBDA": eql.LAMBDA,
        "MODEL.ROI_BOX_HEAD.SOFTMAX_EQL.LAMBDA": softmax_eql.LAMBDA,
    }
    # None where the threshold is a number of images.
    values: dict[str, Any] = {
        key: x if x is None else _rounded(x * factor) for key, x in frequencies.items()
    }
    # These two multiply the frequency.
    if eql.THRESHOLD_FUNCTION == "exponential":
        a, n = eql.EXPONENTIAL
        values["MODEL.ROI_BOX_HEAD.EQL.EXPONENTIAL"] = [_rounded(a / factor), n]
    if eql.THRESHOLD_FUNCTION == "gompertz":
        a, b, c = eql.GOMPERTZ
        values["MODEL.ROI_BOX_HEAD.EQL.GOMPERTZ"] = [a, b, _rounded(c / factor)]
    return values


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def _without_method(node: dict, prefix: str = "") -> dict:
    result = {}
    for key, value in node.items():
        if prefix + key not in METHOD_KEYS:
            is_node = isinstance(value, dict)
            result[key] = _without_method(value, f"{prefix}{key}.") if is_node else value
    return result
