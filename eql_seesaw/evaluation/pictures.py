"""Pictures of ground truth beside predictions, and what else shows an evaluation."""

import contextlib
import logging
import os
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data.detection_utils import read_image
from PIL import Image, ImageDraw

from ..atomic_write import atomic_file
from .drawing import draw_objects, label_font
from .result import Result

logger = logging.getLogger(__name__)

# Pixels. Images are scaled, up or down, so that their longest side is PANEL_SIDE.
PANEL_SIDE = 384
GAP = 8
PAIR_GAP = 32
CAPTION_HEIGHT = 24
FONT_SIZE = 14
PAIRS_PER_ROW = 2


def draw_pictures(
    result: Result, path: str, num_images: int = 8, score_threshold: float = 0.3
) -> None:
    """
    Draw pairs of ground truth (left) and predictions (right), two images per row, into one PNG.

    Args:
        result: of an evaluation, with its file of detections.
        path: of the PNG; its folder is made if need be.
        num_images: images to draw, or as many as there are; those with the rarest classes.
        score_threshold: predictions below it are not drawn.

    Raises:
        FileNotFoundError: an image, or the file of detections, is gone.
    """
    classes = {category["id"]: k for k, category in enumerate(result.categories)}
    objects: dict[int, list[dict[str, Any]]] = {i: [] for i in result.file_names}
    for annotation in result.ground_truth["annotations"]:
        if annotation["image_id"] in objects:
            obj = {**annotation, "category_id": classes[annotation["category_id"]]}
            objects[annotation["image_id"]].append(obj)
    classes_of_images = {i: {obj["category_id"] for obj in objects[i]} for i in sorted(objects)}
    train_images = [category["train_images"] for category in result.categories]
    chosen = choose_images(
        classes_of_images, num_images, None if None in train_images else train_images
    )
    names = [category["name"] for category in result.categories]
    pairs = []
    for image_id in chosen:
        file_name = result.file_names[image_id]
        if file_name is None:
            raise FileNotFoundError("where the images are was not said (--images FOLDER)")
        # Lowest score first, so that the highest is on top.
        predictions = sorted(
            (
                {**prediction, "category_id": classes[prediction["category_id"]]}
                for prediction in result.detections.detections(image_id).to_results()
                if prediction["score"] >= score_threshold
            ),
            key=lambda prediction: prediction["score"],
        )
        pairs.append(_draw_pair(file_name, objects[image_id], predictions, names))
    picture = _arrange(pairs, ("ground truth", f"predictions, score ≥ {score_threshold:g}"))

    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with atomic_file(path, "wb") as f:
        picture.save(f, format="PNG")


def choose_images(
    classes_of_images: Mapping[int, set[int]],
    num_images: int,
    train_images: Sequence[int] | None = None,
) -> list[int]:
    """
    Choose images so that the rarest classes are seen: class by class, rarest first, one image that
    holds it, by chance but always the same.

    Args:
        classes_of_images: {image id: classes of its objects}.
        num_images: number to choose, or as many as there are.
        train_images: (K,), training images of each class, by which rarity is judged. Without it,
            images in ``classes_of_images`` count.
    """
    images_of_class = defaultdict(list)
    for image_id, classes in classes_of_images.items():
        for k in sorted(classes):
            images_of_class[k].append(image_id)
    rarity: Any = train_images
    if train_images is None:
        rarity = {k: len(images) for k, images in images_of_class.items()}

    chance = random.Random(0)
    chosen: list[int] = []
    for k in sorted(images_of_class, key=lambda k: (rarity[k], k)):
        candidates = [i for i in images_of_class[k] if i not in chosen]
        if len(chosen) == num_images:
            break
        if candidates:
            chosen.append(chance.choice(candidates))
    others = [i for i in classes_of_images if i not in chosen]
    return chosen + chance.sample(others, min(len(others), num_images - len(chosen)))


def _draw_pair(file_name, objects, predictions, names):
    pixels = read_image(file_name, format="RGB")
    left = draw_objects(pixels, objects, names, PANEL_SIDE)
    right = draw_objects(pixels, predictions, names, PANEL_SIDE)
    pair = Image.new("RGB", (2 * PANEL_SIDE + GAP, left.height), "white")
    pair.paste(left, (0, 0))
    pair.paste(right, (PANEL_SIDE + GAP, 0))
    return pair


def _arrange(pairs, captions):
    """Rows of pairs, and over each column what it shows."""
    rows = [pairs[i : i + PAIRS_PER_ROW] for i in range(0, len(pairs), PAIRS_PER_ROW)]
    stride = pairs[0].width + PAIR_GAP
    width = 2 * GAP + len(rows[0]) * stride - PAIR_GAP
    height = sum(max(pair.height for pair in row) + GAP for row in rows)
    picture = Image.new("RGB", (width, CAPTION_HEIGHT + height), "white")
    draw, font = ImageDraw.Draw(picture), label_font(FONT_SIZE)
    for column in range(len(rows[0])):
        for panel, caption in enumerate(captions):
            x = GAP + column * stride + panel * (PANEL_SIDE + GAP)
            draw.text((x, CAPTION_HEIGHT / 2), caption, "black", font, anchor="lm")
    y = CAPTION_HEIGHT
    for row in rows:
        for column, pair in enumerate(row):
            picture.paste(pair, (GAP + column * stride, y))
        y += max(pair.height for pair in row) + GAP
    return picture


def show_evaluation(cfg: CfgNode, result: Result, folder: str) -> None:
    """
    Draw TEST.NUM_PICTURES images and write the report (TEST.REPORT) of an evaluation, into its
    folder. What goes wrong is logged and not raised: pictures are no reason to lose an evaluation,
    or to stop a training.
    """
    picture = os.path.join(folder, "predictions.png")
    if cfg.TEST.NUM_PICTURES > 0:
        with _logged_failure(picture):
            draw_pictures(result, picture, cfg.TEST.NUM_PICTURES, cfg.TEST.PICTURE_SCORE_THRESH)
    if cfg.TEST.REPORT:
        # A training need not wait for Matplotlib before it begins.
        from .report import write_report

        with _logged_failure(f"the report of {folder}"):
            report = os.path.join(folder, "report")
            path = write_report(result, report, cfg.TEST.PICTURE_SCORE_THRESH)
            logger.info(f"Report: {path}")


@contextlib.contextmanager
def _logged_failure(what: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        logger.warning(f"Could not draw {what}: {error}")
    except Exception:
        logger.warning(f"Could not draw {what}:", exc_info=True)
