"""Help, lists and typing errors come at once: before anything that takes seconds to import."""

import json
import subprocess
import sys
from pathlib import Path

from detectron2.engine import default_argument_parser

from eql_seesaw.command_line import argument_parser

ROOT = Path(__file__).parents[1]
HEAVY = ["cv2", "detectron2", "hotcoco", "lvis", "matplotlib", "scipy", "tensorboard", "torch"]
# Runs commands as Python would, one after the other, and says how each ended and which heavy
# packages are imported by then.
RUN = f"""
import contextlib, io, json, runpy, sys
sys.path.insert(0, ".")
for sys.argv in json.loads(sys.argv[1]):
    run = runpy.run_path if sys.argv[0].endswith(".py") else runpy.run_module
    said, status = io.StringIO(), None
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            run(sys.argv[0], run_name="__main__")
        except SystemExit as error:
            status = error.code
    print(json.dumps([status, said.getvalue(), sorted(sys.modules.keys() & {HEAVY})]))
"""
PREDICT = ["eql_seesaw.predict", "a.jpg", "--config-file", "a.yaml", "--weights", "a.pth"]
COMMANDS = [
    (["train_net.py", "--help"], 0, "--config-file"),
    (["train_net.py", "--num-gpus", "two"], 2, "invalid int value: 'two'"),
    (["train_net.py", "--config-file", "no.yaml"], 2, "no such file: no.yaml"),
    (["eql_seesaw.tables", "--help"], 0, "collect"),
    (["eql_seesaw.tables", "list", "--output", "no folder"], 0, "seesaw_2"),
    (["eql_seesaw.tables", "show", "seesaw_2"], 0, "APr"),
    (["eql_seesaw.tables", "show", "sesaw_2"], "error: no table 'sesaw_2'; there are balms, ", ""),
    (["eql_seesaw.tables", "plan", "seesaw_2", "--scale", "tiny"], 2, "invalid choice: 'tiny'"),
    (["eql_seesaw.predict", "--help"], 0, "--score-threshold"),
    (["eql_seesaw.export", "--help"], 0, "MODEL.ROI_MASK_HEAD.MASK_THRESH_TEST"),
    (["eql_seesaw.calibrate", "--help"], 0, "--num-images"),
    (["eql_seesaw.data.check", "--help"], 0, "--config-file"),
    ([*PREDICT, "--batch-size", "0"], 2, "--batch-size must be at least 1"),
]


def test_nothing_heavy_is_imported():
    commands = json.dumps([arguments for arguments, *_ in COMMANDS])
    result = subprocess.run(
        [sys.executable, "-c", RUN, commands], cwd=ROOT, capture_output=True, text=True, check=True
    )
    ended = map(json.loads, result.stdout.splitlines())
    for (arguments, expected, text), (status, said, heavy) in zip(COMMANDS, ended, strict=True):
        assert heavy == [], arguments
        # sys.exit takes a status, or the line to end with.
        assert str(status).startswith(str(expected)) and text in said, (arguments, status, said)


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
