"""
Evaluate a file of detections, without a model.

    python -m eql_seesaw.evaluation results.json --dataset lvis_v1_val
    python -m eql_seesaw.evaluation results.json --dataset val.json --images photographs
    python -m eql_seesaw.evaluation results.json --dataset birds_val --config-file birds.yaml \\
        TEST.FIXED_AP True
    python -m eql_seesaw.evaluation predictions.json --dataset val.json --by-name
"""

import argparse
import gc
import logging
import os
from functools import partial
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.utils.logger import setup_logger
from tqdm import tqdm

from ..command_line import one_line_errors
from ..config import merge_config, validate_test_config
from ..data.annotation_file import image_file_name
from ..data.register import find_dataset, register_datasets, register_instances
from ..data.training_set import class_statistics
from .ground_truth import load_ground_truth, with_images_of
from .lvis_evaluator import LongTailLVISEvaluator
from .other_results import decode_other_results
from .pictures import show_evaluation
from .result import Result
from .results_file import ResultsFile

# Not __name__, which is "__main__" here.
logger = logging.getLogger("eql_seesaw.evaluation")


def main() -> None:
    args = parse_arguments()
    with one_line_errors():
        cfg = merge_config(args.config_file, args.opts)
        validate_test_config(cfg)
        register_datasets(cfg)
        if args.dataset.endswith(".json"):
            register_instances(args.dataset, args.dataset, args.images)
        elif find_dataset(cfg, "--dataset", args.dataset) is None:
            raise ValueError(f"--dataset {args.dataset}: this dataset has no annotation file")
        if not os.path.isfile(args.results):
            raise FileNotFoundError(f"no such file: {args.results}")
        setup_logger(name="eql_seesaw")
        metadata, statistics = MetadataCatalog.get(args.dataset), class_statistics(cfg)
        groups = None if statistics is None else statistics.groups
        ground_truth = load_ground_truth(metadata.json_file, groups)
        results = read_results(args, ground_truth)
        results.check(ground_truth, metadata.json_file)
        if args.images_of:
            ground_truth = with_images_of(ground_truth, args.images_of)
        output_dir = args.output or default_output(args)
        if os.path.isfile(output_dir):
            raise ValueError(f"--output {output_dir} is a file; name a folder")
        evaluator = LongTailLVISEvaluator(
            args.dataset,
            output_dir,
            ground_truth=ground_truth,
            class_statistics=statistics,
            max_detections=cfg.TEST.LVIS_MAX_DETECTIONS,
            engine=cfg.TEST.LVIS_ENGINE,
            fixed_ap=cfg.TEST.FIXED_AP,
            boundary_ap=cfg.TEST.BOUNDARY_AP,
        )
        result = evaluate(evaluator, results, metadata.get("image_root"))
    show_evaluation(cfg, result, output_dir)
    logger.info(f"All files are in {output_dir}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m eql_seesaw.evaluation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("results", help="JSON list of detections in LVIS's results format")
    parser.add_argument(
        "--dataset",
        required=True,
        help="name of a dataset that Detectron2 or the config knows, or an annotation file",
    )
    parser.add_argument(
        "--by-name",
        action="store_true",
        help="find images by file name and categories by name, where another tool has its own ids",
    )
    parser.add_argument(
        "--first-category-id",
        type=int,
        metavar="N",
        help="category_id counts the dataset's categories from N, as in tools with ids of their "
        "own: often 0 or 1",
    )
    parser.add_argument(
        "--images-of",
        default="",
        metavar="FILE",
        help="evaluate only images that this annotation file has, too; minival: those of LVIS's "
        "validation set that are not in COCO's train2017",
    )
    parser.add_argument(
        "--images", default="", help="folder of the images of an annotation file, for pictures"
    )
    parser.add_argument(
        "--config-file",
        default="",
        help="config whose DATASETS.REGISTER knows the dataset, and whose training set gives the "
        "frequency groups of an annotation file without them",
    )
    parser.add_argument(
        "--output", help="folder to write to; default: results_evaluation for results.json"
    )
    parser.add_argument(
        "opts", nargs="*", metavar="KEY VALUE", help="overrides, above all of TEST.*"
    )
    return parser.parse_intermixed_args()


def default_output(args: argparse.Namespace) -> str:
    """results_evaluation for results.json; results_minival_evaluation for some of its images."""
    subset = os.path.splitext(os.path.basename(args.images_of))[0]
    return "_".join(filter(None, (args.results.removesuffix(".json"), subset, "evaluation")))


def read_results(args: argparse.Namespace, ground_truth: dict[str, Any]) -> ResultsFile:
    """The detections, with the ids of the ground truth."""
    if not args.by_name and args.first_category_id is None:
        return ResultsFile(args.results)
    ids = {"by_name": args.by_name, "first_category_id": args.first_category_id}
    decode = partial(decode_other_results, ground_truth=ground_truth, **ids)
    return ResultsFile(args.results, decode)


def evaluate(
    evaluator: LongTailLVISEvaluator, results: ResultsFile, image_root: str | None
) -> Result:
    """Feed a file of detections to an evaluator, and evaluate."""
    # Millions of objects that stay: the garbage collector need not look at them again and again.
    gc.collect()
    gc.freeze()
    for image in tqdm(evaluator.ground_truth["images"], "Evaluating", disable=None, unit="image"):
        file_name = os.path.join(image_root, image_file_name(image)) if image_root else None
        detections = results.detections(image["id"])
        size = image["height"], image["width"]
        evaluator.add(detections.with_compressed_masks(*size), file_name)
    evaluator.evaluate()
    assert evaluator.result is not None, "evaluated here"
    return evaluator.result


if __name__ == "__main__":
    main()
