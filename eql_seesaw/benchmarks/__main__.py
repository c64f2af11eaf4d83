"""
Measure this project beside others, and write one report.

    python -m eql_seesaw.benchmarks                              # all of them
    python -m eql_seesaw.benchmarks losses post_processing       # some
    python -m eql_seesaw.benchmarks losses --device cuda

Each benchmark runs in a process of its own. Benchmarks that are measured on another day replace
their rows in the report, if machine and versions are the same. Nothing else should run meanwhile.
"""

import argparse
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from ..command_line import one_line_errors
from .benchmark_process import BenchmarkFailed, measured_rows
from .machine import describe_machine, git_commit
from .report import (
    MARKDOWN_FILE,
    Section,
    outcome,
    read_sections,
    row_line,
    set_aside,
    with_section,
    write_report,
)

# Name to module.
BENCHMARKS = {
    name: f"{__package__}.{name}"
    for name in (
        "losses",
        "train_step",
        "post_processing",
        "lvis_results",
        "class_statistics",
        "first_batch",
        "lvis_evaluation",
    )
}


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    args = parse_arguments(arguments)
    with one_line_errors():
        return run(args.names, args.device, args.output, args.quick)


def run(names: Sequence[str], device: str, output: Path, quick: bool) -> int:
    """
    Run benchmarks, and write the report after each.

    Args:
        names: of :data:`BENCHMARKS`; none for all.
        device: "cpu" or "cuda".
        output: folder of the report; made if it is absent.
        quick: for the tests.

    Returns:
        0, or 1 if a benchmark did not finish.

    Raises:
        ValueError: an unknown name.
    """
    for name in names:
        if name not in BENCHMARKS:
            raise ValueError(f"no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
    output.mkdir(parents=True, exist_ok=True)
    machine = describe_machine()
    for key, value in machine.items():
        print(f"{key}: {value}")
    try:
        sections = read_sections(output, machine)
    except ValueError as error:
        print(f"A new report is started, the old one is now {set_aside(output)}: {error}.")
        sections = []
    names = names or list(BENCHMARKS)
    if device == "cuda" and machine["GPU"] == "none":
        print("There is no GPU: the losses' rows stay empty, and there are no others.")
        names = [name for name in names if name == "losses"]
    measured = []
    for name in names:
        section = new_section(name, device)
        measured.append(section)
        try:
            measure(section, quick)
        finally:
            sections = with_section(sections, section)
            write_report(output, machine, sections)
    print(f"\n{outcome([row for section in measured for row in section.rows])}")
    print(f"Written: {output / MARKDOWN_FILE}")
    problems = [section.problem for section in measured if section.problem]
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m eql_seesaw.benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)} (default: all)"
    )
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="cuda: those that a GPU has a part in (default: %(default)s)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("output/benchmarks"),
        help="folder of the report (default: %(default)s)",
    )
    parser.add_argument("--quick", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def new_section(name: str, device: str) -> Section:
    """One to be measured now."""
    return Section(name, device, datetime.now().strftime("%Y-%m-%d %H:%M"), git_commit())


def measure(section: Section, quick: bool) -> None:
    """
    Run a benchmark and print its rows as they come.

    Args:
        section: gets the rows, also if the benchmark ends early, and then the reason.
        quick: for the tests.
    """
    print(f"\n{section.benchmark}", flush=True)
    section.problem = f"{section.benchmark} was interrupted"
    try:
        for row in measured_rows(BENCHMARKS[section.benchmark], section.device, quick):
            section.rows.append(row)
            print(row_line(row), flush=True)
    except BenchmarkFailed as error:
        section.problem = f"{section.benchmark} did not finish ({error}); measured rows are kept"
    else:
        section.problem = ""


if __name__ == "__main__":
    sys.exit(main())
