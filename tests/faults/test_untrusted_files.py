"""Files made to run code when they are read."""

import pickle
import sys

import pytest

from eql_seesaw.evaluation import __main__ as evaluation
from tests.engine.test_untrusted_weights import Payload

from .conftest import check_error


@pytest.fixture
def attack(tmp_path):
    """A shell command that leaves a trace, which no test may find."""
    trace = tmp_path / "it_ran"
    yield f"touch {trace}"
    assert not trace.exists()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            "config.yaml",
            marks=pytest.mark.fault(
                "A config file has `!!python/object/apply:os.system`", "one line; nothing runs"
            ),
        ),
        pytest.param(
            "base.yaml",
            marks=pytest.mark.fault(
                "... in the file that it names as its `_BASE_`", "one line; nothing runs"
            ),
        ),
    ],
)
def test_config_file(train_net, overrides, tmp_path, attack, name):
    (tmp_path / "base.yaml").write_text("VERSION: 2\n")
    (tmp_path / "config.yaml").write_text("_BASE_: base.yaml\n")
    with open(tmp_path / name, "a") as f:
        f.write(f"OUTPUT_DIR: !!python/object/apply:os.system ['{attack}']\n")
    check_error(train_net(str(tmp_path / "config.yaml"), *overrides), "config.yaml.*os.system")


@pytest.mark.fault(
    "A value on the command line is Python code (`__import__('os')...`)",
    "it is text, or of the wrong type; nothing runs",
)
def test_override(train_net, overrides, attack):
    code = f"__import__('os').system('{attack}')"
    check_error(
        train_net("quickstart/seesaw.yaml", *overrides, "SOLVER.MAX_ITER", code), "MAX_ITER"
    )


@pytest.mark.fault(
    "`python -m eql_seesaw.evaluation` gets a pickle that runs code in place of its JSON file",
    "one line; nothing runs",
)
def test_predictions(symbols, tmp_path, attack, monkeypatch):
    path = tmp_path / "results.json"
    path.write_bytes(pickle.dumps([Payload(attack)]))
    arguments = [str(path), "--dataset", str(symbols / "symbols_val.json")]
    monkeypatch.setattr(sys, "argv", ["python -m eql_seesaw.evaluation", *arguments])
    with pytest.raises(SystemExit) as info:
        evaluation.main()
    check_error(info.value.code, "results.json: JSON is malformed")
