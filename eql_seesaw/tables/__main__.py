"""
The papers' tables: published numbers, and the same rows trained here.

    python -m eql_seesaw.tables list
    python -m eql_seesaw.tables show seesaw_2
    python -m eql_seesaw.tables plan seesaw_2 --gpus 4
    python -m eql_seesaw.tables run seesaw_2 --scale mini --seeds 3
    python -m eql_seesaw.tables collect seesaw_2 --scale mini
"""

import argparse
import os
import signal
import sys
from typing import Any

from tabulate import tabulate

from ..command_line import one_line_errors
from .collect import markdown, measure, published_table, write_table
from .run_state import read_run_state
from .table import Row, Table, load_table, table_names
from .table_runs import (
    DEFAULT_OUTPUT,
    SCALES,
    TableRun,
    row_run,
    rows_not_trained,
    runs_with_inputs,
    seeds_with_folders,
    select_rows,
    table_scale,
)

# To plan for where there is no GPU.
USUAL_NUM_GPUS = 8


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    args = parse_arguments(arguments)
    with one_line_errors():
        if not os.path.exists("train_net.py"):
            raise FileNotFoundError("no train_net.py here; run this in the repository's folder")
        return args.command(args)


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m eql_seesaw.tables",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_CommandParser)

    table = argparse.ArgumentParser(add_help=False)
    table.add_argument("table", metavar="TABLE", help="a name that `list` shows")
    output = argparse.ArgumentParser(add_help=False)
    output.add_argument(
        "--output", default=DEFAULT_OUTPUT, help="folder of all runs (default: %(default)s)"
    )
    rows: dict[str, Any] = {"metavar": "A,B", "type": lambda names: names.split(",")}
    runs = argparse.ArgumentParser(add_help=False)
    runs.add_argument(
        "--scale",
        choices=SCALES,
        help="as published, or in miniature: on the generated dataset, on a CPU (default: full, or "
        "mini for the tables that are miniatures)",
    )
    runs.add_argument(
        "--seeds", metavar="N", type=_positive, help="seeds 1 to N; default: the table's number"
    )
    to_train = argparse.ArgumentParser(add_help=False)
    to_train.add_argument("--rows", **rows, help="some rows only")
    to_train.add_argument(
        "--gpus", metavar="N", type=_positive, help="default: all GPUs of this machine"
    )
    to_train.add_argument(
        "--batch",
        metavar="N",
        type=_positive,
        help="images per batch over all GPUs at full scale; learning rate and iterations follow "
        "(default: 2 for each GPU, at most the recipe's)",
    )

    def add(name, command, parents, text):
        sub = commands.add_parser(name, parents=parents, help=text, description=text)
        sub.set_defaults(command=command)
        return sub

    add("list", list_tables, [output], "name the tables, and how many rows have results")
    add("show", show, [table], "print the published numbers")
    parents = [table, runs, output]
    add("plan", plan, [*parents, to_train], "print the commands that train the rows")
    run_parser = add(
        "run", run, [*parents, to_train], "train the rows without a result; go on where it stopped"
    )
    run_parser.add_argument(
        "--jobs",
        metavar="N",
        type=_positive,
        default=len(os.sched_getaffinity(0)),
        help="trainings at a time in miniature (default: CPU cores, here %(default)s)",
    )
    collect_parser = add(
        "collect", collect, parents, "print and write published numbers beside measured ones"
    )
    collect_parser.add_argument(
        "--rows", **rows, help="print these rows only, and write nothing (default: all rows)"
    )
    return parser.parse_args(arguments)


class _CommandParser(argparse.ArgumentParser):
    """Shows the usage of its command, not of the whole program, where an argument is unknown."""

    def parse_known_args(self, args=None, namespace=None):
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return namespace, unknown


def list_tables(args: argparse.Namespace) -> int:
    lines = []
    for name in table_names():
        table = load_table(name)
        finished = [_count_finished(table, scale, args.output) for scale in SCALES]
        lines.append([name, table.title, table.dataset, len(table.rows), *finished])
    headers = ["table", "title", "dataset", "rows", "finished, full", "finished, mini"]
    print(tabulate(lines, headers=headers))
    return 0


