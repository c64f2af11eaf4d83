"""Pictures of the tables: methods by group of classes, gains, and published beside measured."""

import dataclasses
import math
import os
import textwrap
import warnings
from collections.abc import Collection, Mapping, Sequence

import matplotlib
import matplotlib.ticker
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..atomic_write import atomic_file
from .finished_run import Method

# A loss has its color in every picture. Mostly Okabe and Ito's, told apart also by colour-blind
# readers.
LOSS_COLORS = {
    "softmax_ce": "#4D4D4D",
    "sigmoid_ce": "#A6761D",
    "eql": "#0072B2",
    "softmax_eql": "#009E73",
    "eql_v2": "#56B4E9",
    "seesaw": "#D55E00",
    "focal": "#CC79A7",
    "class_balanced": "#E69F00",
    "bags": "#882255",
    "federated": "#999933",
}
OTHER_COLOR = "#4D4D4D"
METRICS = {"AP": "AP", "APr": "APr (rare)", "APc": "APc (common)", "APf": "APf (frequent)"}
TASK_NAMES = {"segm": "mask AP", "bbox": "box AP"}
WIDTH = 8.0  # inches, 1,000 pixels
DPI = 125
CENTER = {"ha": "center", "va": "center"}
PANELS_IN_ROW = 5
STYLE = {
    "font.size": 10,
    "axes.titlesize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "0.4",
    # "$" in a label is no formula.
    "text.parse_math": False,
}


@dataclasses.dataclass(frozen=True)
class TableRow:
    """
    Attributes:
        label: as printed.
        loss: gives the color.
        measured: values in percent, one for each seed, of each column; NaN or none if unknown.
        published: one value of each column; NaN, None or absent if unknown.
    """

    label: str
    loss: str
    measured: Mapping[str, Sequence[float]]
    published: Mapping[str, float | None] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class GainPoint:
    """
    Attributes:
        label: method and baseline, such as "eql over sigmoid_ce"; points of a label are one line.
        loss: the method's, gives the color.
        imbalance: images of the most frequent class over those of the rarest.
        gains: {"AP": [...], "APr": ...}, differences in percent, one for each seed.
    """

    label: str
    loss: str
    imbalance: float
    gains: Mapping[str, Sequence[float]]


def draw_groups(methods: Sequence[Method], path: str | os.PathLike) -> None:
    """
    Draw AP, APr, APc and APf of each method, of masks if there are any, else of boxes.

    Dots with a number are means over seeds, bars their standard deviation, small dots the seeds.

    Args:
        methods: at least one, drawn from top to bottom.
        path: the PNG file to write, in a folder that exists.
    """
    task = shown_task(methods, path)
    rows = [
        TableRow(m.label, m.loss, {name: m.metric(f"{task}/{name}") for name in METRICS})
        for m in methods
    ]
    with matplotlib.rc_context(STYLE):
        save_figure(_rows_figure(rows, METRICS, TASK_NAMES[task]), path)


def draw_published_beside_measured(
    rows: Sequence[TableRow], columns: Sequence[str], path: str | os.PathLike
) -> None:
    """
    Draw published and measured numbers of a table's rows, one panel for each column.

    Args:
        rows: at least one, drawn from top to bottom.
        columns: names of the panels and keys of the rows' numbers.
        path: the PNG file to write, in a folder that exists.
    """
    if not rows:
        raise ValueError(f"{path}: no rows to draw.")
    with matplotlib.rc_context(STYLE):
        titles = {column: METRICS.get(column, column) for column in columns}
        figure = _rows_figure(rows, titles, "AP")
        handles = [
            Line2D([], [], marker="o", color=OTHER_COLOR, linestyle="", label="measured (above)"),
            Line2D([], [], **_published_style(), label="published (below)"),
        ]
        figure.legend(handles=handles, loc="outside lower right", ncols=2, frameon=False)
        save_figure(figure, path)


