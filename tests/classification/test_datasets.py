"""The long tail, and what is read from files."""

import sys

import numpy as np
import pytest
import torch

from eql_seesaw.classification.datasets import (
    CIFAR_LISTS,
    IMAGENET_LT_LISTS,
    draw_images,
    load_cifar100_lt,
    load_digits,
    load_features,
    load_imagenet_lt,
    long_tailed_counts,
)

from .folders import write_cifar100, write_features, write_imagenet_lt, write_lists


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("imbalance, total", [(200, 9502), (100, 10847), (50, 12608)])
def test_profile_has_the_sizes_of_the_papers(imbalance, total):
    counts = long_tailed_counts(100, 500, imbalance)
    assert sum(counts) == total
    assert counts[0] == 500 and counts[-1] == 500 // imbalance
    assert counts == sorted(counts, reverse=True)


def test_profile_without_imbalance_is_balanced():
    assert long_tailed_counts(10, 124, 1) == [124] * 10


@pytest.mark.parametrize("imbalance", [0.5, 501, float("nan")])
def test_impossible_imbalance(imbalance):
    with pytest.raises(ValueError, match="--imbalance must be from 1 to 500.* got"):
        long_tailed_counts(100, 500, imbalance)


def test_drawn_images():
    labels = torch.tensor([0, 1, 0, 1, 0, 1, 1])
    drawn, others = draw_images(labels, [1, 3], generator())
    assert labels[drawn].bincount().tolist() == [1, 3]
    assert sorted([*drawn.tolist(), *others.tolist()]) == list(range(7))


def test_digits():
    data = load_digits(50, generator())
    train_images, train_labels = data.train.tensors
    test_images, test_labels = data.test.tensors
    assert train_labels.bincount().tolist() == data.image_counts
    assert data.image_counts == [124, 80, 51, 33, 21, 14, 9, 5, 3, 2]
    assert test_labels.bincount().tolist() == [50] * 10
    assert train_images.shape[1:] == (1, 8, 8) and train_images.max() == 1
    # No two digits of scikit-learn are alike, so equal pixels mean the same image.
    images = [
        bytes(image) for image in (255 * torch.cat([train_images, test_images])).byte().numpy()
    ]
    assert len(set(images)) == len(images)


