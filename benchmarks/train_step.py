"""
A training step, forward, backward and optimizer, with each loss, beside Detectron2's own step with
its softmax head: Mask R-CNN R-50-FPN, 512 proposals an image, random weights and images. As of a
trained RPN, a quarter of the proposals are foreground. All draw the same proposals and share
all weights but those of the box predictor. Loading images is left out.

    python -m benchmarks.train_step
"""

import itertools
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from detectron2.engine import AMPTrainer, DefaultTrainer, SimpleTrainer
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage
from torch import nn

import eql_seesaw.modeling  # noqa: F401, registers our ROI heads
from eql_seesaw.config import merge_config
from eql_seesaw.data.class_statistics import ClassStatistics, write_class_statistics
from eql_seesaw.engine.train_step import AccumulatingTrainer
from eql_seesaw.losses import LOSSES

from .measure import arguments, compare, print_table

CONFIG_FILE = str(Path(__file__).parents[1] / "configs" / "Base-mask_rcnn_FPN.yaml")
# LVIS v1: 1.27 M annotations in 100,170 images.
OBJECTS_PER_IMAGE, NUM_TRAIN_IMAGES = 13, 100_170
# Images, height, width of a step.
GPU_BATCH, CPU_BATCH, LARGE_BATCH, QUICK_BATCH = (
    (2, 800, 1333),
    (1, 320, 320),
    (1, 800, 800),
    (1, 64, 64),
)
DETECTRON2_HEADS = (
    *("MODEL.ROI_HEADS.NAME", "StandardROIHeads"),
    *("MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead"),
)
# Classes, loss, images on a CPU, proposals around each object (20 fill a quarter of the sample, for
# which Detectron2's masks of 13,000 classes would be 5 GB).
CASES = (
    *((1203, loss, CPU_BATCH, 20) for loss in LOSSES),
    *((1203, loss, LARGE_BATCH, 20) for loss in ("softmax_ce", "seesaw")),
    *((80, loss, CPU_BATCH, 20) for loss in ("softmax_ce", "eql", "seesaw")),
    *((13_000, loss, CPU_BATCH, 1) for loss in ("softmax_ce", "eql", "seesaw")),
)
QUICK_CASES = ((6, "seesaw", QUICK_BATCH, 1),)
QUICK_MODEL = (
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", "8", "MODEL.RESNETS.RES2_OUT_CHANNELS", "16"),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", "4", "MODEL.FPN.OUT_CHANNELS", "16"),
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", "50", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "16"),
    *("MODEL.ROI_BOX_HEAD.FC_DIM", "16", "MODEL.ROI_MASK_HEAD.CONV_DIM", "8"),
)


def random_model(num_classes: int, *options: str) -> nn.Module:
    """Mask R-CNN R-50-FPN with long-tailed statistics of K classes, in training mode."""
    counts = np.geomspace(10_000, 1, num_classes).astype(np.int64)
    with tempfile.TemporaryDirectory() as folder:
        statistics_file = os.path.join(folder, "class_statistics.json")
        write_class_statistics(
            ClassStatistics(counts, 2 * counts, NUM_TRAIN_IMAGES), statistics_file
        )
        settings = [
            *("DATASETS.CLASS_STATISTICS", statistics_file),
            *("MODEL.WEIGHTS", ""),
            # Frozen statistics would let the values of a random backbone grow beyond all bounds.
            *("MODEL.RESNETS.NORM", "BN"),
            *("MODEL.ROI_HEADS.NUM_CLASSES", str(num_classes)),
        ]
        cfg = merge_config(CONFIG_FILE, [*settings, *options])
        torch.manual_seed(0)
        return build_model(cfg).train()


def random_image(rng: np.random.Generator, height: int, width: int, num_classes: int) -> dict:
    """Noise in Detectron2's format, with objects of any class and ellipses as masks."""
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
    pixels = torch.from_numpy(rng.integers(256, size=(3, height, width), dtype=np.uint8))
    size = {"height": height, "width": width}
    return {"file_name": "noise", "image": pixels, **size, "instances": instances}


class TrainedRPN(nn.Module):
    """An RPN whose proposals begin with some around each object."""

    def __init__(self, rpn: nn.Module, per_object: int):
        super().__init__()
        self.rpn = rpn
        self.per_object = per_object

    def forward(self, images, features, gt_instances):
        proposals, losses = self.rpn(images, features, gt_instances)
        for index, (found, objects) in enumerate(zip(proposals, gt_instances, strict=True)):
            boxes = objects.gt_boxes.tensor.repeat(self.per_object, 1)
            sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
            around = Instances(found.image_size)
            around.proposal_boxes = Boxes(boxes + 0.05 * sides * torch.randn_like(boxes))
            around.objectness_logits = torch.zeros_like(boxes[:, 0])
            proposals[index] = Instances.cat([around, found])
        return proposals, losses


class Step:
    """One step of a trainer over the same batch, with the same random numbers each time."""

    def __init__(self, model: nn.Module, batch: list[dict], is_peer: bool, mixed: bool):
        # So small a rate that the shared weights stay as they are.
        cfg = merge_config(CONFIG_FILE, ["SOLVER.BASE_LR", "1e-9"])
        optimizer = DefaultTrainer.build_optimizer(cfg, model)
        batches = itertools.repeat(batch)
        self.storage = EventStorage()
        self.trainer: SimpleTrainer
        if is_peer:
            self.trainer = (AMPTrainer if mixed else SimpleTrainer)(model, batches, optimizer)
        else:
            precision = torch.float16 if mixed else None
            self.trainer = AccumulatingTrainer(model, batches, optimizer, mixed_precision=precision)

    def __call__(self) -> None:
        torch.manual_seed(0)
        with self.storage:
            self.trainer.run_step()
        self.storage.step()


def main() -> None:
    args = arguments(__doc__)
    device = args.device
    options = ["MODEL.DEVICE", device, *(QUICK_MODEL if args.quick else ())]
    rows = []
    for mixed in (False, True) if device == "cuda" else (False,):
        for num_classes, loss, shape, per_object in QUICK_CASES if args.quick else CASES:
            if device == "cuda" and shape == CPU_BATCH:
                shape = GPU_BATCH
            num_images, height, width = shape
            rng = np.random.default_rng(0)
            batch = [random_image(rng, height, width, num_classes) for _ in range(num_images)]
            peer = random_model(num_classes, *options, *DETECTRON2_HEADS)
            peer.proposal_generator = TrainedRPN(peer.proposal_generator, per_object)
            model = random_model(num_classes, *options, "MODEL.ROI_BOX_HEAD.CLS_LOSS", loss)
            model.backbone, model.proposal_generator = peer.backbone, peer.proposal_generator
            model.roi_heads.box_head = peer.roi_heads.box_head
            for name, layer in peer.roi_heads.mask_head.named_children():
                setattr(model.roi_heads.mask_head, name, layer)
            ours = Step(model, batch, is_peer=False, mixed=mixed)
            theirs = Step(peer, batch, is_peer=True, mixed=mixed)
            size = f"{num_images} x {height} x {width}, {num_classes} classes"
            size += ", AMP" if mixed else ""
            work = f"training step, {loss}"
            rows.append(compare(work, "Detectron2's, softmax", size, ours, theirs, args))
    print_table("Training step", rows)


if __name__ == "__main__":
    main()
