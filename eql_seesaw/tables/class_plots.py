"""Pictures of the tables that show every class: AP by training images, and gradient ratios."""

import math
import os
import textwrap
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from ..data.frequency_groups import COMMON_MAX_IMAGES, GROUP_NAMES, RARE_MAX_IMAGES
from .finished_run import Method
from .group_plots import (
    CENTER,
    STYLE,
    TASK_NAMES,
    WIDTH,
    loss_color,
    save_figure,
    seeds_text,
    shown_task,
)

PANELS_IN_ROW = 3
OTHERS = {"color": "0.8", "linewidth": 1.2, "zorder": 1}
# Where classes without training images are drawn on the logarithmic axis.
NO_IMAGES = 0.5
# Of the smoothed AP, in decades of training images.
KERNEL_WIDTH = 0.3


def draw_ap_by_images(methods: Sequence[Method], path: str | os.PathLike) -> None:
    """
    Draw the AP of each class against its training images, one panel for each method.

    Dots are means over seeds. A class whose AP or training images are unknown is left out.

    Args:
        methods: at least one.
        path: the PNG file to write, in a folder that exists.
    """
    task = shown_task(methods, path)
    curves = [_ap_curve(method, task) for method in methods]
    all_images = np.concatenate([images for images, _, _ in curves])
    with matplotlib.rc_context(STYLE):
        figure, panels = _panels(methods, TASK_NAMES[task])
        for i, (axes, method) in enumerate(zip(panels, methods, strict=True)):
            images, aps, smoothed = curves[i]
            color = loss_color(method.loss)
            for other in curves[:i] + curves[i + 1 :]:
                axes.plot(other[0], other[2], **OTHERS)
            axes.plot(images, aps, ".", color=color, **_dots(len(images)))
            axes.plot(images, smoothed, color=color, linewidth=2.5)
            if not len(images):
                _write_in_middle(axes, "n/a")
            for boundary in (RARE_MAX_IMAGES, COMMON_MAX_IMAGES):
                axes.axvline(boundary + 0.5, color="0.6", linewidth=0.8, linestyle=":", zorder=0)
            _image_axis(axes, all_images)
        panels[0].set_ylim(bottom=-2)
        _captions(
            figure,
            methods,
            "line: smoothed",
            xlabel="training images of the class (dotted: rare | common | frequent)",
        )
        save_figure(figure, path)


def draw_gradient_ratios(methods: Sequence[Method], path: str | os.PathLike) -> None:
    """
    Draw the ratio of positive to negative gradient of each class, one panel for each method.

    Classes are sorted from frequent to rare. Those that had no positive, or no negative gradient
    have no place on the logarithmic axis and are drawn at its ends, with their number.

    Args:
        methods: at least one with recorded gradients.
        path: the PNG file to write, in a folder that exists.

    Raises:
        ValueError: no method has recorded gradients.
    """
    ratios = [_sorted_ratios(method) for method in methods]
    if not any(np.isfinite(ratio).any() for ratio in ratios):
        raise ValueError(
            f"{path}: no run has recorded gradients; train with "
            "MODEL.ROI_BOX_HEAD.GRADIENT_STATISTICS True."
        )
    drawable = [np.isfinite(ratio) & (ratio > 0) for ratio in ratios]
    ranks = [np.flatnonzero(known) + 1 for known in drawable]
    values = [ratio[known] for ratio, known in zip(ratios, drawable, strict=True)]
    medians = [_running_median(v) for v in values]
    with matplotlib.rc_context(STYLE):
        figure, panels = _panels(methods, "positive : negative gradient")
        zero, infinite = _ratio_axis(panels[0], np.concatenate(ratios))
        for i, (axes, method, ratio) in enumerate(zip(panels, methods, ratios, strict=True)):
            color = loss_color(method.loss)
            for j, median in enumerate(medians):
                if j != i:
                    axes.plot(ranks[j], median, **OTHERS)
            axes.axhline(1, color="0.2", linewidth=1, zorder=1)
            axes.plot(ranks[i], values[i], ".", color=color, **_dots(len(ratio)))
            axes.plot(ranks[i], medians[i], color=color, linewidth=2.5)
            _mark_outside(axes, ratio == 0, zero, "without positive gradient", color)
            _mark_outside(axes, np.isinf(ratio), infinite, "without negative gradient", color)
            if np.isnan(ratio).all():
                _write_in_middle(axes, "not recorded")
            _rank_ticks(axes, -np.sort(-method.image_counts))
        _captions(
            figure,
            methods,
            "line: running median; at 1 both gradients are equal",
            xlabel="classes from frequent to rare, ticks: their training images",
        )
        save_figure(figure, path)


def _panels(methods, ylabel):
    num_rows = math.ceil(len(methods) / PANELS_IN_ROW)
    num_columns = math.ceil(len(methods) / num_rows)
    height = num_rows * (3.2 if num_columns < 3 else 2.5) + 0.6
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    grid = figure.subplots(num_rows, num_columns, sharey=True, squeeze=False)
    panels = grid.reshape(-1)
    for axes in panels[len(methods) :]:
        axes.remove()
    for axes, method in zip(panels, methods, strict=False):
        axes.set_title(textwrap.fill(method.label, 28), fontweight="bold", loc="left")
    for axes in grid[:, 0]:
        axes.set_ylabel(ylabel)
    return figure, panels[: len(methods)]


