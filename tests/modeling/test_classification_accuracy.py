import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from eql_seesaw.losses import build_loss
from eql_seesaw.modeling import LongTailFastRCNNOutputLayers
from eql_seesaw.modeling.classification_accuracy import PERIOD, ClassificationAccuracy

from .tiny_model import GROUPS, STATISTICS
from .tiny_model import NUM_CLASSES as K


def confident_logits(num_logits, classes):
    """(R, L) logits of a classifier that is sure of (R,) classes, K for background."""
    logits = torch.full((len(classes), num_logits), -9.0)
    for row, predicted in zip(logits, classes, strict=True):
        if predicted < K:
            row[predicted] = 9
        if num_logits == K + 1 and predicted == K:
            row[K] = 9
        if num_logits > K + 1:  # foreground, background
            row[-2 + (predicted == K)] = 9
    return logits


def predictor_of(name):
    return LongTailFastRCNNOutputLayers(
        ShapeSpec(channels=2),
        box2box_transform=Box2BoxTransform((1.0, 1.0, 1.0, 1.0)),
        num_classes=K,
        loss=build_loss(name, K, **STATISTICS),
        class_groups=GROUPS,
    )


def confident_step(predictor, predicted, gt_classes):
    """Predictions and proposals."""
    proposals = Instances((64, 64))
    proposals.proposal_boxes = Boxes(torch.tensor([[0.0, 0, 9, 9]] * len(gt_classes)))
    proposals.gt_boxes = proposals.proposal_boxes
    proposals.gt_classes = torch.tensor(gt_classes)
    logits = confident_logits(predictor.loss.num_logits, predicted)
    deltas = torch.zeros(len(gt_classes), 4 * K)
    return (logits, deltas), [proposals]


def logged_by_predictor(name, predicted, gt_classes):
    """What a predictor logs in the last step of a period."""
    predictor = predictor_of(name)
    with EventStorage(PERIOD - 1) as storage:
        predictor.losses(*confident_step(predictor, predicted, gt_classes))
        return values(storage)


def values(storage):
    assert all(key.startswith("fast_rcnn/") for key in storage.latest())
    return {
        key.removeprefix("fast_rcnn/"): pytest.approx(value)
        for key, (value, _) in storage.latest().items()
    }


def update(accuracy, predicted, gt_classes, iteration=PERIOD - 1):
    """What is logged at an iteration."""
    with EventStorage(iteration) as storage:
        accuracy.update(torch.tensor(predicted), torch.tensor(gt_classes), storage)
        return values(storage)


@pytest.mark.parametrize("name", ["eql", "softmax_ce", "seesaw", "bags"])
def test_hand_counted_mistakes_of_every_layout(name):
    gt_classes = [0, 1, 2, 2, 3, 4, 5, 5, K, K]
    predicted = [0, K, 2, 3, K, 4, 5, 5, K, 1]
    assert logged_by_predictor(name, predicted, gt_classes) == {
        "cls_accuracy": 6 / 10,
        "fg_cls_accuracy": 5 / 8,
        "false_negative": 2 / 8,
        "fg_cls_accuracy_rare": 1 / 2,
        "fg_cls_accuracy_common": 1 / 3,
        "fg_cls_accuracy_frequent": 3 / 3,
    }


def test_without_groups():
    logged = update(ClassificationAccuracy(3), [0, 1, 3], [0, 2, 3])
    assert logged == {"cls_accuracy": 2 / 3, "fg_cls_accuracy": 1 / 2, "false_negative": 0}


def test_what_has_no_samples_is_left_out():
    logged = update(ClassificationAccuracy(3, ["f", "r", "c"]), [0, 0], [0, 2])
    assert logged["fg_cls_accuracy_frequent"] == 1
    assert logged["fg_cls_accuracy_common"] == 0
    assert "fg_cls_accuracy_rare" not in logged
    accuracy = ClassificationAccuracy(3, ["r", "c", "f"])
    assert update(accuracy, [3, 0], [3, 3]) == {"cls_accuracy": 1 / 2}
    nothing = torch.empty(0, dtype=torch.int64)
    with EventStorage(PERIOD - 1) as storage:
        ClassificationAccuracy(3).update(nothing, nothing, storage)
        assert values(storage) == {}


def test_logs_the_average_of_each_period():
    accuracy = ClassificationAccuracy(2)
    # One wrong sample in each step of the first period, but for four right ones in the last.
    steps = [([1], [0])] * (PERIOD - 1) + [([0] * 4, [0] * 4)] + [([0], [0])] * PERIOD
    logged = [update(accuracy, *step, iteration) for iteration, step in enumerate(steps)]
    assert [iteration for iteration, x in enumerate(logged) if x] == [PERIOD - 1, 2 * PERIOD - 1]
    assert logged[PERIOD - 1]["fg_cls_accuracy"] == 4 / (PERIOD + 3)
    assert logged[-1]["fg_cls_accuracy"] == 1


def history(accuracy, steps, start=0):
    """
    The storage after iterations of several passes, (predicted, labels) each; and what writers take
    from it.
    """
    with EventStorage(start) as storage:
        for passes in steps:
            for predicted, gt_classes in passes:
                accuracy.update(torch.tensor(predicted), torch.tensor(gt_classes), storage)
            storage.step()
    written = storage.latest_with_smoothing_hint(20)
    return {key.removeprefix("fast_rcnn/"): value for key, (value, _) in written.items()}, storage


# Two passes an iteration: the second of two samples, and wrong in the last iteration.
PASSES = [[([0], [0]), ([1, 1], [1, 1])]] * (PERIOD - 1) + [[([0], [0]), ([2, 2], [1, 1])]]


def test_several_passes_in_an_iteration():
    """Every pass counts, and the value that is written is that over all of them."""
    written, storage = history(ClassificationAccuracy(2), PASSES)
    right = 3 * PERIOD - 2
    assert written["cls_accuracy"] == right / (3 * PERIOD)
    assert written["false_negative"] == 2 / (3 * PERIOD)
    assert storage.latest()["fast_rcnn/cls_accuracy"] == (right / (3 * PERIOD), PERIOD - 1)


def test_next_period_starts_with_its_first_pass():
    accuracy = ClassificationAccuracy(2)
    history(accuracy, PASSES)
    # The first pass of the new period's first iteration counts, as well as the second.
    steps = [[([2], [0]), ([0], [0])]] + [[([0], [0])] * 2] * (PERIOD - 1)
    written, _ = history(accuracy, steps, start=PERIOD)
    assert written["cls_accuracy"] == 1 - 1 / (2 * PERIOD)


def test_resumed_run_goes_on_with_its_sums():
    """The sums are all that a checkpoint needs, wherever in a period it was written."""
    steps = PASSES + PASSES[::-1]
    expected, _ = history(ClassificationAccuracy(2), steps)
    for stop in (1, 7, PERIOD - 1, PERIOD, PERIOD + 3):
        first, resumed = ClassificationAccuracy(2), ClassificationAccuracy(2)
        history(first, steps[:stop])
        resumed.sums.copy_(first.sums)
        assert history(resumed, steps[stop:], start=stop)[0] == expected


def test_validation_passes_do_not_count():
    """Training mode without gradients, as validation losses are computed."""
    predictor = predictor_of("softmax_ce")
    with EventStorage(PERIOD - 1) as storage, torch.no_grad():
        predictor.losses(*confident_step(predictor, [0, 1], [0, 2]))
        assert values(storage) == {}
    assert not predictor.accuracy.sums.any()


def test_period_is_that_of_the_writers():
    """PeriodicWriter of Detectron2's default hooks writes every 20 steps."""
    assert PERIOD == 20
