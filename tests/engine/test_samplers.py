"""DATALOADER.SAMPLER_TRAIN, as users type it."""

import json

import pytest

from eql_seesaw.data.register import register_datasets
from eql_seesaw.data.training_set import load_training_set
from eql_seesaw.engine import LongTailTrainer, load_config
from tests.engine.test_train_net import check_error, quickstart

NO_EVALUATION = ["DATASETS.TEST", "()"]
SAMPLER = "DATALOADER.SAMPLER_TRAIN"
REPEAT_FACTOR = [SAMPLER, "RepeatFactorTrainingSampler", "DATALOADER.REPEAT_THRESHOLD", "0.5"]


def drawn_images(overrides, extra, number):
    cfg = load_config(quickstart("eql.yaml"), [*overrides, *extra])
    register_datasets(cfg)
    images = load_training_set(cfg).images
    batches = iter(LongTailTrainer.build_train_loader(cfg, images))
    return [image["image_id"] for _ in range(number) for image in next(batches)]


def test_class_aware_sampling_shows_the_rarest_class(overrides, symbols):
    """The one image of class 0 is every sixth; without the sampler it would be one of 110."""
    images = drawn_images(overrides, [SAMPLER, "ClassAwareTrainingSampler"], 30)
    content = json.load(open(symbols / "symbols_train.json"))
    first = min(category["id"] for category in content["categories"])
    rarest = [x["image_id"] for x in content["annotations"] if x["category_id"] == first]
    assert len(set(rarest)) == 1
    # The only image of its class: once in each round of six, and as an image of other classes.
    assert images.count(rarest[0]) >= 9


def test_images_without_annotations(overrides, symbols, tmp_path):
    """They keep their place among the repeat factors, and are never drawn by class."""
    content = json.load(open(symbols / "symbols_train.json"))
    empty = {image["id"] for image in content["images"][::3]}
    content["annotations"] = [x for x in content["annotations"] if x["image_id"] not in empty]
    json.dump(content, open(tmp_path / "train.json", "w"))
    data = ["DATASETS.REGISTER.symbols_train.JSON", str(tmp_path / "train.json")]
    data += ["DATALOADER.FILTER_EMPTY_ANNOTATIONS", "False"]
    images = drawn_images(overrides, [*data, SAMPLER, "ClassAwareTrainingSampler"], 60)
    assert not empty & set(images)
    images = drawn_images(overrides, [*data, *REPEAT_FACTOR], 60)
    assert empty & set(images)


@pytest.mark.parametrize(
    "extra, pattern",
    [
        ([SAMPLER, "ClassAware"], "SAMPLER_TRAIN is 'ClassAware'; .*ClassAwareTrainingSampler"),
        (
            ["DATALOADER.REPEAT_ROUNDING", "up"],
            "REPEAT_ROUNDING is 'up'; it must be one of stoch.*, ceil",
        ),
        (REPEAT_FACTOR[:2], r"REPEAT_THRESHOLD is 0.0, with which .* repeats nothing"),
    ],
)
def test_mistakes_are_found_before_anything_is_written(
    train_net, overrides, tmp_path, extra, pattern
):
    check_error(train_net("quickstart/eql.yaml", *overrides, *extra), pattern)
    assert not (tmp_path / "output").exists()
