"""
Charts of the report, each drawn by one function, as SVG for the page and as PNG for papers.

In the SVG, colours are CSS variables, and marks of classes are links to them.
"""

import io
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from ...atomic_write import atomic_file
from ...data.frequency_groups import COMMON_MAX_IMAGES, GROUP_NAMES, RARE_MAX_IMAGES
from .numbers import GROUPS, THRESHOLDS, Numbers

# Variables of page.css, which has others for dark screens. Okabe and Ito's colours, told apart also
# by colour-blind readers; markers and dashes say the same.
COLORS = {
    "rare": "#d55e00",
    "common": "#00875f",
    "frequent": "#0072b2",
    "all": "#33373c",
    "muted": "#565c64",
    "background": "#ffffff",
}
MARKERS = {"r": "^", "c": "s", "f": "o", "all": "D"}
DOTTED: dict[str, Any] = {"color": COLORS["muted"], "linewidth": 0.6, "linestyle": ":"}
LINE_STYLES = {"r": "-", "c": (0, (5, 2)), "f": (0, (7, 2, 1.5, 2)), "all": (0, (1, 1.5))}
DPI = 300
# Inches, of a chart in the page, and in a PNG file.
SVG_SIZE = (4.2, 3.0)
PNG_SIZE = (3.5, 2.8)
# Place of classes without training images on the logarithmic axis.
NO_IMAGES = 0.5
# Detections below which precision is not drawn, and below which a share of right ones says little.
MIN_DETECTIONS = 5
FEW_DETECTIONS = 20
STYLE = {
    "font.size": 8,
    "axes.edgecolor": COLORS["muted"],
    "axes.labelcolor": COLORS["muted"],
    "xtick.color": COLORS["muted"],
    "ytick.color": COLORS["muted"],
    "text.color": COLORS["muted"],
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "svg.fonttype": "none",
}

Draw = Callable[[Axes, Numbers], None]


def draw_ap_by_training_images(axes: Axes, numbers: Numbers) -> None:
    """AP of every class against its training images, and the mean over ranges of them."""
    train_images = [category["train_images"] for category in numbers.categories]
    counts = [n for n, ap in zip(train_images, numbers.ap, strict=True) if None not in (n, ap)]
    x = [n if n is None else max(n, NO_IMAGES) for n in train_images]
    _scatter(axes, numbers, x, numbers.ap)
    for first, last, ap, _ in numbers.ap_ranges:
        ends = [max(first, NO_IMAGES) * 0.95, max(last, NO_IMAGES) * 1.05]
        axes.plot(ends, [ap, ap], color=COLORS["all"], linewidth=2)
    for boundary in (RARE_MAX_IMAGES, COMMON_MAX_IMAGES):
        axes.axvline(boundary + 0.5, **DOTTED)
    axes.set(xscale="log", xlabel="training images", ylabel=f"AP of {numbers.name}")
    ticks = [0, *(10**i for i in range(7))]
    ticks = [n for n in ticks if counts and min(counts) <= n <= max(counts)]
    axes.set_xticks([max(n, NO_IMAGES) for n in ticks], [f"{n:,}" for n in ticks])
    axes.minorticks_off()
    axes.set_ylim(bottom=-1)


def draw_comparison(axes: Axes, numbers: Numbers, names: Sequence[str]) -> None:
    """AP of every class in both runs, which have these names."""
    assert numbers.other_ap is not None, "there is another run"
    _scatter(axes, numbers, numbers.other_ap, numbers.ap)
    known = [ap for ap in (*numbers.ap, *numbers.other_ap) if ap is not None]
    last = max(known, default=100)
    axes.plot([0, last], [0, last], **DOTTED)
    this, other = (f"AP of {numbers.name}, {_shortened(name)}" for name in names)
    axes.set(xlabel=other, ylabel=this)


def draw_precision(axes: Axes, numbers: Numbers) -> None:
    _draw_curves(axes, numbers, "precision", MIN_DETECTIONS)


def draw_recall(axes: Axes, numbers: Numbers) -> None:
    _draw_curves(axes, numbers, "recall", 0)


def _draw_curves(axes, numbers, name, min_detections):
    for group, curve in numbers.curves.items():
        is_drawn = curve.detections >= min_detections
        _line(axes, group, THRESHOLDS, np.where(is_drawn, getattr(curve, name), np.nan))
    axes.axvline(numbers.score_threshold, **DOTTED)
    axes.text(numbers.score_threshold + 0.01, 97, f"{numbers.score_threshold:g}", fontsize=7)
    _percent_axes(axes, "score threshold", f"{name} of {numbers.name} (%)")


def draw_calibration(axes: Axes, numbers: Numbers) -> None:
    """Share of right detections against their score; marks of few detections are hollow."""
    axes.plot([0, 1], [0, 100], **DOTTED)
    for group, (counts, scores, accuracies, ece) in numbers.calibrations.items():
        if ece is not None:
            _line(axes, group, scores, accuracies, f"{GROUPS[group]}, ECE {ece:.1f}")
            color = COLORS[GROUPS[group]]
            axes.scatter(
                scores,
                100 * accuracies,
                s=12,
                marker=MARKERS[group],
                facecolors=np.where(counts < FEW_DETECTIONS, COLORS["background"], color),
                edgecolors=color,
                zorder=3,
            )
    _percent_axes(axes, "score", f"{numbers.name} that are right (%)")


