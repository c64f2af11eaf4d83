"""The report's command line."""

import argparse
import os

from ...command_line import one_line_errors
from ..result import Result
from .write import write_report


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m eql_seesaw.evaluation.report",
        description="Write a report of an evaluation: one HTML file, and its charts as PNG.",
    )
    parser.add_argument(
        "folder",
        metavar="FOLDER",
        help="folder of an evaluation, such as output/<run>/inference/<dataset>",
    )
    parser.add_argument(
        "--compare", metavar="FOLDER", help="evaluation of another run on the same dataset"
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="where to write; by default FOLDER/report, or FOLDER/comparison with --compare",
    )
    parser.add_argument(
        "--score-threshold",
        type=float,
        default=0.3,
        metavar="SCORE",
        help="lowest score of detections that are drawn (default: %(default)s)",
    )
    args = parser.parse_args(arguments)
    output = args.output or os.path.join(args.folder, "comparison" if args.compare else "report")
    with one_line_errors():
        result = Result.load(args.folder)
        other = Result.load(args.compare) if args.compare else None
        print(write_report(result, output, args.score_threshold, other))


if __name__ == "__main__":
    main()
