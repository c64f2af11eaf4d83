"""The command line of datasets/make_symbols.py."""

import json
import runpy
import sys
from pathlib import Path

import pytest

from eql_seesaw.data import symbols

SCRIPT = Path(__file__).parents[2] / "datasets" / "make_symbols.py"


@pytest.fixture
def run_script(monkeypatch):
    def run(*args):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, args)])
        runpy.run_path(str(SCRIPT), run_name="__main__")

    return run


def test_script_says_what_it_made(tmp_path, run_script, capsys):
    root = tmp_path / "symbols"
    run_script("--root", root, "--num-classes", "3", "--image-size", "64", "--seed", "2")
    statement = json.loads((root / "symbols.json").read_text())
    assert statement["arguments"]["num_classes"] == 3
    assert statement["arguments"]["image_size"] == 64
    assert statement["arguments"]["seed"] == 2
    train, val = statement["summary"]["train"], statement["summary"]["val"]
    assert capsys.readouterr().out.splitlines() == [
        f"{root}: 3 classes (1 rare, 1 common, 1 frequent)",
        f"  train: {train['images']} images, {train['objects']} objects",
        f"  val: {val['images']} images, {val['objects']} objects",
    ]


@pytest.fixture
def made(monkeypatch):
    """The arguments of what would have been generated."""
    made = {}

    def generate(root, **arguments):
        made.update(arguments)
        split = {"images": 0, "objects": 0}
        return {"train": split, "val": split, "classes": {"r": 0, "c": 0, "f": 0}}

    monkeypatch.setattr(symbols, "generate_symbols", generate)
    return made


def test_script_makes_what_the_miniature_needs(tmp_path, run_script, made):
    run_script("--root", tmp_path, "--first-symbol", "100", "--balanced", "240", "--plain")
    assert made["first_symbol"] == 100 and made["image_counts"] == [240] * 100 and made["plain"]
    run_script("--root", tmp_path, "--max-image-count", "4000")
    assert made["image_counts"] is None and made["max_image_count"] == 4000
    assert not made["plain"] and made["first_symbol"] == 0


def test_script_scales_the_counts_of_lvis_v1(tmp_path, run_script, made):
    run_script("--root", tmp_path, "--lvis-v1-counts")
    full = made["image_counts"]
    assert made["num_classes"] == len(full) == 1203
    assert min(full) == 1 and sum(c <= 10 for c in full) == 337
    run_script("--root", tmp_path, "--lvis-v1-counts", "--scale-counts", "0.1")
    assert made["image_counts"] == [max(1, round(0.1 * count)) for count in full]


def test_script_fails_with_one_line(tmp_path, run_script):
    (tmp_path / "holiday.txt").write_text("")
    with pytest.raises(SystemExit, match=f"error: {tmp_path} exists and is not .*[^\\n]$"):
        run_script("--root", tmp_path)


@pytest.mark.parametrize(
    "args, message",
    [
        (["--scale-counts", "0.1"], "--scale-counts needs --lvis-v1-counts"),
        (["--lvis-v1-counts", "--scale-counts", "0"], "--scale-counts must be above 0, got 0.0"),
        (["--balanced", "5", "--max-image-count", "900"], "not allowed with argument --balanced"),
        (["--lvis-v1-counts", "--num-classes", "9"], "leave --num-classes out"),
    ],
)
def test_script_refuses_options_that_do_not_go_together(run_script, capsys, args, message):
    with pytest.raises(SystemExit) as exit_info:
        run_script(*args)
    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err
