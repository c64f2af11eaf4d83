"""
Choose the strength of a test-time calibration on training images.

    python -m eql_seesaw.calibrate --config-file output/softmax/config.yaml \\
        --weights output/softmax/model_final.pth --method fracal [KEY VALUE ...]

Prints AP of rare, common and frequent classes over the strength, draws it (METHOD.png), and writes
what the calibration knows of the training set (class_statistics.json), so that predicting and
exporting with it take no dataset.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .command_line import one_line_errors

if TYPE_CHECKING:
    from detectron2.config import CfgNode

# Strengths that are tried where none are given.
STRENGTHS = {
    "norcal": [i / 10 for i in range(1, 11)],
    "logit_adjustment": [i / 10 for i in range(1, 11)],
    "fracal": [i / 2 for i in range(9)],
    "tau_norm": [i / 10 for i in range(1, 11)],
}


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Arguments, with the trailing KEY VALUE ... apart in ``opts``."""
    description, _, rest = __doc__.strip().partition("\n")
    parser = argparse.ArgumentParser(
        prog="python -m eql_seesaw.calibrate",
        description=description,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--weights", required=True, metavar="FILE", help="checkpoint of a model")
    parser.add_argument("--method", required=True, choices=STRENGTHS)
    parser.add_argument(
        "--strengths",
        type=_strengths,
        metavar="X,Y,...",
        help="to try (default: 0.1 to 1.0; fracal: 0.0 to 4.0)",
    )
    parser.add_argument(
        "--dataset",
        metavar="NAME",
        help="whose images to take (default: the first of DATASETS.TRAIN); none of DATASETS.TEST",
    )
    parser.add_argument(
        "--num-images",
        type=int,
        default=1000,
        metavar="N",
        help="evenly spread over the dataset (default: 1000)",
    )
    parser.add_argument(
        "--output", default="calibration", metavar="FOLDER", help="default: calibration"
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE")
    args = parser.parse_args(arguments)
    if args.num_images < 1:
        parser.error(f"--num-images must be at least 1, got {args.num_images}")
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    args = parse_args(arguments)
    logging.basicConfig(format="%(levelname)s: %(message)s")
    with one_line_errors():
        # Not at the top: it takes seconds, for which --help need not wait.
        from detectron2.data import MetadataCatalog
        from detectron2.modeling import build_model

        from .data.class_statistics import write_class_statistics
        from .data.pictures import allow_pixels
        from .data.register import register_datasets
        from .data.training_set import load_training_set
        from .engine import build_checkpointer, load_config, load_trained
        from .prediction.calibration_sweep import (
            best_strength,
            draw_sweep,
            read_images,
            sweep_strengths,
            sweep_table,
        )

        strengths = args.strengths or STRENGTHS[args.method]
        key = "TEST.CALIBRATION"
        method = [f"{key}.METHOD", args.method, f"{key}.STRENGTH", str(strengths[0])]
        # A key of training, which cannot be on where a model trained on a GPU is on a CPU.
        cfg = load_config(args.config_file, ["SOLVER.AMP.ENABLED", "False", *args.opts, *method])
        cfg, name = _with_dataset(cfg, args.dataset)
        allow_pixels(cfg.INPUT.MAX_IMAGE_PIXELS)
        register_datasets(cfg)
        training_set = load_training_set(cfg, statistics_only=True)
        if training_set is None:
            raise ValueError("DATASETS.TRAIN is empty: name the set that the model was trained on")
        dataset = read_images(cfg, name, training_set.statistics.groups, args.num_images)
        model = build_model(cfg).eval()
        load_trained(build_checkpointer(cfg, model), args.weights)
        os.makedirs(args.output, exist_ok=True)
        sweep = sweep_strengths(cfg, model, (name, *dataset), strengths)
        draw_sweep(sweep, args.method, os.path.join(args.output, f"{args.method}.png"))
        use = ""
        if args.method != "tau_norm":
            file = os.path.join(args.output, "class_statistics.json")
            names = training_set.class_names or MetadataCatalog.get(name).get("thing_classes")
            write_class_statistics(training_set.statistics, file, names)
            use = f" DATASETS.CLASS_STATISTICS {file}"
    print(f"{len(dataset[1])} images of {name}\n\n{sweep_table(sweep)}\n")
    best = best_strength(sweep)
    if best is None:
        print("none of these strengths is better than no calibration")
    else:
        print(f"best AP: {key}.METHOD {args.method} {key}.STRENGTH {best:g}{use}")
    return 0


def _strengths(text: str) -> list[float]:
    strengths = [float(part) for part in text.split(",")]
    if not all(0 <= strength < float("inf") for strength in strengths):
        raise ValueError
    return strengths


def _with_dataset(cfg: "CfgNode", name: str | None) -> "tuple[CfgNode, str]":
    """The config with the dataset to choose on in place of DATASETS.TEST, and its name."""
    from .data.register import find_dataset

    if name is None and not cfg.DATASETS.TRAIN:
        raise ValueError("DATASETS.TRAIN is empty: name a dataset with --dataset")
    name = cfg.DATASETS.TRAIN[0] if name is None else name
    paths = find_dataset(cfg, "--dataset", name)
    for test_name in cfg.DATASETS.TEST:
        test_paths = find_dataset(cfg, "DATASETS.TEST", test_name)
        is_same_file = (
            paths and test_paths and os.path.realpath(paths[0]) == os.path.realpath(test_paths[0])
        )
        if name == test_name or is_same_file:
            raise ValueError(
                f"--dataset {name} is '{test_name}' of DATASETS.TEST, whose numbers would then "
                "mean nothing; choose on training images"
            )
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASETS.TEST = (name,)
    cfg.freeze()
    return cfg, name


if __name__ == "__main__":
    sys.exit(main())
