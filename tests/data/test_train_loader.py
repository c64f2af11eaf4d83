import itertools
import random
import re

import numpy as np
import pytest
import torch
from detectron2.data.common import AspectRatioGroupedDataset
from detectron2.data.samplers import (
    RandomSubsetTrainingSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
)
from detectron2.utils import comm

from eql_seesaw.command_line import last_line
from eql_seesaw.data.annotated_images import JoinedImages, read_annotated_images
from eql_seesaw.data.class_statistics import annotation_columns
from eql_seesaw.data.train_loader import build_train_loader
from eql_seesaw.data.train_sampler import ClassAwareTrainingSampler, images_of_classes
from tests.data.small_images import make_cfg, write_annotations, write_images

NUM_IMAGES = 12
# What DATALOADER.SAMPLER_TRAIN promises for a seed, with thresholds and ratios of `settings`.
SAMPLERS = {
    "TrainingSampler": lambda dicts, seed: TrainingSampler(len(dicts), seed=seed),
    "RandomSubsetTrainingSampler": lambda dicts, seed: RandomSubsetTrainingSampler(
        len(dicts), 0.5, seed_shuffle=seed, seed_subset=seed
    ),
    "RepeatFactorTrainingSampler": lambda dicts, seed: RepeatFactorTrainingSampler(
        RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(dicts, 0.6), seed=seed
    ),
    "ClassAwareTrainingSampler": lambda dicts, seed: ClassAwareTrainingSampler(
        images_of_classes(annotation_columns(dicts)), seed
    ),
}


