"""Training a classifier with one of the losses, and its accuracy."""

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, RandomSampler
from tqdm import tqdm

from ..losses import build_loss
from .datasets import LongTailedData
from .recipes import Recipe

GROUPS = ("many", "medium", "few")


def train(data: LongTailedData, loss_name: str, recipe: Recipe, seed: int) -> nn.Module:
    """
    Train a classifier from scratch, on the GPU if there is one.

    Args:
        data: the training images, and their number in each class.
        loss_name: a key of ``recipe.losses``.
        recipe: network, optimiser and the settings of the losses.
        seed: of the initial weights, the order of images, and what the loss draws.
    """
    torch.manual_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    # All that the losses ask of a classifier: its training set's statistics, one linear layer of
    # loss.num_logits outputs that loss.init_classifier initialises, and a sum of the named scalars.
    loss = build_loss(
        loss_name,
        len(data.image_counts),
        background=False,
        image_counts=data.image_counts,
        num_images=sum(data.image_counts),
        **recipe.losses[loss_name],
    ).to(device)
    classifier = nn.Linear(recipe.num_features, loss.num_logits)
    loss.init_classifier(classifier)
    model = nn.Sequential(recipe.backbone(), classifier).to(device)

    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=recipe.learning_rate,
        momentum=0.9,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.nesterov,
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda iteration: recipe.schedule(iteration / recipe.iterations)
    )
    # As many batches as there are iterations; epoch follows epoch without a gap.
    sampler = RandomSampler(
        data.train,  # type: ignore[arg-type]  # torch's Dataset lacks the hint
        num_samples=recipe.iterations * recipe.batch_size,
    )
    batches = DataLoader(
        data.train, recipe.batch_size, sampler=sampler, num_workers=recipe.num_workers
    )
    model.train()
    for images, gt_classes in tqdm(batches, f"{loss_name}, seed {seed}", disable=None, leave=False):
        logits = model(images.to(device))
        total = sum(loss(logits, gt_classes.to(device)).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        scheduler.step()
    return model


@torch.no_grad()
def predict(model: nn.Module, images: Dataset, recipe: Recipe) -> tuple[torch.Tensor, torch.Tensor]:
    """Predicted and true classes of a dataset, both int64 (N,). The largest logit decides."""
    device = next(model.parameters()).device
    model.eval()
    predicted, true = [], []
    for batch, gt_classes in DataLoader(images, recipe.batch_size, num_workers=recipe.num_workers):
        predicted.append(model(batch.to(device)).argmax(dim=1).cpu())
        true.append(gt_classes)
    return torch.cat(predicted), torch.cat(true)


def groups_of_classes(image_counts: list[int], bounds: tuple[int, int]) -> list[str]:
    """
    Args:
        image_counts: training images of each class.
        bounds: fewer than ``bounds[0]`` is "few", more than ``bounds[1]`` is "many".

    Returns:
        One of :data:`GROUPS` for each class.
    """
    low, high = bounds
    return ["many" if n > high else "few" if n < low else "medium" for n in image_counts]


def accuracies(
    predicted: torch.Tensor, true: torch.Tensor, groups: list[str]
) -> dict[str, float | None]:
    """
    Args:
        predicted, true: int64 (N,).
        groups: one of :data:`GROUPS` for each class.

    Returns:
        Top-1 accuracy in percent: "overall", and of the images of each group, None without images.
    """
    right = (predicted == true).double()
    result: dict[str, float | None] = {"overall": 100 * right.mean().item()}
    for group in GROUPS:
        members = torch.tensor([name == group for name in groups])[true]
        result[group] = 100 * right[members].mean().item() if members.any() else None
    return result
