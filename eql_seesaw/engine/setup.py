"""Everything that a process reads before it trains or evaluates, once, as a value to hand on."""

import argparse
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from logging.handlers import MemoryHandler
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog, get_detection_dataset_dicts
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger

from ..atomic_write import atomic_file
from ..command_line import EXPECTED_ERRORS, last_line
from ..config import load_config
from ..data.annotation_file import Needs
from ..data.pictures import allow_pixels
from ..data.register import (
    find_dataset,
    is_own_dataset,
    names_from_coco_url,
    register_datasets,
)
from ..data.train_loader import images_of_pass
from ..data.training_set import (
    TrainingSet,
    check_num_classes,
    check_same_classes,
    load_training_set,
)
from ..evaluation.ground_truth import load_ground_truth, test_images
from ..schedule import describe_step, doubts
from .checkpoint_files import has_checkpoint

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Setup:
    """
    Config, checked and frozen, and data of a run.

    Attributes:
        training_set: None in an evaluation without one.
        ground_truths, test_images, test_classes: of each dataset in DATASETS.TEST, by its name:
            what ``load_ground_truth`` returns, images for Detectron2's test loader, class names.
        log: what was logged meanwhile, for the log in OUTPUT_DIR, which nobody has written to yet.
    """

    cfg: CfgNode
    training_set: TrainingSet | None
    ground_truths: dict[str, dict[str, Any]]
    test_images: dict[str, list[dict[str, Any]]]
    test_classes: dict[str, list[str]]
    log: list[logging.LogRecord]


def set_up(args: argparse.Namespace) -> Setup:
    """
    Read the config, register its datasets, read and count the training set, and read the ground
    truth of the test sets, so that what does not fit is found before anything is written or a
    process started: a ValueError or FileNotFoundError of one line. ``args`` are as
    :func:`~eql_seesaw.engine.launch` gives them to ``main`` and ``check``.
    """
    buffer = MemoryHandler(capacity=10**9, flushLevel=logging.CRITICAL + 1, flushOnClose=False)
    loggers = [logging.getLogger(name) for name in ("eql_seesaw", "detectron2")]
    for each in loggers:
        each.setLevel(logging.INFO)
        each.addHandler(buffer)
    try:
        return _set_up(args, buffer.buffer)
    finally:
        for each in loggers:
            each.removeHandler(buffer)


def _set_up(args: argparse.Namespace, log: list[logging.LogRecord]) -> Setup:
    cfg = load_config(args.config_file, args.opts)
    if has_checkpoint(cfg.OUTPUT_DIR) and not (args.resume or args.eval_only):
        raise ValueError(
            f"OUTPUT_DIR {cfg.OUTPUT_DIR} has checkpoints of an earlier run; give --resume to go "
            "on with that run, or another OUTPUT_DIR"
        )
    if args.eval_only:
        if not cfg.DATASETS.TEST:
            raise ValueError("DATASETS.TEST is empty: name a dataset to evaluate on")
        cfg = _without_missing_training_set(cfg)
    elif not cfg.DATASETS.TRAIN:
        raise ValueError("DATASETS.TRAIN is empty: name a dataset to train on")
    elif cfg.MODEL.ROI_BOX_HEAD.DECOUPLED != "none" and not cfg.MODEL.WEIGHTS:
        raise ValueError(
            f"MODEL.ROI_BOX_HEAD.DECOUPLED {cfg.MODEL.ROI_BOX_HEAD.DECOUPLED} starts with a "
            "trained detector: name its checkpoint in MODEL.WEIGHTS"
        )
    allow_pixels(cfg.INPUT.MAX_IMAGE_PIXELS)
    register_datasets(cfg)
    training_set = load_training_set(cfg, statistics_only=args.eval_only)
    groups = None if training_set is None else training_set.statistics.groups
    ground_truths, images, classes = {}, {}, {}
    for name in cfg.DATASETS.TEST:
        ground_truths[name], images[name] = read_test_set(cfg, "DATASETS.TEST", name, groups)
        categories = ground_truths[name]["categories"]
        classes[name] = [str(c.get("name", c["id"])) for c in categories]
    if training_set is not None and training_set.class_names:
        train = training_set.names[0], training_set.class_names
        for name, names in classes.items():
            # Detectron2 has names of its own for LVIS, in which training and test sets agree.
            known = MetadataCatalog.get(name).get("thing_classes") or names
            check_same_classes("DATASETS.TEST", name, known, *train)
    else:
        for name, names in classes.items():
            check_num_classes(name, names, cfg.MODEL.ROI_HEADS.NUM_CLASSES)
    return Setup(cfg, training_set, ground_truths, images, classes, log)