@pytest.fixture(scope="module")
def dataset_dicts(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"), NUM_IMAGES)


def config(**settings):
    return make_cfg(REPEAT_THRESHOLD=0.6, RANDOM_SUBSET_RATIO=0.5, **settings)


def just_ids(dataset_dict):
    """A mapper that reads no image."""
    return {key: dataset_dict[key] for key in ("image_id", "file_name", "width", "height")}


def take(loader, number):
    return list(itertools.islice(loader, number))


def ids(passes):
    return [[image["image_id"] for image in images] for images in passes]


def draws(dataset_dict):
    """A mapper of random numbers from every generator that an augmentation may use."""
    drawn = [random.random(), np.random.rand(), torch.rand(1).item()]
    return {**just_ids(dataset_dict), "drawn": drawn}


def drawn(passes):
    return [image["drawn"] for images in passes for image in images]


def on_rank(monkeypatch, rank, world_size):
    monkeypatch.setattr(comm, "get_rank", lambda: rank)
    monkeypatch.setattr(comm, "get_world_size", lambda: world_size)


def assert_same(mapped, expected):
    assert mapped.keys() == expected.keys()
    assert (mapped["image_id"], mapped["file_name"]) == (
        expected["image_id"],
        expected["file_name"],
    )
    assert torch.equal(mapped["image"], expected["image"])
    instances, others = mapped["instances"], expected["instances"]
    assert instances.image_size == others.image_size
    assert torch.equal(instances.gt_boxes.tensor, others.gt_boxes.tensor)
    assert torch.equal(instances.gt_classes, others.gt_classes)
    for polygons, other_polygons in zip(instances.gt_masks, others.gt_masks, strict=True):
        assert all(map(np.array_equal, polygons, other_polygons))


def assert_same_passes(passes, expected):
    assert len(passes) == len(expected)
    for images, others in zip(passes, expected, strict=True):
        assert len(images) == len(others)
        for mapped, other in zip(images, others, strict=True):
            assert_same(mapped, other)


@pytest.mark.parametrize("name", SAMPLERS)
def test_stream_is_the_samplers(dataset_dicts, name):
    """The slow form: one index after the other, grouped and mapped by Detectron2's own parts."""
    cfg = config(SAMPLER_TRAIN=name)
    passes = ids(take(build_train_loader(cfg, dataset_dicts, just_ids), 25))
    indices = SAMPLERS[name](dataset_dicts, cfg.SEED)
    grouped = AspectRatioGroupedDataset((dataset_dicts[i] for i in indices), 2)
    assert passes == ids(take(grouped, 25))


def test_without_grouping(dataset_dicts):
    cfg = config(ASPECT_RATIO_GROUPING=False)
    passes = ids(take(build_train_loader(cfg, dataset_dicts, just_ids), 25))
    indices = itertools.islice(TrainingSampler(NUM_IMAGES, seed=cfg.SEED), 50)
    assert sum(passes, []) == [dataset_dicts[i]["image_id"] for i in indices]


def test_each_rank_groups_its_own_stream(dataset_dicts, monkeypatch):
    on_rank(monkeypatch, 1, 3)
    cfg = config()
    cfg.SOLVER.IMS_PER_BATCH = 9
    passes = ids(take(build_train_loader(cfg, dataset_dicts, just_ids), 20))
    own = (dataset_dicts[i] for i in TrainingSampler(NUM_IMAGES, seed=cfg.SEED))
    assert passes == ids(take(AspectRatioGroupedDataset(own, 3), 20))


@pytest.mark.parametrize("name", SAMPLERS)
def test_ranks_take_turns_in_the_stream_of_one(dataset_dicts, monkeypatch, name):
    cfg = config(SAMPLER_TRAIN=name, ASPECT_RATIO_GROUPING=False)
    alone = drawn(take(build_train_loader(cfg, dataset_dicts, draws), 12))
    for rank in range(2):
        on_rank(monkeypatch, rank, 2)
        assert drawn(take(build_train_loader(cfg, dataset_dicts, draws), 12)) == alone[rank::2]


def test_workers_change_nothing(dataset_dicts):
    expected = take(build_train_loader(config(), dataset_dicts), 15)
    torch.manual_seed(99)  # workers are seeded from it
    cfg = config(NUM_WORKERS=2)
    assert_same_passes(take(build_train_loader(cfg, dataset_dicts), 15), expected)


def test_augmentations_differ_from_epoch_to_epoch(dataset_dicts):
    passes = take(build_train_loader(config(), dataset_dicts), 60)
    sizes = {m["image"].shape for images in passes for m in images if m["image_id"] == 100}
    assert len(sizes) > 3
    numbers = drawn(take(build_train_loader(config(), dataset_dicts, draws), 60))
    assert [len(set(column)) for column in zip(*numbers, strict=True)] == [120] * 3


@pytest.mark.parametrize("num_workers", [0, 2])
def test_resume_anywhere(dataset_dicts, num_workers):
    """An odd number of images in a pass: nearly always some are left in the buckets."""
    cfg = config(NUM_WORKERS=num_workers)
    cfg.SOLVER.IMS_PER_BATCH = 5
    expected = take(build_train_loader(cfg, dataset_dicts), 12)
    for start in (1, 2, 7):
        loader = build_train_loader(cfg, dataset_dicts)
        loader.num_passes = start
        assert_same_passes(take(loader, 12 - start), expected[start:])


def test_skipped_passes_are_not_read(dataset_dicts):
    mapped = []

    def mapper(dataset_dict):
        mapped.append(dataset_dict["image_id"])
        return just_ids(dataset_dict)

    loader = build_train_loader(config(), dataset_dicts, mapper)
    loader.num_passes = 1000
    (images,) = take(loader, 1)
    assert mapped == [image["image_id"] for image in images]


@pytest.mark.parametrize("name", SAMPLERS)
def test_seed_decides(dataset_dicts, name):
    def stream(seed):
        cfg = config(SAMPLER_TRAIN=name)
        cfg.SEED = seed
        passes = take(build_train_loader(cfg, dataset_dicts, draws), 20)
        return ids(passes), drawn(passes)

    first, again, other = stream(3), stream(3), stream(4)
    assert first == again
    assert first[0] != other[0] and first[1] != other[1]


def test_random_seed_is_agreed_on_and_can_be_set(dataset_dicts, monkeypatch):
    monkeypatch.setattr(comm, "shared_random_seed", lambda: 41)
    cfg = config()
    cfg.SEED = -1
    loader = build_train_loader(cfg, dataset_dicts, draws)
    assert loader.stream["seed"] == 41
    loader.stream["seed"] = 7
    expected = build_train_loader(config(), dataset_dicts, draws)
    assert drawn(take(loader, 20)) == drawn(take(expected, 20))


def test_what_decides_the_stream(dataset_dicts, monkeypatch):
    on_rank(monkeypatch, 1, 2)
    cfg = config(SAMPLER_TRAIN="RepeatFactorTrainingSampler")
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.ACCUMULATION_STEPS = 24, 3
    loader = build_train_loader(cfg, dataset_dicts, just_ids)
    assert loader.stream == {
        "seed": 7,
        "sampler": "RepeatFactorTrainingSampler",
        "repeat_threshold": 0.6,
        "repeat_sqrt": True,
        "repeat_frequency": "image",
        "repeat_rounding": "stochastic",
        "images_per_pass": 4,
        "world_size": 2,
        "num_images": NUM_IMAGES,
        "aspect_ratio_grouping": True,
    }
    assert list(map(len, take(loader, 3))) == [4, 4, 4]


@pytest.mark.parametrize(("batch", "steps"), [(3, 1), (4, 4), (0, 1)])
def test_batch_that_cannot_be_divided(monkeypatch, batch, steps):
    on_rank(monkeypatch, 0, 2)
    cfg = config()
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.ACCUMULATION_STEPS = batch, steps
    expected = f"IMS_PER_BATCH is {batch}; it must be a multiple of {2 * steps}, 2 process"
    with pytest.raises(ValueError, match=expected):
        build_train_loader(cfg, [])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_process_is_not_disturbed(dataset_dicts, num_workers):
    def states():
        numpy_state = np.random.get_state()
        return random.getstate(), numpy_state[1].tolist(), torch.get_rng_state().tolist()

    before = states()
    take(build_train_loader(config(NUM_WORKERS=num_workers), dataset_dicts), 3)
    assert states() == before


def broken(dataset_dicts, tmp_path, indices):
    """Some of the images replaced by files that are none."""
    dataset_dicts = [dict(dataset_dict) for dataset_dict in dataset_dicts]
    for index in indices:
        file_name = tmp_path / f"broken_{index}.jpg"
        file_name.write_bytes(b"<html>")
        dataset_dicts[index]["file_name"] = str(file_name)
    return dataset_dicts


@pytest.mark.parametrize("num_workers", [0, 2])
def test_unreadable_image_stops_in_its_turn(dataset_dicts, tmp_path, num_workers):
    cfg = config(NUM_WORKERS=num_workers, ASPECT_RATIO_GROUPING=False)
    place = next(k for k, i in enumerate(TrainingSampler(NUM_IMAGES, seed=cfg.SEED)) if i == 5)
    passes = iter(build_train_loader(cfg, broken(dataset_dicts, tmp_path, [5])))
    for _ in range(place // 2):
        next(passes)
    with pytest.raises(ValueError) as info:
        next(passes)
    message = last_line(info.value)  # a worker's has its traceback before
    assert message.startswith(f"image 105, {tmp_path}/broken_5.jpg: cannot identify image file")
    assert "\n" not in message


@pytest.mark.parametrize("num_workers", [0, 2])
def test_skipping_is_decided_by_the_position(dataset_dicts, tmp_path, num_workers):
    indices = {1, 5, 6, 9}
    dataset_dicts = broken(dataset_dicts, tmp_path, indices)
    cfg = config(UNREADABLE_IMAGES="skip", ASPECT_RATIO_GROUPING=False)
    expected = take(build_train_loader(cfg, dataset_dicts), 30)
    cfg.DATALOADER.NUM_WORKERS = num_workers
    loader = build_train_loader(cfg, dataset_dicts)
    loader.num_passes = 4
    assert_same_passes(take(loader, 26), expected[4:])

    stream = TrainingSampler(NUM_IMAGES, seed=cfg.SEED)
    replacements = set()
    for index, mapped in zip(stream, sum(expected, []), strict=False):
        assert ("unreadable" in mapped) == (index in indices)
        if index in indices:
            first, *_ = lines = mapped["unreadable"]
            assert first.startswith(f"image {100 + index}, {tmp_path}/broken_{index}.jpg: ")
            assert all("\n" not in line for line in lines)
            replacements.add(mapped["image_id"])
    assert len(replacements) > 4 and not replacements & {100 + index for index in indices}


def test_nothing_readable(dataset_dicts):
    def mapper(dataset_dict):
        raise TypeError("a mistake\nin the mapper")

    cfg = config(UNREADABLE_IMAGES="skip", NUM_WORKERS=2)
    with pytest.raises(ValueError) as info:
        next(iter(build_train_loader(cfg, dataset_dicts, mapper)))
    pattern = r"20 images in a row .* the last: image 1\d\d, .*jpg: TypeError: a mistake in the m"
    assert re.match(pattern, last_line(info.value))


def test_lack_of_memory_is_never_skipped(dataset_dicts):
    def mapper(dataset_dict):
        raise MemoryError

    cfg = config(UNREADABLE_IMAGES="skip", NUM_WORKERS=1)
    with pytest.raises(MemoryError):
        next(iter(build_train_loader(cfg, dataset_dicts, mapper)))


@pytest.mark.parametrize("name, num_workers", zip(SAMPLERS, (0, 2, 0, 2)))
def test_images_of_a_file_give_the_same_stream(dataset_dicts, tmp_path, name, num_workers):
    cfg = config(SAMPLER_TRAIN=name, NUM_WORKERS=num_workers)
    images = read_annotated_images(*write_annotations(tmp_path / "x.json", dataset_dicts))
    for found, expected in (
        (images, dataset_dicts),
        (JoinedImages([images, images]), dataset_dicts * 2),
    ):
        loader, other = (build_train_loader(cfg, x) for x in (found, expected))
        assert loader.stream == other.stream and loader.dataset is found
        assert_same_passes(take(loader, 15), take(other, 15))
