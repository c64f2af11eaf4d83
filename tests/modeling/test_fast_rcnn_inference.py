"""Detectron2's ``fast_rcnn_inference`` is the specification of ours."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import nms

from eql_seesaw.modeling import LongTailCascadeROIHeads, LongTailFastRCNNOutputLayers
from eql_seesaw.modeling import fast_rcnn_inference as module
from eql_seesaw.modeling.fast_rcnn_inference import fast_rcnn_inference_topk

from .tiny_model import ROI_HEADS, tiny_config, training_batch

IMAGE_SHAPE = (480, 640)
SMALL = (10, 12)
agnostic_or_not = pytest.mark.parametrize("agnostic", [True, False], ids=["agnostic", "specific"])


def distinct_scores(num_proposals, num_classes, generator):
    """Evenly spaced over (0, 1) in random order; background has none."""
    number = num_proposals * num_classes
    scores = (torch.randperm(number, generator=generator) + 1) / (number + 1)
    assert len(scores.unique()) == number
    scores = scores.view(num_proposals, num_classes)
    return torch.cat([scores, torch.zeros(num_proposals, 1)], dim=1)


def overlapping_boxes(num_proposals, num_classes, generator, num_objects=20, agnostic=True):
    """Proposals scattered about objects, some of them over the border of the image."""
    objects = torch.rand(num_objects, 4, generator=generator) * torch.tensor([600, 400, 200, 200])
    objects[:, 2:] += 10
    boxes = objects[torch.randint(num_objects, (num_proposals,), generator=generator)]
    if not agnostic:
        boxes = boxes.repeat(1, num_classes).view(-1, 4)
    boxes = boxes * (1 + 0.1 * torch.randn(boxes.shape, generator=generator))
    boxes = torch.cat([boxes[:, :2] - 30, boxes[:, :2] - 30 + boxes[:, 2:].abs()], dim=1)
    return boxes.view(num_proposals, 4 if agnostic else 4 * num_classes)


def image(num_proposals, num_classes, seed=0, agnostic=True, num_objects=20):
    generator = torch.Generator().manual_seed(seed)
    boxes = overlapping_boxes(num_proposals, num_classes, generator, num_objects, agnostic)
    return boxes, distinct_scores(num_proposals, num_classes, generator)


def run(function, boxes, scores, score_thresh=0.0, topk=100, nms_thresh=0.5, shape=IMAGE_SHAPE):
    (detections,), (rows,) = function([boxes], [scores], [shape], score_thresh, nms_thresh, topk)
    return detections, rows


def assert_equal(ours, theirs):
    """The same bits, types and order of fields."""
    (detections, rows), (expected, expected_rows) = ours, theirs
    assert detections.image_size == expected.image_size
    assert list(detections.get_fields()) == list(expected.get_fields())
    assert type(detections.pred_boxes) is type(expected.pred_boxes)
    pairs = [
        (detections.pred_boxes.tensor, expected.pred_boxes.tensor),
        (detections.scores, expected.scores),
        (detections.pred_classes, expected.pred_classes),
        (rows, expected_rows),
    ]
    for tensor, expected_tensor in pairs:
        assert tensor.dtype == expected_tensor.dtype and tensor.device == expected_tensor.device
        assert torch.equal(tensor, expected_tensor)


def assert_same_as_detectron2(*args, **kwargs):
    ours = run(fast_rcnn_inference_topk, *args, **kwargs)
    assert_equal(ours, run(fast_rcnn_inference, *args, **kwargs))
    return ours


@agnostic_or_not
@pytest.mark.parametrize("score_thresh", [0.0, 0.9, 0.99])
@pytest.mark.parametrize("topk", [1, 300, -1])
def test_same_as_detectron2(agnostic, score_thresh, topk):
    """From 30 to 5,000 candidates, on both sides of Detectron2's change of method."""
    for num_classes in (15, 25):
        boxes, scores = image(200, num_classes, agnostic=agnostic)
        detections, _ = assert_same_as_detectron2(boxes, scores, score_thresh, topk)
        assert len(detections) > 0


@pytest.mark.parametrize("nms_thresh", [0.0, 0.3, 0.7, 1.0])
def test_same_as_detectron2_at_every_overlap(nms_thresh):
    assert_same_as_detectron2(*image(300, 10), topk=50, nms_thresh=nms_thresh)


def test_same_as_detectron2_at_the_size_of_lvis():
    boxes, scores = image(1000, 1203)
    detections, _ = assert_same_as_detectron2(boxes, scores, 0.92, topk=300)
    assert len(detections) == 300


