import numpy as np
import pytest

from eql_seesaw.data.class_statistics import AnnotationColumns, annotation_columns

DICTS = [
    {"annotations": [{"category_id": 4}, {"category_id": 2, "iscrowd": 1}, {"category_id": 4}]},
    {"annotations": []},
    {"image_id": 7},
    {"annotations": [{"category_id": 2, "iscrowd": 0}, {"category_id": 4}]},
]


def lists(arrays):
    return [array.tolist() for array in arrays]


def test_columns_of_dicts():
    columns = annotation_columns(DICTS)
    assert lists(columns[:3]) == [[0, 0, 0, 3, 3], [4, 2, 4, 2, 4], [0, 1, 0, 0, 0]]
    assert columns.num_images == 4
    assert [column.dtype for column in columns[:3]] == [np.int64, np.int64, bool]


def test_without_crowds():
    columns = annotation_columns(DICTS).without_crowds()
    assert lists(columns[:3]) == [[0, 0, 3, 3], [4, 4, 2, 4], [0, 0, 0, 0]]
    assert columns.num_images == 4


@pytest.mark.parametrize("dataset_dicts", [[], [{"annotations": []}]])
def test_no_annotations(dataset_dicts):
    columns = annotation_columns(dataset_dicts)
    assert lists(columns[:3]) == [[], [], []]
    assert columns.num_images == len(dataset_dicts)
    assert lists(columns.classes_of_images()) == [[], []]


@pytest.mark.parametrize("largest", [5, 2**16 - 1, 2**16, 10**9])
def test_classes_of_images_are_the_distinct_pairs(largest):
    rng = np.random.default_rng(0)
    images = np.sort(rng.integers(9, size=300))
    classes = largest - rng.integers(6, size=300)
    found = AnnotationColumns(images, classes, np.zeros(300, bool), 9).classes_of_images()
    expected = sorted(set(zip(classes.tolist(), images.tolist(), strict=True)))
    assert list(zip(*lists(found)[::-1], strict=True)) == expected
    assert [array.dtype for array in found] == [np.int64, np.int64]


def test_own_columns_of_a_dataset_are_taken():
    class Dataset(list):
        columns = annotation_columns(DICTS)

    assert annotation_columns(Dataset()) is Dataset.columns
