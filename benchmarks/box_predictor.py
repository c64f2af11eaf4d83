"""
Box predictor with class-specific boxes beside Detectron2's: logits, deltas and box loss with their
gradients for 512 proposals, 128 of them foreground; detections of 1000. The same results.

    python -m benchmarks.box_predictor
"""

import functools

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn

from eql_seesaw.losses import build_loss
from eql_seesaw.modeling import LongTailFastRCNNOutputLayers

from .measure import arguments, compare, print_table

IMAGE_SHAPE = (800, 1200)
NUM_CLASSES, QUICK_NUM_CLASSES = (80, 1203, 13_000), (20,)
# Of the classifier: a few candidates a proposal, as late in training.
CLASSIFIER_STD = 0.15


def predictors(num_classes: int, device: str) -> tuple[nn.Module, nn.Module]:
    """Ours with softmax cross entropy and Detectron2's, with the same parameters."""
    settings = {
        "box2box_transform": Box2BoxTransform((10.0, 10.0, 5.0, 5.0)),
        "num_classes": num_classes,
        "test_score_thresh": 1e-4,
        "test_topk_per_image": 300,
    }
    loss = build_loss("softmax_ce", num_classes)
    torch.manual_seed(0)
    shape = ShapeSpec(channels=1024)
    ours = LongTailFastRCNNOutputLayers(shape, loss=loss, **settings).to(device)
    theirs = FastRCNNOutputLayers(shape, **settings).to(device)
    nn.init.normal_(theirs.cls_score.weight, std=CLASSIFIER_STD)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def sampled_proposals(number: int, num_classes: int, device: str) -> Instances:
    """Proposals at random places, of which the first quarter is foreground."""
    height, width = IMAGE_SHAPE
    corners = torch.rand(number, 2, device=device) * torch.tensor([width, height], device=device)
    boxes = torch.cat([corners, corners + 20 + 200 * torch.rand_like(corners)], dim=1)
    proposals = Instances(IMAGE_SHAPE)
    proposals.proposal_boxes = Boxes(boxes)
    proposals.gt_boxes = Boxes(boxes + torch.rand_like(boxes))
    proposals.gt_classes = torch.randint(num_classes, (number,), device=device)
    proposals.gt_classes[number // 4 :] = num_classes
    return proposals


def train(predictor: nn.Module, x: torch.Tensor, proposals: Instances) -> torch.Tensor:
    predictor.train().zero_grad()
    with EventStorage():
        losses = predictor.losses(predictor(x.requires_grad_()), [proposals])
    losses["loss_box_reg"].backward()
    return predictor.bbox_pred.weight.grad


def detect(predictor: nn.Module, x: torch.Tensor, proposals: Instances) -> torch.Tensor:
    with torch.no_grad():
        (detections,), _ = predictor.eval().inference(predictor(x), [proposals])
    return detections.scores


def main() -> None:
    args = arguments(__doc__)
    rows = []
    for num_classes in QUICK_NUM_CLASSES if args.quick else NUM_CLASSES:
        pair = predictors(num_classes, args.device)
        for name, function, number in (("box loss", train, 512), ("detections", detect, 1000)):
            x = torch.randn(number, 1024, device=args.device)
            proposals = sampled_proposals(number, num_classes, args.device)
            ours, theirs = (functools.partial(function, p, x, proposals) for p in pair)
            torch.testing.assert_close(ours(), theirs(), rtol=1e-4, atol=1e-6)
            size = f"{number} proposals, {num_classes} classes"
            work = f"box predictor, {name}"
            rows.append(compare(work, "Detectron2's", size, ours, theirs, args))
    print_table("Box predictor", rows)


if __name__ == "__main__":
    main()
