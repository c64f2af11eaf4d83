"""Drawing one image of the generated dataset: background, placing, occlusion, masks."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageFilter

from .symbol_glyphs import Glyph

OBJECT_SIZES = (0.16, 0.55)  # longest side over the image size, log-uniform
MAX_ROTATION = 25.0  # degrees, either way
MIN_VISIBLE = 0.25  # share of an object that others must leave visible
NUM_POSITIONS = 3  # tried for each object


def draw_image(
    glyphs: Sequence[Glyph], image_size: int, rng: np.random.Generator, plain: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """
    Draw glyphs in turn, later ones over earlier ones, at random places on a random background.

    Args:
        glyphs: what to draw.
        image_size: height and width in pixels.
        rng: decides everything else.
        plain: dark symbols on light bodies, instead of any two colours.

    Returns:
        The image, uint8 RGB (H, W, 3), and the index of the glyph that each pixel shows, int
        (H, W), -1 for the background.

    Raises:
        ValueError: the glyphs do not fit into an image of this size.
    """
    canvas = _draw_background(image_size, rng)
    owner = np.full((image_size, image_size), -1)
    areas = np.zeros(len(glyphs), dtype=int)
    visible = np.zeros(len(glyphs), dtype=int)
    for index, glyph in enumerate(glyphs):
        ink, body, x, y = _place_glyph(glyph, owner, areas, visible, rng)
        height, width = body.shape
        region = np.s_[y : y + height, x : x + width]
        mask = body >= 128
        hidden = owner[region][mask]
        visible -= np.bincount(hidden[hidden >= 0], minlength=len(glyphs))
        areas[index] = visible[index] = mask.sum()
        owner[region][mask] = index

        if plain:
            body_color, ink_color = rng.uniform(205, 255, 3), rng.uniform(0, 50, 3)
        else:
            body_color = _contrasting_color(canvas[region].mean(axis=(0, 1)), rng)
            ink_color = _contrasting_color(body_color, rng)
        color = body_color + (ink_color - body_color) * (ink[:, :, None] / 255.0)
        canvas[region] += (color - canvas[region]) * (body[:, :, None] / 255.0)

    canvas += rng.normal(0.0, rng.uniform(0.0, 6.0), canvas.shape)
    picture = Image.fromarray(canvas.clip(0, 255).astype(np.uint8))
    picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.0, 0.6)))
    return np.asarray(picture), owner


def _place_glyph(
    glyph: Glyph,
    owner: np.ndarray,
    areas: np.ndarray,
    visible: np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, int, int]:
    """
    A random size, rotation and position that leaves enough of every earlier glyph visible.

    Returns:
        Ink and body, uint8 (h, w), and the x and y of their upper left corner.
    """
    image_size = len(owner)
    low, high = OBJECT_SIZES
    side = image_size * low * (high / low) ** rng.random()
    angle = rng.uniform(-MAX_ROTATION, MAX_ROTATION)
    for _ in range(50):
        ink, body = _transform_glyph(glyph, side, angle)
        height, width = body.shape
        mask = body >= 128
        positions = []
        # The position that hides least: objects overlap a bit, but do not pile up.
        for _ in range(NUM_POSITIONS):
            x = int(rng.integers(image_size - width + 1))
            y = int(rng.integers(image_size - height + 1))
            hidden = owner[y : y + height, x : x + width][mask]
            hidden = np.bincount(hidden[hidden >= 0], minlength=len(areas))
            if (visible - hidden >= MIN_VISIBLE * areas).all():
                positions.append((hidden.sum(), x, y))
        if positions:
            return ink, body, *min(positions)[1:]
        side = max(0.8 * side, low * image_size)
    raise ValueError(
        f"{len(areas)} objects do not fit into an image of {image_size} pixels; "
        "use a larger image_size or a smaller classes_per_image"
    )


def _transform_glyph(glyph: Glyph, side: float, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Ink and body scaled to a longest side in pixels, rotated by degrees, cropped to the body."""
    scale = side / max(glyph.ink.size)
    size = [max(1, round(scale * length)) for length in glyph.ink.size]
    ink, body = (
        layer.resize(size, Image.Resampling.BILINEAR).rotate(
            angle, Image.Resampling.BICUBIC, expand=True
        )
        for layer in glyph
    )
    box = body.getbbox()
    return np.asarray(ink.crop(box)), np.asarray(body.crop(box))


def _draw_background(image_size: int, rng: np.random.Generator) -> np.ndarray:
    """A texture of two colours (gradient, stripes or smooth noise), float (H, W, 3), 0 to 255."""
    kind = rng.integers(3)
    if kind == 2:
        cells = rng.integers(0, 256, (rng.integers(3, 12),) * 2, dtype=np.uint8)
        smooth = Image.fromarray(cells).resize((image_size,) * 2, Image.Resampling.BICUBIC)
        blend = np.asarray(smooth) / 255.0
    else:
        angle = rng.uniform(0, 2 * np.pi)
        line = np.linspace(-0.5, 0.5, image_size)
        blend = line * np.cos(angle) + line[:, None] * np.sin(angle) + 0.5
        if kind == 1:
            blend = 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(2, 10) * blend)
    colors = rng.uniform(0, 255, (2, 3))
    # Not too far apart, so that the objects stay easier to see than the texture.
    colors[1] = colors[0] + 0.5 * (colors[1] - colors[0])
    return colors[0] + (colors[1] - colors[0]) * blend[:, :, None]


def _contrasting_color(reference: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random RGB colour; of eight, the one farthest from the reference."""
    colors = rng.uniform(0, 255, (8, 3))
    return colors[np.linalg.norm(colors - reference, axis=1).argmax()]