def classes_far_apart(num_proposals):
    """Small boxes of two classes of 1203; offsets of nearly a million round off their corners."""
    boxes, scores = image(num_proposals, 2)
    boxes = boxes / 500
    boxes[0, 2:] = torch.tensor([640, 480])
    all_scores = torch.zeros(num_proposals, 1204)
    all_scores[:, 1201:1203] = 0.5 + scores[:, :2] / 2
    return boxes, all_scores


def test_few_candidates_have_offsets_that_round_and_many_have_none_as_in_detectron2():
    boxes, scores = classes_far_apart(500)
    _, rows = assert_same_as_detectron2(boxes, scores, 0.5, topk=-1)
    assert len(rows) != num_kept_without_offsets(boxes, scores)
    boxes, scores = classes_far_apart(501)
    scores[0, 1201] = 0.5
    assert (scores > 0.5).sum() == 1001
    _, rows = assert_same_as_detectron2(boxes, scores, 0.5, topk=-1)
    assert len(rows) == num_kept_without_offsets(boxes, scores)


def num_kept_without_offsets(boxes, scores):
    """The boxes of :func:`classes_far_apart` after clipping, one class after the other."""
    boxes = boxes.clamp(min=0)
    chosen = [scores[:, label] > 0.5 for label in (1201, 1202)]
    return sum(
        len(nms(boxes[rows], scores[rows, label], 0.5)) for rows, label in zip(chosen, (1201, 1202))
    )


@pytest.fixture
def num_examined(monkeypatch):
    """How many boxes went into each call of the suppression."""
    calls = []

    def counting_nms(boxes, scores, iou_threshold):
        calls.append(len(boxes))
        return nms(boxes, scores, iou_threshold)

    monkeypatch.setattr(module, "nms", counting_nms)
    return calls


def test_only_the_best_candidates_are_examined(num_examined):
    boxes, scores = image(1000, 50)
    assert_same_as_detectron2(boxes, scores, topk=30)
    assert 0 < sum(num_examined) <= 4 * 30


@pytest.mark.parametrize("topk, deep", [(4, False), (5, True), (6, True), (7, True)])
def test_more_candidates_until_there_are_enough(num_examined, topk, deep):
    """Two objects and three classes, one of them below the others: six can be kept."""
    _, scores = image(1000, 3)
    scores[:, 2] /= 1000
    boxes = torch.tensor([[0.0, 0, 100, 100], [300.0, 300, 400, 400]]).repeat(500, 1)
    boxes += torch.arange(1000)[:, None] / 1000
    detections, _ = assert_same_as_detectron2(boxes, scores, topk=topk)
    assert len(detections) == min(topk, 6)
    assert (sum(num_examined) > 2000) is deep
    # A candidate that is suppressed is not examined again.
    assert sum(num_examined) <= 3000 + 6 * len(num_examined)


@agnostic_or_not
@pytest.mark.parametrize(
    "num_proposals, value", [(30, torch.nan), (300, torch.nan), (300, -torch.inf)]
)
def test_rows_that_are_not_finite_are_left_out(agnostic, num_proposals, value):
    boxes, scores = image(num_proposals, 10, agnostic=agnostic)
    bad_boxes, bad_scores = boxes.clone(), scores.clone()
    bad_boxes[[0, 3], [1, -1]] = value
    bad_scores[[7, 9], [2, -1]] = value
    for args in [(bad_boxes, scores), (boxes, bad_scores), (bad_boxes, bad_scores)]:
        assert_same_as_detectron2(*args, topk=20)
    assert_same_as_detectron2(boxes * float("nan"), scores)


def test_infinite_sums():
    """Opposite infinities do not cancel; finite rows whose sum is infinite stay."""
    boxes, scores = image(300, 10)
    boxes[4, 1], boxes[4, 2] = float("-inf"), float("inf")
    assert_same_as_detectron2(boxes, scores, topk=20)
    boxes, scores = image(200, 10)
    boxes[:2, 2:] = 3e38
    _, rows = assert_same_as_detectron2(boxes, scores, topk=-1)
    assert {0, 1} <= set(rows.tolist())


@agnostic_or_not
def test_no_proposals_and_no_candidates(agnostic):
    boxes, scores = image(300, 10, agnostic=agnostic)
    for empty in (
        assert_same_as_detectron2(boxes[:0], scores[:0]),
        assert_same_as_detectron2(boxes, scores, score_thresh=1.0),
        assert_same_as_detectron2(boxes, scores, topk=0),
        assert_same_as_detectron2(boxes[:5], scores[:5], topk=0),
    ):
        assert len(empty[0]) == 0
    assert fast_rcnn_inference_topk([], [], [], 0.0, 0.5, 100) == ([], [])


