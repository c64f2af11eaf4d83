"""Models small enough to build, train a step and infer within a fraction of a second on a CPU."""

import numpy as np
import torch
from detectron2.config import get_cfg
from detectron2.structures import BitMasks, Boxes, Instances

from eql_seesaw.config import add_long_tail_config, validate_config
from eql_seesaw.data.class_statistics import ClassStatistics, write_class_statistics

NUM_CLASSES = 6
# Two rare, two common and two frequent classes, on both sides of each border.
IMAGE_COUNTS = [3, 10, 11, 100, 101, 400]
GROUPS = ["r", "r", "c", "c", "f", "f"]
STATISTICS = {
    "image_counts": IMAGE_COUNTS,
    "instance_counts": [2 * count for count in IMAGE_COUNTS],
    "num_images": 500,
    "num_steps": 0,
}
IMAGE_SIZE = 64

FPN = [
    *("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone"),
    *("MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"]),
    *("MODEL.FPN.IN_FEATURES", ["res2", "res3", "res4", "res5"]),
    *("MODEL.FPN.OUT_CHANNELS", 16),
    *("MODEL.ANCHOR_GENERATOR.SIZES", [[8], [16], [32], [48], [64]]),
    *("MODEL.RPN.IN_FEATURES", ["p2", "p3", "p4", "p5", "p6"]),
    *("MODEL.ROI_HEADS.IN_FEATURES", ["p2", "p3", "p4", "p5"]),
    *("MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead"),
    *("MODEL.ROI_BOX_HEAD.NUM_FC", 1),
    *("MODEL.ROI_BOX_HEAD.FC_DIM", 32),
]
ROI_HEADS = {
    "LongTailROIHeads": FPN,
    "LongTailCascadeROIHeads": [*FPN, "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True],
    "LongTailRes5ROIHeads": ["MODEL.ANCHOR_GENERATOR.SIZES", [[16, 32]]],
}


def tiny_config(folder, roi_heads="LongTailROIHeads", *overrides):
    """
    Args:
        folder: where the file of class statistics is written.
        roi_heads: a key of ROI_HEADS.
        overrides: KEY, VALUE, KEY, VALUE ...
    """
    statistics_file = str(folder / "class_statistics.json")
    statistics = ClassStatistics(
        image_counts=np.array(STATISTICS["image_counts"]),
        instance_counts=np.array(STATISTICS["instance_counts"]),
        num_images=STATISTICS["num_images"],
    )
    write_class_statistics(statistics, statistics_file)
    cfg = get_cfg()
    add_long_tail_config(cfg)
    settings = [
        *("DATASETS.CLASS_STATISTICS", statistics_file),
        *("MODEL.META_ARCHITECTURE", "GeneralizedRCNN"),
        *("MODEL.DEVICE", "cpu"),
        *("MODEL.MASK_ON", True),
        *("MODEL.BACKBONE.FREEZE_AT", 0),
        *("MODEL.RESNETS.NORM", "BN"),
        *("MODEL.RESNETS.STEM_OUT_CHANNELS", 8),
        *("MODEL.RESNETS.RES2_OUT_CHANNELS", 16),
        *("MODEL.RESNETS.WIDTH_PER_GROUP", 4),
        *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 50),
        *("MODEL.RPN.POST_NMS_TOPK_TEST", 20),
        *("MODEL.ROI_HEADS.NAME", roi_heads),
        *("MODEL.ROI_HEADS.NUM_CLASSES", NUM_CLASSES),
        *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 16),
        *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0),
        *("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 4),
        *("MODEL.ROI_MASK_HEAD.NUM_CONV", 1),
        *("MODEL.ROI_MASK_HEAD.CONV_DIM", 8),
        *("MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", 4),
        *("TEST.DETECTIONS_PER_IMAGE", 10),
        *ROI_HEADS[roi_heads],
        *overrides,
    ]
    cfg.merge_from_list(settings)
    validate_config(cfg)
    cfg.freeze()
    return cfg


def training_batch(classes=((0, 2), (4, 5))):
    """One image for each tuple of classes, with one object for each class."""
    return [_image(image_classes) for image_classes in classes]


def _image(classes):
    boxes = torch.tensor([[8.0, 8, 40, 32], [24.0, 20, 56, 60]])[: len(classes)]
    masks = torch.zeros(len(classes), IMAGE_SIZE, IMAGE_SIZE, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y0:y1, x0:x1] = True
    instances = Instances((IMAGE_SIZE, IMAGE_SIZE))
    instances.gt_boxes = Boxes(boxes)
    instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
    instances.gt_masks = BitMasks(masks)
    image = torch.randint(0, 256, (3, IMAGE_SIZE, IMAGE_SIZE), dtype=torch.uint8)
    return {
        "image": image,
        "height": IMAGE_SIZE,
        "width": IMAGE_SIZE,
        "instances": instances,
    }
