"""The page's figures as PNG, for papers."""

import warnings
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ...atomic_write import atomic_file
from ...data.frequency_groups import COMMON_MAX_IMAGES, GROUP_NAMES, RARE_MAX_IMAGES
from ..calibration import calibration_bins
from .ap_by_range import mean_ap_by_range
from .confusions import confusion_matrix, most_confused_classes
from .precision_recall import THRESHOLDS, drawn_precision, precision_recall_curves
from .run import TASK_NAMES, Run

# Okabe and Ito, told apart also by colour-blind readers; page.css has the same.
COLORS = {"all": "#333333", "r": "#D55E00", "c": "#009E73", "f": "#0072B2"}
MARKERS = {"all": "x", "r": "^", "c": "s", "f": "o"}
LINE_STYLES = {"all": (0, (1, 1.5)), "r": "-", "c": (0, (5, 2)), "f": (0, (7, 2, 1.5, 2))}
DPI = 300
PANEL_SIZE = (3.5, 2.8)  # inches
# Where classes without training images are drawn on the logarithmic axis.
NO_IMAGES = 0.5


def save_figures(run: Run, output_dir: Path) -> None:
    """Write four PNG files: one row of panels each, masks then boxes."""
    figures = {
        "ap_by_training_images.png": _ap_by_training_images,
        "precision_recall.png": _precision_recall,
        "calibration.png": _calibration,
        "confusions.png": _confusions,
    }
    for name, draw in figures.items():
        with warnings.catch_warnings():
            # matplotlib's font lacks some scripts; letters of theirs are drawn as boxes.
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            with atomic_file(output_dir / name, "wb") as f:
                draw(run).savefig(f, format="png", dpi=DPI)


def _ap_by_training_images(run):
    figure, panels = _panels(run)
    groups = np.array(run.groups)
    train_images = [category["train_images"] for category in run.categories]
    for (task, name), axes in panels:
        aps = [category.get(task, {}).get("AP") for category in run.categories]
        is_known = np.array([None not in pair for pair in zip(train_images, aps, strict=True)])
        for group, group_name in GROUP_NAMES.items():
            chosen = np.flatnonzero(is_known & (groups == group))
            axes.scatter(
                [train_images[k] or NO_IMAGES for k in chosen],
                [aps[k] for k in chosen],
                s=10,
                alpha=0.6,
                linewidths=0,
                c=COLORS[group],
                marker=MARKERS[group],
                label=f"{group_name} ({len(chosen)})",
            )
        for i, (first, last, ap, _) in enumerate(mean_ap_by_range(train_images, aps)):
            label = "mean of a range" if i == 0 else None
            ends = [max(first, NO_IMAGES) * 0.95, max(last, NO_IMAGES) * 1.05]
            axes.plot(ends, [ap, ap], color=COLORS["all"], linewidth=2, label=label)
        for boundary in (RARE_MAX_IMAGES, COMMON_MAX_IMAGES):
            axes.axvline(boundary + 0.5, color="0.6", linewidth=0.6, linestyle=":")
        axes.set(xscale="log", xlabel="training images", ylabel=f"AP of {name}")
        axes.set_ylim(bottom=-1)
        _legend(axes)
    return figure


def _precision_recall(run):
    figure, panels = _panels(run, per_task=2)
    for i, ((task, name), axes) in enumerate(panels):
        key = ("precision", "recall")[i % 2]
        curves = precision_recall_curves(run.matches[task], run.groups)
        for group, curve in curves.items():
            if curve["objects"]:
                values = drawn_precision(curve) if key == "precision" else curve[key]
                axes.plot(THRESHOLDS, 100 * values, **_line(group))
        axes.set(
            xlabel="score threshold", ylabel=f"{key} of {name} (%)", xlim=(0, 1), ylim=(-2, 102)
        )
        _legend(axes)
    return figure


def _calibration(run):
    figure, panels = _panels(run)
    groups = np.array(run.groups)
    for (task, name), axes in panels:
        matches, metrics = run.matches[task], run.evaluation.metrics[task]
        judged = ~matches.ignored
        scores, is_right = matches.scores[judged], matches.annotation_ids[judged] > 0
        group_of_detection = groups[matches.classes[judged]]
        axes.plot([0, 1], [0, 100], color="0.6", linewidth=0.6, linestyle=":")
        for group in GROUP_NAMES:
            chosen = group_of_detection == group
            _, mean_scores, accuracies = calibration_bins(scores[chosen], is_right[chosen])
            ece = metrics.get(f"ECE{group}")
            line = _line(group)
            if ece is not None:
                line["label"] += f", ECE {ece:.1f}"
            axes.plot(mean_scores, 100 * accuracies, marker=MARKERS[group], markersize=3, **line)
        axes.set(xlabel="score", ylabel=f"{name} that are right (%)", xlim=(0, 1), ylim=(-2, 102))
        _legend(axes)
    return figure


def _confusions(run):
    task, matches = next(iter(run.matches.items()))
    classes = most_confused_classes(matches.confusions)
    names = [run.categories[k]["name"] for k in classes]
    matrix = confusion_matrix(matches, classes)
    side = 2 + 0.22 * len(classes)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot()
    if not classes:
        axes.text(0.5, 0.5, "no confusions", ha="center")
        axes.set_axis_off()
        return figure
    totals = np.bincount(matches.gt_classes, minlength=len(run.categories))[classes]
    shares = matrix / np.maximum(totals, 1)[:, None]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.argwhere(matrix > 0):
        color = "white" if shares[row, column] > 0.5 else "black"
        count = str(matrix[row, column])
        axes.text(column, row, count, color=color, fontsize=6, ha="center", va="center")
    style = {"fontsize": 7, "parse_math": False}
    axes.set_xticks(range(len(names)), names, rotation=90, **style)
    axes.set_yticks(range(len(names)), names, **style)
    axes.set(xlabel=f"detected as ({TASK_NAMES[task]})", ylabel="annotated as")
    return figure


def _panels(run, per_task=1):
    """Tasks side by side, or a row each if they have more than one panel."""
    tasks = [(task, TASK_NAMES[task]) for task in run.tasks for _ in range(per_task)]
    width, height = PANEL_SIZE
    num_rows = len(run.tasks) if per_task > 1 else 1
    num_columns = len(tasks) // num_rows
    figure = Figure(figsize=(num_columns * width, num_rows * height), layout="constrained")
    axes = figure.subplots(num_rows, num_columns, squeeze=False).reshape(-1)
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=8)
        panel.xaxis.label.set_size(9)
        panel.yaxis.label.set_size(9)
    return figure, list(zip(tasks, axes, strict=True))


def _line(group):
    return {
        "color": COLORS[group],
        "linestyle": LINE_STYLES[group],
        "linewidth": 1.5,
        "label": GROUP_NAMES.get(group, group),
    }


def _legend(axes):
    axes.legend(fontsize=7, frameon=False)
