"""Help, lists and typing errors come at once: before anything that takes seconds to import."""

import subprocess
import sys
from pathlib import Path

import pytest
from detectron2.engine import default_argument_parser

from eql_seesaw.command_line import argument_parser

ROOT = Path(__file__).parents[1]
HEAVY = ["cv2", "detectron2", "hotcoco", "lvis", "matplotlib", "scipy", "tensorboard", "torch"]
# Runs a command as Python would, and says how it ended and which heavy packages it imported.
RUN = f"""
import runpy, sys
sys.argv = sys.argv[1:]
run = runpy.run_path if sys.argv[0].endswith(".py") else runpy.run_module
sys.path.insert(0, ".")
try:
    run(sys.argv[0], run_name="__main__")
    status = None
except SystemExit as error:
    status = error.code
print("ended", status, sorted(sys.modules.keys() & {HEAVY}))
"""
PREDICT = ["eql_seesaw.predict", "a.jpg", "--config-file", "a.yaml", "--weights", "a.pth"]


@pytest.mark.parametrize(
    "arguments, status, said",
    [
        (["train_net.py", "--help"], 0, "--config-file"),
        (["train_net.py", "--num-gpus", "two"], 2, "invalid int value: 'two'"),
        (["train_net.py", "--config-file", "no.yaml"], 2, "no such file: no.yaml"),
        (["eql_seesaw.tables", "--help"], 0, "collect"),
        (["eql_seesaw.tables", "list", "--output", "no folder"], 0, "seesaw_2"),
        (["eql_seesaw.tables", "show", "seesaw_2"], 0, "APr"),
        (["eql_seesaw.tables", "show", "seesaw_20"], 1, "no table 'seesaw_20'; there are eql_1"),
        (["eql_seesaw.tables", "plan", "seesaw_2", "--scale", "tiny"], 2, "invalid choice: 'tiny'"),
        (["eql_seesaw.predict", "--help"], 0, "--score-threshold"),
        (["eql_seesaw.export", "--help"], 0, "torchscript"),
        (["eql_seesaw.data.check", "--help"], 0, "--config-file"),
        ([*PREDICT, "--batch-size", "0"], 2, "--batch-size must be at least 1"),
    ],
)
def test_nothing_heavy_is_imported(arguments, status, said):
    result = subprocess.run(
        [sys.executable, "-c", RUN, *arguments], cwd=ROOT, capture_output=True, text=True
    )
    *_, last = result.stdout.splitlines()
    ended = last.removeprefix("ended ").removesuffix(" []")
    assert last.endswith(" []"), last
    # sys.exit takes a status, None for 0, or the line to end with.
    assert {0: "0", 1: "error", 2: "2"}[status] == ended.partition(":")[0].replace("None", "0")
    assert said in result.stdout + result.stderr


def test_arguments_of_detectron2s_programs(tmp_path, monkeypatch):
    """Whoever knows them knows ours; only where processes meet is found by itself."""
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").touch()
    theirs = vars(default_argument_parser().parse_args([]))
    ours = vars(argument_parser("").parse_args([]))
    assert ours.pop("timeout") == 30.0
    assert ours.pop("dist_url") == "auto" and theirs.pop("dist_url")
    assert ours == theirs
    line = "--config-file a.yaml --resume --eval-only --num-gpus 2 --num-machines 3"
    line = f"{line} --machine-rank 1 --dist-url tcp://a:1 SOLVER.BASE_LR 0.1 --timeout 3"
    theirs, ours = (
        vars(parser.parse_args(line.split()))
        for parser in (default_argument_parser(), argument_parser(""))
    )
    url = "https://a/b.yaml"  # Detectron2 reads such ones too
    assert argument_parser("").parse_args(["--config-file", url]).config_file == url
    assert ours.pop("timeout") == 30.0  # what comes after KEY VALUE is no longer an option
    assert ours == theirs
