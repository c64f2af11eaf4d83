"""Schedules for another number of images per batch."""

from detectron2.config import CfgNode

from ..schedule import scale_to_batch, scaled_values

# Detectron2's and mmdetection's number for GPUs of 8 GB and more.
IMAGES_PER_GPU = 2


def default_batch(cfg: CfgNode, num_gpus: int) -> int:
    """Two images per GPU, but where that is more than the recipe's batch, the recipe's."""
    batch = min(cfg.SOLVER.IMS_PER_BATCH, IMAGES_PER_GPU * num_gpus)
    return max(num_gpus, batch - batch % num_gpus)


def batch_settings(cfg: CfgNode, images_per_batch: int) -> dict[str, object]:
    """KEY: VALUE that turn a config into the one of ``scale_to_batch``."""
    if images_per_batch == cfg.SOLVER.IMS_PER_BATCH:
        return {}
    scaled = scale_to_batch(cfg, images_per_batch)
    return {key: new for key, (_, new) in scaled_values(cfg, scaled).items()}
