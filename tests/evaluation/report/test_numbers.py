import numpy as np
import pytest

from eql_seesaw.data.frequency_groups import COMMON_MAX_IMAGES, RARE_MAX_IMAGES
from eql_seesaw.evaluation.matches import Matches
from eql_seesaw.evaluation.report.ap_by_range import RANGE_ENDS, mean_ap_by_range
from eql_seesaw.evaluation.report.confusions import (
    confusion_matrix,
    most_confused_classes,
    pairs_of_classes,
    top_pairs,
)
from eql_seesaw.evaluation.report.examples import choose_examples, tally_images
from eql_seesaw.evaluation.report.precision_recall import (
    class_precision_recall,
    drawn_precision,
    operating_points,
    precision_recall_curves,
)
from eql_seesaw.evaluation.report.write import _signed


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


NAN = float("nan")
# Class 0 is rare: one object found at 0.6, one missed, one wrong detection at 0.4. Class 1 is
# frequent: an object found at 0.2, and an ignored detection at 0.9.
TWO_CLASSES = matches(
    detections=[(1, 0, 0.6, 1, 0), (2, 0, 0.4, 0, 0), (2, 1, 0.2, 3, 0), (2, 1, 0.9, 0, 1)],
    objects=[(1, 0, 0.6), (1, 0, NAN), (2, 1, 0.2)],
)


def test_curves_count_right_and_found_at_each_threshold():
    curves = precision_recall_curves(TWO_CLASSES, ["r", "f"])
    rare = curves["r"]
    assert (rare["precision"][30], rare["recall"][30]) == (0.5, 0.5)
    assert (rare["precision"][50], rare["recall"][50]) == (1, 0.5)
    # A score that is a threshold reaches it.
    assert rare["detections"][60] == 1
    assert np.isnan(rare["precision"][61])
    assert rare["recall"][61] == 0


def test_ignored_detections_count_neither_way():
    frequent = precision_recall_curves(TWO_CLASSES, ["r", "f"])["f"]
    assert frequent["detections"][0] == 1
    assert frequent["precision"][0] == 1


def test_curves_of_all_pool_the_groups():
    curves = precision_recall_curves(TWO_CLASSES, ["r", "f"])
    assert curves["all"]["objects"] == 3
    assert curves["all"]["precision"][0] == pytest.approx(2 / 3)


def test_precision_of_few_detections_is_not_drawn():
    rare = precision_recall_curves(TWO_CLASSES, ["r", "f"])["r"]
    assert np.isnan(drawn_precision(rare)).all()


def test_operating_points_of_groups_with_objects():
    rows = operating_points(precision_recall_curves(TWO_CLASSES, ["r", "f"]), 0.3)
    assert [row["group"] for row in rows] == ["all", "r", "f"]
    rare, frequent = rows[1:]
    assert rare["given"]["f1"] == 0.5
    assert rare["best"]["threshold"] == pytest.approx(0.41)
    assert rare["best"]["f1"] == pytest.approx(2 / 3)
    assert frequent["given"]["precision"] is None
    assert frequent["given"]["recall"] == 0


def test_class_precision_and_recall():
    precision, recall = class_precision_recall(TWO_CLASSES, 3, 0.3)
    np.testing.assert_array_equal(precision, [0.5, NAN, NAN])
    np.testing.assert_array_equal(recall, [0.5, 0, NAN])


def test_mean_ap_by_range_of_training_images():
    train_images = [0, 1, 3, 4, 200_000, None, 5]
    aps = [10, 20, 40, 5, 70, 90, None]
    assert mean_ap_by_range(train_images, aps) == [
        (0, 0, 10, 1),
        (1, 3, 30, 2),
        (4, 10, 5, 1),
        (100_001, 200_000, 70, 1),
    ]


def test_no_range_holds_classes_of_two_groups():
    assert {RARE_MAX_IMAGES, COMMON_MAX_IMAGES} <= set(RANGE_ENDS)


def test_mean_ap_without_any_class():
    assert mean_ap_by_range([None], [3.0]) == []


def test_top_pairs_are_the_most_frequent():
    confusions = np.array([[0, 1, 2], [1, 0, 5], [2, 0, 3]])
    assert top_pairs(confusions, 2) == [[1, 0, 5], [2, 0, 3]]
    assert pairs_of_classes(confusions) == {1: [[0, 5]], 2: [[0, 3]], 0: [[1, 2]]}


def test_most_confused_classes_are_side_by_side():
    confusions = np.array([[0, 5, 9], [1, 6, 8], [5, 2, 7], [3, 4, 1]])
    assert most_confused_classes(confusions, 5) == [0, 5, 2, 1, 6]


def test_confusion_matrix_has_found_objects_on_its_diagonal():
    both = matches(
        objects=[(1, 0, 0.9), (1, 0, 0.2), (1, 2, 0.5), (1, 2, NAN)], confusions=[(0, 2, 4)]
    )
    np.testing.assert_array_equal(confusion_matrix(both, [2, 0]), [[1, 0], [4, 1]])


def test_no_confusions():
    none = matches(objects=[(1, 0, 0.9)])
    assert most_confused_classes(none.confusions) == []
    assert confusion_matrix(none, []).shape == (0, 0)


def test_tally_counts_each_class_in_each_image():
    tally = tally_images(TWO_CLASSES, 0.3)
    columns = (tally.classes, tally.image_ids, tally.right, tally.wrong, tally.missed)
    # The frequent class's detection at 0.2 is below the threshold, so its object is missed.
    rows = np.stack(columns, axis=1).tolist()
    assert rows == [[0, 1, 1, 0, 1], [0, 2, 0, 1, 0], [1, 2, 0, 0, 1]]


def test_best_by_f1_and_worst_by_mistakes():
    detections, objects = [], []
    for image, (right, wrong, missed) in enumerate([(1, 0, 0), (2, 3, 0), (1, 1, 0), (0, 0, 2)]):
        detections += [(image, 0, 0.9, 1, 0)] * right + [(image, 0, 0.9, 0, 0)] * wrong
        objects += [(image, 0, 0.9)] * right + [(image, 0, NAN)] * missed
    tally = tally_images(matches(detections, objects), 0.3)
    (examples,) = choose_examples(tally, 1, 2)
    assert tally.image_ids[examples["best"]].tolist() == [0, 2]
    assert tally.image_ids[examples["worst"]].tolist() == [1, 3]


def test_among_equals_shown_images_come_first():
    # Class 1 has only image 9, so class 0, all of whose images are equal, shares it.
    detections = [(image, 0, 0.9, 1, 0) for image in range(10)] + [(9, 1, 0.9, 1, 0)]
    objects = [(image, 0, 0.9) for image in range(10)] + [(9, 1, 0.9)]
    tally = tally_images(matches(detections, objects), 0.3)
    examples = choose_examples(tally, 3, 1)
    assert tally.image_ids[examples[0]["best"]].tolist() == [9]
    assert examples[2] == {"best": [], "worst": []}


@pytest.mark.parametrize(
    "value, text",
    [(None, "n/a"), (0.04, "0.0"), (-0.04, "0.0"), (1.25, "+1.2"), (-10.0, "\u221210.0")],
)
def test_signed(value, text):
    assert _signed(value) == text
