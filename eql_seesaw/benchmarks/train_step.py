"""
A whole training step, forward, backward and optimizer, with each loss, beside Detectron2's own step
with its softmax head: Mask R-CNN R-50-FPN, 512 proposals an image. All have the same images, draw
the same proposals, and share all weights but those of the box predictor. Loading images is left
out.
"""

import itertools
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.engine import AMPTrainer, DefaultTrainer, SimpleTrainer
from detectron2.modeling import GeneralizedRCNN, build_model
from detectron2.structures import Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage
from torch import nn

from .. import modeling  # noqa: F401, registers our ROI heads
from ..config import merge_config
from ..data.class_statistics import ClassStatistics, write_class_statistics
from ..engine.train_step import AccumulatingTrainer
from ..losses import LOSSES
from .measure import interleaved_seconds, peak_memory
from .row import Row

CONFIG_FILE = Path(__file__).parents[2] / "configs" / "Base-mask_rcnn_FPN.yaml"
NUM_CLASSES = 1203
# Losses whose cost over the number of classes is shown, and the other numbers of classes.
GROWTH_LOSSES = ("softmax_ce", "eql", "seesaw")
GROWTH_NUM_CLASSES = (80, 13_000)
# LVIS v1: 1.27 M annotations in 100,170 images.
OBJECTS_PER_IMAGE = 13
NUM_TRAIN_IMAGES = 100_170
# Images, height, width of a step.
GPU_BATCH = (2, 800, 1333)
CPU_BATCH = (1, 320, 320)
TINY_BATCH = (1, 64, 64)
# So small that the shared weights stay as they are.
LEARNING_RATE = "1e-9"
SEED = 0
TIME_LIMIT = 1.02

# Milliseconds a step, for tests.
TINY_MODEL = (
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", "8"),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", "16"),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", "4"),
    *("MODEL.FPN.OUT_CHANNELS", "16"),
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", "50"),
    *("MODEL.RPN.POST_NMS_TOPK_TEST", "10"),
    *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "16"),
    *("MODEL.ROI_BOX_HEAD.FC_DIM", "16"),
    *("MODEL.ROI_MASK_HEAD.CONV_DIM", "8"),
    *("TEST.DETECTIONS_PER_IMAGE", "10"),
)


def rows(device: str, quick: bool) -> Iterator[Row]:
    """One for each loss; of some losses at other numbers of classes too; on a GPU also in AMP."""
    cases = [(6, tuple(LOSSES), 1)] if quick else [(NUM_CLASSES, tuple(LOSSES), 9)]
    if not quick:
        # One by one: with several large models in memory, equal steps differed by a tenth.
        cases += [(k, (loss,), 5) for k in GROWTH_NUM_CLASSES for loss in GROWTH_LOSSES]
    for is_mixed in (False, True) if device == "cuda" else (False,):
        for num_classes, losses, repetitions in cases:
            yield from _rows_of_losses(losses, num_classes, repetitions, device, is_mixed, quick)


def _rows_of_losses(
    losses: Sequence[str],
    num_classes: int,
    repetitions: int,
    device: str,
    is_mixed: bool,
    quick: bool,
) -> Iterator[Row]:
    """They and Detectron2 take turns; memory is of interest on a GPU."""
    shape = TINY_BATCH if quick else GPU_BATCH if device == "cuda" else CPU_BATCH
    num_images, height, width = shape
    batch = random_batch(*shape, num_classes)
    overrides = ("MODEL.DEVICE", device, *(TINY_MODEL if quick else ()))
    peer_model = random_model(
        "softmax_ce", num_classes, *overrides, "MODEL.ROI_HEADS.NAME", "StandardROIHeads"
    )
    models = [random_model(loss, num_classes, *overrides) for loss in losses]
    for model in models:
        share_weights(peer_model, model)
    trainers = [build_trainer(model, batch, is_mixed) for model in models]
    peer_trainer = build_detectron2_trainer(peer_model, batch, is_mixed)
    *steps, peer_step = [Step(trainer) for trainer in [*trainers, peer_trainer]]

    *seconds, peer_seconds = interleaved_seconds(
        [*steps, peer_step], repetitions, warm_up=1, device=device
    )
    memory: Sequence[int | None] = [None] * len(models)
    peer_memory = None
    if device == "cuda":
        *memory, peer_memory = [peak_memory(step, device) for step in (*steps, peer_step)]
    for index, loss in enumerate(losses):
        predictor = models[index].roi_heads.box_predictor
        is_normed = isinstance(predictor.cls_score, modeling.NormedLinear)
        yield Row(
            benchmark="train_step",
            work=f"training step, {loss}",
            against="Detectron2, softmax",
            size=f"{num_images} x {height} x {width}, {num_classes} classes",
            parameters={
                "num_classes": num_classes,
                "num_images": num_images,
                "dtype": "AMP" if is_mixed else "float32",
            },
            seconds=seconds[index],
            peer_seconds=peer_seconds,
            memory=memory[index],
            peer_memory=peer_memory,
            time_limit=TIME_LIMIT,
            note="with a normalised classifier" if is_normed else "",
        )


