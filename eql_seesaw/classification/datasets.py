"""Long-tailed training sets with balanced test sets, from files that are already there."""

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, Subset, TensorDataset
from torchvision import transforms
from torchvision.datasets import CIFAR100
from torchvision.datasets.folder import default_loader

Transform = Callable[[Image.Image], torch.Tensor]

CIFAR_LISTS = ("train.txt", "test.txt")
IMAGENET_LT_LISTS = ("ImageNet_LT_train.txt", "ImageNet_LT_test.txt")
# What the folder of --root holds.
LAYOUTS = {
    "cifar100-lt": "cifar-100-python/ with its files train, test and meta, or the lists "
    f"{' and '.join(CIFAR_LISTS)} beside the images that they name",
    "imagenet-lt": f"{' and '.join(IMAGENET_LT_LISTS)} beside the images that they name",
}

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


def load_cifar100_lt(
    root: str, imbalance: float | None, generator: torch.Generator
) -> LongTailedData:
    """
    CIFAR-100-LT: a long-tailed part of CIFAR-100's training set.

    Args:
        root: the folder that holds ``train.txt``, ``test.txt`` and the images that they name, 32 x
            32 pixels, which are kept in memory; or ``cifar-100-python/``, of which a part is drawn,
            class 0 having most images.
        imbalance: of what is drawn; None for the EQL paper's, 200.

    Raises:
        FileNotFoundError: neither is there.
        ValueError: an imbalance, but lists, which decide it; others as :class:`ImageList`.
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
    in_training, in_test = transforms.Compose(augment), transforms.Compose(normalize)
    if any(Path(root, name).exists() for name in CIFAR_LISTS):
        if imbalance is not None:
            raise ValueError(
                f"--imbalance is for cifar-100-python/; the lists in --root {root} are long-tailed "
                "as they are"
            )
        return load_lists(root, CIFAR_LISTS, in_training, in_test, in_memory=True)
    try:
        train = CIFAR100(root, train=True, transform=in_training)
        test = CIFAR100(root, train=False, transform=in_test)
    except RuntimeError as error:
        raise FileNotFoundError(
            f"--root {root}: no whole {LAYOUTS['cifar100-lt']}; the first is the Python version of "
            "CIFAR-100, unpacked"
        ) from error
    labels = torch.tensor(train.targets)
    largest = int(labels.bincount(minlength=100).min())
    counts = long_tailed_counts(100, largest, 200 if imbalance is None else imbalance)
    indices, _ = draw_images(labels, counts, generator)
    return LongTailedData(Subset(train, indices.tolist()), test, counts)


def load_imagenet_lt(root: str) -> LongTailedData:
    """ImageNet-LT: ``root`` holds its lists, and the images that they name (:class:`ImageList`)."""
    normalize = [transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    augment = [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), *normalize]
    whole = [transforms.Resize(256), transforms.CenterCrop(224), *normalize]
    in_training, in_test = transforms.Compose(augment), transforms.Compose(whole)
    return load_lists(root, IMAGENET_LT_LISTS, in_training, in_test)


class ImageList(Dataset):
    """
    The images of a text file with lines of "path label".

    Args:
        root: folder that paths are relative to.
        list_file: the file's name, in ``root``.
        transform: from a PIL image to a tensor.
        in_memory: read all images at once, and keep them.

    Raises:
        FileNotFoundError: no such list.
        ValueError: a line that is not the path of an image and a label.
    """

    def __init__(
        self, root: str | Path, list_file: str, transform: Transform, in_memory: bool = False
    ):
        self.images: list[Path | Image.Image] = []
        self.labels: list[int] = []
        self.transform = transform
        path = Path(root, list_file)
        if not path.is_file():
            raise FileNotFoundError(
                f"--root {root}: no {list_file} in this folder; it has a line `path label` for "
                "each image"
            )
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            name, _, label = line.strip().rpartition(" ")
            image = Path(root, name)
            if not (label.isdecimal() and image.is_file()):
                raise ValueError(
                    f"{path}, line {number}: not the path of an image in {root}, a blank and a "
                    f"label: {line!r}"
                )
            self.images.append(default_loader(str(image)) if in_memory else image)
            self.labels.append(int(label))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = self.images[index]
        if isinstance(image, Path):
            image = default_loader(str(image))
        return self.transform(image), self.labels[index]


def load_lists(
    root: str,
    lists: tuple[str, str],
    in_training: Transform,
    in_test: Transform,
    in_memory: bool = False,
) -> LongTailedData:
    """The images of the lists of a training and a test set. Raises as :func:`check_labels`."""
    train = ImageList(root, lists[0], in_training, in_memory)
    test = ImageList(root, lists[1], in_test, in_memory)
    check_labels(lists[0], train.labels, lists[1], test.labels)
    return LongTailedData(train, test, np.bincount(train.labels).tolist())


def check_labels(
    train_file: str,
    train_labels: Sequence[int] | np.ndarray,
    test_file: str,
    test_labels: Sequence[int] | np.ndarray,
) -> None:
    """Raises ValueError unless labels are from 0 without gaps, those of the test set among them."""
    classes = np.unique(train_labels)
    if not len(classes) or classes[-1] != len(classes) - 1:
        raise ValueError(
            f"{train_file}: labels must be integers from 0 without gaps, but there are "
            f"{len(classes)}, the largest {max(classes, default='missing')}"
        )
    unknown = np.setdiff1d(test_labels, classes)
    if len(unknown):
        raise ValueError(
            f"{test_file} has label {unknown[0]}, but the classes of {train_file} are 0 to "
            f"{classes[-1]}"
        )


def load_features(train_file: str, test_file: str) -> LongTailedData:
    """
    Features that were extracted before, as files of numpy: ``features`` (N, D) float and ``labels``
    (N,) int. They are standardised by mean and deviation of the training set.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: an array is missing, has another shape or dtype, or is not finite; or the two
            files do not fit each other.
    """
    train_features, train_labels = _read_features(train_file)
    test_features, test_labels = _read_features(test_file)
    if test_features.shape[1] != train_features.shape[1]:
        raise ValueError(
            f"{test_file} has {test_features.shape[1]} features a sample, {train_file} "
            f"{train_features.shape[1]}"
        )
    check_labels(train_file, train_labels, test_file, test_labels)
    mean = train_features.mean(axis=0, dtype=np.float64)
    deviation = train_features.std(axis=0, dtype=np.float64)
    # A feature that never varies says nothing.
    deviation[deviation == 0] = 1

    def dataset(features: np.ndarray, labels: np.ndarray) -> TensorDataset:
        standardised = ((features - mean) / deviation).astype(np.float32)
        return TensorDataset(torch.from_numpy(standardised), torch.from_numpy(labels))

    return LongTailedData(
        dataset(train_features, train_labels),
        dataset(test_features, test_labels),
        np.bincount(train_labels).tolist(),
    )


def _read_features(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, D) of the file's dtype, and labels int64 (N,)."""
    try:
        with np.load(path) as file:
            features, labels = file["features"], file["labels"]
    except (KeyError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(
            f"{path}: not a file of numpy.savez with the arrays features and labels ({error})"
        ) from None
    if not (
        features.ndim == 2
        and features.dtype.kind == "f"
        and np.isfinite(features).all()
        and labels.shape == features.shape[:1]
        and labels.dtype.kind in "iu"
        and labels.min() >= 0
    ):
        raise ValueError(
            f"{path}: features must be finite floats of shape (N, D) and labels integers of shape "
            f"(N,) from 0 on; they are {features.dtype} of shape {features.shape} and "
            f"{labels.dtype} of shape {labels.shape}"
        )
    return features, labels.astype(np.int64)
