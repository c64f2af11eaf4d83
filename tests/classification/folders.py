"""Folders laid out like CIFAR-100 and ImageNet-LT, with a few images of noise."""

import pickle
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.datasets import CIFAR100


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


def write_imagenet_lt(root: Path, image_counts: dict[int, int]) -> None:
    """``image_counts``: training images of each label; each has one test image."""
    random = np.random.default_rng(0)
    tested = dict.fromkeys(image_counts, 1)
    for split, folder, counts in (("train", "train", image_counts), ("test", "val", tested)):
        lines = []
        for label, count in counts.items():
            (root / folder / str(label)).mkdir(parents=True)
            for i in range(count):
                name = f"{folder}/{label}/{i}.jpg"
                pixels = random.integers(0, 256, (40, 50, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / name)
                lines.append(f"{name} {label}\n")
        (root / f"ImageNet_LT_{split}.txt").write_text("".join(lines))
