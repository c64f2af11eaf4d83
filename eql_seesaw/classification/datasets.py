"""Long-tailed training sets with balanced test sets, from files that are already there."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import Dataset, Subset, TensorDataset
from torchvision import transforms
from torchvision.datasets import CIFAR100
from torchvision.datasets.folder import default_loader

CIFAR_LAYOUT = "cifar-100-python/ with its files train, test and meta"
IMAGENET_LT_LISTS = ("ImageNet_LT_train.txt", "ImageNet_LT_test.txt")

CIFAR_MEAN, CIFAR_STD = (0.507, 0.487, 0.441), (0.267, 0.256, 0.276)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass
class LongTailedData:
    """
    Attributes:
        train, test: datasets of (image (C, H, W) float32, label in [0, K)).
        image_counts: training images of each class, (K,).
    """

    train: Dataset
    test: Dataset
    image_counts: list[int]


def long_tailed_counts(num_classes: int, largest: int, imbalance: float) -> list[int]:
    """
    The usual exponential profile: images of each class, falling from ``largest`` in class 0 to
    ``largest / imbalance`` in the last class, rounded down.

    Raises:
        ValueError: an imbalance that is below 1, or leaves the last class without an image.
    """
    if not 1 <= imbalance <= largest:
        raise ValueError(
            f"--imbalance must be from 1 to {largest}, the images of the largest class, "
            f"got {imbalance:g}"
        )
    # Not imbalance ** -(...): rounded down, this form gives the counts that the papers report.
    return [int(largest * (1 / imbalance) ** (k / (num_classes - 1))) for k in range(num_classes)]


def draw_images(
    labels: torch.Tensor, counts: list[int], generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Draw ``counts[k]`` images of each class k at random.

    Args:
        labels: (N,) int64.
        counts: (K,), at most the images that the class has.

    Returns:
        Indices of the drawn images, and of the others.
    """
    drawn, others = [], []
    for k, count in enumerate(counts):
        indices = torch.nonzero(labels == k).flatten()
        indices = indices[torch.randperm(len(indices), generator=generator)]
        drawn.append(indices[:count])
        others.append(indices[count:])
    return torch.cat(drawn), torch.cat(others)


def load_digits(imbalance: float, generator: torch.Generator) -> LongTailedData:
    """
    The 1,797 handwritten digits that come with scikit-learn, 8 x 8 pixels. 50 images of each digit
    are drawn for the test set, and a long-tailed training set from the rest; 0 has most images.
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError("--data digits needs scikit-learn: pip install scikit-learn") from error
    digits = datasets.load_digits()
    images = torch.from_numpy(digits.images).float()[:, None] / 16
    labels = torch.from_numpy(digits.target).long()
    test, rest = draw_images(labels, [50] * 10, generator)
    counts = long_tailed_counts(10, int(labels[rest].bincount().min()), imbalance)
    drawn, _ = draw_images(labels[rest], counts, generator)
    train = rest[drawn]
    return LongTailedData(
        TensorDataset(images[train], labels[train]),
        TensorDataset(images[test], labels[test]),
        counts,
    )


def load_cifar100_lt(root: str, imbalance: float, generator: torch.Generator) -> LongTailedData:
    """
    CIFAR-100-LT: a long-tailed part of CIFAR-100's training set; class 0 has most images.

    Args:
        root: the folder that holds ``cifar-100-python/``.
    """
    normalize = [transforms.ToTensor(), transforms.Normalize(CIFAR_MEAN, CIFAR_STD)]
    augment = [
        transforms.RandomCrop(32, padding=4),
        transforms.RandomHorizontalFlip(),
        transforms.AutoAugment(transforms.AutoAugmentPolicy.CIFAR10),
        *normalize,
        # Cutout of 16 x 16 pixels, a quarter of the image; here it never reaches over the border.
        transforms.RandomErasing(p=1, scale=(0.25, 0.25), ratio=(1, 1)),
    ]
    try:
        train = CIFAR100(root, train=True, transform=transforms.Compose(augment))
        test = CIFAR100(root, train=False, transform=transforms.Compose(normalize))
    except RuntimeError as error:
        raise FileNotFoundError(
            f"--root {root}: no whole {CIFAR_LAYOUT} in this folder; it is the Python version of "
            "CIFAR-100, unpacked"
        ) from error
    labels = torch.tensor(train.targets)
    largest = int(labels.bincount(minlength=100).min())
    counts = long_tailed_counts(100, largest, imbalance)
    indices, _ = draw_images(labels, counts, generator)
    return LongTailedData(Subset(train, indices.tolist()), test, counts)


class ImageList(Dataset):
    """
    The images of a text file with lines of "path label".

    Args:
        root: folder that paths are relative to.
        list_file: the file's name, in ``root``.
        transform: from a PIL image to a tensor.

    Raises:
        FileNotFoundError: the file, or an image in it, is missing.
        ValueError: a line that is not "path label", or a file without lines.
    """

    def __init__(self, root: str, list_file: str, transform: Callable[[Image.Image], torch.Tensor]):
        self.paths: list[Path] = []
        self.labels: list[int] = []
        self.transform = transform
        path = Path(root, list_file)
        if not path.is_file():
            raise FileNotFoundError(
                f"--root {root}: no {list_file} in this folder; it must hold ImageNet's folders "
                f"train/ and val/ and the lists {' and '.join(IMAGENET_LT_LISTS)}"
            )
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            name, _, label = line.strip().rpartition(" ")
            if not (name and label.isdecimal()):
                raise ValueError(f'{path}, line {number}: not "path label": {line!r}')
            if not Path(root, name).is_file():
                raise FileNotFoundError(f"{path}, line {number}: no image {Path(root, name)}")
            self.paths.append(Path(root, name))
            self.labels.append(int(label))
        if not self.labels:
            raise ValueError(f"{path} has no lines")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(default_loader(str(self.paths[index]))), self.labels[index]


def load_imagenet_lt(root: str) -> LongTailedData:
    """
    ImageNet-LT, by its lists of images.

    Args:
        root: the folder that holds the lists, and the images that they name.
    """
    normalize = [transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    augment = [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), *normalize]
    whole = [transforms.Resize(256), transforms.CenterCrop(224), *normalize]
    train_list, test_list = IMAGENET_LT_LISTS
    train = ImageList(root, train_list, transforms.Compose(augment))
    test = ImageList(root, test_list, transforms.Compose(whole))
    counts = torch.tensor(train.labels).bincount().tolist()
    if max(test.labels) >= len(counts):
        raise ValueError(
            f"{Path(root, test_list)} has label {max(test.labels)}, "
            f"{train_list} only 0 to {len(counts) - 1}"
        )
    return LongTailedData(train, test, counts)
