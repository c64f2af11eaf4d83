"""Folders laid out like CIFAR-100 and ImageNet-LT, with a few images of noise."""

import pickle
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.datasets import CIFAR100

from eql_seesaw.classification.datasets import IMAGENET_LT_LISTS


def write_cifar100(root: Path, monkeypatch, images_per_class: int) -> None:
    """Also makes torchvision take the files although their checksums are not CIFAR-100's."""
    random = np.random.default_rng(0)
    folder = root / "cifar-100-python"
    folder.mkdir()
    labels = list(range(100)) * images_per_class
    images = random.integers(1, 256, (len(labels), 3 * 32 * 32), dtype=np.uint8)
    for name in ("train", "test"):
        (folder / name).write_bytes(pickle.dumps({"data": images, "fine_labels": labels}))
    names = {"fine_label_names": [f"class {k}" for k in range(100)]}
    (folder / "meta").write_bytes(pickle.dumps(names))
    monkeypatch.setattr(CIFAR100, "train_list", [["train", None]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", None]])
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": None})


def write_lists(root: Path, image_counts: dict[int, int], lists, size: tuple[int, int]) -> None:
    """
    Images of width and height ``size``, and the lists of training and test images.

    ``image_counts``: training images of each label; each has one test image.
    """
    random = np.random.default_rng(0)
    tested = dict.fromkeys(image_counts, 1)
    for name, folder, counts in zip(lists, ("train", "val"), (image_counts, tested)):
        lines = []
        for label, count in counts.items():
            (root / folder / str(label)).mkdir(parents=True)
            for i in range(count):
                path = f"{folder}/{label}/{i}.png"
                pixels = random.integers(1, 256, (*size[::-1], 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / path)
                lines.append(f"{path} {label}\n")
        (root / name).write_text("".join(lines))


def write_imagenet_lt(root: Path, image_counts: dict[int, int]) -> None:
    write_lists(root, image_counts, IMAGENET_LT_LISTS, (50, 40))


def write_features(folder: Path, image_counts: list[int], dimension: int) -> list[str]:
    """
    Features with a mean and deviation of their own, classes apart; 20 test samples of each class.

    Returns:
        Paths of the files of the training and the test set.
    """
    random = np.random.default_rng(0)
    centres = random.normal(size=(len(image_counts), dimension))
    paths = []
    for name, counts in (("train", image_counts), ("test", [20] * len(image_counts))):
        labels = np.repeat(np.arange(len(counts)), counts)
        features = centres[labels] + random.normal(size=(len(labels), dimension))
        paths.append(str(folder / f"{name}.npz"))
        np.savez(paths[-1], features=50 + 9 * features.astype(np.float32), labels=labels)
    return paths
