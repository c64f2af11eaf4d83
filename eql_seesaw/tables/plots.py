"""Pictures of the tables. Each function writes ``path``, a PNG file in a folder that exists."""

import contextlib
import math
import os
import textwrap
import warnings
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ..atomic_write import atomic_file
from ..data.frequency_groups import (
    COMMON_MAX_IMAGES,
    GROUP_NAMES,
    RARE_MAX_IMAGES,
    frequency_groups,
)
from .measure import MeasuredRow
from .table import Column

# A loss has its color in every picture. Mostly Okabe and Ito's, told apart also by colour-blind
# readers.
LOSS_COLORS = {
    "softmax_ce": "#4D4D4D",
    "sigmoid_ce": "#A6761D",
    "eql": "#0072B2",
    "softmax_eql": "#009E73",
    "softmax_eql_v2": "#66C2A5",
    "eql_v2": "#56B4E9",
    "seesaw": "#D55E00",
    "focal": "#CC79A7",
    "class_balanced": "#E69F00",
    "bags": "#882255",
    "federated": "#999933",
    "balanced_softmax": "#117733",
    "balanced_sigmoid": "#44AA99",
    "logit_adjustment": "#332288",
    "ldam": "#AA4499",
    "drop_loss": "#004488",
    "acsl": "#997700",
    "ecm": "#BB5566",
    "equilibrium": "#7F7FBF",
    "fcbl": "#6E4B2A",
    "pcb": "#CCBB44",
    "equalized_focal": "#EE99AA",
}
OTHER_COLOR = "#4D4D4D"
# Panels of the pictures that show groups of classes, and their titles.
GROUPS: dict[Column, str] = {
    "AP": "AP",
    "APr": "APr (rare)",
    "APc": "APc (common)",
    "APf": "APf (frequent)",
}
WIDTH = 8.0  # inches, 1,000 pixels
DPI = 125
STYLE = {
    "font.size": 10,
    "axes.titlesize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "0.4",
    "figure.labelsize": 10,
    "figure.titlesize": 9,
    "legend.frameon": False,
    # "$" in a label is no formula.
    "text.parse_math": False,
}
# Styles of marks, lines and texts.
PUBLISHED: dict[str, Any] = {"marker": "D", "markersize": 7, "color": "0.35"}
PUBLISHED |= {"markerfacecolor": "white", "linestyle": ""}
SEEDS: dict[str, Any] = {"marker": "o", "markersize": 3.5, "color": "0.2", "linestyle": ""}
SEEDS |= {"markerfacecolor": "white", "markeredgewidth": 0.8, "zorder": 5}
BORDER: dict[str, Any] = {"color": "0.6", "linewidth": 0.8, "linestyle": ":", "zorder": 0}
NOT_KNOWN: dict[str, Any] = {"color": "0.5", "ha": "center", "va": "center"}
CAPTION: dict[str, Any] = {"color": "0.35", "x": 0.01, "ha": "left"}
SPREAD = "bars: ± standard deviation, small dots: the seeds"
# Of the smoothed AP, in decades of training images; of smoothed ratios, in shares of all classes.
AP_KERNEL, RATIO_KERNEL = 0.3, 0.05


def draw_rows(
    rows: Sequence[MeasuredRow],
    columns: Sequence[Column],
    unit: str,
    path: str | os.PathLike,
    with_published: bool = False,
) -> None:
    """
    Draw the numbers of a table's rows, one panel for each column.

    Dots with a number are means over seeds, bars their standard deviation, small dots the seeds,
    diamonds the published numbers.

    Args:
        rows: at least one, drawn from top to bottom.
        unit: of the numbers, for the caption.
        with_published: draw published numbers below measured ones.
    """
    height = (0.55 if with_published else 0.42) * len(rows) + 0.6
    with _figure(path, len(columns), 5, height) as (figure, panels):
        for axes, column in zip(panels, columns, strict=True):
            for y, row in enumerate(rows):
                _draw_row(axes, y, row, column, with_published)
            axes.set_title(GROUPS.get(column, column))
            axes.grid(axis="x", color="0.92")
            axes.tick_params(axis="y", length=0)
            axes.spines["left"].set_visible(False)
            axes.xaxis.set_major_locator(MaxNLocator(3))
        _set_equal_spans(panels)
        labels = [textwrap.fill(row.label, 24) for row in rows]
        panels[0].set_yticks(range(len(rows)), labels)
        panels[0].set_ylim(len(rows) - 0.4, -0.6)
        counts = {len(row.values(column)) for row in rows for column in columns} - {0}
        note = f"{unit}, {_seeds_text(counts)}" if counts else unit
        if max(counts, default=0) > 1:
            note += f", {SPREAD}"
        figure.suptitle(note, **CAPTION)
        if with_published:
            handles = [
                Line2D([], [], marker="o", color=OTHER_COLOR, linestyle=""),
                Line2D([], [], **PUBLISHED),
            ]
            labels = ["measured (above)", "published (below)"]
            figure.legend(handles, labels, loc="outside lower right", ncols=2)


