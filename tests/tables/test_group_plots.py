import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eql_seesaw.tables import group_plots
from eql_seesaw.tables.finished_run import FinishedRun, Method
from eql_seesaw.tables.group_plots import (
    LOSS_COLORS,
    METRICS,
    GainPoint,
    TableRow,
    draw_gain_by_imbalance,
    draw_groups,
    draw_published_beside_measured,
)

nan = np.nan


@pytest.fixture
def drawn(monkeypatch):
    """Draws without writing; returns the panels."""
    kept = []
    monkeypatch.setattr(group_plots, "save_figure", lambda figure, path: kept.append(figure))

    def draw(function, *args):
        function(*args, "x.png")
        return [axes for axes in kept[-1].axes if axes.axison]

    return draw


def method(label, loss="seesaw", **metrics):
    """Each metric is a list of one value for each seed; AP is always there."""
    seeds = range(len(next(iter(metrics.values()))))
    return Method(
        label,
        [
            FinishedRun(
                loss,
                {f"segm/{name}": values[seed] for name, values in metrics.items()},
                np.array([5.0, 50.0]),
                {"segm": np.array([1.0, 2.0]), "bbox": np.array([1.0, 2.0])},
            )
            for seed in seeds
        ],
    )


def markers(axes, shape, size=None):
    """[(x, y), ...] of all points with that marker."""
    points = []
    for line in axes.lines:
        if line.get_marker() == shape and size in (None, line.get_markersize()):
            points += zip(line.get_xdata(), line.get_ydata(), strict=True)
    return [(float(x), float(y)) for x, y in points]


def texts(axes):
    return [text.get_text() for text in axes.texts]


class TestGroups:
    def test_every_metric_has_its_panel(self, drawn):
        panels = drawn(draw_groups, [method("a", **dict.fromkeys(METRICS, [1.0]))])
        assert [axes.get_title() for axes in panels] == list(METRICS.values())

    def test_mean_spread_and_seeds(self, drawn):
        panels = drawn(draw_groups, [method("a", AP=[10.0, 20.0, 60.0]), method("b", AP=[7.0])])
        axes = panels[0]
        assert markers(axes, "o", 7) == [(30, 0), (7, 1)]
        assert markers(axes, "o", 3.5) == [(10, 0), (20, 0), (60, 0)]
        (bar,) = [collection.get_segments()[0] for collection in axes.collections]
        spread = np.std([10, 20, 60], ddof=1)
        assert bar[:, 0] == pytest.approx([30 - spread, 30 + spread])
        assert texts(axes) == ["30.0", "7.0"]

    def test_methods_are_named_from_top_to_bottom(self, drawn):
        axes = drawn(draw_groups, [method("first", AP=[1.0]), method("second", AP=[2.0])])[0]
        assert [label.get_text() for label in axes.get_yticklabels()] == ["first", "second"]
        assert axes.yaxis_inverted()

    def test_missing_is_not_zero(self, drawn):
        panels = drawn(draw_groups, [method("a", AP=[5.0, nan], APr=[nan, nan])])
        assert markers(panels[0], "o") == [(5, 0)]
        for axes in panels[1:]:
            assert markers(axes, "o") == []
            assert texts(axes) == ["n/a"]

    def test_a_loss_has_one_color(self, drawn):
        seesaw, eql = method("x", "seesaw", AP=[1.0]), method("y", "eql", AP=[2.0])
        colors = [line.get_color() for line in drawn(draw_groups, [seesaw, eql])[0].lines]
        assert colors == [LOSS_COLORS["seesaw"], LOSS_COLORS["eql"]]
        colors = [line.get_color() for line in drawn(draw_groups, [eql, seesaw])[0].lines]
        assert colors == [LOSS_COLORS["eql"], LOSS_COLORS["seesaw"]]

    def test_equal_differences_have_equal_length(self, drawn):
        methods = [method("a", AP=[10.0], APf=[50.0]), method("b", AP=[40.0], APf=[50.5])]
        spans = [np.ptp(axes.get_xlim()) for axes in drawn(draw_groups, methods)]
        assert spans == pytest.approx([spans[0]] * 4)
        assert spans[0] > 30

    def test_masks_unless_there_are_none(self, drawn):
        run = FinishedRun(
            "eql", {"bbox/AP": 3.0}, np.ones(1), {"bbox": np.ones(1), "segm": np.ones(1)}
        )
        boxes = Method("boxes", [run])
        assert markers(drawn(draw_groups, [boxes])[0], "o") == [(3, 0)]
        panels = drawn(draw_groups, [boxes, method("masks", AP=[4.0])])
        assert markers(panels[0], "o") == [(4, 1)]

    def test_no_methods(self):
        with pytest.raises(ValueError, match="x.png: no methods"):
            draw_groups([], "x.png")


