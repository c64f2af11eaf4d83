"""
Predict on image files, folders of images, or a video.

    python -m eql_seesaw.predict --config-file output/quickstart/config.yaml \\
        --weights output/quickstart/model_final.pth photos/ more.jpg [KEY VALUE ...]

Writes annotated images (or an annotated video), predictions.json with the detections in LVIS
format, and images.json with the images and categories that its ids stand for. No dataset is needed.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm.contrib.logging import logging_redirect_tqdm

from .command_line import one_line_errors

if TYPE_CHECKING:
    from .prediction import Video


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Arguments, with the trailing KEY VALUE ... apart in ``opts``."""
    description, _, rest = __doc__.strip().partition("\n")
    parser = argparse.ArgumentParser(
        prog="python -m eql_seesaw.predict",
        description=description,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--weights", required=True, metavar="FILE", help="checkpoint of a model")
    parser.add_argument(
        "--output", default="predictions", metavar="FOLDER", help="default: predictions"
    )
    parser.add_argument(
        "--score-threshold",
        type=float,
        default=0.5,
        metavar="SCORE",
        help="lower scores are neither drawn nor written (default: 0.5)",
    )
    parser.add_argument(
        "--batch-size", type=int, default=1, help="images at a time (default: 1)", metavar="N"
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="image files, folders or one video, then KEY VALUE ... to change the config",
    )
    args = parser.parse_intermixed_args(arguments)
    if not 0 <= args.score_threshold <= 1:
        parser.error(f"--score-threshold must be from 0 to 1, got {args.score_threshold}")
    if args.batch_size < 1:
        parser.error(f"--batch-size must be at least 1, got {args.batch_size}")
    args.inputs, args.opts = _split(args.inputs)
    if not args.inputs:
        parser.error("the following arguments are required: INPUT")
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    args = parse_args(arguments)
    logging.basicConfig(format="%(levelname)s: %(message)s")
    with one_line_errors(), logging_redirect_tqdm():
        # Not at the top: it takes seconds, for which --help need not wait.
        from .engine import load_config
        from .prediction import BatchPredictor, predict_images, predict_video, results_files

        # Mistakes are found here, before anything is written.
        video, paths = _open_inputs(args.inputs)
        folder = Path(args.output)
        _check_output(folder)
        # A key of training, which cannot be on where a model trained on a GPU predicts on a CPU.
        cfg = load_config(args.config_file, ["SOLVER.AMP.ENABLED", "False", *args.opts])
        predictor = BatchPredictor(cfg, args.weights, args.score_threshold)
        folder.mkdir(parents=True, exist_ok=True)
        with results_files(folder, predictor.thing_classes, predictor.category_ids) as results:
            if video is None:
                failed = predict_images(predictor, paths, folder, results, args.batch_size)
            else:
                output_file = folder / f"{Path(video.path).stem}.mp4"
                failed = 0
                predict_video(predictor, video, output_file, results, args.batch_size)
    counts = f"{results.num_detections} detections in {len(results.images)}"
    print(f"{counts} {'images' if video is None else 'frames'}: {folder}")
    if results.images and not results.num_detections:
        print(f"no score reached --score-threshold {args.score_threshold}")
    if failed:
        print(f"error: {failed} of {len(paths)} files left out, named above", file=sys.stderr)
    return 1 if failed else 0


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Inputs, and from the first config key on, the overrides."""
    from detectron2.config import get_cfg

    sections = get_cfg()
    for i, argument in enumerate(arguments):
        if argument.split(".")[0] in sections and not os.path.exists(argument):
            return arguments[:i], arguments[i:]
    return arguments, []


def _open_inputs(inputs: list[str]) -> tuple[Video | None, list[str]]:
    """The video, or the image files."""
    from .prediction import VIDEO_SUFFIXES, Video, find_images

    videos = [path for path in inputs if path.lower().endswith(VIDEO_SUFFIXES)]
    if not videos:
        return None, find_images(inputs)
    if len(inputs) > 1:
        raise ValueError(f"{videos[0]} is a video, which must be the only input")
    return Video(videos[0]), []


def _check_output(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(
            f"--output {folder} is there already, and not an empty folder; delete it or name "
            "another one"
        )


if __name__ == "__main__":
    sys.exit(main())
