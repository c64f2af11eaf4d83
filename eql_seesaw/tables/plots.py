"""The pictures of a table."""

from pathlib import Path

import numpy as np

from .class_plots import draw_ap_by_images, draw_gradient_ratios
from .collect import (
    MeasuredRow,
    MeasuredTable,
    column_values,
    paired_gains,
    paired_seeds,
    rows_and_baselines,
)
from .finished_run import Method, read_finished_run
from .group_plots import (
    METRICS,
    GainPoint,
    TableRow,
    draw_gain_by_imbalance,
    draw_groups,
    draw_published_beside_measured,
)

# TABLE.png, and in miniature TABLE_ap_by_images.png ...
KINDS = ("", "_ap_by_images", "_gradients", "_imbalance")


def draw_table(measured: MeasuredTable, folder: str) -> list[str]:
    """
    Draw what was measured; then delete pictures of an earlier state that have no data now.

    At full scale, published beside measured. In miniature AP by frequency group and by training
    images; the ratio of gradients, where a run has recorded them; and gains against imbalance, if
    the rows were trained on sets of different imbalance.

    Returns:
        The paths of the pictures.
    """
    paths = {kind: Path(folder, f"{measured.table.name}{kind}.png") for kind in KINDS}
    drawn = []
    if any(row.values for row in measured.rows):
        draw = _draw_full if measured.scale == "full" else _draw_mini
        drawn = draw(measured, paths)
    for path in paths.values():
        if path not in drawn:
            path.unlink(missing_ok=True)
    return [str(path) for path in drawn]


def _draw_full(measured, paths):
    rows = []
    for row in measured.rows:
        values = {column: column_values(row, column) for column in measured.columns}
        rows.append(TableRow(row.label, row.loss, values, row.row.published))
    draw_published_beside_measured(rows, measured.columns, paths[""])
    return [paths[""]]


def _draw_mini(measured, paths):
    methods = {row.row.name: _method(row) for row in measured.rows if row.values}
    drawn = [paths[""], paths["_ap_by_images"]]
    draw_groups(list(methods.values()), paths[""])
    draw_ap_by_images(list(methods.values()), paths["_ap_by_images"])
    recorded = [m for m in methods.values() if m.gradient_ratios() is not None]
    if recorded:
        draw_gradient_ratios(recorded, paths["_gradients"])
        drawn.append(paths["_gradients"])
    columns = [name for name in METRICS if name in measured.columns]
    imbalances = {name: _imbalance(method) for name, method in methods.items()}
    points = [
        GainPoint(
            f"{_config_name(row)} over {_config_name(baseline)}",
            row.loss,
            imbalances[row.row.name],
            {name: paired_gains(row, baseline, name) for name in columns},
        )
        for row, baseline in rows_and_baselines(measured)
        if paired_seeds(row, baseline)
    ]
    if len({point.imbalance for point in points}) > 1:
        draw_gain_by_imbalance(points, paths["_imbalance"])
        drawn.append(paths["_imbalance"])
    return drawn


def _method(row: MeasuredRow) -> Method:
    seeds = [
        read_finished_run(folder, row.dataset, row.loss, row.metrics[seed])
        for seed, folder in row.folders.items()
    ]
    return Method(row.label, seeds)


def _config_name(row: MeasuredRow) -> str:
    """The method, whatever it is trained on: configs of one name are in a folder for each set."""
    return Path(row.row.config).stem


def _imbalance(method):
    """Training images of the most frequent class over those of the rarest that has any."""
    counts = method.image_counts
    return np.nanmax(counts) / np.nanmin(counts[counts > 0])