def draw_gain_by_imbalance(points: Sequence[GainPoint], path: str | os.PathLike) -> None:
    """
    Draw gains of methods over their baselines against the imbalance of the training set.

    Lines are means over seeds, bands their standard deviation, dots the seeds.

    Args:
        points: at least one; each label is a line.
        path: the PNG file to write, in a folder that exists.
    """
    if not points:
        raise ValueError(f"{path}: no gains to draw.")
    losses = {point.label: point.loss for point in points}
    imbalances = sorted({point.imbalance for point in points})
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
        panels = figure.subplots(1, len(METRICS), sharey=True)
        for axes, (name, title) in zip(panels, METRICS.items(), strict=True):
            axes.axhline(0, color="0.4", linewidth=0.8)
            for label in losses:
                _gain_line(axes, [point for point in points if point.label == label], name)
            if len(axes.lines) == 1:
                axes.text(0.5, 0.5, "n/a", transform=axes.transAxes, color="0.5", **CENTER)
            axes.set_title(title)
            axes.grid(axis="y", color="0.92")
            _imbalance_axis(axes, imbalances)
        panels[0].set_ylabel("gain in AP")
        spread = any(len(values) > 1 for point in points for values in point.gains.values())
        note = "; bands: ± standard deviation, small dots: seeds" if spread else ""
        label = "imbalance: images of the most frequent to the rarest class"
        figure.supxlabel(label + note, fontsize=10)
        handles = [
            Line2D([], [], marker="o", linewidth=2, color=loss_color(loss), label=label)
            for label, loss in losses.items()
        ]
        figure.legend(handles=handles, loc="outside upper left", ncols=3, frameon=False)
        save_figure(figure, path)


def loss_color(loss: str) -> str:
    return LOSS_COLORS.get(loss, OTHER_COLOR)


def shown_task(methods: Sequence[Method], path: str | os.PathLike) -> str:
    """
    "segm" if any run has masks, else "bbox".

    Raises:
        ValueError: there are no methods to draw at ``path``.
    """
    if not methods:
        raise ValueError(f"{path}: no methods to draw.")
    has_masks = any("segm/AP" in run.metrics for method in methods for run in method.seeds)
    return "segm" if has_masks else "bbox"


def seeds_text(counts: Collection[int]) -> str:
    """
    Args:
        counts: numbers of seeds, at least one of them.
    """
    fewest, most = min(counts), max(counts)
    if most == 1:
        return "one seed"
    return f"mean of {most} seeds" if fewest == most else f"mean of {fewest} to {most} seeds"


def save_figure(figure: Figure, path: str | os.PathLike) -> None:
    """Write a PNG file, whole or not at all."""
    with warnings.catch_warnings(), atomic_file(path, "wb") as f:
        # matplotlib's font lacks some scripts; letters of theirs are drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(f, format="png", dpi=DPI)


def _rows_figure(rows, titles, unit):
    """A line of dots for each row, in one panel for each of ``titles``."""
    num_lines = math.ceil(len(titles) / PANELS_IN_ROW)
    num_columns = math.ceil(len(titles) / num_lines)
    row_height = 0.55 if any(row.published for row in rows) else 0.42
    figure = Figure(figsize=(WIDTH, num_lines * (row_height * len(rows) + 0.6) + 0.5))
    figure.set_layout_engine("constrained")
    grid = figure.subplots(num_lines, num_columns, sharey=True, squeeze=False)
    panels = grid.reshape(-1)
    for axes in panels[len(titles) :]:
        axes.set_axis_off()
    panels = panels[: len(titles)]
    for axes, (name, title) in zip(panels, titles.items(), strict=True):
        for y, row in enumerate(rows):
            _draw_row(axes, y, row, name)
        axes.set_title(title)
        axes.grid(axis="x", color="0.92")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(3))
    _equal_spans(panels)
    labels = [textwrap.fill(row.label, 24) for row in rows]
    grid[0, 0].set_yticks(range(len(rows)), labels, fontsize=10)
    grid[0, 0].set_ylim(len(rows) - 0.4, -0.6)
    figure.suptitle(_spread_note(rows, unit), fontsize=9, color="0.35", x=0.01, ha="left")
    return figure


