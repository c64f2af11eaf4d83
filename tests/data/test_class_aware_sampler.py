import itertools

import pytest
import torch
from detectron2.utils import comm

from eql_seesaw.data.class_statistics import annotation_columns
from eql_seesaw.data.train_sampler import ClassAwareTrainingSampler, images_of_classes


def image(*classes, iscrowd=0):
    return {"annotations": [{"category_id": c, "iscrowd": iscrowd} for c in classes]}


# Class 0 in one image, class 2 in three, class 5 in two; no image of 1, 3 and 4.
DATASET = [image(2), image(), image(0, 2, 2), image(5), image(5, 2), image(0, iscrowd=1), {}]


def draw(number, seed=0, dataset=DATASET):
    class_images = images_of_classes(annotation_columns(dataset))
    return list(itertools.islice(ClassAwareTrainingSampler(class_images, seed), number))


def test_frequencies():
    """A third for each class, shared by its images alike: exact after whole rounds."""
    rounds = 6
    counts = torch.bincount(torch.tensor(draw(3 * rounds)), minlength=len(DATASET))
    # Images 0, 2 and 4 hold class 2; 2 is also the only one of class 0, 3 and 4 those of class 5.
    third, half = rounds / 3, rounds / 2
    assert counts.tolist() == [third, 0, rounds + third, half, half + third, 0, 0]


def test_every_round_is_in_another_order():
    dataset = [image(c) for c in range(8)]
    rounds = [tuple(draw(64, dataset=dataset)[i : i + 8]) for i in range(0, 64, 8)]
    assert all(sorted(drawn) == list(range(8)) for drawn in rounds)
    assert len(set(rounds)) == 8


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_one_stream(monkeypatch, world_size):
    stream = draw(60)
    monkeypatch.setattr(comm, "get_world_size", lambda: world_size)
    for rank in range(world_size):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        own = draw(60 // world_size)
        assert own == stream[rank::world_size]


@pytest.mark.parametrize("dataset", [[], [image(0, iscrowd=1)]])
def test_nothing_to_draw(dataset):
    with pytest.raises(ValueError, match="no annotations"):
        images_of_classes(annotation_columns(dataset))
