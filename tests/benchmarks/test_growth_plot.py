import dataclasses

import pytest
from PIL import Image

from eql_seesaw.benchmarks.growth_plot import Series, draw_growth, growth_series
from eql_seesaw.benchmarks.row import Row


def row(num_classes, num_images, dtype="float32", against="peer", seconds=(1.0,), memory=None):
    return Row(
        benchmark="losses",
        work="seesaw",
        against=against,
        size="",
        parameters={
            "num_classes": num_classes,
            "num_images": num_images,
            "dtype": dtype,
            "num_annotations": 7 * num_images,
        },
        seconds=list(seconds),
        peer_seconds=[2 * s for s in seconds],
        memory=memory,
        peer_memory=memory and 3 * memory,
    )


def test_series():
    rows = [
        row(1203, 4, seconds=[5.0, 3.0, 4.0]),
        row(80, 4),
        row(1203, 16, seconds=[9.0]),
        row(1203, 4, dtype="bfloat16"),
        row(80, 4, against="another"),
    ]
    assert list(growth_series(rows)) == [
        Series(
            "seesaw",
            "peer",
            "num_classes",
            "time",
            "float32, images: 4",
            [(80, 1.0, 2.0), (1203, 4.0, 8.0)],
        ),
        Series(
            "seesaw",
            "peer",
            "num_images",
            "time",
            "float32, classes: 1,203",
            [(4, 4.0, 8.0), (16, 9.0, 18.0)],
        ),
    ]


def test_memory():
    rows = [row(1203, n, memory=100 * n) for n in (1, 2)]
    memory = [series for series in growth_series(rows) if series.measure == "memory"]
    assert [series.points for series in memory] == [[(1, 100, 300), (2, 200, 600)]]


@pytest.mark.parametrize(
    "missing", [{"seconds": [], "peer_seconds": []}, {"parameters": {"dtype": "float32"}}]
)
def test_nothing_to_draw(tmp_path, missing):
    rows = [row(80, 4), dataclasses.replace(row(1203, 4), **missing)]
    assert not draw_growth(rows, tmp_path / "plot.png")
    assert not list(tmp_path.iterdir())


def test_a_line_of_panels_for_each_peer(tmp_path):
    rows = [
        row(num_classes, num_images, against=against, memory=num_classes)
        for against in ("peer", "another with a $ in its name")
        for num_classes in (80, 1203)
        for num_images in (1, 4)
    ]
    assert draw_growth(rows[:4], tmp_path / "one.png")
    assert draw_growth(rows, tmp_path / "two.png")
    one, two = (Image.open(tmp_path / name).size for name in ("one.png", "two.png"))
    assert one[0] == two[0] == 4 * 340
    assert two[1] == one[1] + 220


def test_zero_memory_and_equal_costs(tmp_path):
    rows = [row(80, 4, memory=0), row(1203, 4, memory=0)]
    assert {series.measure for series in growth_series(rows)} == {"time"}
    assert draw_growth(rows, tmp_path / "plot.png")
