"""The last words of a training run."""

import logging
import os
import shlex
import sys

from detectron2.config import CfgNode
from detectron2.utils import comm

from ..config_files import PACKAGE
from ..losses import LOSSES
from .evaluation import inference_folder

logger = logging.getLogger(__name__)


def log_next_steps(cfg: CfgNode) -> None:
    """Log which of a finished run's files are worth looking at, and commands to go on with."""
    if not comm.is_main_process():
        return
    output_dir = cfg.OUTPUT_DIR
    files = [(os.path.join(output_dir, "metrics.json"), "losses, accuracies and AP by iteration")]
    for dataset_name in cfg.DATASETS.TEST:
        folder = inference_folder(cfg, dataset_name)
        files.append((os.path.join(folder, "per_category.csv"), "AP of every category"))
        if cfg.TEST.REPORT:
            report = os.path.join(folder, "report", "index.html")
            files.append((report, "the whole evaluation, to open in a browser"))
        if cfg.TEST.NUM_PICTURES > 0:
            picture = os.path.join(folder, "predictions.png")
            files.append((picture, "ground truth beside predictions"))
    python, script = (
        min(path, os.path.relpath(path), key=len)
        for path in (sys.executable, os.path.abspath(sys.argv[0]))
    )
    # Started by python -m, which then has the module's file there.
    is_module = os.path.abspath(sys.argv[0]) == os.path.join(PACKAGE, "train.py")
    program = [python, "-m", "eql_seesaw.train"] if is_module else [python, script]
    # Detectron2 writes the whole config there, overrides included.
    config = ["--config-file", os.path.join(output_dir, "config.yaml")]
    weights = ["--weights", os.path.join(output_dir, "model_final.pth")]
    run = [*program, *config]
    commands = [[python, "-m", "tensorboard.main", "--logdir", output_dir]]
    if cfg.DATASETS.TEST:
        commands.append([*run, "--eval-only", "--resume"])
    commands.append([python, "-m", "eql_seesaw.predict", *config, *weights, "PICTURE_OR_FOLDER"])
    if cfg.MODEL.ROI_BOX_HEAD.DECOUPLED == "none":
        other = next(name for name in LOSSES if name != cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS)
        changes = ["MODEL.ROI_BOX_HEAD.CLS_LOSS", other, "OUTPUT_DIR", f"{output_dir}_{other}"]
        commands.append([*run, *changes])
    lines = ["Files to look at:", *(f"  {path}  ({what})" for path, what in files)]
    lines += ["Next, for example:", *(f"  {shlex.join(command)}" for command in commands)]
    logger.info("\n".join(lines))
