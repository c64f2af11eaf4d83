import json
import sys

import pytest

from eql_seesaw.evaluation import __main__ as command

from .cases import random_case


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder with val.json, whose images are photos/img_ID.jpg, and results.json."""
    ground_truth, results = random_case(0)
    for image in ground_truth["images"]:
        image["file_name"] = f"photos/img_{image['id']}.jpg"
    (tmp_path / "val.json").write_text(json.dumps(ground_truth))
    (tmp_path / "results.json").write_text(json.dumps(results))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(files, monkeypatch):
    """The command, as users type it: None, or the line that it ends with when it fails."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["python -m eql_seesaw.evaluation", *arguments])
        try:
            command.main()
        except SystemExit as error:
            assert error.code not in (0, None)
            assert "\n" not in str(error.code)
            return error.code
        return None

    return run


@pytest.fixture
def load(files):
    """What a file of the folder holds."""
    return lambda name: json.loads((files / name).read_text())
