"""
Evaluate a file of detections, without a model.

    python -m eql_seesaw.evaluation results.json --dataset lvis_v1_val
    python -m eql_seesaw.evaluation results.json --dataset val.json --images photographs
    python -m eql_seesaw.evaluation results.json --dataset birds_val --config-file birds.yaml \\
        TEST.FIXED_AP True
"""

import argparse
import gc
import logging
import os

from detectron2.config import CfgNode
from detectron2.data import Metadata, MetadataCatalog
from detectron2.utils.logger import setup_logger
from tqdm import tqdm

from ..command_line import one_line_errors
from ..config import merge_config, validate_test_config
from ..data.annotation_file import image_file_name
from ..data.register import find_dataset, register_datasets, register_instances
from ..data.training_set import class_statistics
from .lvis_evaluator import LongTailLVISEvaluator
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
        dataset_name = register_dataset(cfg, args)
        results = ResultsFile(args.results)
        output_dir = args.output or f"{args.results.removesuffix('.json')}_evaluation"
        if os.path.exists(output_dir) and not os.path.isdir(output_dir):
            raise ValueError(f"--output {output_dir} is a file; name a folder")
        setup_logger(name="eql_seesaw")
        evaluator = LongTailLVISEvaluator(
            dataset_name,
            output_dir,
            class_statistics=class_statistics(cfg),
            max_detections=cfg.TEST.LVIS_MAX_DETECTIONS,
            engine=cfg.TEST.LVIS_ENGINE,
            fixed_ap=cfg.TEST.FIXED_AP,
            boundary_ap=cfg.TEST.BOUNDARY_AP,
        )
        result = evaluate(evaluator, results, MetadataCatalog.get(dataset_name))
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


def register_dataset(cfg: CfgNode, args: argparse.Namespace) -> str:
    """The name of the dataset; an annotation file is registered first."""
    if args.dataset.endswith(".json"):
        register_instances(args.dataset, args.dataset, args.images)
    elif find_dataset(cfg, "--dataset", args.dataset) is None:
        raise ValueError(f"--dataset {args.dataset}: this dataset has no annotation file")
    return args.dataset


def evaluate(evaluator: LongTailLVISEvaluator, results: ResultsFile, metadata: Metadata) -> Result:
    """Feed a file of detections to an evaluator, and evaluate."""
    images = evaluator.ground_truth["images"]
    results.check_ids(
        [image["id"] for image in images],
        [category["id"] for category in evaluator.ground_truth["categories"]],
        metadata.json_file,
    )
    for doubt in results.doubts(images):
        logger.warning(f"{results.path}: {doubt}")
    # Millions of objects that stay: the garbage collector need not look at them again and again.
    gc.collect()
    gc.freeze()
    image_root = metadata.get("image_root")
    for image in tqdm(images, "Evaluating", disable=None, unit="image"):
        file_name = os.path.join(image_root, image_file_name(image)) if image_root else None
        detections = results.detections(image["id"])
        size = image["height"], image["width"]
        evaluator.add(detections.with_compressed_masks(*size), file_name)
    evaluator.evaluate()
    assert evaluator.result is not None, "evaluated here"
    return evaluator.result


if __name__ == "__main__":
    main()
