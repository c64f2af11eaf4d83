import json
from pathlib import Path

import pytest

from eql_seesaw.tables import pictures, table_runs
from eql_seesaw.tables.collect import measure
from eql_seesaw.tables.pictures import draw_table
from tests.tables.conftest import finish, runs_of

FOLDER = "output/tables/mini"
COMPARED = """
title: Two methods at two imbalances
dataset: symbols
columns: [AP, APr, APc, APf]
rows:
- {name: ce_10, label: "CE, 10 to 1", config: configs/small/softmax_ce.yaml}
- {name: seesaw_10, label: "Seesaw, 10 to 1", config: configs/small/seesaw.yaml, baseline: ce_10}
- {name: ce_90, label: "CE, 90 to 1", config: configs/small/ce_90.yaml}
- {name: seesaw_90, label: "Seesaw, 90 to 1", config: configs/small/seesaw_90.yaml, baseline: ce_90}
"""


@pytest.fixture
def measured(project):
    """Finishes rows, with box AP and the most frequent class's images; then measures the table."""
    (project / "tables/compared.yaml").write_text(COMPARED)
    for loss in ("ce", "seesaw"):
        base = {"ce": "softmax_ce"}.get(loss, loss)
        path = project / f"configs/small/{loss}_90.yaml"
        path.write_text(f"_BASE_: {base}.yaml\nSOLVER: {{GAMMA: 0.2}}\n")

    def write(rows):
        runs = runs_of("compared", "mini")
        for name, (ap, images) in rows.items():
            run = runs[name, 1]
            metrics = {
                f"{t}_{m}": ap for t in ("bbox", "segm") for m in ("AP", "APr", "APc", "APf")
            }
            finish(run, **metrics)
            (table,) = Path(run.folder, "inference").glob("*/per_category.csv")
            table.write_text(f"train images,AP box,AP mask\n0,1,1\n2,1,1\n{images},1,1\n")
        Path(FOLDER).mkdir(parents=True, exist_ok=True)
        return measure(table_runs.load_table("compared"), "mini", "output/tables", None)

    return write


def test_one_imbalance(measured):
    table = measured({"ce_10": (1.0, 20), "seesaw_10": (3.0, 20)})
    assert draw_table(table, FOLDER) == [
        f"{FOLDER}/compared.png",
        f"{FOLDER}/compared_ap_by_images.png",
    ]


def test_recorded_gradients_are_drawn(measured):
    table = measured({"ce_10": (1.0, 20), "seesaw_10": (3.0, 20)})
    sums = {"positive": [0.0, 1.0, 2.0], "negative": [1.0, 2.0, 2.0]}
    Path(table.rows[1].folders[0], "gradient_statistics.json").write_text(json.dumps(sums))
    assert f"{FOLDER}/compared_gradients.png" in draw_table(table, FOLDER)


def test_gains_at_each_imbalance(measured, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        pictures, "draw_gain_by_imbalance", lambda points, path: drawn.extend(points)
    )
    rows = {
        "ce_10": (1.0, 20),
        "seesaw_10": (3.0, 20),
        "ce_90": (1.0, 180),
        "seesaw_90": (8.0, 180),
    }
    draw_table(measured(rows), FOLDER)
    # The rarest class that has images has two of them.
    assert [(point.label, point.imbalance) for point in drawn] == [
        ("Seesaw over CE", 10.0),
        ("Seesaw over CE", 90.0),
    ]
    assert [point.gains["AP"] for point in drawn] == [[2.0], [7.0]]


def test_pictures_of_an_earlier_state_are_deleted(measured):
    rows = {
        "ce_10": (1.0, 20),
        "seesaw_10": (3.0, 20),
        "ce_90": (1.0, 180),
        "seesaw_90": (8.0, 180),
    }
    paths = draw_table(measured(rows), FOLDER)
    assert f"{FOLDER}/compared_imbalance.png" in paths
    for path in Path(FOLDER).rglob("metrics.json"):
        path.unlink()
    assert draw_table(measured({}), FOLDER) == []
    assert not list(Path(FOLDER).glob("*.png"))
