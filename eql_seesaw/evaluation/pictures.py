"""A picture of ground truth beside predictions, for a look at what the model does."""

import os
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from detectron2.data import Metadata
from detectron2.data.detection_utils import read_image
from PIL import Image, ImageDraw

from ..atomic_write import atomic_file
from .drawing import draw_objects, label_font
from .result import Result
from .results_file import ResultsFile

# Pixels. Images are scaled, up or down, so that their longest side is PANEL_SIDE.
PANEL_SIDE = 384
GAP = 8
PAIR_GAP = 32
CAPTION_HEIGHT = 24
FONT_SIZE = 14
PAIRS_PER_ROW = 2


def draw_evaluation(
    folder: str, output_file: str, num_pictures: int = 8, score_threshold: float = 0.3
) -> None:
    """
    Draw images of an evaluation with :func:`draw_predictions`, those with the rarest classes.

    Args:
        folder: of the evaluation.
        output_file, num_pictures, score_threshold: as for :func:`draw_predictions`.

    Raises:
        FileNotFoundError: the folder lacks a file of the evaluation, or an image is gone.
        ValueError: there is no image to draw.
    """
    evaluation = Result.load(folder)
    categories = evaluation.categories
    ground_truth = evaluation.ground_truth
    classes = {category["id"]: k for k, category in enumerate(categories)}
    images: dict[int, dict[str, Any]] = {
        int(image_id): {"file_name": name, "image_id": int(image_id), "annotations": []}
        for image_id, name in evaluation.file_names.items()
    }
    for annotation in ground_truth["annotations"]:
        if annotation["image_id"] in images:
            obj = {**annotation, "category_id": classes[annotation["category_id"]]}
            images[annotation["image_id"]]["annotations"].append(obj)
    dataset_dicts = [images[image_id] for image_id in sorted(images)]
    train_images = [category["train_images"] for category in categories]
    image_counts = None if None in train_images else train_images
    chosen = choose_images(dataset_dicts, num_pictures, image_counts=image_counts)
    if any(image["file_name"] is None for image in chosen):
        raise FileNotFoundError("where the images are was not said (--images FOLDER)")
    results = ResultsFile(evaluation.results_file)
    draw_predictions(
        chosen,
        [r for image in chosen for r in results.detections(image["image_id"]).to_results()],
        Metadata(
            thing_classes=[category["name"] for category in categories],
            thing_dataset_id_to_contiguous_id=classes,
        ),
        output_file,
        num_pictures=num_pictures,
        score_threshold=score_threshold,
        image_counts=image_counts,
    )


def draw_predictions(
    dataset_dicts: Sequence[dict[str, Any]],
    results: Iterable[dict[str, Any]],
    metadata: Metadata,
    output_file: str,
    *,
    num_pictures: int = 8,
    score_threshold: float = 0.3,
    seed: int = 0,
    image_counts: Sequence[int] | None = None,
) -> None:
    """
    Draw pairs of ground truth (left) and predictions (right), two images per row, into one PNG.

    The images are chosen so that the rarest classes are seen: class by class, rarest first, one
    image that holds it, by chance but always the same for the same seed.

    Args:
        dataset_dicts: images with annotations, in Detectron2's standard format.
        results: predictions of any of these images in LVIS format, masks optional.
        metadata: the dataset's, for "thing_classes" and, unless category ids are class + 1,
            "thing_dataset_id_to_contiguous_id".
        output_file: the PNG; its folder is made if need be.
        num_pictures: images to draw, or as many as there are.
        score_threshold: predictions below it are not drawn.
        seed: of the choice of images.
        image_counts: (K,), training images of each class, by which rarity is judged. Without it,
            images in ``dataset_dicts`` count.

    Raises:
        ValueError: there are no images to draw.
    """
    if not dataset_dicts or num_pictures < 1:
        raise ValueError(
            f"Nothing to draw into {output_file}: {len(dataset_dicts)} images, "
            f"num_pictures={num_pictures}."
        )
    chosen = choose_images(dataset_dicts, num_pictures, seed, image_counts)
    predictions = _predictions_by_image(results, metadata, score_threshold)
    pairs = [_draw_pair(image, predictions[image["image_id"]], metadata) for image in chosen]
    picture = _arrange(pairs, ("ground truth", f"predictions, score ≥ {score_threshold:g}"))

    os.makedirs(os.path.dirname(os.path.abspath(output_file)), exist_ok=True)
    with atomic_file(output_file, "wb") as f:
        picture.save(f, format="PNG")