def _captions(figure, methods, note, xlabel):
    figure.supxlabel(xlabel, fontsize=10)
    if len(methods) > 1:
        note += "; light grey: the other methods"
    note = f"each dot a class, {seeds_text({len(method.seeds) for method in methods})}; {note}"
    figure.suptitle(note, fontsize=9, color="0.35", x=0.01, ha="left")


def _dots(num_classes):
    opacity, size = (0.6, 9) if num_classes <= 100 else (0.3, 6)
    return {"alpha": opacity, "markersize": size, "markeredgewidth": 0}


def _write_in_middle(axes, text):
    style = {"color": "0.4", "backgroundcolor": "white", **CENTER}
    axes.text(0.5, 0.5, text, transform=axes.transAxes, **style)


def _ap_curve(method, task):
    """Training images in ascending order, AP, and smoothed AP, of the classes that have both."""
    aps = method.category_ap(task)
    known = np.flatnonzero(np.isfinite(aps) & np.isfinite(method.image_counts))
    known = known[np.argsort(method.image_counts[known], kind="stable")]
    images, aps = np.maximum(method.image_counts[known], NO_IMAGES), aps[known]
    distances = np.subtract.outer(np.log10(images), np.log10(images))
    weights = np.exp(-0.5 * (distances / KERNEL_WIDTH) ** 2)
    return images, aps, weights @ aps / weights.sum(axis=1)


def _image_axis(axes, images):
    """Ticks at whole powers of ten up to the most images, and 0 for classes without any."""
    last = math.ceil(math.log10(images.max(initial=10)))
    ticks = {10.0**power: f"{10**power:,}" for power in range(last + 1)}
    if (images <= NO_IMAGES).any():
        ticks[NO_IMAGES] = "0"
    axes.set_xscale("log")
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.minorticks_off()
    axes.set_xlim(min(ticks) * 0.7, images.max(initial=10) * 1.4)


def _sorted_ratios(method):
    """float64 (K,) from frequent to rare; NaN if not recorded."""
    ratios = method.gradient_ratios()
    if ratios is None:
        return np.full(len(method.image_counts), np.nan)
    return ratios[np.argsort(-method.image_counts, kind="stable")]


def _running_median(values):
    """Of up to 30 neighbours on either side, the same number on both, so that ends do not bend."""
    last = len(values) - 1
    half = [min(30, len(values) // 16, i, last - i) for i in range(len(values))]
    return np.array([np.median(values[i - n : i + n + 1]) for i, n in enumerate(half)])


def _ratio_axis(axes, ratios):
    """Set up the logarithmic axis; returns where on it 0 and infinity are drawn."""
    inside = ratios[np.isfinite(ratios) & (ratios > 0)]
    first = min(0, math.floor(math.log10(inside.min(initial=1))))
    last = max(0, math.ceil(math.log10(inside.max(initial=1))))
    powers = range(first, last + 1, 1 + (last - first) // 7)
    ticks = {10.0**power: f"{10.0**power:g}" for power in powers}
    # A decade beyond the numbers.
    zero, infinite = 10.0 ** (first - 1), 10.0 ** (last + 1)
    if (ratios == 0).any():
        ticks[zero] = "0"
    if np.isinf(ratios).any():
        ticks[infinite] = "∞"
    axes.set_yscale("log")
    axes.set_yticks(list(ticks), list(ticks.values()))
    axes.minorticks_off()
    axes.set_ylim(min(ticks) / 3, max(ticks) * 3)
    return zero, infinite


def _mark_outside(axes, is_outside, y, what, color):
    ranks = np.flatnonzero(is_outside) + 1
    if not len(ranks):
        return
    axes.plot(ranks, [y] * len(ranks), "|", color=color, markersize=7)
    classes = "class" if len(ranks) == 1 else "classes"
    place = {"xycoords": ("axes fraction", "data"), "xytext": (0, 7), "va": "bottom"}
    text = f"{len(ranks):,} {classes} {what}"
    axes.annotate(text, (0.02, y), textcoords="offset points", fontsize=8, **place)


def _rank_ticks(axes, image_counts):
    """Training images at the ends and at the groups' borders; groups are named if they fit."""
    num_classes = len(image_counts)
    num_frequent = (image_counts > COMMON_MAX_IMAGES).sum()
    num_rare = num_classes - (image_counts > RARE_MAX_IMAGES).sum()
    borders = {
        num_frequent + 0.5: COMMON_MAX_IMAGES,
        num_classes - num_rare + 0.5: RARE_MAX_IMAGES,
    }
    ticks = {1: image_counts[0], num_classes: image_counts[-1]}
    for border, bound in borders.items():
        axes.axvline(border, color="0.6", linewidth=0.8, linestyle=":", zorder=0)
        if all(abs(border - tick) > 0.12 * num_classes for tick in ticks):
            ticks[border] = bound
    labels = ["?" if np.isnan(count) else f"{count:,.0f}" for count in ticks.values()]
    axes.set_xticks(list(ticks), labels)
    axes.set_xlim(0.5 - 0.02 * num_classes, 0.5 + 1.02 * num_classes)
    ends = (0.5, *borders, num_classes + 0.5)
    for name, start, end in zip(reversed(GROUP_NAMES.values()), ends, ends[1:], strict=False):
        if end - start > 0.25 * num_classes:
            place = ((start + end) / 2, 1)
            style = {"va": "top", "ha": "center", "fontsize": 8, "color": "0.4"}
            axes.text(*place, name, transform=axes.get_xaxis_transform(), **style)
