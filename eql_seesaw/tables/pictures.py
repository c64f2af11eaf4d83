"""The pictures of a table."""

from pathlib import Path

import numpy as np

from .class_figures import draw_ap_by_images, draw_gradient_ratios
from .collect import MeasuredTable, column_values, paired_gains, rows_and_baselines
from .figures import (
    METRICS,
    GainPoint,
    TableRow,
    draw_gain_by_imbalance,
    draw_groups,
    draw_published_beside_measured,
)
from .run_results import Method, read_run

# TABLE.png, and in miniature TABLE_ap_by_images.png ...
KINDS = ("", "_ap_by_images", "_gradients", "_imbalance")


def draw_table(measured: MeasuredTable, folder: str) -> list[str]:
    """
    Draw what was measured; pictures of an earlier state that have no data now are deleted.

    At full scale, published beside measured. In miniature AP by frequency group and by training
    images; the ratio of gradients, where a run has recorded them; and gains against imbalance, if
    the rows were trained on sets of different imbalance.

    Returns:
        The paths of the pictures.
    """
    paths = {kind: Path(folder, f"{measured.table.name}{kind}.png") for kind in KINDS}
    for path in paths.values():
        path.unlink(missing_ok=True)
    if not any(row.values for row in measured.rows):
        return []
    if measured.scale == "full":
        _draw_full(measured, paths[""])
    else:
        _draw_mini(measured, paths)
    return [str(path) for path in paths.values() if path.exists()]


def _draw_full(measured, path):
    rows = []
    for row in measured.rows:
        values = {column: column_values(row, column) for column in measured.columns}
        rows.append(TableRow(row.row.label, row.loss, values, row.row.published))
    draw_published_beside_measured(rows, measured.columns, path)


def _draw_mini(measured, paths):
    methods = {
        row.row.name: Method(row.row.label, [read_run(folder) for folder in row.folders])
        for row in measured.rows
        if row.values
    }
    draw_groups(list(methods.values()), paths[""])
    draw_ap_by_images(list(methods.values()), paths["_ap_by_images"])
    recorded = [m for m in methods.values() if m.gradient_ratios() is not None]
    if recorded:
        draw_gradient_ratios(recorded, paths["_gradients"])
    imbalances = {name: _imbalance(method) for name, method in methods.items()}
    if len(set(imbalances.values())) > 1:
        points = [
            GainPoint(
                f"{row.row.label.partition(',')[0]} over {baseline.row.label.partition(',')[0]}",
                row.loss,
                imbalances[row.row.name],
                {name: paired_gains(row, baseline, name) for name in METRICS},
            )
            for row, baseline in rows_and_baselines(measured)
        ]
        draw_gain_by_imbalance(points, paths["_imbalance"])


def _imbalance(method):
    """Training images of the most frequent class over those of the rarest that has any."""
    counts = method.image_counts
    return np.nanmax(counts) / np.nanmin(counts[counts > 0])