class TestPublished:
    def test_both_where_they_are(self, drawn):
        rows = [
            TableRow("a", "eql", {"AP": [20.0, 22.0], "APbox": []}, {"AP": 23.0, "APbox": 24.0}),
            TableRow("b", "eql", {}, {"AP": None}),
            TableRow("c", "eql", {"APbox": [9.0]}),
        ]
        ap, box = drawn(draw_published_beside_measured, rows, ["AP", "APbox"])
        assert [x for x, _ in markers(ap, "o", 7)] == [21]
        assert [x for x, _ in markers(ap, "D")] == [23]
        assert texts(ap) == ["23.0", "21.0", "n/a", "n/a"]
        assert [x for x, _ in markers(box, "o", 7)] == [9]
        assert [x for x, _ in markers(box, "D")] == [24]

    def test_equal_numbers_hide_nothing(self, drawn):
        rows = [TableRow("a", "eql", {"AP": [20.0]}, {"AP": 20.0})]
        (axes,) = drawn(draw_published_beside_measured, rows, ["AP"])
        assert markers(axes, "o")[0][1] < 0 < markers(axes, "D")[0][1]

    @pytest.mark.parametrize("num_columns", [1, 5, 6, 7, 10])
    def test_any_number_of_columns(self, drawn, num_columns):
        columns = [f"AP{i}" for i in range(num_columns)]
        rows = [TableRow("a", "eql", {}, {column: 5.0 for column in columns})]
        panels = drawn(draw_published_beside_measured, rows, columns)
        assert [axes.get_title() for axes in panels] == columns

    def test_no_rows(self):
        with pytest.raises(ValueError, match="x.png: no rows"):
            draw_published_beside_measured([], ["AP"], "x.png")


class TestGain:
    def test_means_bands_and_seeds(self, drawn):
        points = [
            GainPoint("EQL", "eql", 1000, {"AP": [3.0, 5.0], "APr": [nan]}),
            GainPoint("EQL", "eql", 100, {"AP": [1.0]}),
            GainPoint("Seesaw", "seesaw", 100, {"AP": [-2.0]}),
        ]
        panels = drawn(draw_gain_by_imbalance, points)
        axes = panels[0]
        assert axes.get_xscale() == "log"
        assert markers(axes, "o") == [(100, 1), (1000, 4), (100, -2)]
        assert markers(axes, ".") == [(100, 1), (1000, 3), (1000, 5), (100, -2)]
        spread = np.std([3, 5], ddof=1)
        band = axes.collections[0].get_paths()[0].vertices
        assert band[:, 1].max() == pytest.approx(4 + spread)
        assert band[band[:, 0] == 1000, 1].min() == pytest.approx(4 - spread)
        for axes in panels[1:]:
            assert markers(axes, "o") == [] and texts(axes) == ["n/a"]

    def test_no_points(self):
        with pytest.raises(ValueError, match="x.png: no gains"):
            draw_gain_by_imbalance([], "x.png")


DRAW = {
    "groups": lambda path: draw_groups([method("$a_1$ 类别", AP=[1.0, 2.0])], path),
    "published": lambda path: draw_published_beside_measured(
        [TableRow("a", "eql", {"AP": [1.0]}, {"AP": 2.0})], ["AP"], path
    ),
    "gain": lambda path: draw_gain_by_imbalance([GainPoint("a", "eql", 10, {"AP": [1.0]})], path),
}


@pytest.mark.parametrize("name", DRAW)
def test_files_are_the_same_every_time(name, tmp_path):
    for file in ("a.png", "b.png"):
        DRAW[name](tmp_path / file)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert Image.open(tmp_path / "a.png").width == 1000
    assert sorted(os.listdir(tmp_path)) == ["a.png", "b.png"]


def test_failed_drawing_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_text("old")

    def fail(self, file, **kwargs):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(group_plots.Figure, "savefig", fail)
    with pytest.raises(OSError):
        DRAW["groups"](path)
    assert path.read_text() == "old"
    assert [Path(p).name for p in os.listdir(tmp_path)] == ["a.png"]


def test_colors_differ():
    assert len(set(LOSS_COLORS.values())) == len(LOSS_COLORS)