def _draw_row(axes: Axes, y: float, row: MeasuredRow, column: Column, with_published: bool) -> None:
    values = np.array(list(row.values(column).values()))
    published = row.row.published.get(column) if with_published else None
    # Both stay visible where they are equal.
    offset = 0.1 if with_published else 0
    place: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "fontsize": 9}
    if published is not None:
        axes.plot([published], [y + offset], **PUBLISHED)
        axes.annotate(
            f"{published:.1f}", (published, y + offset), xytext=(0, -15), color="0.35", **place
        )
    if len(values):
        color, mean, y = _loss_color(row.loss), values.mean(), y - offset
        if len(values) > 1:
            spread = [values.std(ddof=1)]
            axes.errorbar([mean], [y], xerr=spread, color=color, linewidth=2, capsize=3)
            axes.plot(values, [y] * len(values), **SEEDS)
        axes.plot([mean], [y], "o", color=color, markersize=7)
        axes.annotate(f"{mean:.1f}", (mean, y), xytext=(0, 6), **place)
    elif published is None:
        axes.text(0.5, y, "n/a", transform=axes.get_yaxis_transform(), **NOT_KNOWN)


def _set_equal_spans(panels: Sequence[Axes]) -> None:
    """The same length is the same difference in all panels, wherever each begins."""
    limits = np.array([axes.get_xlim() if axes.lines else (0, 1) for axes in panels])
    span = max(1.5 * (limits[:, 1] - limits[:, 0]).max(), 2)
    for axes, middle in zip(panels, limits.mean(axis=1), strict=True):
        axes.set_xlim(middle - span / 2, middle + span / 2)
        if not axes.lines:
            axes.set_xticks([])


def draw_gains(pairs: Sequence[tuple[MeasuredRow, MeasuredRow]], path: str | os.PathLike) -> None:
    """
    Draw gains of rows over their baselines against the imbalance of the training set.

    Rows of the same two methods, which are files of the same names, are one line: means over seeds;
    bars are their standard deviation, small dots the seeds.

    Args:
        pairs: rows with their baselines.
    """
    lines: dict[str, list[tuple[MeasuredRow, MeasuredRow]]] = {}
    for row, baseline in sorted(pairs, key=lambda pair: pair[0].imbalance):
        label = f"{Path(row.row.config).stem} over {Path(baseline.row.config).stem}"
        lines.setdefault(label, []).append((row, baseline))
    imbalances = sorted({row.imbalance for row, _ in pairs})
    with _figure(path, len(GROUPS), 4, 2.6) as (figure, panels):
        for axes, (column, title) in zip(panels, GROUPS.items(), strict=True):
            axes.axhline(0, color="0.4", linewidth=0.8)
            for label, line in lines.items():
                known = [(row.imbalance, row.gains(baseline, column)) for row, baseline in line]
                known = [(imbalance, gains) for imbalance, gains in known if gains]
                axes.errorbar(
                    [imbalance for imbalance, _ in known],
                    [np.mean(gains) for _, gains in known],
                    [np.std(gains, ddof=min(len(gains) - 1, 1)) for _, gains in known],
                    fmt="o-",
                    color=_loss_color(line[0][0].loss),
                    label=label,
                    linewidth=2,
                    capsize=3,
                )
                for imbalance, gains in known:
                    if len(gains) > 1:
                        axes.plot([imbalance] * len(gains), gains, **SEEDS)
            axes.set_title(title)
            axes.grid(axis="y", color="0.92")
            axes.set_xscale("log")
            axes.set_xticks(imbalances, [f"{imbalance:,.0f}" for imbalance in imbalances])
            axes.minorticks_off()
            axes.margins(x=0.1)
        panels[0].set_ylabel("gain in AP")
        has_seeds = any(len(row.gains(baseline, "AP")) > 1 for row, baseline in pairs)
        label = "imbalance: images of the most frequent to the rarest class"
        figure.supxlabel(f"{label}; {SPREAD}" if has_seeds else label)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=3)


