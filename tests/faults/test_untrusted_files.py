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
        "config.yaml",
        "base.yaml",
    ],
)
def test_config_file(train_net, overrides, tmp_path, attack, name):
    (tmp_path / "base.yaml").write_text("VERSION: 2\n")
    (tmp_path / "config.yaml").write_text("_BASE_: base.yaml\n")
    with open(tmp_path / name, "a") as f:
        f.write(f"OUTPUT_DIR: !!python/object/apply:os.system ['{attack}']\n")
    check_error(train_net(str(tmp_path / "config.yaml"), *overrides), "config.yaml.*os.system")


def test_override(train_net, overrides, attack):
    code = f"__import__('os').system('{attack}')"
    check_error(
        train_net("quickstart/seesaw.yaml", *overrides, "SOLVER.MAX_ITER", code), "MAX_ITER"
    )


def test_predictions(symbols, tmp_path, attack, monkeypatch):
    path = tmp_path / "results.json"
    path.write_bytes(pickle.dumps([Payload(attack)]))
    arguments = [str(path), "--dataset", str(symbols / "symbols_val.json")]
    monkeypatch.setattr(sys, "argv", ["python -m eql_seesaw.evaluation", *arguments])
    with pytest.raises(SystemExit) as info:
        evaluation.main()
    check_error(info.value.code, "results.json: JSON is malformed")
