"""From a config file and overrides to a checked config."""

import argparse
import contextlib

import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from ..config import add_long_tail_config, validate_config
from ..data.class_statistics import ClassStatistics, get_class_statistics
from ..data.register import register_datasets


def load_config(config_file: str, overrides: list[str]) -> CfgNode:
    """
    Args:
        config_file: YAML, which may name its ``_BASE_``. It cannot run code.
        overrides: KEY VALUE KEY VALUE ...

    Returns:
        The frozen config; no data is touched. A config for "cuda" (Detectron2's default) on a
        machine without a GPU runs on the CPU.

    Raises:
        ValueError: an unknown key or a wrong value, in one line.
        FileNotFoundError: no such file.
    """
    cfg = get_cfg()
    add_long_tail_config(cfg)
    if config_file:
        with _one_line_errors(f"config file {config_file}"):
            cfg.merge_from_file(config_file, allow_unsafe=False)
    with _one_line_errors(f"overrides {' '.join(overrides)}"):
        cfg.merge_from_list(overrides)
    if cfg.MODEL.DEVICE == "cuda" and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    validate_config(cfg)
    cfg.freeze()
    return cfg


@contextlib.contextmanager
def _one_line_errors(where: str):
    """Turn what yaml, yacs and fvcore raise over a config into one line."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{where}: no such file: {error.filename}") from None
    except (AssertionError, KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        reason = error.args[0] if isinstance(error, KeyError) else error
        raise ValueError(f"{where}: {' '.join(str(reason).split())}") from None


def set_up_data(cfg: CfgNode) -> ClassStatistics:
    """
    Register the config's datasets and count the classes of its training set, so that what does not
    fit is found before anything is written or a process launched.

    Raises:
        ValueError, FileNotFoundError: as :func:`register_datasets` and
            :func:`get_class_statistics`.
    """
    register_datasets(cfg)
    return get_class_statistics(
        cfg.DATASETS.TRAIN, cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.DATASETS.CLASS_STATISTICS
    )


def set_up(args: argparse.Namespace) -> CfgNode:
    """
    Everything that a process does before it trains or evaluates: config, datasets, loggers, seed,
    and the config written to OUTPUT_DIR.

    Args:
        args: of Detectron2's ``default_argument_parser``.
    """
    cfg = load_config(args.config_file, args.opts)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="eql_seesaw")
    set_up_data(cfg)
    default_setup(cfg, args)
    return cfg
