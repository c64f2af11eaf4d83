"""
Mask head beside Detectron2's, the same masks and gradients; and the evaluation of an image, from
pixels to results, beside Detectron2's.

    python -m benchmarks.mask_head
"""

import functools

import numpy as np
import torch
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn

from eql_seesaw.evaluation.detections import Detections
from eql_seesaw.evaluation.rle_postprocessing import with_rles
from eql_seesaw.modeling import OwnClassMaskRCNNConvUpsampleHead

from .measure import arguments, compare, print_table
from .train_step import DETECTRON2_HEADS, QUICK_MODEL, random_image, random_model

# Classes, 1 for class-agnostic masks; boxes in inference and in training. Detectron2's masks of 300
# boxes would be 12 GB for 13,000 classes.
CASES = ((80, 300, 128), (1203, 300, 128), (13_000, 30, 30), (1, 300, 128))
QUICK_CASES = ((5, 40, 40), (1, 40, 40))
# Sides of the image of an evaluation, and classes.
IMAGES, QUICK_IMAGES = ((320, 1203), (800, 1203)), ((64, 6),)
# With such a classifier a proposal has about five candidates, as late in training.
CLASSIFIER_STD, MASK_STD = 0.03, 0.05


def heads(num_classes: int, is_quick: bool, device: str) -> tuple[nn.Module, nn.Module]:
    """Ours and Detectron2's with the same parameters, of the size of an FPN model's."""
    channels, num_layers = (8, 2) if is_quick else (256, 5)
    shape = ShapeSpec(channels=channels, height=14, width=14)
    torch.manual_seed(0)
    ours, theirs = (
        head_class(shape, num_classes=num_classes, conv_dims=[channels] * num_layers).to(device)
        for head_class in (OwnClassMaskRCNNConvUpsampleHead, MaskRCNNConvUpsampleHead)
    )
    nn.init.normal_(ours.predictor.weight, std=MASK_STD)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def boxes_with_masks(number: int, num_classes: int, device: str) -> Instances:
    """Objects of random classes, each one half of its box, found where they are."""
    instances = Instances((112, 112))
    boxes = torch.tensor([0.0, 0, 112, 112], device=device).repeat(number, 1)
    instances.proposal_boxes = instances.pred_boxes = Boxes(boxes)
    masks = torch.zeros(number, 112, 112, dtype=torch.bool, device=device)
    masks[:, :, 56:] = True
    instances.gt_masks = BitMasks(masks)
    instances.gt_classes = torch.randint(num_classes, (number,), device=device)
    instances.pred_classes = instances.gt_classes
    return instances


def infer(head: nn.Module, x: torch.Tensor, instances: Instances) -> torch.Tensor:
    with torch.no_grad():
        return head.eval()(x, [instances])[0].pred_masks


def train(head: nn.Module, x: torch.Tensor, instances: Instances) -> None:
    head.zero_grad()
    with EventStorage():
        head.train()(x.requires_grad_(), [instances])["loss_mask"].backward()


def head_rows(case: tuple, args) -> list[list[str]]:
    num_classes, num_detections, num_foreground = case
    ours, theirs = heads(num_classes, args.quick, args.device)
    name = "class-agnostic" if num_classes == 1 else f"{num_classes} classes"
    rows = []
    for function, number in ((infer, num_detections), (train, num_foreground)):
        x = torch.randn(number, ours[0].in_channels, 14, 14, device=args.device)
        instances = boxes_with_masks(number, num_classes, args.device)
        # On a GPU convolutions, which only theirs has last, would round to 10 bits.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            found, expected = (function(head, x, instances) for head in (ours, theirs))
        if function is train:
            found, expected = ([p.grad for p in head.parameters()] for head in (ours, theirs))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
        mode = "inference" if function is infer else "forward and backward"
        row = compare(
            f"mask head, {mode}",
            "Detectron2's",
            f"{number} boxes, {name}",
            functools.partial(function, ours, x, instances),
            functools.partial(function, theirs, x, instances),
            args,
        )
        rows.append(row)
    return rows


def results(model: nn.Module, image: dict) -> list[dict]:
    """An image's detections as results of LVIS evaluation, as our evaluation gets them."""
    with torch.no_grad():
        instances = with_rles(model)([image])[0]["instances"]
    category_ids = np.arange(1, model.roi_heads.num_classes + 1)
    return Detections.from_instances(1, instances, category_ids).to_results()


def their_results(model: nn.Module, image: dict) -> list[dict]:
    with torch.no_grad():
        instances = model([image])[0]["instances"].to("cpu")
    return [
        {**r, "category_id": r["category_id"] + 1} for r in instances_to_coco_json(instances, 1)
    ]


@torch.no_grad()
def normalise(model: nn.Module, image: dict) -> None:
    """Take batch normalisation's statistics from an image, lest values grow beyond all bounds."""
    for module in model.backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    model.backbone.train()(model.preprocess_image([image]).tensor)
    model.eval()


def image_row(case: tuple, args) -> list[str]:
    side, num_classes = case
    options = [
        *("MODEL.DEVICE", args.device, "TEST.DETECTIONS_PER_IMAGE", "300"),
        *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0001"),
        *(QUICK_MODEL if args.quick else ()),
    ]
    ours = random_model(num_classes, *options, "MODEL.ROI_BOX_HEAD.CLS_LOSS", "softmax_ce").eval()
    theirs = random_model(num_classes, *options, *DETECTRON2_HEADS).eval()
    torch.manual_seed(0)
    nn.init.normal_(theirs.roi_heads.box_predictor.cls_score.weight, std=CLASSIFIER_STD)
    nn.init.normal_(theirs.roi_heads.mask_head.predictor.weight, std=MASK_STD)
    image = random_image(np.random.default_rng(0), side, side, num_classes)
    normalise(theirs, image)
    ours.load_state_dict(theirs.state_dict(), strict=False)  # no state of a loss
    found, expected = (
        sorted(x, key=lambda r: (-r["score"], r["category_id"], r["bbox"]))  # equal scores
        for x in (results(ours, image), their_results(theirs, image))
    )
    for name in ("category_id", "score", "bbox"):
        values = [np.array([r[name] for r in x]) for x in (found, expected)]
        np.testing.assert_allclose(*values, rtol=1e-4, atol=1e-3)
    return compare(
        "evaluation of an image, pixels to results",
        "Detectron2's",
        f"{side} x {side}, {num_classes} classes, {len(found)} detections",
        functools.partial(results, ours, image),
        functools.partial(their_results, theirs, image),
        args,
    )


def main() -> None:
    args = arguments(__doc__)
    heads, images = (QUICK_CASES, QUICK_IMAGES) if args.quick else (CASES, IMAGES)
    rows = [row for case in heads for row in head_rows(case, args)]
    rows += [image_row(case, args) for case in images]
    print_table("Mask head", rows)


if __name__ == "__main__":
    main()