def random_model(loss: str, num_classes: int, *overrides: str) -> GeneralizedRCNN:
    """
    Mask R-CNN R-50-FPN with our ROI heads and random weights, in training mode.

    Args:
        loss: MODEL.ROI_BOX_HEAD.CLS_LOSS.
        num_classes: K; their statistics are long-tailed.
        overrides: KEY, VALUE, KEY, VALUE ...
    """
    counts = np.geomspace(10_000, 1, num_classes).astype(np.int64)
    statistics = ClassStatistics(counts, 2 * counts, NUM_TRAIN_IMAGES)
    with tempfile.TemporaryDirectory() as folder:
        statistics_file = os.path.join(folder, "class_statistics.json")
        write_class_statistics(statistics, statistics_file)
        settings = [
            *("DATASETS.CLASS_STATISTICS", statistics_file),
            *("MODEL.WEIGHTS", ""),
            # Frozen statistics would let the values of a random backbone grow beyond all bounds.
            *("MODEL.RESNETS.NORM", "BN"),
            *("MODEL.ROI_HEADS.NUM_CLASSES", str(num_classes)),
            *("MODEL.ROI_BOX_HEAD.CLS_LOSS", loss),
        ]
        cfg = merge_config(str(CONFIG_FILE), [*settings, *overrides])
        torch.manual_seed(SEED)
        return build_model(cfg).train()


def random_batch(num_images: int, height: int, width: int, num_classes: int) -> list[dict]:
    """Images of noise in Detectron2's format, with objects of any class and polygons as masks."""
    rng = np.random.default_rng(SEED)
    return [_random_image(rng, height, width, num_classes) for _ in range(num_images)]


def build_trainer(
    model: nn.Module, batch: list[dict], mixed_precision: bool
) -> AccumulatingTrainer:
    """Our training loop, over the same batch again and again."""
    optimizer = _build_optimizer(model)
    return AccumulatingTrainer(
        model, itertools.repeat(batch), optimizer, mixed_precision=mixed_precision
    )


def build_detectron2_trainer(
    model: nn.Module, batch: list[dict], mixed_precision: bool
) -> SimpleTrainer:
    """Detectron2's training loop, over the same batch again and again."""
    trainer = AMPTrainer if mixed_precision else SimpleTrainer
    return trainer(model, itertools.repeat(batch), _build_optimizer(model))


class Step:
    """One step of a trainer, the same random numbers each time."""

    def __init__(self, trainer: SimpleTrainer):
        self.trainer = trainer
        self.storage = EventStorage()

    def __call__(self) -> None:
        torch.manual_seed(SEED)
        with self.storage:
            self.trainer.run_step()
        self.storage.step()


def _build_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    cfg = merge_config(str(CONFIG_FILE), ["SOLVER.BASE_LR", LEARNING_RATE])
    return DefaultTrainer.build_optimizer(cfg, model)


def share_weights(source: nn.Module, target: nn.Module) -> None:
    """Let a model have another's modules, all but the box predictor."""
    target.backbone = source.backbone
    target.proposal_generator = source.proposal_generator
    for name in ("box_head", "mask_head"):
        setattr(target.roi_heads, name, getattr(source.roi_heads, name))


def _random_image(rng: np.random.Generator, height: int, width: int, num_classes: int) -> dict:
    sides = rng.uniform(0.1, 0.5, (OBJECTS_PER_IMAGE, 2)) * [width, height]
    corners = rng.random((OBJECTS_PER_IMAGE, 2)) * ([width, height] - sides)
    angles = np.linspace(0, 2 * np.pi, 14, endpoint=False)
    ellipse = np.stack([np.cos(angles), np.sin(angles)], axis=1) / 2 + 0.5
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(np.concatenate([corners, corners + sides], axis=1))
    instances.gt_classes = torch.from_numpy(rng.integers(num_classes, size=OBJECTS_PER_IMAGE))
    instances.gt_masks = PolygonMasks(
        [[(corner + side * ellipse).ravel()] for corner, side in zip(corners, sides, strict=True)]
    )
    pixels = rng.integers(256, size=(3, height, width), dtype=np.uint8)
    return {
        "file_name": "noise",
        "image": torch.from_numpy(pixels),
        "height": height,
        "width": width,
        "instances": instances,
    }
