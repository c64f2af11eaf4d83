"""From a config file and overrides to a checked config."""

import argparse
import contextlib
import difflib
import logging
import os
from collections.abc import Iterator

import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from ..atomic_write import atomic_file
from ..config import add_long_tail_config, validate_config
from ..data.class_statistics import get_class_statistics
from ..data.register import find_dataset, register_datasets
from ..data.same_categories import check_same_categories
from ..data.train_loader import images_of_pass
from ..evaluation.hotcoco_engine import check_max_detections
from ..evaluation.lvis_evaluation import ENGINES
from ..evaluation.results_table import METRICS
from .schedule import describe_scaling, describe_step, doubts, scale_from_reference

logger = logging.getLogger(__name__)


def load_config(config_file: str, overrides: list[str]) -> CfgNode:
    """
    Args:
        config_file: YAML, which may name its ``_BASE_``. It cannot run code.
        overrides: KEY VALUE KEY VALUE ...

    Returns:
        The frozen config; no data is touched. A config for "cuda" (Detectron2's default) on a
        machine without a GPU runs on the CPU. Its schedule is scaled to the batch where
        SOLVER.REFERENCE_IMS_PER_BATCH asks for it.

    Raises:
        ValueError: an unknown key or a wrong value, in one line.
        FileNotFoundError: no such file.
    """
    cfg = scale_from_reference(merge_config(config_file, overrides))
    if cfg.MODEL.DEVICE == "cuda" and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    validate_config(cfg)
    validate_test_config(cfg)
    cfg.freeze()
    return cfg


def merge_config(config_file: str, overrides: list[str]) -> CfgNode:
    """As :func:`load_config`, but the values are not checked, nor the config frozen."""
    cfg = get_cfg()
    add_long_tail_config(cfg)
    if config_file:
        with _one_line_errors(f"config file {config_file}", cfg):
            cfg.merge_from_file(config_file, allow_unsafe=False)
    for option in overrides:
        if option.startswith("--"):
            raise ValueError(f"{option} must stand before the KEY VALUE pairs")
    with _one_line_errors(f"overrides {' '.join(overrides)}", cfg):
        if "MODEL.ROI_BOX_HEAD.NORMED_CLASSIFIER" in overrides:
            # yacs would hold the key, "auto" or a truth value, to the type that the file gave it.
            cfg.MODEL.ROI_BOX_HEAD.NORMED_CLASSIFIER = None
        cfg.merge_from_list(overrides)
    return cfg


def validate_test_config(cfg: CfgNode) -> None:
    """
    Raises:
        ValueError: a wrong value of our keys under TEST, in one line.
    """
    if cfg.TEST.LVIS_MAX_DETECTIONS < 1:
        raise ValueError(
            f"TEST.LVIS_MAX_DETECTIONS is {cfg.TEST.LVIS_MAX_DETECTIONS}; it must be at least 1"
        )
    if cfg.TEST.LVIS_ENGINE not in ENGINES:
        raise ValueError(
            f"TEST.LVIS_ENGINE is {cfg.TEST.LVIS_ENGINE!r}; it must be one of {', '.join(ENGINES)}"
        )
    if cfg.TEST.LVIS_ENGINE == "hotcoco":
        check_max_detections(cfg.TEST.LVIS_MAX_DETECTIONS)
    tasks = ("bbox", "segm") if cfg.MODEL.MASK_ON else ("bbox",)
    # Detectron2 puts the dataset's name before the metric where there are several.
    several = len(cfg.DATASETS.TEST) > 1
    prefixes = [f"{name}/" for name in cfg.DATASETS.TEST] if several else [""]
    metrics = [
        f"{prefix}{task}/{name}" for prefix in prefixes for task in tasks for name in METRICS
    ]
    if cfg.TEST.BEST_METRIC not in ("", *metrics):
        raise ValueError(
            f"TEST.BEST_METRIC is {cfg.TEST.BEST_METRIC!r}; it must be empty or one of "
            f"{', '.join(metrics)}"
        )


@contextlib.contextmanager
def _one_line_errors(where: str, cfg: CfgNode) -> Iterator[None]:
    """Turn what yaml, yacs and fvcore raise over a config into one line."""
    keys = list(_keys(cfg))
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{where}: no such file: {error.filename}") from None
    except (
        AssertionError,
        AttributeError,  # a file that holds no mapping
        KeyError,
        TypeError,
        ValueError,
        yaml.YAMLError,
    ) as error:
        reason = error.args[0] if isinstance(error, KeyError) else error
        line = f"{where}: {' '.join(str(reason).split())}"
        if "Non-existent" in line:  # yacs, of a key in a file or of an override
            similar = difflib.get_close_matches(line.split()[-1], keys, n=1)
            line += "".join(f"; did you mean {key}?" for key in similar)
        elif "<class 'tuple'> vs. <class 'str'>" in line:
            line += "; write a list: [1, 2]"
        elif "CfgNode'> vs. " in line:
            line += "; name the keys inside it one by one, such as MODEL.ROI_HEADS.NUM_CLASSES 5"
        raise ValueError(line) from None


def _keys(node: CfgNode, prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        yield prefix + key
        if isinstance(value, CfgNode):
            yield from _keys(value, f"{prefix}{key}.")


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
