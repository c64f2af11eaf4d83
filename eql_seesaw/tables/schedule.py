"""Schedules for another number of images per batch."""

from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer

# Detectron2's and mmdetection's number for GPUs of 8 GB and more.
IMAGES_PER_GPU = 2
SCALED_KEYS = (
    "SOLVER.IMS_PER_BATCH",
    "SOLVER.BASE_LR",
    "SOLVER.MAX_ITER",
    "SOLVER.STEPS",
    "SOLVER.WARMUP_ITERS",
    "SOLVER.CHECKPOINT_PERIOD",
    "TEST.EVAL_PERIOD",
)


def default_batch(cfg: CfgNode, num_gpus: int) -> int:
    """Two images per GPU, but where that is more than the recipe's batch, the recipe's."""
    batch = min(cfg.SOLVER.IMS_PER_BATCH, IMAGES_PER_GPU * num_gpus)
    return max(num_gpus, batch - batch % num_gpus)


def scale_to_batch(cfg: CfgNode, images_per_batch: int) -> CfgNode:
    """
    A copy for another batch, by Detectron2's linear rule: the learning rate grows with the batch,
    and iterations shrink, so that as many images are seen.
    """
    cfg = cfg.clone()
    cfg.defrost()
    # To Detectron2, a config for n workers with one image each.
    cfg.SOLVER.REFERENCE_WORLD_SIZE = cfg.SOLVER.IMS_PER_BATCH
    cfg = DefaultTrainer.auto_scale_workers(cfg, images_per_batch)
    cfg.SOLVER.REFERENCE_WORLD_SIZE = 0
    # 0.015 rather than 0.015000000000000001, to be typed.
    cfg.SOLVER.BASE_LR = float(f"{cfg.SOLVER.BASE_LR:.6g}")
    return cfg


def batch_settings(cfg: CfgNode, images_per_batch: int) -> dict[str, object]:
    """KEY: VALUE that turn a config into the one of :func:`scale_to_batch`."""
    if images_per_batch == cfg.SOLVER.IMS_PER_BATCH:
        return {}
    scaled = scale_to_batch(cfg, images_per_batch)
    values = {key: (_value(cfg, key), _value(scaled, key)) for key in SCALED_KEYS}
    return {key: new for key, (old, new) in values.items() if old != new}


def _value(cfg, key):
    section, name = key.split(".")
    return cfg[section][name]
