import json
from pathlib import Path

import pytest

from eql_seesaw.tables import plots, table_runs
from eql_seesaw.tables.collect import measure
from eql_seesaw.tables.group_plots import METRICS
from eql_seesaw.tables.plots import draw_table
from tests.tables.conftest import finish, runs_of

FOLDER = Path("output/tables/mini")
TABLE = """
title: A method and its baseline at two imbalances
dataset: symbols
columns: [AP, APr, APc, APf]
rows:
- {name: ce, label: "CE", config: configs/small/softmax_ce.yaml}
- {name: seesaw, label: "Seesaw", config: configs/small/seesaw.yaml, baseline: ce}
- {name: ce_90, label: "CE, 90", config: configs/small/90/softmax_ce.yaml}
- {name: seesaw_90, label: "Seesaw, 90", config: configs/small/90/seesaw.yaml, baseline: ce_90}
"""
ONE_IMBALANCE = {"ce": (1.0, 20), "seesaw": (3.0, 20)}
TWO_IMBALANCES = {**ONE_IMBALANCE, "ce_90": (1.0, 180), "seesaw_90": (8.0, 180)}


@pytest.fixture
def measured(project):
    """
    ``measured({row: (AP, images of the most frequent class)})`` finishes these rows, and measures
    the table. The rarest class that has images has two.
    """
    (project / "tables/compared.yaml").write_text(TABLE)
    (project / "configs/small/90").mkdir()
    for loss in ("softmax_ce", "seesaw"):
        config = f"_BASE_: ../{loss}.yaml\nSOLVER: {{GAMMA: 0.2}}\n"
        (project / f"configs/small/90/{loss}.yaml").write_text(config)
    FOLDER.mkdir(parents=True)

    def measure_rows(rows):
        runs = runs_of("compared", "mini")
        for name, (ap, images) in rows.items():
            run = runs[name, 1]
            finish(
                run, **{f"{task}_{metric}": ap for task in ("bbox", "segm") for metric in METRICS}
            )
            [categories] = Path(run.folder).glob("inference/*/per_category.csv")
            categories.write_text(f"train images,AP box,AP mask\n0,1,1\n2,1,1\n{images},1,1\n")
        return measure(table_runs.load_table("compared"), "mini", "output/tables", None)

    return measure_rows


def pictures_there():
    return sorted(path.name for path in FOLDER.glob("*.png"))


def test_one_imbalance(measured):
    paths = draw_table(measured(ONE_IMBALANCE), FOLDER)
    assert paths == [f"{FOLDER}/compared.png", f"{FOLDER}/compared_ap_by_images.png"]
    assert pictures_there() == ["compared.png", "compared_ap_by_images.png"]


def test_recorded_gradients_are_drawn(measured):
    table = measured(ONE_IMBALANCE)
    sums = {"positive": [0.0, 1.0, 2.0], "negative": [1.0, 2.0, 2.0]}
    Path(table.rows[1].folders[1], "gradient_statistics.json").write_text(json.dumps(sums))
    draw_table(table, FOLDER)
    assert "compared_gradients.png" in pictures_there()


def test_gains_at_each_imbalance(measured, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "draw_gain_by_imbalance", lambda points, path: drawn.extend(points))
    draw_table(measured(TWO_IMBALANCES), FOLDER)
    assert [(point.label, point.imbalance, point.gains["AP"]) for point in drawn] == [
        ("seesaw over softmax_ce", 10.0, [2.0]),
        ("seesaw over softmax_ce", 90.0, [7.0]),
    ]


def test_no_gains_at_two_imbalances(measured):
    rows = {name: TWO_IMBALANCES[name] for name in ("ce", "seesaw_90")}
    draw_table(measured(rows), FOLDER)
    assert pictures_there() == ["compared.png", "compared_ap_by_images.png"]


def test_metrics_that_a_kill_has_cut_off(measured):
    table = measured(ONE_IMBALANCE)
    path = Path(table.rows[0].folders[1], "metrics.json")
    path.write_text('{"iterat' + path.read_text())
    assert len(draw_table(measured({}), FOLDER)) == 2


def test_pictures_of_an_earlier_state_are_deleted(measured):
    draw_table(measured(TWO_IMBALANCES), FOLDER)
    assert "compared_imbalance.png" in pictures_there()
    for path in FOLDER.rglob("metrics.json"):
        path.unlink()
    assert draw_table(measured({}), FOLDER) == []
    assert pictures_there() == []


def test_pictures_stay_where_new_ones_cannot_be_drawn(measured):
    table = measured(TWO_IMBALANCES)
    draw_table(table, FOLDER)
    before = pictures_there()
    next(FOLDER.rglob("per_category.csv")).unlink()
    with pytest.raises(FileNotFoundError, match="per_category.csv"):
        draw_table(table, FOLDER)
    assert pictures_there() == before
