import importlib.util
import json
import re
import signal
import subprocess
import sys

import pytest

from eql_seesaw.benchmarks import __main__ as command
from eql_seesaw.benchmarks.report import JSON_FILE, MARKDOWN_FILE

NAMES = dict(command.BENCHMARKS)
ROW = """
import os, signal, time
from eql_seesaw.benchmarks.row import Row

def row(device, quick, num_classes):
    return Row(
        benchmark="fake",
        work="fake work",
        against="peer",
        size="quick" if quick else "full",
        parameters={"num_classes": num_classes, "process": str(os.getpid())},
        seconds=[1.0],
        peer_seconds=[2.0],
        time_limit=1.0,
    )
"""
# Small benchmarks in place of those that take an hour.
FAKES = {
    "good": """
def rows(device, quick):
    yield row(device, quick, 80)
    yield row(device, quick, 1203)
""",
    "only_cpu": """
def rows(device, quick):
    if device == "cpu":
        yield row(device, quick, 80)
""",
    "raises": """
def rows(device, quick):
    yield row(device, quick, 80)
    raise RuntimeError("out of luck")
""",
    "killed": """
def rows(device, quick):
    yield row(device, quick, 80)
    os.kill(os.getpid(), signal.SIGKILL)
""",
    "hangs": """
def rows(device, quick):
    yield row(device, quick, 80)
    time.sleep(600)
""",
}


@pytest.fixture(autouse=True)
def fake_benchmarks(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("modules")
    for name, source in FAKES.items():
        (folder / f"fake_{name}.py").write_text(ROW + source)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(command, "BENCHMARKS", {name: f"fake_{name}" for name in FAKES})
    return folder


def run(tmp_path, *arguments):
    return command.main([*arguments, "--output", str(tmp_path)])


def report(tmp_path):
    return json.loads((tmp_path / JSON_FILE).read_text())


def test_names_are_modules():
    for module in NAMES.values():
        assert importlib.util.find_spec(module) is not None


def test_rows_machine_and_outcome(tmp_path, capsys):
    assert run(tmp_path, "good", "--quick") == 0
    out = capsys.readouterr().out
    assert "PyTorch threads: " in out
    assert "fake work; quick; against peer; 1 s / 2 s = 0.5 (aim 1); reached" in out
    assert "Of 2 rows, 2 reach their aims" in out
    content = report(tmp_path)
    assert set(content["machine"]) >= {"CPU", "cores", "memory", "OS", "Python", "torch", "GPU"}
    (section,) = content["benchmarks"]
    assert section["benchmark"] == "good" and section["device"] == "cpu"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", section["date"])
    assert len(section["rows"]) == 2
    assert "fake work" in (tmp_path / MARKDOWN_FILE).read_text()
    assert (tmp_path / "good_cpu.png").exists()


def test_each_has_a_process_of_its_own(tmp_path):
    run(tmp_path, "good", "only_cpu")
    pids = [s["rows"][0]["parameters"]["process"] for s in report(tmp_path)["benchmarks"]]
    assert len(set(pids)) == 2


@pytest.mark.parametrize(
    ("name", "reason"), [("raises", "exit status 1"), ("killed", "killed by SIGKILL")]
)
def test_a_crash_does_not_lose_rows(tmp_path, capfd, name, reason):
    assert run(tmp_path, name, "only_cpu") == 1
    first, second = report(tmp_path)["benchmarks"]
    assert len(first["rows"]) == len(second["rows"]) == 1
    assert first["problem"] == f"{name} did not finish ({reason}); measured rows are kept"
    assert second["problem"] == ""
    assert f"error: {first['problem']}" in capfd.readouterr().err.splitlines()


def test_subsets_make_one_report(tmp_path, capsys, monkeypatch):
    run(tmp_path, "good")
    run(tmp_path, "only_cpu")
    before = report(tmp_path)["benchmarks"]
    run(tmp_path, "only_cpu", "--quick")
    after = report(tmp_path)["benchmarks"]
    assert [section["benchmark"] for section in after] == ["good", "only_cpu"]
    assert after[0] == before[0] and after[1] != before[1]
    assert "new report" not in capsys.readouterr().out

    machine = command.describe_machine()
    monkeypatch.setattr(command, "describe_machine", lambda: {**machine, "torch": "9.9"})
    run(tmp_path, "only_cpu")
    assert "A new report is started, the old one is now " in capsys.readouterr().out
    assert [section["benchmark"] for section in report(tmp_path)["benchmarks"]] == ["only_cpu"]
    (old,) = tmp_path.glob("benchmarks_*.json")
    assert json.loads(old.read_text())["benchmarks"] == after
    assert len(list(tmp_path.glob("benchmarks_*.md"))) == 1


def test_nothing_on_a_gpu(tmp_path, monkeypatch):
    machine = command.describe_machine()
    monkeypatch.setattr(command, "describe_machine", lambda: {**machine, "GPU": "some"})
    assert run(tmp_path, "only_cpu", "--device", "cuda") == 0
    assert report(tmp_path)["benchmarks"] == []


def test_without_a_gpu_only_losses_have_empty_rows(tmp_path, monkeypatch, capsys):
    machine = command.describe_machine()
    monkeypatch.setattr(command, "describe_machine", lambda: {**machine, "GPU": "none"})
    monkeypatch.setitem(command.BENCHMARKS, "losses", "fake_good")
    assert run(tmp_path, "--device", "cuda") == 0
    assert [section["benchmark"] for section in report(tmp_path)["benchmarks"]] == ["losses"]
    assert "There is no GPU" in capsys.readouterr().out


def test_what_did_not_finish_replaces_nothing_that_did(tmp_path, monkeypatch):
    monkeypatch.setitem(command.BENCHMARKS, "some", "fake_good")
    run(tmp_path, "some")
    before = report(tmp_path)["benchmarks"]
    monkeypatch.setitem(command.BENCHMARKS, "some", "fake_raises")
    assert run(tmp_path, "some") == 1
    assert report(tmp_path)["benchmarks"] == before


def test_unknown_name(tmp_path):
    with pytest.raises(
        SystemExit, match="^error: no benchmark 'lossess'; there are good, "
    ) as error:
        run(tmp_path, "good", "lossess")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_interrupt_keeps_what_was_measured(tmp_path, fake_benchmarks):
    code = (
        "import sys\n"
        f"sys.path.insert(0, {str(fake_benchmarks)!r})\n"
        "from eql_seesaw.benchmarks import __main__ as command\n"
        "command.BENCHMARKS = {'hangs': 'fake_hangs'}\n"
        f"command.main(['hangs', '--output', {str(tmp_path)!r}])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if line.startswith("fake work"):
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "interrupted"
    (section,) = report(tmp_path)["benchmarks"]
    assert len(section["rows"]) == 1 and section["problem"] == "hangs was interrupted"
