import dataclasses
import json

import numpy as np
import pytest

from eql_seesaw.benchmarks.report import (
    COLUMNS,
    JSON_FILE,
    MARKDOWN_FILE,
    Section,
    mebibytes,
    median_seconds,
    outcome,
    read_sections,
    row_cells,
    row_line,
    with_section,
    write_report,
)
from eql_seesaw.benchmarks.row import Row

MACHINE = {"CPU": "a fast one", "cores": "2"}
ROW = Row(
    benchmark="losses",
    work="seesaw",
    against="peer | two",
    size="3 classes",
    parameters={"num_classes": 3},
    seconds=[0.001, 0.003, 0.002],
    peer_seconds=[0.004, 0.004, 0.005],
    memory=2**20,
    peer_memory=2**22,
    time_limit=0.75,
    memory_limit=0.5,
    identical=True,
    note="a note",
)
NOT_MEASURED = dataclasses.replace(
    ROW, seconds=[], peer_seconds=[], memory=None, peer_memory=None, identical=None
)
TOO_SLOW = dataclasses.replace(ROW, time_limit=0.25)
NO_AIM = dataclasses.replace(ROW, time_limit=None, memory_limit=None)
DIFFERENT = dataclasses.replace(NO_AIM, identical=False)


def section(benchmark="losses", rows=(ROW,), **changes):
    return Section(benchmark, "cpu", "2026-01-01 12:00", "abc", rows=list(rows), **changes)


def cells(row):
    by_name = {}
    for name, cell in zip(COLUMNS, row_cells(row), strict=True):
        by_name.setdefault(name, []).append(cell)
    return by_name


def test_cells():
    measured = cells(ROW)
    assert measured["ours"] == ["2 ms"] and measured["theirs"] == ["4 ms"]
    assert measured["rounds"] == ["3"]
    assert measured["time ratio"] == ["0.5"] and measured["memory ratio"] == ["0.25"]
    assert measured["aim"] == ["0.75", "0.5"]
    assert measured["our memory"] == ["1 MiB"] and measured["their memory"] == ["4 MiB"]
    assert measured["identical"] == measured["reached"] == ["yes"]
    assert cells(NOT_MEASURED)["reached"] == ["not measured"]
    assert cells(NOT_MEASURED)["ours"] == cells(NOT_MEASURED)["time ratio"] == [""]
    assert cells(TOO_SLOW)["reached"] == cells(DIFFERENT)["reached"] == ["no"]
    assert cells(NO_AIM)["reached"] == [""]


def test_line():
    assert row_line(ROW) == (
        "seesaw; 3 classes; against peer | two; 2 ms / 4 ms = 0.5 (aim 0.75); "
        "1 MiB / 4 MiB = 0.25 (aim 0.5); reached; a note"
    )
    assert row_line(NOT_MEASURED) == "seesaw; 3 classes; against peer | two; not measured; a note"
    assert "FALLS SHORT" in row_line(TOO_SLOW)
    assert "RESULTS DIFFER" in row_line(DIFFERENT)


def test_outcome():
    assert outcome([ROW, ROW, TOO_SLOW, DIFFERENT, NOT_MEASURED, NO_AIM]) == (
        "Of 6 rows, 2 reach their aims, 2 fall short, 1 could not be measured and 1 have no aim."
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [([0.0123456], "12.3 ms"), ([1234.5], "1,234 s"), ([4e-7, 6e-7, 9e-7], "0.6 µs"), ([], "")],
)
def test_median_seconds(seconds, text):
    assert median_seconds(seconds) == text


def test_mebibytes():
    assert [mebibytes(n) for n in (None, 0, 3 * 2**19)] == ["", "0 MiB", "1.5 MiB"]


def test_written_and_read_again(tmp_path):
    folder = tmp_path / "new" / "report"
    sections = [section(), section("train_step", [NOT_MEASURED], problem="it stopped")]
    write_report(folder, MACHINE, sections)
    assert read_sections(folder, MACHINE) == sections
    text = (folder / MARKDOWN_FILE).read_text()
    assert "peer \\| two" in text and "a fast one" in text
    assert "**Rows are missing: it stopped.**" in text
    assert "1 reach their aims" in text
    assert ".png" not in text  # one size only
    assert sorted(path.name for path in folder.iterdir()) == [JSON_FILE, MARKDOWN_FILE]


def test_numbers_of_numpy(tmp_path):
    row = dataclasses.replace(ROW, seconds=[np.float32(0.5)], identical=np.bool_(True))
    write_report(tmp_path, MACHINE, [section(rows=[row])])
    (read,) = read_sections(tmp_path, MACHINE)
    assert read.rows[0].seconds == [0.5] and read.rows[0].identical is True


def test_plot_of_growth(tmp_path):
    larger = dataclasses.replace(ROW, parameters={"num_classes": 30})
    write_report(tmp_path, MACHINE, [section(rows=[ROW, larger])])
    assert "![growth](losses_cpu.png)" in (tmp_path / MARKDOWN_FILE).read_text()
    assert (tmp_path / "losses_cpu.png").stat().st_size > 1000


def test_a_section_replaces_that_of_its_name():
    first, second = section("losses"), section("train_step")
    again = section("losses", [TOO_SLOW])
    assert with_section([first, second], again) == [again, second]
    other_device = dataclasses.replace(again, device="cuda")
    assert with_section([first], other_device) == [first, other_device]
    # One without rows, because it crashed at once or has no part on this device.
    empty = section("losses", [])
    crashed = dataclasses.replace(empty, problem="it stopped")
    assert with_section([first], empty) == with_section([first], crashed) == [first]
    assert with_section([], empty) == []
    assert with_section([], crashed) == [crashed]


def test_nothing_there(tmp_path):
    assert read_sections(tmp_path / "absent", MACHINE) == []


def test_another_machine_or_version(tmp_path):
    write_report(tmp_path, MACHINE, [section()])
    with pytest.raises(ValueError, match="was measured with cores 2, now it is 4"):
        read_sections(tmp_path, {**MACHINE, "cores": "4"})
    with pytest.raises(ValueError, match="was measured with numpy None, now it is 2.4"):
        read_sections(tmp_path, {**MACHINE, "numpy": "2.4"})


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", json.dumps({"machine": {}, "benchmarks": [{"rows": [{"a": 1}]}]})]
)
def test_a_file_that_is_no_report(tmp_path, content):
    (tmp_path / JSON_FILE).write_text(content)
    with pytest.raises(ValueError, match="is not a report of this version"):
        read_sections(tmp_path, MACHINE)
