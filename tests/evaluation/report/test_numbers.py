import numpy as np
import pytest

from eql_seesaw.data.frequency_groups import COMMON_MAX_IMAGES, RARE_MAX_IMAGES
from eql_seesaw.evaluation.matches import Matches
from eql_seesaw.evaluation.report.examples import choose_examples
from eql_seesaw.evaluation.report.numbers import (
    RANGE_ENDS,
    Numbers,
    mean_ap_by_range,
    tally_images,
)
from eql_seesaw.evaluation.result import Result


def matches(detections=(), objects=(), confusions=()):
    """Detections: (image, class, score, annotation, ignored). Objects: (image, class, score)."""
    detections = np.array(sorted(detections), dtype=np.float64).reshape(-1, 5)
    objects = np.array(objects, dtype=np.float64).reshape(-1, 3)
    return Matches(
        image_ids=detections[:, 0].astype(np.int64),
        classes=detections[:, 1].astype(np.int32),
        scores=detections[:, 2],
        annotation_ids=detections[:, 3].astype(np.int64),
        ignored=detections[:, 4].astype(bool),
        gt_image_ids=objects[:, 0].astype(np.int64),
        gt_classes=objects[:, 1].astype(np.int32),
        gt_annotation_ids=np.arange(len(objects)) + 1,
        gt_scores=objects[:, 2],
        confusions=np.array(confusions, dtype=np.int64).reshape(-1, 3),
    )


def numbers(matches, groups):
    """Numbers of masks, of a class for each of the groups."""
    categories = [{"group": group, "train_images": None} for group in groups]
    result = Result("", "", "", 300, 1, 1, "", {"segm": {}}, categories, {})
    result.matches = {"segm": matches}
    return Numbers(result, None, "segm", 0.3)


NAN = float("nan")
# Class 0 is rare: one object found at 0.6, one missed, one wrong detection at 0.4. Class 1 is
# frequent: an object found at 0.2, and an ignored detection at 0.9.
TWO_CLASSES = matches(
    detections=[(1, 0, 0.6, 1, 0), (2, 0, 0.4, 0, 0), (2, 1, 0.2, 3, 0), (2, 1, 0.9, 0, 1)],
    objects=[(1, 0, 0.6), (1, 0, NAN), (2, 1, 0.2)],
)


def test_curves_count_right_and_found_at_each_threshold():
    curves = numbers(TWO_CLASSES, "rf").curves
    assert list(curves) == ["r", "f", "all"]
    rare = curves["r"]
    assert (rare.precision[30], rare.recall[30], rare.f1[30]) == (0.5, 0.5, 0.5)
    assert (rare.precision[50], rare.recall[50]) == (1, 0.5)
    # A score that is a threshold reaches it.
    assert rare.detections[60] == 1
    assert np.isnan(rare.precision[61])
    assert rare.recall[61] == rare.f1[61] == 0
    # Ignored detections count neither way.
    assert (curves["f"].detections[0], curves["f"].precision[0]) == (1, 1)
    assert curves["all"].num_objects == 3
    assert curves["all"].precision[0] == pytest.approx(2 / 3)


def test_curves_by_hand_over_random_matches():
    rng = np.random.default_rng(0)
    detections = [
        (i, int(rng.integers(3)), round(rng.random(), 2), int(rng.integers(2)), rng.random() < 0.2)
        for i in range(200)
    ]
    objects = [(0, int(rng.integers(3)), rng.choice([NAN, rng.random()])) for _ in range(50)]
    random = matches(detections, objects)
    curves = numbers(random, "rcc").curves
    judged = [(k, score, found > 0) for _, k, score, found, ignored in detections if not ignored]
    for group, classes in {"r": {0}, "c": {1, 2}, "all": {0, 1, 2}}.items():
        for i in (0, 37, 80):
            taken = [right for k, score, right in judged if k in classes and score >= i / 100]
            assert curves[group].precision[i] == sum(taken) / len(taken)
            scores = [score for _, k, score in objects if k in classes]
            found = sum(score >= i / 100 for score in scores)
            assert curves[group].recall[i] == found / len(scores)


def test_class_precision_and_recall():
    of = numbers(TWO_CLASSES, "rfc")
    np.testing.assert_array_equal(of.precision, [50, NAN, NAN])
    np.testing.assert_array_equal(of.recall, [50, 0, NAN])


def test_mean_ap_by_range_of_training_images():
    train_images = [0, 1, 3, 4, 200_000, None, 5]
    aps = [10, 20, 40, 5, 70, 90, None]
    assert mean_ap_by_range(train_images, aps) == [
        (0, 0, 10, 1),
        (1, 3, 30, 2),
        (4, 10, 5, 1),
        (100_001, 200_000, 70, 1),
    ]
    assert mean_ap_by_range([None], [3.0]) == []
    # No range holds classes of two groups.
    assert {RARE_MAX_IMAGES, COMMON_MAX_IMAGES} <= set(RANGE_ENDS)


def test_confusion_matrix_has_found_objects_on_its_diagonal():
    objects = [(1, 0, 0.9), (1, 0, 0.2), (1, 2, 0.5), (1, 2, NAN)]
    of = numbers(matches(objects=objects, confusions=[(0, 1, 3), (0, 2, 2), (2, 0, 4)]), "rcf")
    assert of.confused_classes == [2, 0, 1]
    np.testing.assert_array_equal(of.confusion_matrix, [[1, 4, 0], [2, 1, 3], [0, 0, 0]])
    assert of.confusions_of(0) == [[0, 1, 3], [0, 2, 2]] and of.confusions_of(1) == []
    assert numbers(TWO_CLASSES, "rf").confusion_matrix.shape == (0, 0)


def test_tally_counts_each_class_in_each_image():
    # Class, image, right, wrong, missed. The frequent class's detection at 0.2 is below the
    # threshold, so its object is missed.
    rows = [[0, 1, 1, 0, 1], [0, 2, 0, 1, 0], [1, 2, 0, 0, 1]]
    assert tally_images(TWO_CLASSES, 0.3).tolist() == rows


def chosen(tally, *args):
    """Image ids of the best and of the worst, of each class."""
    return [
        [[image["image_id"] for image in of_class[kind]] for kind in ("best", "worst")]
        for of_class in choose_examples(np.array(tally), *args)
    ]


def test_best_by_f1_and_worst_by_mistakes():
    tally = [[0, 1, 1, 0, 0], [0, 2, 2, 3, 0], [0, 3, 1, 1, 0], [0, 4, 0, 0, 2]]
    assert chosen(tally, 1, 2) == [[[1, 3], [2, 4]]]


def test_among_equals_shown_images_come_first():
    # Class 1 has only image 9, so class 0, all of whose images are equal, shares it.
    tally = [[0, image, 1, 0, 0] for image in range(10)] + [[1, 9, 1, 0, 0]]
    assert chosen(tally, 3, 1) == [[[9], []], [[9], []], [[], []]]
