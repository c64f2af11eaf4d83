"""Pictures that `collect` draws: each figure is looked into instead of its file."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from eql_seesaw.losses import LOSSES
from eql_seesaw.tables import plots
from eql_seesaw.tables.measure import MeasuredRow
from eql_seesaw.tables.table import Row
from tests.tables.conftest import finish, runs_of

FOLDER = Path("output/tables/mini")
METRICS = ("AP", "APr", "APc", "APf")
TABLE = """
title: A method and its baseline at two imbalances
dataset: symbols
columns: [AP, APr, APc, APf]
rows:
- {name: ce, label: "CE $a_1$ 类别", config: configs/small/softmax_ce.yaml}
- {name: seesaw, label: "Seesaw", config: configs/small/seesaw.yaml, baseline: ce}
- {name: ce_90, label: "CE, 90", config: configs/small/90/softmax_ce.yaml}
- {name: seesaw_90, label: "Seesaw, 90", config: configs/small/90/seesaw.yaml, baseline: ce_90}
"""
CLASSES = [(5, 10.0), (2000, 80.0), (0, 0.0), (50, None)]
GRADIENTS = [[1.0, 8.0, 0.0, 3.0], [100.0, 4.0, 5.0, 0.0]]


@pytest.fixture
def runs(project):
    """{(row, seed): run} of the table above."""
    (project / "tables/compared.yaml").write_text(TABLE)
    (project / "configs/small/90").mkdir()
    for loss in ("softmax_ce", "seesaw"):
        config = f"_BASE_: ../{loss}.yaml\nSOLVER: {{GAMMA: 0.2}}\n"
        (project / f"configs/small/90/{loss}.yaml").write_text(config)
    return runs_of("compared", seeds=3)


@pytest.fixture
def collect(run_command, monkeypatch):
    """``collect("compared")`` -> {kind of picture: its panels}; nothing is written in them."""

    def collect(table):
        panels = {}

        def keep(figure, file, **kwargs):
            name = Path(file.name).name.partition(".png")[0]
            panels[name.removeprefix(table)] = figure.axes

        with monkeypatch.context() as patch:
            patch.setattr(Figure, "savefig", keep)
            assert run_command("collect", table)[0] == 0
        return panels

    return collect


def finish_with(run, ap=1.0, **kwargs):
    values = ap if isinstance(ap, dict) else dict.fromkeys(METRICS, ap)
    finish(run, **{f"{t}_{k}": x for t in ("bbox", "segm") for k, x in values.items()}, **kwargs)


def points(axes, marker, size=None):
    """[(x, y), ...] of all points with that marker."""
    lines = [line for line in axes.lines if line.get_marker() == marker]
    lines = [line for line in lines if size in (None, line.get_markersize())]
    return [(float(x), float(y)) for line in lines for x, y in line.get_xydata()]


def texts(axes):
    return [text.get_text() for text in axes.texts]


def pictures_there():
    return sorted(path.name for path in FOLDER.glob("*.png"))


def test_groups(runs, collect):
    """Means with their spread, seeds, and names from top to bottom; missing is not zero."""
    for seed, ap in enumerate((10.0, 20.0, 60.0), 1):
        finish_with(runs["ce", seed], {"AP": ap, "APr": None})
    finish_with(runs["seesaw", 1], {"AP": 7.0, "APr": 50.0})
    panels = collect("compared")[""]
    assert [axes.get_title() for axes in panels] == list(plots.GROUPS.values())
    ap, rare, common, _ = panels
    assert points(ap, "o", 7) == [(30, 0), (7, 1)]
    assert points(ap, "o", 3.5) == [(10, 0), (20, 0), (60, 0)]
    (bar,) = [collection.get_segments()[0] for collection in ap.collections]
    spread = np.std([10, 20, 60], ddof=1)
    assert bar[:, 0] == pytest.approx([30 - spread, 30 + spread])
    assert texts(ap) == ["30.0", "7.0"] and ap.yaxis_inverted()
    assert [label.get_text() for label in ap.get_yticklabels()] == ["CE $a_1$ 类别", "Seesaw"]
    assert points(rare, "o") == [(50, 1)] and texts(rare) == ["n/a", "50.0"]
    assert texts(common) == ["n/a", "n/a"]
    colors = [line.get_color() for line in ap.lines if line.get_markersize() == 7]
    assert colors == [plots.LOSS_COLORS["softmax_ce"], plots.LOSS_COLORS["seesaw"]]
    # Equal differences have equal length.
    assert np.ptp([np.ptp(axes.get_xlim()) for axes in panels]) == pytest.approx(0)


def test_published_beside_measured(collect, project):
    finish(runs_of("big")["ce", 1], segm_AP=20.0, bbox_AP=22.0)
    ap, rare, box = collect("big")[""]
    assert texts(ap) == ["20.0", "20.0", "23.0", "22.0"] and texts(rare) == ["5.0", "10.0", "n/a"]
    ((measured, above),), ((published, below), *_) = points(ap, "o"), points(ap, "D")
    assert measured == published == 20 and above < below, "equal numbers hide nothing"
    assert [x for x, _ in points(box, "o")] == [22] and [x for x, _ in points(box, "D")] == [21]


@pytest.mark.parametrize("num_panels", [1, 5, 6, 7, 10])
def test_any_number_of_columns(tmp_path, num_panels):
    columns = [f"AP{i}" for i in range(num_panels)]
    row = Row("a", "A", "a.yaml", published=dict.fromkeys(columns, 5.0))
    row = MeasuredRow(row, [], has_masks=True)
    plots.draw_rows([row], columns, "AP", tmp_path / "a.png", with_published=True)
    assert Image.open(tmp_path / "a.png").width == 1000


def test_classes_by_images_and_by_gradients(runs, collect):
    """Seeds are averaged, gradients summed; a class that has no place is marked and counted."""
    finish_with(runs["ce", 1], classes=CLASSES, gradients=GRADIENTS)
    finish_with(runs["ce", 2], classes=[(5, 20.0), (2000, None), (0, 0.0), (50, None)])
    finish_with(runs["seesaw", 1], classes=[(n, None) for n, _ in CLASSES])
    panels = collect("compared")
    first, second = panels["_ap_by_images"]
    assert points(first, ".") == [(0, 0), (5, 15), (2000, 80)]
    assert points(second, ".") == [] and texts(second) == ["n/a"]
    borders = [line.get_xdata()[0] for line in first.lines if line.get_linestyle() == ":"]
    assert borders == [10.5, 100.5]
    left, right = first.get_xlim()
    assert -1 < left < 0 and 2000 < right < 3000 and second.get_xlim() == (left, right)
    (axes,) = panels["_gradients"]
    assert points(axes, ".") == [(1, 2), (3, 0.01)] and axes.get_yscale() == "log"
    assert sorted(x for x, _ in points(axes, "|")) == [2, 4]
    assert texts(axes) == [f"1 class without {sign} gradient" for sign in ("positive", "negative")]
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert names == ["frequent", "common", "rare"]
    finish_with(runs["ce", 2], gradients=[[1, 8, 1, 3], [0, 0, 5, 2]], classes=CLASSES)
    (axes,) = collect("compared")["_gradients"]
    assert points(axes, ".") == [(1, 4), (2, 3), (3, 0.02), (4, 0.1)] and not texts(axes)


def test_lines_follow_the_classes(runs, collect):
    images = np.geomspace(10_000, 1, 200).round()
    aps, ratios = 10 * np.log10(images) + 20, np.geomspace(1, 0.001, 200)
    classes = list(zip(images.tolist(), aps.tolist(), strict=True))
    finish_with(runs["ce", 1], classes=classes, gradients=[ratios.tolist(), [1.0] * 200])
    panels = collect("compared")
    for kind, values in (("_ap_by_images", aps[::-1]), ("_gradients", np.log10(ratios))):
        (line,) = [line for line in panels[kind][0].lines if line.get_linewidth() == 2.5]
        y = line.get_ydata() if kind == "_ap_by_images" else np.log10(line.get_ydata())
        assert y[60:140] == pytest.approx(values[60:140], abs=0.3)


def test_gains_at_each_imbalance(runs, collect):
    """Means over seeds, bands and seeds; configs of one name are a line."""
    for name, aps, images in (("", (1.0, 1.0), 20), ("_90", (1.0, 3.0), 180)):
        for seed, ap in enumerate(aps, 1):
            finish_with(runs[f"ce{name}", seed], 0.0, classes=[(2, 1.0), (images, 1.0)])
            finish_with(runs[f"seesaw{name}", seed], ap, classes=[(2, 1.0), (images, 1.0)])
    axes = collect("compared")["_imbalance"][0]
    assert points(axes, "o", 6) == [(10, 1), (90, 2)] and axes.get_xscale() == "log"
    assert points(axes, "o", 3.5) == [(10, 1), (10, 1), (90, 1), (90, 3)]
    _, bar = axes.collections[0].get_segments()
    assert bar[:, 1] == pytest.approx(2 + np.std([1, 3], ddof=1) * np.array([-1, 1]))
    (legend,) = axes.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["seesaw over softmax_ce"]


def test_pictures_are_those_of_what_is_measured(runs, run_command):
    """The same bytes every time; those of an earlier state are deleted when new ones are drawn."""
    for name, images in (("ce", 20), ("seesaw", 20), ("ce_90", 180), ("seesaw_90", 180)):
        finish_with(runs[name, 1], classes=[(2, 1.0), (images, 1.0)])
    kinds = ("compared", "compared_ap_by_images", "compared_imbalance")
    contents = []
    for _ in range(2):
        status, text = run_command("collect", "compared")
        assert status == 0 and pictures_there() == [f"{kind}.png" for kind in kinds]
        assert all(f"  {FOLDER}/{name}\n" in text for name in pictures_there())
        contents.append([path.read_bytes() for path in sorted(FOLDER.glob("*.png"))])
    assert contents[0] == contents[1]
    for name in ("seesaw", "ce_90"):
        Path(runs[name, 1].folder, "metrics.json").unlink()
    run_command("collect", "compared")
    assert pictures_there() == ["compared.png", "compared_ap_by_images.png"]
    for path in FOLDER.rglob("metrics.json"):
        path.unlink()
    assert run_command("collect", "compared")[0] == 0 and pictures_there() == []


def test_every_loss_has_a_color_of_its_own():
    assert plots.LOSS_COLORS.keys() == LOSSES.keys()
    assert len(set(plots.LOSS_COLORS.values())) == len(plots.LOSS_COLORS)