def show(args: argparse.Namespace) -> int:
    table = load_table(args.table)
    print(table.title)
    if table.source:
        print(table.source)
    print(f"\n{published_table(table)}\n")
    if table.notes:
        print(f"{table.notes}\n")
    print("Rows:")
    for row in table.rows:
        overrides = [f"{key} {value}" for key, value in row.overrides.items()]
        print(" ".join([f"  {row.name}: {row.config}", *overrides]))
        for key, source in row.inputs.items():
            seed = f" seed {source.seed}" if source.seed else ""
            print(f"    {key}: {source.file} of {source.row}{seed}")
        if row.notes:
            print(f"    {row.notes}")
    return 0


def plan(args: argparse.Namespace) -> int:
    table, runs = _selected_runs(args)
    # Here and below, what takes seconds to import is imported where it is needed.
    import torch

    from .plan import describe_plan

    gpus_here = torch.cuda.device_count()
    num_gpus = args.gpus or gpus_here or USUAL_NUM_GPUS
    text = describe_plan(table, runs, num_gpus, gpus_here, args.batch)
    print(text)
    return 0


def run(args: argparse.Namespace) -> int:
    table, runs = _selected_runs(args)
    import torch

    from .train import run_all

    num_gpus = torch.cuda.device_count()
    is_full = _scale(table, args) == "full"
    if is_full and num_gpus < (args.gpus or 1):
        raise ValueError(
            f"this machine has {num_gpus or 'no'} GPU{'s' * (num_gpus > 1)}, "
            f"{f'not the {args.gpus} of --gpus' if args.gpus else 'which LVIS needs'}; `plan` "
            "prints the commands for another machine and names missing data, --scale mini trains "
            "on a CPU"
        )
    # Ended by a scheduler or a closed terminal as by Ctrl-C: the trainings end too.
    for sign in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(sign, signal.default_int_handler)
    jobs = 1 if is_full else args.jobs
    try:
        failures = run_all(runs, jobs, args.gpus or num_gpus, args.batch)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


def collect(args: argparse.Namespace) -> int:
    from .plots import draw_table

    table = load_table(args.table)
    scale = _scale(table, args)
    names = None
    if args.rows:
        chosen = [row.name for row in select_rows(table, args.rows)]
        not_trained = rows_not_trained(table, scale)
        # And those that stand for them.
        names = {*chosen, *(not_trained[name].same_as for name in chosen if name in not_trained)}
    measured = measure(table, scale, args.output, args.seeds)
    print(markdown(measured, names))
    if names:
        return 0
    folder = os.path.join(args.output, scale)
    os.makedirs(folder, exist_ok=True)
    pictures = draw_table(measured, folder)
    write_table(measured, folder, pictures)
    path = os.path.join(folder, table.name)
    print("Written:", f"{path}.md", f"{path}.csv", *pictures, sep="\n  ")
    return 0


def _scale(table: Table, args: argparse.Namespace) -> str:
    """Scale that --scale asks for, or else the table's usual one."""
    if args.scale == "full" and table_scale(table, "full") != "full":
        raise ValueError(f"table {table.name} is itself a miniature; leave --scale full out")
    return table_scale(table, args.scale or "full")


def _selected_runs(args: argparse.Namespace) -> tuple[Table, list[TableRun]]:
    table = load_table(args.table)
    scale = _scale(table, args)
    rows = _trainable(table, select_rows(table, args.rows), scale)
    num_seeds = {row.name: args.seeds or row.seeds for row in rows}
    # Every row once before any row a second time.
    runs = [
        row_run(table, row, scale, args.output, seed)
        for seed in range(1, max(num_seeds.values()) + 1)
        for row in rows
        if seed <= num_seeds[row.name]
    ]
    return table, runs_with_inputs(runs)


def _trainable(table: Table, rows: list[Row], scale: str) -> list[Row]:
    """Rows that can have a run at a scale, in the table's order; says what becomes of others."""
    not_trained = rows_not_trained(table, scale)
    names = []
    for row in rows:
        reason, same_as = not_trained.get(row.name, ("", row.name))
        if same_as:
            names.append(same_as)
        if reason:
            print(f"{row.name}: {reason}" if same_as else f"Left out: {row.name}: {reason}")
    if not names:
        raise ValueError(f"{table.name}: no row is left to train")
    return select_rows(table, names)


def _count_finished(table: Table, scale: str, output: str) -> int | None:
    """Rows with a finished run; None where the table has no such scale."""
    if table_scale(table, scale) != scale:
        return None
    count = 0
    for row in table.rows:
        if row.split != "val":
            continue
        seeds = seeds_with_folders(row_run(table, row, scale, output, 1))
        runs = [row_run(table, row, scale, output, seed) for seed in seeds]
        count += any(read_run_state(run).metrics is not None for run in runs)
    return count


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
