import itertools
import logging
import math

import pytest
import torch

from eql_seesaw.data.train_sampler import (
    ClassAwareTrainingSampler,
    build_train_sampler,
    sampler_settings,
)

from .small_images import make_cfg


def dataset():
    """Eight images of class 0, one of them also of class 1; one without annotations."""
    images = [{"annotations": [{"category_id": 0}]} for _ in range(8)]
    images[3]["annotations"].append({"category_id": 1})
    return [*images, {"annotations": []}]


def config(name, **settings):
    cfg = make_cfg(SAMPLER_TRAIN=name, **settings)
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.IMS_PER_BATCH = 30, 4
    return cfg


def draw(cfg, number, seed=1):
    return list(itertools.islice(build_train_sampler(cfg, dataset())(seed), number))


def counts(indices):
    return torch.bincount(torch.tensor(indices), minlength=9).tolist()


def test_repeat_factors(caplog):
    """
    Class 1 is in 1 of 9 images, so with threshold 4/9 image 3 comes sqrt(4) = 2 times; class 0 is
    more frequent than the threshold, and an image without annotations comes once.
    """
    cfg = config("RepeatFactorTrainingSampler", REPEAT_THRESHOLD=4 / 9)
    with caplog.at_level(logging.INFO):
        epoch = draw(cfg, 10)
    assert sorted(epoch) == [0, 1, 2, 3, 3, 4, 5, 6, 7, 8]
    assert [record.getMessage() for record in caplog.records] == [
        "RepeatFactorTrainingSampler: with threshold 0.444444 an epoch over 9 images has 10; "
        "training draws 120, 12 such epochs"
    ]


def test_repeat_factors_without_root():
    cfg = config("RepeatFactorTrainingSampler", REPEAT_THRESHOLD=4 / 9, REPEAT_SQRT=False)
    assert counts(draw(cfg, 12)) == [1, 1, 1, 4, 1, 1, 1, 1, 1]


def test_fractional_repeat_factors_hold_on_average():
    cfg = config("RepeatFactorTrainingSampler", REPEAT_THRESHOLD=0.25)
    number = 20_000
    drawn = torch.tensor(draw(cfg, number))
    share = 1.5 / (8 + 1.5)  # sqrt(0.25 * 9) = 1.5 times
    deviation = math.sqrt(share * (1 - share) / number)
    assert abs((drawn == 3).double().mean().item() - share) < 4 * deviation


def test_repeat_factors_rounded_up():
    """Image 3 with its factor of 1.5 comes twice in every epoch."""
    cfg = config("RepeatFactorTrainingSampler", REPEAT_THRESHOLD=0.25, REPEAT_ROUNDING="ceil")
    assert counts(draw(cfg, 40)) == [4, 4, 4, 8, 4, 4, 4, 4, 4]


def test_instance_aware_repeat_factors():
    """Class 1 has 1 of 9 images and of 17 instances; class 0, twice in 8 images, has the rest."""
    images = dataset()
    for image in images[:8]:
        image["annotations"].append({"category_id": 0})
    settings = {"REPEAT_FREQUENCY": "instance_aware", "REPEAT_THRESHOLD": 4 / math.sqrt(9 * 17)}
    sampler = build_train_sampler(config("RepeatFactorTrainingSampler", **settings), images)(1)
    assert counts(list(itertools.islice(sampler, 10))) == [1, 1, 1, 2, 1, 1, 1, 1, 1]


def test_detectron2s_logger_keeps_its_level():
    name = "detectron2.data.samplers.distributed_sampler"
    before = logging.getLogger(name).level
    build_train_sampler(config("RepeatFactorTrainingSampler", REPEAT_THRESHOLD=0.1), dataset())
    assert logging.getLogger(name).level == before


def test_class_aware(caplog):
    with caplog.at_level(logging.INFO):
        sampler = build_train_sampler(config("ClassAwareTrainingSampler"), dataset())(1)
    assert isinstance(sampler, ClassAwareTrainingSampler)
    assert list(itertools.islice(sampler, 100)).count(3) >= 50
    assert "2 classes with images are drawn equally often" in caplog.text
    assert "training draws 120, 13.3 times the 9 images" in caplog.text


def test_all_images_in_random_order(caplog):
    with caplog.at_level(logging.INFO):
        drawn = draw(config("TrainingSampler"), 18)
    assert counts(drawn[:9]) == counts(drawn[9:]) == [1] * 9
    assert drawn[:9] != drawn[9:]
    assert "TrainingSampler: training draws 120, 13.3 times the 9 images" in caplog.text


def test_random_subset(caplog):
    with caplog.at_level(logging.INFO):
        cfg = config("RandomSubsetTrainingSampler", RANDOM_SUBSET_RATIO=0.5)
        drawn = draw(cfg, 12)
    assert sorted(counts(drawn)) == [0] * 5 + [3] * 4
    assert "training draws 120, 30 times 4 of the 9 images" in caplog.text


@pytest.mark.parametrize("ratio", [0.1, 0.0, 1.2])
def test_impossible_subset(ratio):
    cfg = config("RandomSubsetTrainingSampler", RANDOM_SUBSET_RATIO=ratio)
    with pytest.raises(ValueError, match=f"RANDOM_SUBSET_RATIO is {ratio:g}: .* of 9 images"):
        build_train_sampler(cfg, dataset())


def test_settings_are_those_that_matter():
    assert sampler_settings(config("TrainingSampler", REPEAT_THRESHOLD=0.3)) == {
        "sampler": "TrainingSampler"
    }
    assert sampler_settings(config("RepeatFactorTrainingSampler", REPEAT_THRESHOLD=0.3)) == {
        "sampler": "RepeatFactorTrainingSampler",
        "repeat_threshold": 0.3,
        "repeat_sqrt": True,
        "repeat_frequency": "image",
        "repeat_rounding": "stochastic",
    }
    assert sampler_settings(config("RandomSubsetTrainingSampler", RANDOM_SUBSET_RATIO=0.5)) == {
        "sampler": "RandomSubsetTrainingSampler",
        "subset_ratio": 0.5,
    }
