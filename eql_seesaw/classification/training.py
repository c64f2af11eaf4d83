"""Training a classifier with one of the losses, and its accuracy."""

import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    TensorDataset,
)
from tqdm import tqdm

from ..losses import ClassificationLoss, build_loss
from ..normed_layers import NormedLinear
from .datasets import LongTailedData
from .recipes import Recipe

GROUPS = ("many", "medium", "few")


def loss_and_classifier(
    method: str, recipe: Recipe, image_counts: list[int]
) -> tuple[ClassificationLoss, nn.Linear]:
    """
    Args:
        method: a key of ``recipe.losses``; after it, each behind a comma, ARGUMENT=VALUE of the
            loss, ``classifier=linear`` or ``classifier=normed`` (normalised), and
            ``temperature=VALUE`` of the latter.
        image_counts: training images of each class.

    Raises:
        ValueError: an unknown loss, argument or classifier, or a value that the loss refuses.
    """
    name, *pairs = method.split(",")
    if name not in recipe.losses:
        raise ValueError(f"--loss {method}: no loss {name!r}; there are {', '.join(recipe.losses)}")
    for pair in pairs:
        if "=" not in pair:
            raise ValueError(f"--loss {method}: {pair!r} must be ARGUMENT=VALUE, such as p=0.5")
    typed = {key: _number(text) for key, _, text in (pair.partition("=") for pair in pairs)}
    arguments = {**recipe.losses[name], **typed}
    if "max_image_count" in typed:
        arguments.pop("lambda_", None)  # which would win
    classifier, temperature = arguments.pop("classifier", None), arguments.pop("temperature", 20.0)
    if classifier not in (None, "linear", "normed"):
        raise ValueError(f"--loss {method}: classifier must be linear or normed")
    try:
        # All that the losses ask of a classifier: its training set's statistics, one linear layer
        # of loss.num_logits outputs that loss.init_classifier initialises, and a sum of the named
        # scalars.
        loss = build_loss(
            name,
            len(image_counts),
            background=False,
            image_counts=image_counts,
            instance_counts=image_counts,
            num_images=sum(image_counts),
            num_steps=recipe.iterations,
            **arguments,
        )
    except (ValueError, TypeError) as error:
        raise ValueError(f"--loss {method}: {error}") from None
    normed = loss.normed_classifier if classifier is None else classifier == "normed"
    sizes = recipe.num_features, loss.num_logits
    layer = NormedLinear(*sizes, temperature) if normed else nn.Linear(*sizes)
    loss.init_classifier(layer)
    return loss, layer


def _number(text: str) -> float | str:
    """Of a text what it stands for, or itself."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def train(data: LongTailedData, method: str, recipe: Recipe, seed: int) -> nn.Sequential:
    """
    Train a backbone and a classifier from scratch, on the GPU if there is one.

    Args:
        method: the loss, as of :func:`loss_and_classifier`.
        seed: of the initial weights, the order of images, and what the loss draws.

    Returns:
        The backbone, and the classifier on it.
    """
    torch.manual_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loss, classifier = loss_and_classifier(method, recipe, data.image_counts)
    loss.to(device)
    model = nn.Sequential(recipe.backbone(), classifier).to(device)
    if recipe.bfloat16:  # whose convolutions are faster so
        model.to(memory_format=torch.channels_last)

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
    batches = load_batches(data.train, sampler, recipe, device)
    model.train()
    for images, gt_classes in tqdm(batches, f"{method}, seed {seed}", disable=None, leave=False):
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.bfloat16):
            logits = model(images.to(device, non_blocking=True))
        total = sum(loss(logits, gt_classes.to(device, non_blocking=True)).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        scheduler.step()
    return model


def load_batches(
    dataset: Dataset, sampler: Sampler, recipe: Recipe, device: torch.device
) -> DataLoader:
    """Batches of images (R, C, H, W) or features (R, D), and of labels (R,)."""
    if isinstance(dataset, TensorDataset):  # one look-up for a whole batch
        dataset = TensorDataset(*(tensor.to(device) for tensor in dataset.tensors))
        sampler = BatchSampler(sampler, recipe.batch_size, drop_last=False)
        return DataLoader(dataset, batch_size=None, sampler=sampler)
    return DataLoader(
        dataset,
        recipe.batch_size,
        sampler=sampler,
        num_workers=recipe.num_workers,
        pin_memory=device.type == "cuda",
    )


@torch.no_grad()
def predict(model: nn.Module, images: Dataset, recipe: Recipe) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Returns:
        The 5 classes of the largest logits, the largest first, int64 (N, 5), or (N, K) of K < 5
        classes; and the true class, int64 (N,).
    """
    device = next(model.parameters()).device
    model.eval()
    predicted, true = [], []
    sampler = SequentialSampler(images)  # type: ignore[arg-type]  # as above
    for batch, gt_classes in load_batches(images, sampler, recipe, device):
        logits = model(batch.to(device))
        predicted.append(logits.topk(min(5, logits.shape[1])).indices.cpu())
        true.append(gt_classes.cpu())
    return torch.cat(predicted), torch.cat(true)


def groups_of_classes(image_counts: list[int], bounds: tuple[int, int]) -> list[str]:
    """One of :data:`GROUPS` for each class; ``bounds`` are those of :class:`Recipe`."""
    low, high = bounds
    return ["many" if n > high else "few" if n < low else "medium" for n in image_counts]


def accuracies(
    predicted: torch.Tensor, true: torch.Tensor, groups: list[str]
) -> dict[str, float | None]:
    """
    Args:
        predicted: int64 (N, 5), the best first.
        true: int64 (N,).
        groups: one of :data:`GROUPS` for each class.

    Returns:
        Top-1 accuracy in percent: "overall", and of the images of each group, None without images;
        and "top5" of all.
    """
    right = (predicted[:, 0] == true).double()
    result: dict[str, float | None] = {
        "overall": 100 * right.mean().item(),
        "top5": 100 * (predicted == true[:, None]).any(dim=1).double().mean().item(),
    }
    for group in GROUPS:
        members = torch.tensor([name == group for name in groups])[true]
        result[group] = 100 * right[members].mean().item() if members.any() else None
    return result
