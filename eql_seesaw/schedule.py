"""Learning rate and iterations for another number of images per batch."""

import logging

from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer

logger = logging.getLogger(__name__)

SCALED_KEYS = (
    "SOLVER.IMS_PER_BATCH",
    "SOLVER.BASE_LR",
    "SOLVER.MAX_ITER",
    "SOLVER.STEPS",
    "SOLVER.WARMUP_ITERS",
    "SOLVER.CHECKPOINT_PERIOD",
    "TEST.EVAL_PERIOD",
)


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


def scale_from_reference(cfg: CfgNode) -> CfgNode:
    """
    The config with its schedule scaled from SOLVER.REFERENCE_IMS_PER_BATCH, the batch that it was
    written for, to SOLVER.IMS_PER_BATCH, which is logged. The reference is then the batch itself,
    so that the config in OUTPUT_DIR is not scaled again.
    """
    batch, reference = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.REFERENCE_IMS_PER_BATCH
    if reference == batch or min(reference, batch) < 1:
        return cfg
    written = cfg.clone()
    written.defrost()
    written.SOLVER.IMS_PER_BATCH = reference
    scaled = scale_to_batch(written, batch)
    scaled.SOLVER.REFERENCE_IMS_PER_BATCH = batch
    values = scaled_values(cfg, scaled).items()
    changes = ", ".join(f"{key} {old} -> {new}" for key, (old, new) in values)
    logger.info(f"scaled from a batch of {reference} to {batch}: {changes}")
    return scaled


def scaled_values(cfg: CfgNode, scaled: CfgNode) -> dict[str, tuple[object, object]]:
    """Values that scaling changed: {key: (value before, value after)}."""
    values = {key: (_value(cfg, key), _value(scaled, key)) for key in SCALED_KEYS}
    return {key: pair for key, pair in values.items() if pair[0] != pair[1]}


def describe_step(cfg: CfgNode, images_per_pass: int) -> str:
    """Parts of a step, for the log: images, processes, passes, learning rate, precision."""
    solver = cfg.SOLVER
    passes = solver.ACCUMULATION_STEPS
    processes = solver.IMS_PER_BATCH // (passes * images_per_pass)
    precision = f", {solver.AMP.PRECISION} where autocast allows" if solver.AMP.ENABLED else ""
    return (
        f"a step is {solver.IMS_PER_BATCH} images: {processes} process(es) x {passes} pass(es) x "
        f"{images_per_pass} image(s); learning rate {solver.BASE_LR:g}, {solver.MAX_ITER} "
        f"iterations{precision}"
    )


def doubts(cfg: CfgNode) -> list[str]:
    """Settings that can be meant, but seldom are; a line each, for the log."""
    found = []
    solver, stages = cfg.SOLVER, cfg.MODEL.BACKBONE.FREEZE_AT
    if solver.WARMUP_ITERS >= solver.MAX_ITER:
        found.append(
            f"SOLVER.WARMUP_ITERS is {solver.WARMUP_ITERS} and SOLVER.MAX_ITER {solver.MAX_ITER}: "
            f"the learning rate never reaches {solver.BASE_LR:g}"
        )
    if stages and not cfg.MODEL.WEIGHTS:
        found.append(
            f"MODEL.WEIGHTS is empty and MODEL.BACKBONE.FREEZE_AT {stages}: the first {stages} "
            "stage(s) of the backbone keep their random weights; set FREEZE_AT to 0"
        )
    backbone, weights = cfg.MODEL.BACKBONE.NAME, cfg.MODEL.WEIGHTS
    if backbone == "build_timm_fpn_backbone" and cfg.MODEL.TIMM.FREEZE_BN and not weights:
        found.append(
            "MODEL.WEIGHTS is empty and MODEL.TIMM.FREEZE_BN true: batch normalisation, if the "
            "model has any, normalises nothing; set it to False"
        )
    if "resnet" in backbone and cfg.MODEL.RESNETS.NORM == "FrozenBN" and not weights:
        found.append(
            "MODEL.WEIGHTS is empty and MODEL.RESNETS.NORM FrozenBN, which then normalises "
            "nothing, so that training may diverge; set it to GN"
        )
    return found


def _value(cfg: CfgNode, key: str) -> object:
    section, name = key.split(".")
    return cfg[section][name]