def _equal_spans(panels):
    """The same length is the same difference in all panels, wherever each begins."""
    limits = np.array([axes.get_xlim() if axes.lines else (0, 1) for axes in panels])
    span = max(1.5 * (limits[:, 1] - limits[:, 0]).max(), 2)
    for axes, middle in zip(panels, limits.mean(axis=1), strict=True):
        axes.set_xlim(middle - span / 2, middle + span / 2)
        if not axes.lines:
            axes.set_xticks([])


def _draw_row(axes, y, row, name):
    values = _known(row.measured.get(name, ()))
    published = _known([row.published.get(name)])
    # Both stay visible where they are equal.
    offset = 0.1 if row.published else 0
    if len(published):
        axes.plot(published, [y + offset], **_published_style())
        _write_number(axes, published[0], y + offset, -15, "0.35")
    if len(values):
        color, mean, y = loss_color(row.loss), values.mean(), y - offset
        if len(values) > 1:
            spread = [values.std(ddof=1)]
            axes.errorbar([mean], [y], xerr=spread, color=color, linewidth=2, capsize=3)
            seeds = {"markersize": 3.5, "markerfacecolor": "white", "markeredgewidth": 0.8}
            axes.plot(values, [y] * len(values), "o", color="0.2", zorder=5, **seeds)
        axes.plot([mean], [y], "o", color=color, markersize=7)
        _write_number(axes, mean, y, 6, "black")
    elif not len(published):
        axes.text(0.5, y, "n/a", transform=axes.get_yaxis_transform(), color="0.5", **CENTER)


def _write_number(axes, value, y, offset, color):
    text = f"{value:.1f}"
    place = {"xytext": (0, offset), "textcoords": "offset points", "ha": "center"}
    axes.annotate(text, (value, y), color=color, fontsize=9, **place)


def _published_style():
    return {
        "marker": "D",
        "markersize": 7,
        "color": "0.35",
        "markerfacecolor": "white",
        "linestyle": "",
    }


def _spread_note(rows, unit):
    counts = {len(_known(values)) for row in rows for values in row.measured.values()} - {0}
    if not counts:
        return unit
    spread = ", bars: ± standard deviation, small dots: the seeds" if max(counts) > 1 else ""
    return f"{unit}, {seeds_text(counts)}{spread}"


def _gain_line(axes, points, name):
    color = loss_color(points[0].loss)
    known = []
    for point in sorted(points, key=lambda point: point.imbalance):
        values = _known(point.gains.get(name, ()))
        if len(values):
            known.append((point.imbalance, values))
    for imbalance, values in known:
        axes.plot([imbalance] * len(values), values, ".", color=color, markersize=4, alpha=0.6)
    if not known:
        return
    x = [imbalance for imbalance, _ in known]
    mean = np.array([values.mean() for _, values in known])
    spread = np.array([values.std(ddof=1) if len(values) > 1 else 0.0 for _, values in known])
    axes.fill_between(x, mean - spread, mean + spread, color=color, alpha=0.2, linewidth=0)
    axes.plot(x, mean, "o-", color=color, linewidth=2, markersize=6)


def _imbalance_axis(axes, imbalances):
    """Ticks at the points; those too close to a labelled one have no number."""
    places = np.log10(imbalances)
    labelled = [len(places) - 1]
    for i in range(len(places) - 1):
        if np.abs(places[labelled] - places[i]).min() > 0.35 * np.ptp(places):
            labelled.append(i)
    labels = [f"{n:,.0f}" if i in labelled else "" for i, n in enumerate(imbalances)]
    axes.set_xscale("log")
    axes.set_xticks(imbalances, labels)
    axes.minorticks_off()
    margin = 10 ** (0.1 * np.ptp(places) + 0.02)
    axes.set_xlim(imbalances[0] / margin, imbalances[-1] * margin)


def _known(values):
    values = np.array(values, dtype=float)
    return values[np.isfinite(values)]
