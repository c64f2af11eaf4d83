"""Detectron2's box post-processing made fast for many classes, with the same detections."""

from collections.abc import Sequence

import torch
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference
from detectron2.structures import Boxes, Instances
from torchvision.ops import batched_nms, nms

from .class_specific_boxes import EncodedBoxes

# Up to this many candidates batched_nms may move the classes apart by an offset that depends on
# all candidates and rounds their boxes; beyond, it goes through the classes one by one. Never
# below torchvision's own limits, so that the classes are never taken one by one only here.
MAX_CANDIDATES_WITH_OFFSETS_CPU = 1_000
MAX_CANDIDATES_WITH_OFFSETS_GPU = 25_000

# Most images have enough detections among so many times as many candidates.
CANDIDATES_PER_DETECTION = 4
# Where nearly all are duplicates, most will be needed: few rounds are faster than small ones.
GROWTH_PER_ROUND = 16

# Traced, batched_nms would always use offsets; scripted, it decides at each call of the model.
_batched_nms = torch.jit.script_if_tracing(batched_nms)


def fast_rcnn_inference_topk(
    boxes: Sequence[torch.Tensor | EncodedBoxes],
    scores: Sequence[torch.Tensor],
    image_shapes: Sequence[tuple[int, int]],
    score_thresh: float,
    nms_thresh: float,
    topk_per_image: int,
) -> tuple[list[Instances], list[torch.Tensor]]:
    """
    Drop-in replacement for Detectron2's ``fast_rcnn_inference``, whose time grows with the number
    of candidates, (proposal, class) pairs above ``score_thresh``: over a million on LVIS at 1e-4.
    Whether non-maximum suppression keeps a candidate depends only on those of higher score. So it
    is run on the best candidates alone, and on more of them until ``topk_per_image`` are kept.

    The results are Detectron2's to the bit. One thing is arbitrary in Detectron2 with more than
    1,000 candidates (25,000 on a GPU): the order of equal scores, and so which of them are the
    last ones returned. Here that is the order of proposals, then classes, as Detectron2 has it
    for fewer candidates. A traced model gives the same detections from all candidates at once;
    a compiled one uses Detectron2's function.

    Args:
        boxes: for each image (Ri, K * 4) or class-agnostic (Ri, 4) boxes x0, y0, x1, y1 in pixels;
            or :class:`EncodedBoxes`, of which only candidates that are looked at are decoded.
        scores: for each image (Ri, K + 1) probabilities, background last; float32, or any type
            that ``torchvision.ops.nms`` takes together with float32 boxes.
        image_shapes: (height, width) of each image, to which its boxes are clipped.
        score_thresh: the scores of detections are above it.
        nms_thresh: IoU above which the lower of two scores of a class is suppressed.
        topk_per_image: the largest number of detections in an image; negative for all.

    Returns:
        For each image ``Instances`` with ``pred_boxes``, ``scores`` and ``pred_classes``, highest
        score first, and an int64 tensor of the row of ``scores`` that each comes from. As in
        Detectron2, rows with a box or score that is not finite are left out, also of the count.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        # Neither allows a choice that depends on values.
        boxes = [x.decode_all() if isinstance(x, EncodedBoxes) else x for x in boxes]
    if torch.compiler.is_compiling():
        # The compiler would unroll the loop over the classes, which takes minutes.
        return fast_rcnn_inference(
            boxes, scores, image_shapes, score_thresh, nms_thresh, topk_per_image
        )
    results = [
        _inference_single_image(*image, score_thresh, nms_thresh, topk_per_image)
        for image in zip(boxes, scores, image_shapes)
    ]
    return [detections for detections, _ in results], [rows for _, rows in results]


def _inference_single_image(
    boxes: torch.Tensor | EncodedBoxes,
    scores: torch.Tensor,
    image_shape: tuple[int, int],
    score_thresh: float,
    nms_thresh: float,
    topk: int,
) -> tuple[Instances, torch.Tensor]:
    boxes, scores = _finite_rows(boxes, scores)
    num_classes = scores.shape[1] - 1
    scores = scores[:, :-1].flatten()
    candidates = (scores > score_thresh).nonzero().squeeze(1)
    if topk < 0:
        topk = candidates.shape[0]

    on_cpu = scores.device.type == "cpu"
    # A loop whose end depends on the data, as below, cannot be traced.
    if torch.jit.is_tracing() or len(candidates) <= (
        MAX_CANDIDATES_WITH_OFFSETS_CPU if on_cpu else MAX_CANDIDATES_WITH_OFFSETS_GPU
    ):
        # Sorted before and after, as batched_nms may leave equal scores in any order.
        candidates = candidates[scores[candidates].sort(descending=True, stable=True).indices]
        detections = _detections(boxes, scores, candidates, num_classes, image_shape)
        keep = _batched_nms(
            detections.pred_boxes.tensor.float(),
            detections.scores,
            detections.pred_classes,
            nms_thresh,
        )
        keep = keep.sort().values[:topk]
        return detections[keep], candidates[keep] // num_classes

    kept = candidates[:0]
    num_highest = CANDIDATES_PER_DETECTION * max(topk, 1)
    while True:
        highest = _highest(scores[candidates], num_highest)
        # A suppressed box suppresses nothing itself, and needs no second look.
        chosen = torch.cat([kept, candidates[highest]])
        candidates = candidates[~highest]
        detections = _detections(boxes, scores, chosen, num_classes, image_shape)
        keep = _nms_of_each_class(detections, nms_thresh)[:topk]
        kept = chosen[keep]
        if len(kept) == topk or len(candidates) == 0:
            return detections[keep], kept // num_classes
        num_highest *= GROWTH_PER_ROUND


def _finite_rows(
    boxes: torch.Tensor | EncodedBoxes, scores: torch.Tensor
) -> tuple[torch.Tensor | EncodedBoxes, torch.Tensor]:
    if isinstance(boxes, EncodedBoxes):
        if boxes.are_finite() & torch.isfinite(scores.sum()):
            return boxes, scores
        boxes = boxes.decode_all()
    # A finite sum has finite terms; looking at each of them takes far longer. A trace has no ifs.
    if not torch.jit.is_tracing() and torch.isfinite(boxes.sum() + scores.sum()):
        return boxes, scores
    finite = torch.isfinite(boxes).all(dim=1) & torch.isfinite(scores).all(dim=1)
    return boxes[finite], scores[finite]


def _detections(
    boxes: torch.Tensor | EncodedBoxes,
    scores: torch.Tensor,
    candidates: torch.Tensor,
    num_classes: int,
    image_shape: tuple[int, int],
) -> Instances:
    rows, classes = candidates // num_classes, candidates % num_classes
    if isinstance(boxes, EncodedBoxes):
        boxes = boxes.decode(rows, classes)
    elif boxes.shape[1] == 4:
        boxes = boxes[rows]
    else:
        boxes = boxes.unflatten(1, (-1, 4))[rows, classes]
    detections = Instances(image_shape)
    detections.pred_boxes = Boxes(boxes)
    detections.pred_boxes.clip(image_shape)
    detections.scores = scores[candidates]
    detections.pred_classes = classes
    return detections


def _highest(scores: torch.Tensor, number: int) -> torch.Tensor:
    """Flags of the ``number`` highest scores; also of all that equal the lowest of these."""
    if number >= len(scores):
        return torch.ones_like(scores, dtype=torch.bool)
    return scores >= scores.topk(number, sorted=False).values.min()


def _nms_of_each_class(detections: Instances, nms_thresh: float) -> torch.Tensor:
    """Indices of the detections that are kept, highest score first, of equal scores the first."""
    classes, order = detections.pred_classes.sort(stable=True)
    sizes = classes.unique_consecutive(return_counts=True)[1].tolist()
    boxes, scores = detections.pred_boxes.tensor[order], detections.scores[order]
    keep = torch.cat(
        [
            index if len(index) == 1 else index[nms(class_boxes, class_scores, nms_thresh)]
            for index, class_boxes, class_scores in zip(
                order.split(sizes), boxes.split(sizes), scores.split(sizes)
            )
        ]
    )
    keep = keep.sort().values
    return keep[detections.scores[keep].sort(descending=True, stable=True).indices]