def draw_ap_by_images(methods: Sequence[MeasuredRow], unit: str, path: str | os.PathLike) -> None:
    """
    Draw the AP of each class against its training images, one panel for each method. A class whose
    AP or training images are unknown is left out.

    Args:
        methods: at least one.
        unit: of the numbers, such as "box AP".
    """
    curves = []
    for method in methods:
        known = np.isfinite(method.category_ap) & np.isfinite(method.image_counts)
        images, aps = method.image_counts[known], method.category_ap[known]
        order = np.argsort(images, kind="stable")
        images, aps = images[order], aps[order]
        places = np.log10(np.maximum(images, 0.5))
        curves.append((images, aps, _smoothed(places, aps, AP_KERNEL)))
    least = min(images.min(initial=1) for images, _, _ in curves)
    most = max(images.max(initial=10) for images, _, _ in curves)
    with _class_figure(path, methods, curves) as (figure, panels):
        for axes in panels:
            for boundary in (RARE_MAX_IMAGES, COMMON_MAX_IMAGES):
                axes.axvline(boundary + 0.5, **BORDER)
            # Linear below one image, so that there is a place for none.
            axes.set_xscale("symlog", linthresh=1, linscale=0.3)
            axes.xaxis.set_major_formatter("{x:,.0f}")
            axes.set_xlim(least - 0.3, most * 1.4)
        panels[0].set_ylim(bottom=-2)
        figure.supylabel(unit)
        figure.supxlabel("training images of the class (dotted: rare | common | frequent)")


def draw_gradient_ratios(methods: Sequence[MeasuredRow], path: str | os.PathLike) -> None:
    """
    Draw the ratio of positive to negative gradient of each class, one panel for each method.

    Classes are sorted from frequent to rare. Those without positive, or without negative gradient
    have no place on the logarithmic axis and are drawn at its ends, with their number.

    Args:
        methods: at least one, all with recorded gradients.
    """
    curves, sorted_ratios = [], []
    for method in methods:
        ratios = method.gradient_ratios[np.argsort(-method.image_counts, kind="stable")]
        ranks = np.flatnonzero(np.isfinite(ratios) & (ratios > 0))
        smoothed = _smoothed(ranks, np.log10(ratios[ranks]), RATIO_KERNEL * len(ratios))
        curves.append((ranks + 1, ratios[ranks], 10**smoothed))
        sorted_ratios.append(ratios)
    with _class_figure(path, methods, curves) as (figure, panels):
        panels[0].set_yscale("log")
        panels[0].yaxis.set_major_formatter("{x:g}")
        panels[0].margins(y=0.25)
        for axes, method, ratios in zip(panels, methods, sorted_ratios, strict=True):
            axes.axhline(1, color="0.2", linewidth=1, zorder=1)
            _mark_classes(axes, ratios == 0, 0.02, "without positive gradient")
            _mark_classes(axes, np.isinf(ratios), 0.9, "without negative gradient")
            _set_group_ticks(axes, method.image_counts)
        figure.supylabel("positive : negative gradient")
        borders = f"{COMMON_MAX_IMAGES} and {RARE_MAX_IMAGES} training images"
        figure.supxlabel(f"classes from frequent to rare (dotted: {borders})")


