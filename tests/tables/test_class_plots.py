import numpy as np
import pytest

from eql_seesaw.tables import class_plots
from eql_seesaw.tables.class_plots import draw_ap_by_images, draw_gradient_ratios
from eql_seesaw.tables.finished_run import FinishedRun, Method

nan, inf = np.nan, np.inf
IMAGES = [5.0, 2000.0, 0.0, 50.0]
AP = [10.0, 80.0, 0.0, nan]


@pytest.fixture
def drawn(monkeypatch):
    """Draws without writing; returns the panels."""
    kept = []
    monkeypatch.setattr(class_plots, "save_figure", lambda figure, path: kept.append(figure))

    def draw(function, methods):
        function(methods, "x.png")
        return kept[-1].axes

    return draw


def run(images=IMAGES, ap=AP, gradients=None):
    ap = np.array(ap)
    gradients = None if gradients is None else np.array(gradients, dtype=float)
    return FinishedRun(
        "eql", {"segm/AP": 1.0}, np.array(images), {"segm": ap, "bbox": ap}, gradients
    )


def dots(axes, marker="."):
    points = []
    for line in axes.lines:
        if line.get_marker() == marker:
            points += zip(line.get_xdata(), line.get_ydata(), strict=True)
    return [(float(x), float(y)) for x, y in points]


def tick_labels(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


class TestAPByImages:
    def test_dots_are_the_known_classes(self, drawn):
        (axes,) = drawn(draw_ap_by_images, [Method("a", [run()])])
        assert dots(axes) == [(0.5, 0), (5, 10), (2000, 80)]
        assert axes.get_xscale() == "log"
        assert tick_labels(axes.xaxis)[-1] == "0"

    def test_seeds_are_averaged(self, drawn):
        seeds = [run(ap=[10, 80, 0, nan]), run(ap=[20, nan, 0, nan])]
        (axes,) = drawn(draw_ap_by_images, [Method("a", seeds)])
        assert dots(axes) == [(0.5, 0), (5, 15), (2000, 80)]

    def test_unknown_training_images_are_left_out(self, drawn):
        (axes,) = drawn(draw_ap_by_images, [Method("a", [run(images=[nan, 7, 8, 9])])])
        assert dots(axes) == [(7, 80), (8, 0)]

    def test_line_follows_the_classes(self, drawn):
        images = np.geomspace(1, 10_000, 200)
        ap = 10 * np.log10(images) + 20
        (axes,) = drawn(draw_ap_by_images, [Method("a", [run(images, ap)])])
        line = next(line for line in axes.lines if line.get_linewidth() == 2.5)
        middle = slice(60, 140)
        assert line.get_xdata() == pytest.approx(images)
        assert line.get_ydata()[middle] == pytest.approx(ap[middle], abs=0.1)

    def test_borders_of_the_groups(self, drawn):
        (axes,) = drawn(draw_ap_by_images, [Method("a", [run()])])
        borders = [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == ":"]
        assert borders == [10.5, 100.5]

    def test_no_class_is_known(self, drawn):
        methods = [Method("a", [run(ap=[nan] * 4)]), Method("b", [run()])]
        first, second = drawn(draw_ap_by_images, methods)
        assert dots(first) == [] and len(dots(second)) == 3
        assert [text.get_text() for text in first.texts] == ["n/a"]


class TestGradientRatios:
    GRADIENTS = [[1.0, 8.0, 0.0, 3.0], [100.0, 4.0, 5.0, 0.0]]

    def test_classes_from_frequent_to_rare(self, drawn):
        (axes,) = drawn(draw_gradient_ratios, [Method("a", [run(gradients=self.GRADIENTS)])])
        assert dots(axes) == [(1, 2), (3, 0.01)]
        assert axes.get_yscale() == "log"

    def test_line_follows_the_classes_to_the_ends(self, drawn):
        images = np.arange(200.0, 0, -1)
        ratios = np.geomspace(1, 0.001, 200)
        gradients = [ratios, np.ones(200)]
        (axes,) = drawn(draw_gradient_ratios, [Method("a", [run(images, images, gradients)])])
        line = next(line for line in axes.lines if line.get_linewidth() == 2.5)
        assert line.get_ydata() == pytest.approx(ratios)

    def test_ratio_that_has_no_place_is_marked_and_counted(self, drawn):
        (axes,) = drawn(draw_gradient_ratios, [Method("a", [run(gradients=self.GRADIENTS)])])
        (no_negative, top), (no_positive, bottom) = sorted(dots(axes, "|"))
        assert (no_negative, no_positive) == (2, 4)
        ticks = dict(zip(tick_labels(axes.yaxis), axes.get_yticks(), strict=True))
        assert (ticks["0"], ticks["∞"]) == (bottom, top)
        assert bottom < 0.01 and top > 2
        texts = [text.get_text() for text in axes.texts]
        assert "1 class without positive gradient" in texts
        assert "1 class without negative gradient" in texts

    def test_no_marks_without_such_classes(self, drawn):
        gradients = np.ones((2, 4))
        (axes,) = drawn(draw_gradient_ratios, [Method("a", [run(gradients=gradients)])])
        assert dots(axes, "|") == []
        assert not {"0", "∞"} & set(tick_labels(axes.yaxis))

    def test_seeds_are_summed(self, drawn):
        seeds = [run(gradients=[[1] * 4, [1] * 4]), run(gradients=[[2] * 4, [0] * 4]), run()]
        (axes,) = drawn(draw_gradient_ratios, [Method("a", seeds)])
        assert dots(axes) == [(1, 3), (2, 3), (3, 3), (4, 3)]

    def test_ticks_are_training_images(self, drawn):
        images = [3000.0, 500, 200, 60, 50, 40, 8, 4, nan]
        gradients = np.ones((2, 9))
        methods = [Method("a", [run(images, [nan] * 9, gradients)])]
        (axes,) = drawn(draw_gradient_ratios, methods)
        ticks = dict(zip(axes.get_xticks(), tick_labels(axes.xaxis), strict=True))
        assert ticks == {1: "3,000", 9: "?", 3.5: "100", 6.5: "10"}

    def test_method_without_record(self, drawn):
        methods = [Method("a", [run()]), Method("b", [run(gradients=self.GRADIENTS)])]
        first, second = drawn(draw_gradient_ratios, methods)
        assert dots(first) == [] and len(dots(second)) == 2
        assert "not recorded" in [text.get_text() for text in first.texts]

    @pytest.mark.parametrize("methods", [[], [Method("a", [run()])]])
    def test_nothing_recorded(self, methods):
        with pytest.raises(ValueError, match="x.png: no run has recorded gradients"):
            draw_gradient_ratios(methods, "x.png")


@pytest.mark.parametrize("draw", [draw_ap_by_images, draw_gradient_ratios])
@pytest.mark.parametrize("num_methods", [1, 4])
def test_files_are_the_same_every_time(draw, num_methods, tmp_path):
    methods = [Method(f"m{i}", [run(gradients=np.ones((2, 4)))]) for i in range(num_methods)]
    for file in ("a.png", "b.png"):
        draw(methods, tmp_path / file)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
