"""Plan to train a table's rows on a machine: data, schedule, commands."""

import os
import shlex
from collections.abc import Sequence

from detectron2.config import CfgNode

from ..data.register import find_dataset
from ..engine.checkpoint_files import has_checkpoint
from ..schedule import scale_to_batch
from .batch import batch_settings, default_batch
from .run_state import RunState, read_run_state
from .table import Table
from .table_runs import (
    ANNOTATED_IMAGES,
    DEFAULT_OUTPUT,
    GENERATED_DATASET,
    MINIATURE_IMAGES,
    TableRun,
    expected_config,
    train_command,
)

# In Detectron2's folder of LVIS's images; an image's coco_url says in which of them it is.
LVIS_IMAGE_FOLDERS = ("train2017", "val2017")


def missing_files(run: TableRun, cfg: CfgNode) -> list[str]:
    """
    Annotation files, image folders and weights of a run that are not on this machine.

    Args:
        cfg: the run's. Files that come from other runs are left out.
    """
    weights = cfg.MODEL.WEIGHTS
    # Others, such as detectron2://, are downloaded.
    is_local = weights and "://" not in weights
    is_input = any(key == "MODEL.WEIGHTS" for key, _, _ in run.inputs)
    missing = [weights] if is_local and not is_input and not os.path.exists(weights) else []
    for key in ("TRAIN", "TEST"):
        for name in cfg.DATASETS[key]:
            found = find_dataset(cfg, f"DATASETS.{key}", name)
            if found is None:
                continue
            json_file, images = found
            is_lvis = name.startswith(tuple(ANNOTATED_IMAGES))
            folders = [images]
            if is_lvis and name not in cfg.DATASETS.REGISTER:
                folders = [os.path.join(images, folder) for folder in LVIS_IMAGE_FOLDERS]
            files = filter(None, (json_file, *folders))
            missing += [path for path in files if not os.path.exists(path)]
    return list(dict.fromkeys(missing))


def where_files_come_from(scale: str) -> str:
    if scale == "mini":
        return "`make miniature_data` generates the miniature's data"
    return "datasets/README.md says what to download"


def describe_plan(
    table: Table,
    runs: Sequence[TableRun],
    num_gpus: int,
    gpus_here: int,
    images_per_batch: int | None,
) -> str:
    """
    Args:
        runs: of one scale, at least one; inputs before the runs that need them.
        num_gpus: to write the commands for.
        gpus_here: GPUs of this machine.
        images_per_batch: over all GPUs; None for :func:`default_batch`.
    """
    scale = runs[0].scale
    configs = [expected_config(run) for run in runs]
    lines = [f"{table.name}: {table.title}, {len(runs)} runs"]
    states = [read_run_state(run) for run in runs]
    missing: dict[str, None] = {}
    for run, cfg, state in zip(runs, configs, states, strict=True):
        if state.metrics is None:
            missing.update(dict.fromkeys(missing_files(run, cfg)))
    if missing:
        lines.append(f"Missing: {', '.join(missing)}; {where_files_come_from(scale)}.")
    if scale == "mini":
        dataset = GENERATED_DATASET
        lines.append("In miniature, on one thread each; `run` starts one for each CPU core.")
        if table.dataset in ANNOTATED_IMAGES:
            images = ANNOTATED_IMAGES[table.dataset]
            lines.append(
                "Frequencies (the repeat threshold, EQL's lambda) are multiplied by "
                f"{images:,} / {MINIATURE_IMAGES:,}, so that they mean as many training images."
            )
    else:
        dataset = table.dataset
        here = f"{gpus_here} GPU(s)" if gpus_here else "no GPU"
        lines.append(f"This machine has {here}; the commands are for {num_gpus}.")
    batches = [
        run_batch(run, cfg, state, num_gpus, images_per_batch)
        for run, cfg, state in zip(runs, configs, states, strict=True)
    ]
    schedules = {
        _describe_schedule(cfg, batch, dataset) for cfg, batch in zip(configs, batches, strict=True)
    }
    lines += sorted(schedules)
    if any("RepeatFactor" in cfg.DATALOADER.SAMPLER_TRAIN for cfg in configs):
        lines.append(
            "Repeat-factor sampling shows images of rare classes more often within the same "
            "iterations. Epochs are counted in images of the original set; mmdetection's are "
            "passes over the longer, resampled set, so its schedules of as many epochs train "
            "longer."
        )
    miniatures: list[TableRun] = []
    for run, cfg, state, batch in zip(runs, configs, states, batches, strict=True):
        resume = has_checkpoint(run.folder)
        lines += ["", f"# {run}: {state.reason or 'finished'}"]
        if state.metrics is not None or state.conflict:
            continue
        if run.is_miniature_of_row:
            if run.name == f"{table.name}/{run.row.name}":  # not an input from another table
                miniatures.append(run)
        else:
            threads = "OMP_NUM_THREADS=1 " if scale == "mini" else ""
            words = train_command(run, num_gpus, resume, batch_settings(cfg, batch))
            lines.append(f"{threads}python {shlex.join(words)}")
    if miniatures:  # their config files are written when they are run
        words = ["python", "-m", "eql_seesaw.tables", "run", table.name, "--scale", "mini"]
        words += ["--rows", ",".join(dict.fromkeys(run.row.name for run in miniatures))]
        num_seeds = max(run.seed for run in miniatures)
        if num_seeds != max(run.row.seeds for run in miniatures):
            words += ["--seeds", str(num_seeds)]
        if runs[0].output != DEFAULT_OUTPUT:
            words += ["--output", runs[0].output]
        lines += ["", "# What is not finished, and first what it starts from:", shlex.join(words)]
    return "\n".join(lines)


def run_batch(
    run: TableRun, cfg: CfgNode, state: RunState, num_gpus: int, images_per_batch: int | None
) -> int:
    """
    Images per batch of a run: those it was started with, the given ones, or the default.

    Raises:
        ValueError: they cannot be shared out evenly among the GPUs.
    """
    if run.scale == "mini":
        return cfg.SOLVER.IMS_PER_BATCH
    # An iteration number means another number of images with another batch.
    is_started = has_checkpoint(run.folder)
    if is_started and state.batch:
        batch, origin = state.batch, f"{run} was started with"
    else:
        batch, origin = images_per_batch or default_batch(cfg, num_gpus), "--batch asks for"
    if batch % num_gpus:
        raise ValueError(
            f"{origin} {batch} images per batch, which {num_gpus} GPUs cannot share evenly; "
            "choose another --gpus"
        )
    return batch


def _describe_schedule(cfg, batch, dataset):
    scaled = scale_to_batch(cfg, batch)
    recipe, solver = cfg.SOLVER, scaled.SOLVER
    text = (
        f"Batch of {batch} images, learning rate {solver.BASE_LR:g}, {solver.MAX_ITER} iterations"
    )
    if batch != recipe.IMS_PER_BATCH:
        text += (
            f" (recipe: {recipe.IMS_PER_BATCH}, {recipe.BASE_LR:g}, {recipe.MAX_ITER}; learning "
            "rate scaled linearly, as many images seen; --batch gives another)"
        )
    num_images = solver.MAX_ITER * batch
    text += f": {num_images:,} images"
    if dataset in ANNOTATED_IMAGES:
        epoch = ANNOTATED_IMAGES[dataset]
        text += f", {num_images / epoch:.1f} epochs of the {epoch:,} annotated ones of {dataset}"
    return f"{text}."