def test_images_of_a_batch_stay_apart():
    images = [image(200, 10, seed) for seed in range(3)] + [image(0, 10), image(40, 10)]
    boxes, scores = zip(*images)
    shapes = [(100 * i, 200 * i) for i in range(1, 6)]
    args = (boxes, scores, shapes, 0.1, 0.5, 30)
    ours, theirs = fast_rcnn_inference_topk(*args), fast_rcnn_inference(*args)
    assert len(ours[0]) == len(ours[1]) == 5
    for pair in zip(zip(*ours), zip(*theirs)):
        assert_equal(*pair)


def test_negative_scores_and_arguments_that_are_left_as_they_are():
    boxes, scores = image(300, 10)
    scores -= 0.5
    before = boxes.clone(), scores.clone()
    assert_same_as_detectron2(boxes, scores, score_thresh=-1.0, topk=-1)
    assert torch.equal(boxes, before[0]) and torch.equal(scores, before[1])


def test_boxes_of_other_precision_become_float32():
    boxes, scores = image(300, 10)
    detections, _ = assert_same_as_detectron2(boxes.half(), scores, topk=50)
    assert detections.pred_boxes.tensor.dtype == torch.float32


def test_scores_of_low_precision_under_autocast():
    boxes, scores = image(30, 10)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for dtype in (torch.float16, torch.bfloat16):
            detections, _ = assert_same_as_detectron2(boxes, scores.to(dtype))
            assert detections.scores.dtype == dtype


def test_equal_scores_of_few_candidates():
    for seed in range(3):
        boxes, scores = image(60, 10, seed)
        assert_same_as_detectron2(boxes, (scores * 8).ceil() / 8, topk=100)


@pytest.mark.parametrize("levels", [1, 3, 50])
def test_equal_scores_of_many_candidates(levels):
    """Their order is arbitrary in Detectron2; all else is the same."""
    for seed in range(3):
        boxes, scores = image(300, 10, seed)
        scores = (scores * levels).ceil() / levels
        ours, rows = run(fast_rcnn_inference_topk, boxes, scores, topk=-1)
        theirs, their_rows = run(fast_rcnn_inference, boxes, scores, topk=-1)
        assert torch.equal(ours.scores, theirs.scores)
        candidates, expected = rows * 10 + ours.pred_classes, their_rows * 10 + theirs.pred_classes
        assert set(candidates.tolist()) == set(expected.tolist())
        # Highest score first, then in the order of proposals and classes.
        keys = list(zip((-ours.scores).tolist(), candidates.tolist()))
        assert keys == sorted(keys)
        for topk in (1, 10, 40):
            best, best_rows = run(fast_rcnn_inference_topk, boxes, scores, topk=topk)
            assert_equal((best, best_rows), (ours[:topk], rows[:topk]))


def greedy_nms(boxes, scores, nms_thresh):
    """Over all candidates, one by one: (row, class) pairs, highest score first."""
    num_proposals, num_classes = len(scores), len(scores[0]) - 1
    candidates = [(row, label) for row in range(num_proposals) for label in range(num_classes)]
    candidates.sort(key=lambda x: -scores[x[0]][x[1]])
    kept = []
    for row, label in candidates:
        others = (boxes[other] for other, other_label in kept if other_label == label)
        if scores[row][label] > 0 and not any(iou(boxes[row], x) > nms_thresh for x in others):
            kept.append((row, label))
    return kept


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    intersection = max(width, 0) * max(height, 0)
    areas = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
    return intersection / (sum(areas) - intersection)


@st.composite
def small_images(draw):
    """Boxes with whole coordinates and few different scores, so that everything ties."""
    num_proposals, num_classes = draw(st.integers(1, 12)), draw(st.integers(1, 3))
    coordinates = st.tuples(
        st.integers(0, 7), st.integers(0, 7), st.integers(1, 5), st.integers(1, 3)
    )
    boxes = [
        [x, y, x + w, y + h] for x, y, w, h in (draw(coordinates) for _ in range(num_proposals))
    ]
    row = st.lists(st.integers(0, 4), min_size=num_classes, max_size=num_classes)
    return boxes, [[x / 4 for x in draw(row)] + [0.0] for _ in range(num_proposals)]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(small_images(), st.integers(0, 8), st.sampled_from([0.25, 0.5, 0.75]))
def test_growing_sets_of_candidates_give_the_first_of_all(image, topk, nms_thresh):
    """Suppression of the best candidates alone keeps what suppression of all of them keeps."""
    boxes, scores = image
    expected = greedy_nms(boxes, scores, nms_thresh)[:topk]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_CANDIDATES_WITH_OFFSETS_CPU", 0)
        patch.setattr(module, "CANDIDATES_PER_DETECTION", 2)
        detections, rows = run(
            fast_rcnn_inference_topk,
            torch.tensor(boxes, dtype=torch.float32),
            torch.tensor(scores),
            topk=topk,
            nms_thresh=nms_thresh,
            shape=SMALL,
        )
    assert list(zip(rows.tolist(), detections.pred_classes.tolist())) == expected


