import numpy as np
import pytest
import torch
from detectron2.data.samplers import RepeatFactorTrainingSampler

from eql_seesaw.data.class_statistics import annotation_columns
from eql_seesaw.data.train_sampler import repeat_factors


def long_tailed_dicts(num_images, num_classes, seed):
    """With crowds, and images without annotations."""
    rng = np.random.default_rng(seed)
    dataset_dicts = []
    for count in rng.integers(0, 9, num_images):
        classes = (num_classes * rng.random(count) ** 4).astype(int).tolist()
        crowds = (rng.random(count) < 0.2).tolist()
        annotations = [
            {"category_id": k, "iscrowd": int(crowd)}
            for k, crowd in zip(classes, crowds, strict=True)
        ]
        dataset_dicts.append({"annotations": annotations})
    return dataset_dicts


@pytest.mark.parametrize("sqrt", [True, False])
@pytest.mark.parametrize("threshold", [0.0, 0.001, 1 / 3, 7.0])
def test_same_bits_as_detectron2s(threshold, sqrt):
    for seed, num_images in enumerate((1, 7, 400)):
        dataset_dicts = long_tailed_dicts(num_images, 90, seed)
        expected = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            dataset_dicts, threshold, sqrt=sqrt
        )
        found = repeat_factors(annotation_columns(dataset_dicts), threshold, sqrt)
        assert found.dtype == torch.float32
        assert torch.equal(found, expected)


@pytest.mark.parametrize(
    "settings, factors",
    [
        ({}, [2**0.5, 1, 1, 1]),  # class 1: f = 1/4, so sqrt(0.5 / f)
        ({"round_up": True}, [2, 1, 1, 1]),
        # Class 1: f = sqrt(1/4 of the images * 4/8 of the instances); class 0: sqrt(1 * 4/8).
        ({"instance_aware": True}, [2**0.25, 1, 1, 1]),
        ({"instance_aware": True, "sqrt": False}, [2**0.5, 1, 1, 1]),
    ],
)
def test_by_instances_and_rounded_up(settings, factors):
    """Class 0 is in all of four images; class 1 is in one, with half of the eight instances."""
    dataset_dicts = [{"annotations": [{"category_id": 0}]} for _ in range(4)]
    dataset_dicts[0]["annotations"] += [{"category_id": 1}] * 4
    found = repeat_factors(annotation_columns(dataset_dicts), 0.5, **settings)
    assert found.tolist() == pytest.approx(factors)


def test_nothing_to_repeat():
    assert repeat_factors(annotation_columns([{"annotations": []}] * 3), 0.5).tolist() == [1, 1, 1]
    empty = annotation_columns([])
    assert repeat_factors(empty, 0.5, instance_aware=True, round_up=True).tolist() == []
