"""Time and memory of box post-processing, beside Detectron2's ``fast_rcnn_inference``."""

import dataclasses
import functools
from collections.abc import Callable, Iterator

import torch
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference
from detectron2.structures import Instances

from ..modeling.fast_rcnn_inference import fast_rcnn_inference_topk
from .measure import interleaved_seconds, peak_memory
from .row import Row

BENCHMARK = "post_processing"
IMAGE_SHAPE = (800, 1200)
SCORE_THRESH = 1e-4
NMS_THRESH = 0.5
DETECTIONS_PER_IMAGE = 300


@dataclasses.dataclass(frozen=True)
class Case:
    """
    Attributes:
        num_classes: K.
        classes_per_proposal: above the threshold; 5 late in training, all of them in the beginning.
        num_proposals: R.
        num_objects: that the proposals surround.
        noise: of the boxes' centers and sides, relative to the object's.
        repetitions: of the measurement.
        time_limit: as in ``Row``.
    """

    num_classes: int
    classes_per_proposal: int
    num_proposals: int = 1000
    num_objects: int = 50
    noise: float = 0.1
    repetitions: int = 15
    time_limit: float | None = None


CASES = (
    Case(80, 50),
    Case(1203, 50, time_limit=0.2),
    Case(13_000, 50, repetitions=3),
    Case(1203, 5, time_limit=0.2),
    Case(1203, 300, repetitions=5, time_limit=0.2),
    Case(1203, 1203, repetitions=3, time_limit=0.2),
    # Nothing but duplicates, so that all candidates have to be looked at.
    Case(80, 80, num_objects=1, noise=0.03, time_limit=1.0),
)
QUICK_CASES = (Case(20, 15, 100, 5, repetitions=2), Case(40, 15, 100, 5, repetitions=2))


def rows(device: str, quick: bool) -> Iterator[Row]:
    """See ``eql_seesaw.benchmarks``."""
    for case in QUICK_CASES if quick else CASES:
        yield measure(case, device)


def measure(case: Case, device: str) -> Row:
    boxes, scores = (tensor.to(device) for tensor in predictions(case))
    ours, theirs = (
        functools.partial(detections, function, boxes, scores)
        for function in (fast_rcnn_inference_topk, fast_rcnn_inference)
    )
    seconds, peer_seconds = interleaved_seconds(
        [ours, theirs], case.repetitions, warm_up=1, device=device
    )
    objects = "one object" if case.num_objects == 1 else f"{case.num_objects} objects"
    return Row(
        benchmark=BENCHMARK,
        work=f"box post-processing of {case.num_proposals} proposals",
        against="Detectron2: fast_rcnn_inference",
        size=(
            f"{case.num_classes} classes, {case.num_proposals * case.classes_per_proposal:,} "
            f"candidates, on {objects}"
        ),
        parameters={
            "num_classes": case.num_classes,
            "candidates": f"{case.classes_per_proposal} classes a proposal, on {objects}",
        },
        seconds=seconds,
        peer_seconds=peer_seconds,
        memory=peak_memory(ours, device),
        peer_memory=peak_memory(theirs, device),
        time_limit=case.time_limit,
        identical=are_equal(ours(), theirs()),
    )


def predictions(case: Case, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Generated predictions of a box head for one image.

    Returns:
        (R, K * 4) boxes around objects, one for each class, and (R, K + 1) scores. Those above the
        threshold are spread evenly over (threshold, 1) in the logarithm, and no two are equal.
    """
    generator = torch.Generator().manual_seed(seed)
    num_proposals, num_classes = case.num_proposals, case.num_classes
    height, width = IMAGE_SHAPE

    scale = torch.tensor([width, height, width / 4, height / 4])
    objects = torch.rand(case.num_objects, 4, generator=generator) * scale
    centers, sides = objects[
        torch.randint(case.num_objects, (num_proposals,), generator=generator)
    ].split(2, dim=1)
    noise = case.noise * torch.randn(num_proposals, num_classes, 4, generator=generator)
    sides = sides[:, None] * (noise[..., 2:]).exp()
    centers = centers[:, None] + sides * noise[..., :2]
    boxes = torch.cat([centers - sides / 2, centers + sides / 2], dim=2).flatten(1)

    number = num_proposals * case.classes_per_proposal
    order = torch.randperm(number, generator=generator).view(num_proposals, -1)
    candidates = SCORE_THRESH ** (1 - (order + 1) / (number + 1))
    classes = torch.rand(num_proposals, num_classes, generator=generator)
    classes = classes.topk(case.classes_per_proposal, dim=1).indices
    scores = torch.zeros(num_proposals, num_classes + 1).scatter(1, classes, candidates)
    return boxes, scores


def detections(
    function: Callable, boxes: torch.Tensor, scores: torch.Tensor
) -> tuple[Instances, torch.Tensor]:
    (instances,), (proposals,) = function(
        [boxes], [scores], [IMAGE_SHAPE], SCORE_THRESH, NMS_THRESH, DETECTIONS_PER_IMAGE
    )
    return instances, proposals


def are_equal(one: tuple[Instances, torch.Tensor], other: tuple[Instances, torch.Tensor]) -> bool:
    """Whether boxes, scores, classes and proposals are the same, bit by bit and in order."""
    tensors = [
        (instances.pred_boxes.tensor, instances.scores, instances.pred_classes, proposals)
        for instances, proposals in (one, other)
    ]
    return all(torch.equal(*pair) for pair in zip(*tensors))
