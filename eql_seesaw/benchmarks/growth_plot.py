"""Plots of how time and memory grow with the number of classes and of images."""

import dataclasses
import math
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, NullFormatter

from ..atomic_write import atomic_file
from .row import Row

# What a panel's cost is drawn over.
AXES = {"num_classes": "classes", "num_images": "images", "num_detections": "detections"}
MEASURES = {"time": EngFormatter("s"), "memory": EngFormatter("B")}
PANEL_SIZE = 3.4, 2.2  # inches
DPI = 100
STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.9",
    # "$" in a label is no formula.
    "text.parse_math": False,
}


@dataclasses.dataclass
class Series:
    """
    A cost that grows along one axis, everything else being the same.

    Attributes:
        work, against: as in `Row`.
        axis: key of `AXES`.
        measure: key of `MEASURES`.
        label: what is special, such as the dtype.
        points: x, ours, the peer's; ascending.
    """

    work: str
    against: str
    axis: str
    measure: str
    label: str
    points: list[tuple[float, float, float]]


def draw_growth(rows: Sequence[Row], path: str | os.PathLike) -> bool:
    """
    Draw one line of panels for each work and peer, over the number of classes and of images.

    Args:
        rows: of one benchmark.
        path: the PNG file to write, in a folder that exists.

    Returns:
        False if no cost was measured at two sizes; the file is then not written.
    """
    series = list(growth_series(rows))
    if not series:
        return False
    with matplotlib.rc_context(STYLE), atomic_file(path, "wb") as f:
        _growth_figure(series).savefig(f, format="png", dpi=DPI)
    return True


def growth_series(rows: Sequence[Row]) -> Iterator[Series]:
    """Those with at least two points, in the order of the rows."""
    for axis in AXES:
        for measure in MEASURES:
            groups: dict[tuple[str, ...], dict[float, tuple[float, float]]] = {}
            for row in rows:
                costs = _costs(row, measure)
                if axis in row.parameters and costs:
                    key = (row.work, row.against, _label(row, axis))
                    groups.setdefault(key, {})[row.parameters[axis]] = costs
            for (work, against, label), costs_at in groups.items():
                if len(costs_at) > 1:
                    points = [(x, *costs) for x, costs in sorted(costs_at.items())]
                    yield Series(work, against, axis, measure, label, points)


def _costs(row, measure):
    if measure == "time":
        if row.time_ratio is None:
            return None
        return statistics.median(row.seconds), statistics.median(row.peer_seconds)
    # Nothing has no place on a logarithmic axis.
    return (row.memory, row.peer_memory) if row.memory and row.peer_memory else None


def _label(row, axis):
    """What tells a row's series from others: all parameters in words, and the other axis."""
    words = [value for value in row.parameters.values() if isinstance(value, str)]
    sizes = [
        f"{name}: {row.parameters[other]:,}"
        for other, name in AXES.items()
        if other != axis and other in row.parameters
    ]
    return ", ".join(words + sizes)


def _growth_figure(series):
    lines = list(dict.fromkeys((s.work, s.against) for s in series))
    columns = list(dict.fromkeys((s.axis, s.measure) for s in series))
    colors = {label: f"C{i}" for i, label in enumerate(dict.fromkeys(s.label for s in series))}
    size = PANEL_SIZE[0] * len(columns), PANEL_SIZE[1] * len(lines) + 0.2 * len(colors) + 0.4
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(lines), len(columns), squeeze=False)
    for (work, against), line in zip(lines, panels):
        for (axis, measure), axes in zip(columns, line):
            cell = (work, against, axis, measure)
            chosen = [s for s in series if (s.work, s.against, s.axis, s.measure) == cell]
            _draw_panel(axes, chosen, colors)
        line[0].set_title(f"{work}\nagainst {against}", loc="left")
    handles = [Line2D([], [], color=color, label=label) for label, color in colors.items()]
    title = "Solid: ours, dashed: theirs"
    figure.legend(handles=handles, title=title, loc="outside upper left", alignment="left")
    return figure


def _draw_panel(axes: Axes, series: Sequence[Series], colors: Mapping[str, str]) -> None:
    if not series:
        axes.set_axis_off()
        return
    for s in series:
        x, ours, theirs = zip(*s.points)
        style: dict[str, Any] = {"color": colors[s.label], "markersize": 4}
        axes.plot(x, ours, "o-", **style)
        axes.plot(x, theirs, "o--", markerfacecolor="white", **style)
    axes.set_xscale("log")
    axes.set_yscale("log")
    ticks = sorted({x for s in series for x, *_ in s.points})
    axes.set_xticks(ticks, [f"{x:,}" for x in ticks])
    axes.set_ylim(
        *_whole_decades([cost for s in series for _, *costs in s.points for cost in costs])
    )
    axes.yaxis.set_major_formatter(MEASURES[series[0].measure])
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(AXES[series[0].axis])
    axes.set_ylabel(series[0].measure)


def _whole_decades(values):
    """Powers of ten around positive values, so that there are labels."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return 10.0**low, 10.0 ** max(high, low + 1)
