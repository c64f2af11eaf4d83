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
from collections.abc import Callable

from tabulate import tabulate

from ..command_line import one_line_errors
from .table import DEFAULT_OUTPUT, SCALES, Table, load_table, pipe_table, table_names

# To plan for where there is no GPU.
USUAL_NUM_GPUS = 8


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    args = parse_arguments(arguments)
    with one_line_errors():
        return args.command(args)


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m eql_seesaw.tables",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Callable, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=command)
        return sub

    listing = add("list", list_tables, "name the tables, and how many rows have results")
    showing = add("show", show, "print the published numbers")
    planning = add("plan", plan, "print the commands that train the rows")
    running = add("run", run, "train the rows without a result; go on where it stopped")
    collecting = add("collect", collect, "print and write published numbers beside measured ones")
    for sub in (showing, planning, running, collecting):
        sub.add_argument("table", metavar="TABLE", help="a name that `list` shows")
    for sub in (listing, planning, running, collecting):
        sub.add_argument(
            "--output", default=DEFAULT_OUTPUT, help="folder of all runs (default: %(default)s)"
        )
    for sub in (planning, running, collecting):
        sub.add_argument(
            "--scale",
            choices=SCALES,
            help="as published, or in miniature: on the generated dataset, on a CPU (default: "
            "full, or mini for the tables that are miniatures)",
        )
        sub.add_argument(
            "--seeds", metavar="N", type=_positive, help="seeds 1 to N; default: the table's number"
        )
        sub.add_argument(
            "--rows",
            metavar="A,B",
            type=lambda names: names.split(","),
            help="these rows only (default: all); `collect` then prints them and writes nothing",
        )
    for sub in (planning, running):
        sub.add_argument(
            "--gpus", metavar="N", type=_positive, help="default: all GPUs of this machine"
        )
        sub.add_argument(
            "--batch",
            metavar="N",
            type=_positive,
            help="images per batch over all GPUs at full scale; learning rate and iterations "
            "follow (default: 2 for each GPU, at most the recipe's)",
        )
    running.add_argument(
        "--jobs",
        metavar="N",
        type=_positive,
        default=len(os.sched_getaffinity(0)),
        help="trainings at a time in miniature (default: CPU cores, here %(default)s)",
    )
    return parser.parse_args(arguments)


def list_tables(args: argparse.Namespace) -> int:
    lines = []
    for name in table_names():
        table = load_table(name)
        finished = [_count_finished(table, scale, args.output) for scale in SCALES]
        lines.append([name, table.title, table.dataset, len(table.rows), *finished])
    headers = ["table", "title", "dataset", "rows", "finished, full", "finished, mini"]
    print(tabulate(lines, headers=headers))
    return 0


def _count_finished(table: Table, scale: str, output: str) -> int | None:
    """Rows with a finished run; None where the table has no such scale."""
    if scale not in table.scales:
        return None
    if not os.path.exists(output):
        return 0
    # Here and below, what takes seconds to import is imported where it is needed.
    from .measure import has_result

    return sum(has_result(table, row, scale, output) for row in table.rows)


def show(args: argparse.Namespace) -> int:
    table = load_table(args.table)
    print(table.title)
    if table.source:
        print(table.source)
    lines = [[row.name, row.label, *row.published_cells(table.columns)] for row in table.rows]
    print(f"\n{pipe_table(['row', '', *table.columns], lines, num_texts=2)}\n")
    if table.notes:
        print(f"{table.notes}\n")
    print("Rows:")
    for row in table.rows:
        overrides = [f"{key} {value}" for key, value in row.overrides.items()]
        trained_by = row.config or row.classification or "no recipe here"
        print(" ".join([f"  {row.name}: {trained_by}", *overrides]))
        for key, source in row.inputs.items():
            seed = f" seed {source.seed}" if source.seed else ""
            print(f"    {key}: {source.file} of {source.row}{seed}")
        if row.notes:
            print(f"    {row.notes}")
    return 0


def plan(args: argparse.Namespace) -> int:
    table, scale = _table_and_scale(args)
    if table.is_classification:
        from .classification import describe_commands

        print(describe_commands(table, args.rows, args.output))
        return 0
    import torch

    from .plan import describe_plan, select_runs

    runs = select_runs(table, args.rows, scale, args.output)
    gpus_here = torch.cuda.device_count()
    num_gpus = args.gpus or gpus_here or USUAL_NUM_GPUS
    print(describe_plan(table, runs, num_gpus, gpus_here, args.batch))
    return 0


def run(args: argparse.Namespace) -> int:
    table, scale = _table_and_scale(args)
    # Ended by a scheduler or a closed terminal as by Ctrl-C: the trainings end too.
    for sign in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(sign, signal.default_int_handler)
    try:
        failures = _train(table, scale, args)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _train(table: Table, scale: str, args: argparse.Namespace) -> list[str]:
    """Train a table's rows; one line for each failure."""
    if table.is_classification:
        from .classification import run_commands

        return run_commands(table, args.rows, args.output)
    import torch

    from .plan import select_runs
    from .train import run_all

    runs = select_runs(table, args.rows, scale, args.output)
    num_gpus = torch.cuda.device_count()
    if scale == "full" and num_gpus < (args.gpus or 1):
        raise ValueError(
            f"this machine has {num_gpus} GPU(s), and {args.gpus or 1} are asked for; `plan` "
            "prints the commands for another machine and names missing data, --scale mini trains "
            "on a CPU"
        )
    return run_all(runs, 1 if scale == "full" else args.jobs, args.gpus or num_gpus, args.batch)


def collect(args: argparse.Namespace) -> int:
    table, scale = _table_and_scale(args)
    names = [row.name for row in table.select(args.rows)]
    from .collect import markdown, write_table
    from .measure import measure

    measured = measure(table, scale, args.output)
    print(markdown(measured, names))
    if not args.rows:
        paths = write_table(measured, os.path.join(args.output, scale))
        print("Written:", *paths, sep="\n  ")
    return 0


def _table_and_scale(args: argparse.Namespace) -> tuple[Table, str]:
    """The table, with the --seeds and at the --scale asked for, or else its own and usual ones."""
    table = load_table(args.table)
    if not table.scales:
        raise ValueError(f"table {table.name} has no recipe here. {table.notes}")
    scale = args.scale or table.scales[0]
    if scale not in table.scales:
        raise ValueError(f"table {table.name} has no --scale {scale}; leave it out")
    return (table.with_seeds(args.seeds) if args.seeds else table), scale


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