def draw_confusions(axes: Axes, numbers: Numbers) -> None:
    """The matrix of the classes most often mixed up; the stronger, the larger its row's share."""
    matrix, classes = numbers.confusion_matrix, numbers.confused_classes
    if not classes:
        axes.text(0.5, 0.5, "no confusions", ha="center")
        axes.set_axis_off()
        return
    names = [_shortened(numbers.categories[k]["name"], 20) for k in classes]
    totals = np.array([numbers.categories[k]["num_objects"] for k in classes])
    rows, columns = np.nonzero(matrix)
    shares = np.minimum(matrix / np.maximum(totals, 1)[:, None], 1)[rows, columns]
    # Up to half opaque, so that the number stays legible.
    colors = [to_rgba(COLORS["frequent"], 0.06 + 0.5 * share) for share in shares]
    edges = [COLORS["muted"] if i == j else "none" for i, j in zip(rows, columns, strict=True)]
    axes.bar(columns, 0.92, 0.92, rows - 0.46, color=colors, edgecolor=edges, linewidth=0.5)
    small: dict[str, Any] = {"fontsize": 6, "ha": "center", "va": "center", "color": COLORS["all"]}
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        axes.text(column, row, str(matrix[row, column]), **small)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    margin = (0.35 + 0.055 * max(map(len, names))) / axes.figure.bbox.width * axes.figure.dpi
    axes.figure.subplots_adjust(left=margin, bottom=margin)
    side = (-0.5, len(names) - 0.5)
    axes.set(xlim=side, ylim=side[::-1], aspect="equal", ylabel="annotated as")
    axes.set_xlabel(f"detected as ({numbers.name})")


def confusions_size(numbers: Numbers) -> tuple[float, float]:
    """Width and height of :func:`draw_confusions` in inches."""
    side = 2 + 0.22 * len(numbers.confused_classes)
    return side, side


def svg(draw: Draw, numbers: Numbers, size: tuple[float, float] = SVG_SIZE) -> str:
    """A chart as an SVG element, in the colours of the page."""
    content = io.StringIO()
    # Ids of clips and markers are hashes, which must not meet those of a chart that is hidden.
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": f"{numbers.iou_type} {draw}"}):
        figure = _figure([(draw, numbers)], size)
        figure.savefig(content, format="svg", transparent=True, metadata={"Date": None})
    element = content.getvalue()
    element = element[element.index("<svg") :].replace(' target="_blank"', "")
    # Styles would be those of the whole page, and ids of groups are those of other charts, too.
    element = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", element, flags=re.S)
    element = re.sub(r'<g id="[^"]*">', "<g>", element)
    for name, color in COLORS.items():
        element = element.replace(color, f"var(--{name})")
    # A hundredth of a point is not seen.
    return re.sub(r"\s+", " ", re.sub(r"(\d\.\d\d)\d+", r"\1", element))


def save_png_files(numbers: Sequence[Numbers], folder: Path) -> None:
    """Write four files of panels: masks then boxes, but for the confusions of masks."""
    files: dict[str, tuple[Draw, ...]] = {
        "ap_by_training_images.png": (draw_ap_by_training_images,),
        "precision_recall.png": (draw_precision, draw_recall),
        "calibration.png": (draw_calibration,),
        "confusions.png": (draw_confusions,),
    }
    for name, draws in files.items():
        panels, size = [(draw, of) for of in numbers for draw in draws], PNG_SIZE
        if draws == (draw_confusions,):
            panels, size = panels[:1], confusions_size(numbers[0])
        with matplotlib.rc_context(STYLE), warnings.catch_warnings():
            # Matplotlib's font lacks some scripts; letters of theirs are drawn as boxes.
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            figure = _figure(panels, size)
            with atomic_file(folder / name, "wb") as f:
                figure.savefig(f, format="png", dpi=DPI)


def _figure(panels, size):
    """Panels, each a chart and its numbers, of this size, at most two in a row."""
    columns = min(2, len(panels))
    rows = len(panels) // columns
    width, height = columns * size[0], rows * size[1]
    figure = Figure(figsize=(width, height))
    # To fit margins to the labels takes as long as to draw.
    figure.subplots_adjust(
        left=0.5 / width,
        right=1 - 0.08 / width,
        bottom=0.42 / height,
        top=1 - 0.08 / height,
        wspace=0.19,
        hspace=0.22,
    )
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for (draw, numbers), panel in zip(panels, axes, strict=True):
        draw(panel, numbers)
    return figure


def _scatter(axes, numbers, x, y):
    """One mark for each class that has both values, from the left to the right."""
    points = [point for point in zip(x, y, numbers.categories, strict=True) if None not in point]
    points.sort(key=lambda point: point[:2])
    for group, name in GROUP_NAMES.items():
        chosen = [point for point in points if point[2]["group"] == group]
        if not chosen:
            continue
        marks = axes.scatter(
            [x for x, _, _ in chosen],
            [y for _, y, _ in chosen],
            s=10,
            alpha=0.6,
            linewidths=0,
            color=COLORS[name],
            marker=MARKERS[group],
            clip_on=False,
            label=f"{name} ({len(chosen)})",
        )
        marks.set_urls([f"#category-{category['id']}" for _, _, category in chosen])
    if points:
        axes.legend()


def _line(axes, group, x, y, label=None):
    style = {"color": COLORS[GROUPS[group]], "linestyle": LINE_STYLES[group], "linewidth": 1.5}
    axes.plot(x, 100 * y, label=label or GROUPS[group], **style)


def _percent_axes(axes, x_label, y_label):
    axes.set(xlabel=x_label, ylabel=y_label, xlim=(0, 1), ylim=(-2, 102))
    if axes.get_legend_handles_labels()[1]:
        axes.legend()


def _shortened(name, length=40):
    return name if len(name) <= length else f"{name[: length - 1]}…"
