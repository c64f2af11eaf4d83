"""One training of a row: its config, folder and command, and what it has left in the folder."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from detectron2.config import CfgNode

from ..config import load_config, merge_config
from ..engine.checkpoint_files import has_checkpoint
from ..losses import LOSSES
from ..schedule import scale_to_batch, scaled_values
from .miniature import FREQUENCY_KEYS, as_overrides, write_miniature
from .table import Row, Table, load_table

# The table whose inputs, the weights to start from, all rows take in miniature.
MINIATURE_TABLE = "miniature"
# Bytes; file systems allow 255.
MAX_NAME = 240
# Detectron2's and mmdetection's number for GPUs of 8 GB and more.
IMAGES_PER_GPU = 2
# These change neither training nor AP.
FREE_KEYS = {
    "CUDNN_BENCHMARK",
    "DATALOADER.NUM_WORKERS",
    "INPUT.MAX_IMAGE_PIXELS",
    "MODEL.DEVICE",
    "MODEL.ROI_BOX_HEAD.GRADIENT_STATISTICS",
    "OUTPUT_DIR",
    "SOLVER.CHECKPOINT_PERIOD",
    "SOLVER.MAX_CHECKPOINTS",
    "SOLVER.REFERENCE_IMS_PER_BATCH",
    "SOLVER.RESUME_CHANGED",
    "TEST.BEST_METRIC",
    "TEST.BOUNDARY_AP",
    "TEST.EVAL_PERIOD",
    "TEST.FIXED_AP",
    "TEST.LVIS_ENGINE",
    "TEST.NUM_PICTURES",
    "TEST.PICTURE_SCORE_THRESH",
    "TEST.REPORT",
    "VIS_PERIOD",
}


class Found(NamedTuple):
    """
    Content of a run's folder.

    Attributes:
        metrics: of the evaluation after the last iteration, in percent: {"segm/AP": ..., ...}, NaN
            where there was no ground truth; empty without a dataset to evaluate on. None unless the
            run is finished, has the config that its row asks for, and so have its inputs.
        reason: why there are no metrics, for people.
        conflict: the folder holds something else than this row's run, so it must not be continued.
        batch: images per batch of the run in the folder.
    """

    metrics: dict[str, float] | None = None
    reason: str = ""
    conflict: bool = False
    batch: int | None = None


class Run:
    """
    One training: a row of a table with one seed.

    Attributes:
        name: "table/row".
        scale: "full" or "mini"; a table that is a miniature itself has "mini" only.
        output: folder of all runs.
        is_miniature_of_row: trained in miniature, though its row is not.
        folder: OUTPUT_DIR. Rows that are trained alike share it, in whatever tables they are.
        config_file: the row's, or mini.yaml in the folder.
        inputs: files of other runs: (config key, run, file in its folder).
    """

    def __init__(self, table: Table, row: Row, scale: str, output: str, seed: int):
        self.table, self.row, self.output, self.seed = table, row, output, seed
        self.name = f"{table.name}/{row.name}"
        self.scale = "mini" if table.is_miniature else scale
        self.is_miniature_of_row = self.scale == "mini" and not table.is_miniature
        name = row.config.removeprefix("configs/").removesuffix(".yaml")
        for key, value in row.overrides.items():
            # Without blanks, brackets and quotes, and none that leads to another folder.
            name += f",{key}=" + re.sub(r"""[\s\[\](){}'"]""", "", str(value)).replace("/", "_")
        folder, name = os.path.split(name)
        if len(os.fsencode(name)) > MAX_NAME:
            digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
            name = f"{name[: MAX_NAME // 4]}...{digest}"
        self.folder = os.path.join(output, self.scale, folder, name, f"seed_{seed}")
        in_folder = os.path.join(self.folder, "mini.yaml")
        self.config_file = in_folder if self.is_miniature_of_row else row.config
        common = load_table(MINIATURE_TABLE).inputs if self.is_miniature_of_row else {}
        self.inputs: list[tuple[str, Run, str]] = []
        for key, source in {**common, **row.inputs}.items():
            table_name, _, row_name = source.row.partition("/")
            source_table = load_table(table_name)
            source_row = source_table.row(row_name)
            run = Run(source_table, source_row, self.scale, output, source.seed or seed)
            self.inputs.append((key, run, source.file))

    def __str__(self) -> str:
        return f"{self.name} seed {self.seed}"

    @property
    def settings(self) -> dict[str, object]:
        """KEY: VALUE after the config file."""
        files = {key: os.path.join(run.folder, file) for key, run, file in self.inputs}
        # In miniature they are in mini.yaml, scaled.
        left_out = FREQUENCY_KEYS if self.is_miniature_of_row else ()
        overrides = {key: x for key, x in self.row.overrides.items() if key not in left_out}
        return {**overrides, **files, "SEED": self.seed, "OUTPUT_DIR": self.folder}

    @functools.cached_property
    def cfg(self) -> CfgNode:
        """Config that the run has to be trained with, at the batch size of its config file."""
        overrides = as_overrides(self.settings)
        try:
            if not self.is_miniature_of_row:
                return load_config(self.row.config, overrides)
            with tempfile.TemporaryDirectory() as folder:
                mini = write_miniature(self.row, self.table.dataset, folder)
                return load_config(mini, overrides)
        except (ValueError, FileNotFoundError) as error:
            raise type(error)(f"{self.name}: {error}") from None

    def prepare_folder(self) -> None:
        """Make the folder; in miniature of a full-scale row with the config file, mini.yaml."""
        os.makedirs(self.folder, exist_ok=True)
        if self.is_miniature_of_row:
            write_miniature(self.row, self.table.dataset, self.folder)

    def planned_batch(self, found: Found, num_gpus: int, images_per_batch: int | None) -> int:
        """
        Images per batch: those that the run was started with, as it is ``found``, or else the given
        ones, or two for each GPU, at most the recipe's. In miniature the recipe's.

        Raises:
            ValueError: they cannot be shared out evenly among the GPUs.
        """
        recipe = self.cfg.SOLVER.IMS_PER_BATCH
        if self.scale == "mini":
            return recipe
        # An iteration number means another number of images with another batch.
        started_with = found.batch if has_checkpoint(self.folder) else None
        batch = started_with or images_per_batch
        if batch is None:
            batch = min(recipe, IMAGES_PER_GPU * num_gpus)
            return max(num_gpus, batch - batch % num_gpus)
        if batch % num_gpus:
            raise ValueError(
                f"{self}: {num_gpus} GPUs cannot share {batch} images per batch evenly; "
                f"choose another --gpus{'' if started_with else ' or --batch'}"
            )
        return batch

    def command(self, num_gpus: int, batch: int) -> list[str]:
        """Arguments for Python: the run is trained, or goes on from its last checkpoint."""
        program = ["train_net.py"] if os.path.exists("train_net.py") else ["-m", "eql_seesaw.train"]
        command = [*program, "--config-file", self.config_file]
        if self.scale == "full":
            command += ["--num-gpus", str(num_gpus)]
        if has_checkpoint(self.folder):
            command.append("--resume")
        scaled = {}
        if batch != self.cfg.SOLVER.IMS_PER_BATCH:
            pairs = scaled_values(self.cfg, scale_to_batch(self.cfg, batch))
            scaled = {key: new for key, (_, new) in pairs.items()}
        return [*command, *as_overrides({**self.settings, **scaled})]

    def look(self) -> Found:
        """Look into the folder. What is wrong there is told in the reason, and not raised."""
        config = os.path.join(self.folder, "config.yaml")
        if not os.path.exists(config):
            if has_checkpoint(self.folder):
                return Found(reason=f"there are checkpoints, but no {config}", conflict=True)
            return Found(reason="not run")
        try:
            found = merge_config(config, [])
        except ValueError as error:
            return Found(reason=str(error), conflict=True)
        batch = found.SOLVER.IMS_PER_BATCH
        if difference := self._difference(found):
            return Found(reason=difference, conflict=True, batch=batch)
        for _, run, _ in self.inputs:
            source = run.look()
            # It cannot have started from the input as that is going to be.
            if source.metrics is None:
                return Found(None, f"its input {run}: {source.reason}", conflict=True, batch=batch)
        metrics, reason = self._read_metrics(found.SOLVER.MAX_ITER)
        return Found(metrics, reason, batch=batch)

    def _difference(self, found: CfgNode) -> str:
        """The first key in which a config differs from the run's, with both values, or ""."""
        cfg, batch = self.cfg, found.SOLVER.IMS_PER_BATCH
        if self.scale == "full":
            cfg = scale_to_batch(cfg, batch)
        # Files of another run are known by its folder, which may have moved as a whole.
        root = os.path.join(self.output, self.scale)
        inputs = {
            key: os.path.join(os.sep, os.path.relpath(run.folder, root), file)
            for key, run, file in self.inputs
        }
        # As in a file, where tuples are lists.
        values, expected = (_flat(json.loads(json.dumps(node))) for node in (found, cfg))
        own_loss = cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS
        other_losses = tuple(
            f"MODEL.ROI_BOX_HEAD.{name.upper()}." for name in LOSSES if name != own_loss
        )
        for key in sorted(values.keys() | expected.keys()):
            here, there = values.get(key), expected.get(key)
            if key in FREE_KEYS or key.startswith(other_losses) or here == there:
                continue
            if key in inputs:
                same = str(here).endswith(inputs[key])
            else:
                # A file to download may have been before.
                is_download = key == "MODEL.WEIGHTS" and "://" in str(there)
                same = is_download and os.path.basename(str(there)) == os.path.basename(str(here))
            if not same:
                return f"its config differs in {key}: {here} there, {there} expected"
        return ""

    def _read_metrics(self, max_iter: int) -> tuple[dict[str, float] | None, str]:
        """(metrics, "") or (None, reason)."""
        path = os.path.join(self.folder, "metrics.json")
        try:
            with open(path) as f:
                lines = [line for line in f if line.strip()]
            # The last line alone counts: a run that was started again writes below the old one.
            last = json.loads(lines[-1])
            iteration = last["iteration"]
        except FileNotFoundError:
            return None, f"at iteration 0 of {max_iter}"
        except (IndexError, KeyError, TypeError, ValueError):
            return None, f"{path} does not end with a line of metrics"
        tests = self.cfg.DATASETS.TEST
        if not tests and iteration + 1 == max_iter:
            return {}, ""
        # Iterations are numbered from 0; the evaluation after the last has the number of all, or
        # one more where only the evaluation was left to do when it was resumed.
        if iteration + 1 < max_iter:
            return None, f"at iteration {iteration + 1} of {max_iter}"
        prefix = f"{tests[0]}/" if len(tests) > 1 else ""
        metrics = {
            key.removeprefix(prefix): math.nan if value is None else value
            for key, value in last.items()
            if key.startswith(prefix)
        }
        if iteration < max_iter or "bbox/AP" not in metrics:
            return None, f"at iteration {max_iter} of {max_iter}, not evaluated"
        return metrics, ""


def row_runs(table: Table, row: Row, scale: str, output: str) -> list[Run]:
    """Runs of a row: of its seeds, and of others that have a folder."""
    first = Run(table, row, scale, output, 1)
    folders = [path.name.removeprefix("seed_") for path in Path(first.folder).parent.glob("seed_*")]
    seeds = {int(number) for number in folders if number.isdecimal()} | {*range(1, row.seeds + 1)}
    return [Run(table, row, scale, output, seed) for seed in sorted(seeds)]


def _flat(node: Mapping, prefix: str = "") -> dict[str, Any]:
    """{dotted key: value}"""
    result = {}
    for key, value in node.items():
        if isinstance(value, Mapping):
            result.update(_flat(value, f"{prefix}{key}."))
        else:
            result[f"{prefix}{key}"] = value
    return result