def _mark_classes(axes: Axes, is_marked: np.ndarray, y: float, text: str) -> None:
    """Mark classes at a height of the panel, 0 to 1, with their number above."""
    ranks = np.flatnonzero(is_marked) + 1
    if len(ranks):
        place = axes.get_xaxis_transform()
        axes.plot(ranks, [y + 0.01] * len(ranks), "|", color="0.2", markersize=7, transform=place)
        classes = "class" if len(ranks) == 1 else "classes"
        text = f"{len(ranks):,} {classes} {text}"
        axes.text(0.02, y + 0.04, text, fontsize=8, va="bottom", transform=axes.transAxes)


def _set_group_ticks(axes: Axes, image_counts: np.ndarray) -> None:
    """Borders of the groups of classes on an axis from frequent to rare, and names of wide ones."""
    groups = np.array(frequency_groups(np.nan_to_num(image_counts)))
    ticks, start = {}, 0.5
    for group, name in reversed(GROUP_NAMES.items()):
        end = start + (groups == group).sum()
        if end - start > 0.2 * len(groups):
            ticks[(start + end) / 2] = name
        if end <= len(groups):
            axes.axvline(end, **BORDER)
        start = end
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.tick_params(axis="x", length=0)


@contextlib.contextmanager
def _class_figure(
    path: str | os.PathLike,
    methods: Sequence[MeasuredRow],
    curves: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
) -> Iterator[tuple[Figure, Sequence[Axes]]]:
    """
    A panel for each method, with a dot for each class, and a line.

    Args:
        curves: x, y, and y of the line, of each method.
    """
    seeds = _seeds_text({len(method.runs) for method in methods})
    note = f"each dot a class, {seeds}; line: smoothed"
    if len(methods) > 1:
        note += "; light grey: the other methods"
    height = 3.2 if len(methods) < 3 or len(methods) == 4 else 2.5
    with _figure(path, len(methods), 3, height) as (figure, panels):
        for i, (axes, method, (x, y, own)) in enumerate(zip(panels, methods, curves, strict=True)):
            for other_x, _, other in [*curves[:i], *curves[i + 1 :]]:
                axes.plot(other_x, other, color="0.8", linewidth=1.2, zorder=1)
            opacity, size = (0.6, 9) if len(method.category_ap) <= 100 else (0.3, 6)
            color = _loss_color(method.loss)
            axes.plot(x, y, ".", color=color, alpha=opacity, markersize=size, markeredgewidth=0)
            axes.plot(x, own, color=color, linewidth=2.5)
            axes.set_title(textwrap.fill(method.label, 28), fontweight="bold", loc="left")
            if not len(x):
                axes.text(0.5, 0.5, "n/a", transform=axes.transAxes, **NOT_KNOWN)
        figure.suptitle(note, **CAPTION)
        yield figure, panels


@contextlib.contextmanager
def _figure(
    path: str | os.PathLike, num_panels: int, panels_in_row: int, height: float
) -> Iterator[tuple[Figure, Sequence[Axes]]]:
    """
    A figure and its panels to draw in; written as a PNG, whole or not at all, at the end.

    Args:
        height: of a row of panels, in inches.
    """
    num_rows = math.ceil(num_panels / panels_in_row)
    num_columns = math.ceil(num_panels / num_rows)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, num_rows * height + 0.6), layout="constrained")
        panels = figure.subplots(num_rows, num_columns, sharey=True, squeeze=False).reshape(-1)
        for axes in panels[num_panels:]:
            axes.remove()
        yield figure, list(panels[:num_panels])
        with warnings.catch_warnings(), atomic_file(path, "wb") as f:
            # matplotlib's font lacks some scripts; letters of theirs are drawn as boxes.
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            figure.savefig(f, format="png", dpi=DPI)


def _smoothed(x: np.ndarray, y: np.ndarray, width: float) -> np.ndarray:
    """Means of neighbours, weighted by a Gaussian of their distance in x."""
    weights = np.exp(-0.5 * (np.subtract.outer(x, x) / width) ** 2)
    return weights @ y / weights.sum(axis=1)


def _seeds_text(counts: Collection[int]) -> str:
    fewest, most = min(counts), max(counts)
    if most == 1:
        return "one seed"
    return f"mean of {most} seeds" if fewest == most else f"mean of {fewest} to {most} seeds"


def _loss_color(loss: str) -> str:
    return LOSS_COLORS.get(loss, OTHER_COLOR)
