"""
Box post-processing beside Detectron2's fast_rcnn_inference: the same detections.

    python -m benchmarks.post_processing
"""

import functools

import torch
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference

from eql_seesaw.modeling.fast_rcnn_inference import fast_rcnn_inference_topk

from .measure import arguments, compare, print_table

IMAGE_SHAPE = (800, 1200)
SCORE_THRESH, NMS_THRESH, DETECTIONS_PER_IMAGE = 1e-4, 0.5, 300
# Classes, classes of a proposal above the threshold (5 late in training, all in the beginning),
# objects that the 1000 proposals surround, noise of their boxes.
CASES = (
    (80, 50, 50, 0.1),
    (1203, 50, 50, 0.1),
    (13_000, 50, 50, 0.1),
    (1203, 5, 50, 0.1),
    (1203, 300, 50, 0.1),
    (1203, 1203, 50, 0.1),
    # Nothing but duplicates, so that all candidates have to be looked at.
    (80, 80, 1, 0.03),
)
QUICK_CASES = ((20, 15, 5, 0.1),)


def predictions(
    num_classes: int, classes_per_proposal: int, num_objects: int, noise: float, num_proposals: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Generated predictions for one image: (R, K * 4) boxes around objects, one for each class, and
    (R, K + 1) scores. Those above the threshold are spread evenly in the logarithm, none are equal.
    """
    generator = torch.Generator().manual_seed(0)
    height, width = IMAGE_SHAPE
    scale = torch.tensor([width, height, width / 4, height / 4])
    objects = torch.rand(num_objects, 4, generator=generator) * scale
    chosen = torch.randint(num_objects, (num_proposals,), generator=generator)
    centers, sides = objects[chosen].split(2, dim=1)
    drawn = noise * torch.randn(num_proposals, num_classes, 4, generator=generator)
    sides = sides[:, None] * drawn[..., 2:].exp()
    centers = centers[:, None] + sides * drawn[..., :2]
    boxes = torch.cat([centers - sides / 2, centers + sides / 2], dim=2).flatten(1)

    number = num_proposals * classes_per_proposal
    order = torch.randperm(number, generator=generator).view(num_proposals, -1)
    candidates = SCORE_THRESH ** (1 - (order + 1) / (number + 1))
    classes = torch.rand(num_proposals, num_classes, generator=generator)
    classes = classes.topk(classes_per_proposal, dim=1).indices
    return boxes, torch.zeros(num_proposals, num_classes + 1).scatter(1, classes, candidates)


def detect(function, boxes, scores):
    return function(
        [boxes], [scores], [IMAGE_SHAPE], SCORE_THRESH, NMS_THRESH, DETECTIONS_PER_IMAGE
    )


def main() -> None:
    args = arguments(__doc__)
    rows = []
    for case in QUICK_CASES if args.quick else CASES:
        num_proposals = 100 if args.quick else 1000
        boxes, scores = (x.to(args.device) for x in predictions(*case, num_proposals))
        ours = functools.partial(detect, fast_rcnn_inference_topk, boxes, scores)
        theirs = functools.partial(detect, fast_rcnn_inference, boxes, scores)
        (found,), (proposals,) = ours()
        (expected,), (expected_proposals,) = theirs()
        for name, value in expected.get_fields().items():
            value, own = (getattr(x, "tensor", x) for x in (value, found.get(name)))
            assert torch.equal(own, value), f"other {name} than Detectron2's"
        assert torch.equal(proposals, expected_proposals)
        num_classes, per_proposal, num_objects, _ = case
        size = f"{num_classes} classes, {num_proposals * per_proposal:,} candidates, "
        size += "on one object" if num_objects == 1 else f"on {num_objects} objects"
        rows.append(compare("box post-processing", "fast_rcnn_inference", size, ours, theirs, args))
    print_table("Box post-processing", rows)


if __name__ == "__main__":
    main()