def choose_images(
    dataset_dicts: Sequence[dict[str, Any]],
    num_pictures: int,
    seed: int = 0,
    image_counts: Sequence[int] | Mapping[int, int] | None = None,
) -> list[dict[str, Any]]:
    """The images that :func:`draw_predictions` draws, given the same arguments."""
    images_of_class = defaultdict(list)
    for i, image in enumerate(dataset_dicts):
        for k in sorted({obj["category_id"] for obj in image.get("annotations", [])}):
            images_of_class[k].append(i)
    if image_counts is None:
        image_counts = Counter({k: len(images) for k, images in images_of_class.items()})

    chance = random.Random(seed)
    chosen: list[int] = []
    for k in sorted(images_of_class, key=lambda k: (image_counts[k], k)):
        candidates = [i for i in images_of_class[k] if i not in chosen]
        if len(chosen) == num_pictures:
            break
        if candidates:
            chosen.append(chance.choice(candidates))
    others = [i for i in range(len(dataset_dicts)) if i not in chosen]
    chosen += chance.sample(others, min(len(others), num_pictures - len(chosen)))
    return [dataset_dicts[i] for i in chosen]


def _predictions_by_image(results, metadata, score_threshold):
    """{image id: predictions to draw, lowest score first, with contiguous class ids}"""
    to_contiguous = metadata.get("thing_dataset_id_to_contiguous_id")
    predictions = defaultdict(list)
    for result in sorted(results, key=lambda result: result["score"]):
        if result["score"] >= score_threshold:
            category_id = result["category_id"]
            k = category_id - 1 if to_contiguous is None else to_contiguous[category_id]
            predictions[result["image_id"]].append({**result, "category_id": k})
    return predictions


def _draw_pair(image, predictions, metadata):
    pixels = read_image(image["file_name"], format="RGB")
    ground_truth = [obj for obj in image.get("annotations", []) if not obj.get("iscrowd")]
    left = draw_objects(pixels, ground_truth, metadata.thing_classes, PANEL_SIDE)
    right = draw_objects(pixels, predictions, metadata.thing_classes, PANEL_SIDE)
    pair = Image.new("RGB", (2 * PANEL_SIDE + GAP, left.height), "white")
    pair.paste(left, (0, 0))
    pair.paste(right, (PANEL_SIDE + GAP, 0))
    return pair


def _arrange(pairs, captions):
    """Rows of pairs, and over each column what it shows."""
    rows = [pairs[i : i + PAIRS_PER_ROW] for i in range(0, len(pairs), PAIRS_PER_ROW)]
    heights = [max(pair.height for pair in row) + GAP for row in rows]
    stride = pairs[0].width + PAIR_GAP
    width = 2 * GAP + len(rows[0]) * stride - PAIR_GAP
    picture = Image.new("RGB", (width, CAPTION_HEIGHT + sum(heights)), "white")
    draw = ImageDraw.Draw(picture)
    for column in range(len(rows[0])):
        for panel, caption in enumerate(captions):
            x = GAP + column * stride + panel * (PANEL_SIDE + GAP)
            draw.text((x, CAPTION_HEIGHT / 2), caption, "black", label_font(FONT_SIZE), anchor="lm")
    y = CAPTION_HEIGHT
    for row, height in zip(rows, heights, strict=True):
        for column, pair in enumerate(row):
            picture.paste(pair, (GAP + column * stride, y))
        y += height
    return picture
