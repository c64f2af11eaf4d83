"""State of a run's folder, which says if it may be shown as measured."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from .table_runs import TableRun, expected_config

if TYPE_CHECKING:
    from detectron2.config import CfgNode

# These change neither training nor AP.
FREE_KEYS = {
    "CUDNN_BENCHMARK",
    "DATALOADER.NUM_WORKERS",
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


@dataclasses.dataclass(frozen=True)
class RunState:
    """
    Attributes:
        metrics: of the evaluation after the last iteration, in percent: {"segm/AP": ..., ...}, NaN
            where there was no ground truth; empty without a dataset to evaluate on. None unless the
            run is finished, has the config that its row asks for, and so have its inputs.
        reason: why there are no metrics, for people.
        conflict: the folder holds something else than this row's run, so it must not be continued.
        batch: images per batch of the run in the folder, or None.
    """

    metrics: dict[str, float] | None = None
    reason: str = ""
    conflict: bool = False
    batch: int | None = None


def read_run_state(run: TableRun) -> RunState:
    """Look into a run's folder. What is wrong there is told in the state, not raised."""
    config_path = os.path.join(run.folder, "config.yaml")
    metrics_path = os.path.join(run.folder, "metrics.json")
    if not os.path.exists(config_path):
        for path in (os.path.join(run.folder, "last_checkpoint"), metrics_path):
            if os.path.exists(path):
                return RunState(reason=f"there is {path}, but no config.yaml", conflict=True)
        return RunState(reason="not run")
    # Only here, as it takes seconds, which listing tables without runs need not wait for.
    from ..config import merge_config
    from ..schedule import scale_to_batch

    try:
        found = merge_config(config_path, [])
    except ValueError as error:
        return RunState(reason=str(error), conflict=True)
    batch = found.SOLVER.IMS_PER_BATCH
    expected = expected_config(run)
    if run.scale == "full" and batch > 0:
        expected = scale_to_batch(expected, batch)
    difference = config_difference(found, expected, run)
    if difference:
        return RunState(reason=f"its config differs in {difference}", conflict=True)
    for _, input_run, _ in run.inputs:
        state = read_run_state(input_run)
        if state.metrics is None:
            # It was started, so with something else than what the input is going to be.
            return RunState(reason=f"its input {input_run}: {state.reason}", conflict=True)
    metrics, reason = _final_metrics(metrics_path, found)
    return RunState(metrics, reason, batch=batch)


def config_difference(found: CfgNode, expected: CfgNode, run: TableRun) -> str:
    """The first key in which a run's config differs, with both values, or ""."""
    found, expected = _flat(found), _flat(expected)
    # Files of another run are known by its folder, which may have moved as a whole.
    root = os.path.join(run.output, run.scale)
    inputs = {
        key: os.path.join(os.path.relpath(input_run.folder, root), file)
        for key, input_run, file in run.inputs
    }
    for key in sorted(found.keys() | expected.keys()):
        here, there = found.get(key), expected.get(key)
        if key in FREE_KEYS or here == there:
            continue
        if key in inputs:
            same = str(here).endswith(os.sep + inputs[key])
        else:
            # A file to download may have been before.
            is_download = key == "MODEL.WEIGHTS" and "://" in there
            same = is_download and os.path.basename(here) == os.path.basename(there)
        if not same:
            return f"{key}: {here} there, {there} expected"
    return ""


def _flat(node: Mapping, prefix: str = "") -> dict[str, object]:
    """{dotted key: value}, as in a file, where tuples are lists."""
    result = {}
    for key, value in node.items():
        if isinstance(value, Mapping):
            result.update(_flat(value, f"{prefix}{key}."))
        else:
            result[f"{prefix}{key}"] = _with_lists(value)
    return result


def _with_lists(value: object) -> object:
    return [_with_lists(item) for item in value] if isinstance(value, (list, tuple)) else value


def _final_metrics(path, cfg):
    """(metrics, "") or (None, reason)."""
    max_iter = cfg.SOLVER.MAX_ITER
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
    test = cfg.DATASETS.TEST
    if not test and iteration + 1 == max_iter:
        return {}, ""
    if iteration < max_iter:
        # Iterations are numbered from 0; the evaluation after the last has the number of all.
        done = f"at iteration {iteration + 1} of {max_iter}"
        return None, done if iteration + 1 < max_iter else f"{done}, not evaluated"
    # Detectron2 counts one more where only the evaluation was left to do when it was resumed.
    if iteration > max_iter + 1:
        return None, f"{path} ends at iteration {iteration}, beyond SOLVER.MAX_ITER {max_iter}"
    prefix = f"{test[0]}/" if len(test) > 1 else ""
    metrics = {
        key.removeprefix(prefix): math.nan if value is None else value
        for key, value in last.items()
        if key.startswith(prefix)
    }
    if "bbox/AP" not in metrics:
        return None, f"at iteration {max_iter} of {max_iter}, not evaluated"
    return metrics, ""
