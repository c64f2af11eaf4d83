"""From a config file and overrides to a checked config."""

import argparse
import contextlib
import logging
import os
from collections.abc import Iterator

import torch
from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from ..atomic_write import atomic_file
from ..config import load_config, merge_config
from ..data.class_statistics import get_class_statistics
from ..data.register import find_dataset, register_datasets
from ..data.same_categories import check_same_categories
from ..data.train_loader import images_of_pass
from ..schedule import describe_scaling, describe_step, doubts

logger = logging.getLogger(__name__)


def set_up_data(cfg: CfgNode, eval_only: bool = False) -> CfgNode:
    """
    Register the config's datasets, count the classes of its training set, and compare them with
    those of its test sets, so that what does not fit is found before anything is written or a
    process launched.

    Args:
        eval_only: go on without the training set if it is not on this machine.

    Returns:
        The config, without DATASETS.TRAIN where that is not needed and not there.

    Raises:
        ValueError, FileNotFoundError: in one line.
    """
    if eval_only:
        if not cfg.DATASETS.TEST:
            raise ValueError("DATASETS.TEST is empty: name a dataset to evaluate on")
        cfg = _without_missing_training_set(cfg)
    elif cfg.MODEL.ROI_BOX_HEAD.DECOUPLED != "none" and not cfg.MODEL.WEIGHTS:
        raise ValueError(
            f"MODEL.ROI_BOX_HEAD.DECOUPLED {cfg.MODEL.ROI_BOX_HEAD.DECOUPLED} starts with a "
            "trained detector: name its checkpoint in MODEL.WEIGHTS"
        )
    register_datasets(cfg)
    if cfg.DATASETS.TRAIN or cfg.DATASETS.CLASS_STATISTICS or not eval_only:
        get_class_statistics(
            cfg.DATASETS.TRAIN, cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.DATASETS.CLASS_STATISTICS
        )
    check_same_categories(cfg.DATASETS.TRAIN, cfg.DATASETS.TEST)
    return cfg


def set_up(args: argparse.Namespace) -> CfgNode:
    """
    Everything that a process does before it trains or evaluates: config, datasets, loggers, seed,
    and the config written to OUTPUT_DIR.

    Args:
        args: of :func:`~eql_seesaw.command_line.argument_parser`, as
            :func:`~eql_seesaw.engine.launch` gives them to ``main``.
    """
    cfg = load_config(args.config_file, args.opts)
    step = "" if args.eval_only else describe_step(cfg, images_of_pass(cfg))
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="eql_seesaw")
    cfg = set_up_data(cfg, args.eval_only)
    with _kept_config_file(cfg.OUTPUT_DIR):
        default_setup(cfg, args)
    gpu = "" if cfg.MODEL.DEVICE == "cpu" else f" ({torch.cuda.get_device_name()})"
    logger.info(f"{args.placement.describe()}{gpu}")
    if step:
        logger.info(step)
        scaling = describe_scaling(merge_config(args.config_file, args.opts), cfg)
        if scaling:
            logger.info(scaling)
        for doubt in doubts(cfg):
            logger.warning(doubt)
    if comm.get_world_size() > 1 and cfg.MODEL.DEVICE == "cpu" and torch.cuda.is_available():
        raise ValueError(
            "MODEL.DEVICE is cpu, but several processes on a machine with GPUs talk over NCCL; "
            "hide the GPUs with CUDA_VISIBLE_DEVICES="
        )
    return cfg


@contextlib.contextmanager
def _kept_config_file(output_dir: str) -> Iterator[None]:
    """
    Detectron2's set-up writes config.yaml before anybody knows whether the run goes on. That of the
    run in this folder stays; :meth:`LongTailTrainer.resume_or_load` writes the new one.
    """
    path = os.path.join(output_dir, "config.yaml")
    if not (comm.is_main_process() and os.path.exists(path)):
        yield
        return
    with open(path) as f:
        text = f.read()
    try:
        yield
    finally:
        with atomic_file(path) as f:
            f.write(text)


def _without_missing_training_set(cfg: CfgNode) -> CfgNode:
    datasets = [find_dataset(cfg, "DATASETS.TRAIN", name) for name in cfg.DATASETS.TRAIN]
    missing = [path for paths in datasets if paths for path in paths if not os.path.exists(path)]
    if not missing:
        return cfg
    logger.warning(f"evaluating without the training set, which is not here: {missing[0]}")
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASETS.TRAIN = ()
    cfg.freeze()
    return cfg