def test_digits_follow_the_seed():
    first, again, other = (load_digits(50, generator(seed)).train.tensors[0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        load_digits(50, generator())


def test_cifar100_lt(tmp_path, monkeypatch):
    write_cifar100(tmp_path, monkeypatch, images_per_class=4)
    data = load_cifar100_lt(str(tmp_path), 4, generator())
    assert data.image_counts == long_tailed_counts(100, 4, 4)
    labels = [label for _, label in data.train]
    assert torch.tensor(labels).bincount().tolist() == data.image_counts
    assert len(data.test) == 400
    assert data.train[0][0].shape == data.test[0][0].shape == (3, 32, 32)


def test_cutout_erases_a_quarter(tmp_path, monkeypatch):
    write_cifar100(tmp_path, monkeypatch, images_per_class=1)
    image, _ = load_cifar100_lt(str(tmp_path), 1, generator()).train[0]
    # Erased pixels are exactly 0, which no pixel value is after normalisation.
    erased = (image == 0).all(dim=0)
    rows, columns = torch.nonzero(erased).unbind(dim=1)
    assert erased.sum() == 256
    assert rows.max() - rows.min() == columns.max() - columns.min() == 15


def test_cifar100_lt_by_lists(tmp_path):
    write_lists(tmp_path, {0: 3, 1: 1}, CIFAR_LISTS, (32, 32))
    data = load_cifar100_lt(str(tmp_path), None, generator())
    assert data.image_counts == [3, 1]
    assert [label for _, label in data.test] == [0, 1]
    assert data.train[0][0].shape == data.test[0][0].shape == (3, 32, 32)
    # Augmented in training alone, anew each time.
    assert not torch.equal(data.train[0][0], data.train[0][0])
    assert torch.equal(data.test[0][0], data.test[0][0])


def test_imagenet_lt(tmp_path):
    write_imagenet_lt(tmp_path, {0: 3, 1: 1})
    data = load_imagenet_lt(str(tmp_path))
    assert data.image_counts == [3, 1]
    assert [label for _, label in data.test] == [0, 1]
    assert data.train[0][0].shape == data.test[0][0].shape == (3, 224, 224)


@pytest.mark.parametrize("line", ["train/0/0.png", "train/0/0.png 1.5", "train/0/none.png 0"])
def test_wrong_line_in_a_list(tmp_path, line):
    write_imagenet_lt(tmp_path, {0: 3, 1: 1})
    path = tmp_path / "ImageNet_LT_train.txt"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ValueError, match=f"ImageNet_LT_train.txt, line 5: not .* label: '{line}'"):
        load_imagenet_lt(str(tmp_path))


@pytest.mark.parametrize(
    "image_counts, test_label, message",
    [
        ({1: 1, 2: 1}, 1, "train.txt: labels must be integers from 0 without gaps"),
        ({0: 1, 2: 1}, 0, "train.txt: labels must be integers from 0 without gaps"),
        ({0: 1, 1: 1}, 2, "test.txt has label 2, but the classes of .*train.txt are 0 to 1$"),
    ],
)
@pytest.mark.parametrize("lists", [CIFAR_LISTS, IMAGENET_LT_LISTS])
def test_labels_without_training_images(tmp_path, lists, image_counts, test_label, message):
    write_lists(tmp_path, image_counts, lists, (32, 32))
    with open(tmp_path / lists[1], "a") as f:
        f.write(f"train/{max(image_counts)}/0.png {test_label}\n")
    with pytest.raises(ValueError, match=message):
        if lists == CIFAR_LISTS:
            load_cifar100_lt(str(tmp_path), None, generator())
        else:
            load_imagenet_lt(str(tmp_path))


def test_features_are_standardised_by_the_training_set(tmp_path):
    train, test = write_features(tmp_path, [30, 2], dimension=3)
    with np.load(train) as file:
        features = file["features"]
    features[:, 1] = 7  # never varies
    np.savez(train, features=features, labels=[0] * 30 + [1] * 2)
    data = load_features(train, test)
    assert data.image_counts == [30, 2]
    in_training, labels = data.train.tensors
    assert in_training.dtype == torch.float32 and labels.bincount().tolist() == [30, 2]
    torch.testing.assert_close(in_training.mean(dim=0), torch.zeros(3), atol=1e-5, rtol=0)
    expected = torch.tensor([1.0, 0.0, 1.0])
    torch.testing.assert_close(in_training.std(dim=0, correction=0), expected)
    with np.load(test) as file:
        by_hand = (file["features"][:, 2] - features[:, 2].mean()) / features[:, 2].std()
    torch.testing.assert_close(data.test.tensors[0][:, 2], torch.from_numpy(by_hand))


FEATURES, LABELS = np.ones((3, 2)), np.array([0, 1, 1])


@pytest.mark.parametrize(
    "features, labels",
    [
        (FEATURES, LABELS[:2]),
        (FEATURES, LABELS / 2),
        (FEATURES, LABELS - 1),
        (FEATURES[0], LABELS),
        (np.array([[0, 1], [0, np.inf], [0, 1]]), LABELS),
    ],
)
def test_wrong_features(tmp_path, features, labels):
    path = str(tmp_path / "wrong.npz")
    np.savez(path, features=features, labels=labels)
    with pytest.raises(ValueError, match=r"wrong\.npz: features must be finite .* of shape \("):
        load_features(path, path)


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"features": FEATURES[:, :1], "labels": LABELS}, "has 1 features a sample, .* 2$"),
        ({"features": FEATURES, "labels": LABELS + 1}, "label 2, but the classes .* are 0 to 1$"),
        ({"features": FEATURES, "labels": LABELS * 2}, "label 2, but the classes .* are 0 to 1$"),
        ({"features": FEATURES}, "not a file of numpy.savez with the arrays .*labels"),
    ],
)
def test_features_that_do_not_fit(tmp_path, arrays, message):
    paths = [str(tmp_path / name) for name in ("train.npz", "test.npz")]
    np.savez(paths[0], features=FEATURES, labels=LABELS)
    np.savez(paths[1], **arrays)
    with pytest.raises(ValueError, match=message):
        load_features(*paths)