def read_test_set(
    cfg: CfgNode, key: str, name: str, groups: Sequence[str] | None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """
    Ground truth of a registered dataset, and its images for Detectron2's test loader.

    Args:
        key: key or option that names the dataset, for the error.
        groups: frequency groups as for ``load_ground_truth``.

    Raises:
        ValueError: it has no annotation file; or as ``load_ground_truth``.
    """
    paths = find_dataset(cfg, key, name)
    if paths is None:
        raise ValueError(f"{key}: dataset '{name}' has no annotation file")
    needs = Needs.of(cfg, is_train=False, from_coco_url=names_from_coco_url(name))
    if is_own_dataset(name):
        ground_truth = load_ground_truth(paths[0], groups, needs)
        return ground_truth, test_images(ground_truth, name)
    # Somebody else's loader may place the images itself.
    ground_truth = load_ground_truth(paths[0], groups, needs._replace(file_names=False))
    return ground_truth, get_detection_dataset_dicts(name, filter_empty=False)


def begin(setup: Setup, args: argparse.Namespace) -> None:
    """Start the log in OUTPUT_DIR, with what set-up had to say, and seed the generators."""
    cfg, rank = setup.cfg, comm.get_rank()
    for name in ("fvcore", "detectron2", "eql_seesaw"):
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=rank, name=name)
    logging.getLogger("detectron2.engine.train_loop").addFilter(_without_expected_traceback)
    logger.info(f"Environment info:\n{collect_env_info()}")
    logger.info(f"Command line arguments: {args}")
    logger.info(f"The config:\n{cfg.dump()}")
    for record in setup.log:
        logging.getLogger(record.name).handle(record)
    path = os.path.join(cfg.OUTPUT_DIR, "config.yaml")
    # That of a training stays; a training writes its own once it is known that it goes on.
    if args.eval_only and comm.is_main_process() and not os.path.exists(path):
        with atomic_file(path) as f:
            f.write(cfg.dump())
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + rank)
    gpu = "" if cfg.MODEL.DEVICE == "cpu" else f" ({torch.cuda.get_device_name()})"
    logger.info(f"{args.placement.describe()}{gpu}")
    if not args.eval_only:
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
        logger.info(describe_step(cfg, images_of_pass(cfg)))
        for doubt in doubts(cfg):
            logger.warning(doubt)


def _without_expected_traceback(record: logging.LogRecord) -> bool:
    """Of errors that a user can act on, Detectron2 would log the traceback all the same."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, EXPECTED_ERRORS):
        record.msg, record.args, record.exc_info = f"Training ends: {last_line(error)}", (), None
    return True


def _without_missing_training_set(cfg: CfgNode) -> CfgNode:
    for name in cfg.DATASETS.TRAIN:
        for path in filter(None, find_dataset(cfg, "DATASETS.TRAIN", name) or ()):
            if not os.path.exists(path):
                logger.warning(f"evaluating without the training set, which is not here: {path}")
                cfg = cfg.clone()
                cfg.defrost()
                cfg.DATASETS.TRAIN = ()
                cfg.freeze()
                return cfg
    return cfg