def traced(boxes, scores, score_thresh=0.0, topk=100):
    """The function and its trace, which give tensors."""

    def inference(boxes, scores):
        detections, rows = run(fast_rcnn_inference_topk, boxes, scores, score_thresh, topk)
        return detections.pred_boxes.tensor, detections.scores, detections.pred_classes, rows

    return inference, torch.jit.trace(inference, (boxes, scores), check_trace=False)


def assert_trace_is_equal(function, trace, boxes, scores):
    outputs = trace(boxes, scores)
    for tensor, expected in zip(outputs, function(boxes, scores)):
        assert tensor.dtype == expected.dtype
        assert torch.equal(tensor, expected)
    return len(outputs[0])


@agnostic_or_not
@pytest.mark.parametrize("topk", [-1, 50])
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_trace_gives_the_same(agnostic, topk):
    """Also of equal scores and rows that are not finite, whatever the image of the trace."""
    for num_traced in (300, 5):
        functions = traced(*image(num_traced, 10, agnostic=agnostic), 0.1, topk)
        for seed, num_proposals in enumerate([300, 300, 200, 101, 40, 0]):
            boxes, scores = image(num_proposals, 10, seed, agnostic)
            for levels in (3, 50):
                assert_trace_is_equal(*functions, boxes, (scores * levels).ceil() / levels)
            boxes[::7, 2] = torch.inf
            scores[3::7, 4] = torch.nan
            number = assert_trace_is_equal(*functions, boxes, scores)
            assert number > 50 or topk == 50 or num_proposals == 0


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_trace_decides_at_each_call_whether_classes_have_offsets():
    few, many = classes_far_apart(500), classes_far_apart(501)
    many[1][0, 1201] = 0.5
    for inputs in (few, many):
        functions = traced(*inputs, 0.5, topk=-1)
        assert assert_trace_is_equal(*functions, *few) != num_kept_without_offsets(*few)
        assert assert_trace_is_equal(*functions, *many) == num_kept_without_offsets(*many)


@pytest.mark.parametrize("compiling", [True, False])
def test_compilation_takes_detectron2s_function(monkeypatch, compiling):
    result = ["detections"], ["rows"]
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiling)
    monkeypatch.setattr(module, "fast_rcnn_inference", lambda *args: result)
    inputs = [[x] for x in image(5, 2)]
    got = fast_rcnn_inference_topk(*inputs, [IMAGE_SHAPE], 0.0, 0.5, 10)
    assert (got == result) is compiling


def tiny_model(folder, roi_heads):
    """Gives over 1,000 candidates for an image."""
    torch.manual_seed(0)
    settings = [
        *("MODEL.RPN.POST_NMS_TOPK_TEST", 400),
        *("MODEL.RPN.NMS_THRESH", 0.95),
        *("TEST.DETECTIONS_PER_IMAGE", 30),
    ]
    if roi_heads == "LongTailRes5ROIHeads":
        settings += ["MODEL.ANCHOR_GENERATOR.SIZES", [list(range(8, 40))]]
    return build_model(tiny_config(folder, roi_heads, *settings)).eval()


def random_probs(predictor, predictions, proposals):
    """Without training many probabilities are equal, whose order is not Detectron2's."""
    return [torch.rand(len(x), predictor.num_classes + 1) for x in proposals]


@pytest.mark.parametrize("roi_heads", ROI_HEADS)
def test_detections_of_every_model(tmp_path, monkeypatch, num_examined, roi_heads):
    model = tiny_model(tmp_path, roi_heads)
    batch = [{"image": x["image"]} for x in training_batch()]
    monkeypatch.setattr(LongTailFastRCNNOutputLayers, "predict_probs", random_probs)
    with torch.no_grad():
        torch.manual_seed(1)
        ours = [x["instances"] for x in model(batch)]
        assert num_examined, "too few candidates for the fast way, or it is not taken"
        num_examined.clear()
        monkeypatch.delattr(LongTailFastRCNNOutputLayers, "inference")
        monkeypatch.delattr(LongTailCascadeROIHeads, "_forward_box")
        torch.manual_seed(1)
        theirs = [x["instances"] for x in model(batch)]
    assert not num_examined
    for detections, expected in zip(ours, theirs):
        assert len(detections) == 30
        assert_equal((detections, detections.pred_masks), (expected, expected.pred_masks))
