"""Schedules for another number of images per batch."""

from detectron2.config import CfgNode

from ..engine.schedule import scale_to_batch

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


def batch_settings(cfg: CfgNode, images_per_batch: int) -> dict[str, object]:
    """KEY: VALUE that turn a config into the one of ``scale_to_batch``."""
    if images_per_batch == cfg.SOLVER.IMS_PER_BATCH:
        return {}
    scaled = scale_to_batch(cfg, images_per_batch)
    values = {key: (_value(cfg, key), _value(scaled, key)) for key in SCALED_KEYS}
    return {key: new for key, (old, new) in values.items() if old != new}


def _value(cfg, key):
    section, name = key.split(".")
    return cfg[section][name]
