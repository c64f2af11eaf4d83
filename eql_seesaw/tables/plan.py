"""Plan to train a table's rows on a machine: runs, data, schedule, commands."""

import os
import shlex
from collections.abc import Sequence

from detectron2.config import CfgNode

from ..data.register import find_dataset
from ..schedule import scale_to_batch
from .miniature import ANNOTATED_IMAGES, MINIATURE_IMAGES
from .run import Run
from .table import DEFAULT_OUTPUT, Table, load_table

# In Detectron2's folder of LVIS's images; an image's coco_url says in which of them it is.
LVIS_IMAGE_FOLDERS = ("train2017", "val2017")


def rows_not_trained(table: Table, scale: str, output: str) -> dict[str, tuple[str, str]]:
    """
    Rows that can have no run of their own at a scale, by name: why not, and the name of the row
    that is trained alike, "" if there is none.
    """
    rows = {}
    # {what is trained: the first run of it}
    miniatures: dict[str, Run] = {}
    for row in table.rows:
        run = Run(table, row, scale, output, 1)
        if row.split != "val":
            rows[row.name] = f"published on {row.split}, which only LVIS's server evaluates", ""
        elif run.is_miniature_of_row:
            cfg = run.cfg.clone()
            cfg.defrost()
            # These do nothing in miniature, which has no masks.
            cfg.MODEL.ROI_MASK_HEAD.clear()
            cfg.OUTPUT_DIR = ""
            first = miniatures.setdefault(cfg.dump(), run)
            if cfg.MODEL.ROI_HEADS.NAME == "LongTailRes5ROIHeads":
                rows[row.name] = "a C4 model has no miniature", ""
            elif first.folder != run.folder:
                same = first.row.name
                rows[row.name] = f"in miniature the same as row {same}", same
    return rows


def select_runs(table: Table, names: list[str] | None, scale: str, output: str) -> list[Run]:
    """
    Runs of a table's rows of these names, None for all: every row once before any a second time,
    and before them the runs that they start from. Prints what becomes of rows that cannot have one.
    """
    not_trained = rows_not_trained(table, scale, output)
    chosen = []
    for row in table.select(names):
        reason, same_as = not_trained.get(row.name, ("", row.name))
        if same_as:
            chosen.append(same_as)
        if reason:
            print(f"{row.name}: {reason}" if same_as else f"Left out: {row.name}: {reason}")
    if not chosen:
        raise ValueError(f"{table.name}: no row is left to train")
    rows = table.select(chosen)
    return runs_with_inputs(
        [
            Run(table, row, scale, output, seed)
            for seed in range(1, max(row.seeds for row in rows) + 1)
            for row in rows
            if seed <= row.seeds
        ]
    )


def runs_with_inputs(runs: Sequence[Run]) -> list[Run]:
    """Each run once, after the runs that its inputs come from."""
    ordered: dict[str, Run] = {}

    def add(run: Run) -> None:
        for _, input_run, _ in run.inputs:
            add(input_run)
        ordered.setdefault(run.folder, run)

    for run in runs:
        add(run)
    return list(ordered.values())


def missing_files(run: Run) -> list[str]:
    """Annotation files, image folders and weights that are not here, but for other runs' files."""
    weights = run.cfg.MODEL.WEIGHTS
    is_input = any(key == "MODEL.WEIGHTS" for key, _, _ in run.inputs)
    # Others, such as detectron2://, are downloaded.
    needed = [] if is_input or "://" in weights else [weights]
    for key in ("TRAIN", "TEST"):
        for name in run.cfg.DATASETS[key]:
            found = find_dataset(run.cfg, f"DATASETS.{key}", name)
            if found is None:
                continue
            json_file, images = found
            needed.append(json_file)
            if name.startswith(tuple(ANNOTATED_IMAGES)) and name not in run.cfg.DATASETS.REGISTER:
                needed += [os.path.join(images, folder) for folder in LVIS_IMAGE_FOLDERS]
            else:
                needed.append(images)
    return [path for path in dict.fromkeys(needed) if path and not os.path.exists(path)]


def where_files_come_from(run: Run) -> str:
    """Advice on missing data."""
    if run.is_miniature_of_row or run.table.dataset == "symbols":
        return "`make miniature_data` generates the miniature's data"
    return "datasets/README.md says what to download"


def describe_plan(
    table: Table,
    runs: Sequence[Run],
    num_gpus: int,
    gpus_here: int,
    images_per_batch: int | None,
) -> str:
    """
    The commands for a machine with ``num_gpus`` that train the runs of :func:`select_runs`, with
    their schedule, and what is missing here. ``images_per_batch`` is None for the default.
    """
    scale = runs[0].scale
    lines = [f"{table.name}: {table.title}, {len(runs)} runs"]
    planned = [
        (run, found := run.look(), run.planned_batch(found, num_gpus, images_per_batch))
        for run in runs
    ]
    missing = dict.fromkeys(
        path for run, found, _ in planned if found.metrics is None for path in missing_files(run)
    )
    if missing:
        lines.append(f"Missing: {', '.join(missing)}; {where_files_come_from(runs[-1])}.")
    if scale == "mini":
        lines.append("In miniature, on one thread each; `run` starts one for each CPU core.")
        if not table.is_miniature:
            lines.append(
                "Frequencies (the repeat threshold, EQL's lambda) are multiplied by "
                f"{ANNOTATED_IMAGES[table.dataset]:,} / {MINIATURE_IMAGES:,}, so that they mean as "
                "many training images."
            )
    else:
        here = f"{gpus_here} GPU(s)" if gpus_here else "no GPU"
        lines.append(f"This machine has {here}; the commands are for {num_gpus}.")
    dataset = table.dataset if scale == "full" else ""
    lines += sorted({_schedule(run.cfg, batch, dataset) for run, _, batch in planned})
    if any("RepeatFactor" in run.cfg.DATALOADER.SAMPLER_TRAIN for run in runs):
        lines.append(
            "Repeat-factor sampling shows images of rare classes more often within the same "
            "iterations. Epochs are counted in images of the original set; mmdetection's are "
            "passes over the longer, resampled set, so its schedules of as many epochs train "
            "longer."
        )
    # Their config files are written when they are run.
    miniatures: list[Run] = []
    for run, found, batch in planned:
        lines += ["", f"# {run}: {found.reason or 'finished'}"]
        if found.metrics is not None or found.conflict:
            continue
        if not run.is_miniature_of_row:
            threads = "OMP_NUM_THREADS=1 " if scale == "mini" else ""
            lines.append(f"{threads}python {shlex.join(run.command(num_gpus, batch))}")
        elif run.table.name == table.name:  # not an input from another one
            miniatures.append(run)
    if miniatures:
        words = ["python", "-m", "eql_seesaw.tables", "run", table.name, "--scale", "mini"]
        words += ["--rows", ",".join(dict.fromkeys(run.row.name for run in miniatures))]
        num_seeds = max(run.seed for run in miniatures)
        own = load_table(table.name)  # without --seeds
        if num_seeds != max(own.row(run.row.name).seeds for run in miniatures):
            words += ["--seeds", str(num_seeds)]
        if runs[0].output != DEFAULT_OUTPUT:
            words += ["--output", runs[0].output]
        lines += ["", "# What is not finished, and first what it starts from:", shlex.join(words)]
    return "\n".join(lines)


def _schedule(cfg: CfgNode, batch: int, dataset: str) -> str:
    """One line; with epochs where the dataset is one of :data:`ANNOTATED_IMAGES`."""
    recipe, solver = cfg.SOLVER, scale_to_batch(cfg, batch).SOLVER
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
