"""Weights & Biases and MLflow, each without a network."""

import json
import struct
from types import SimpleNamespace

import pytest
import torch
from detectron2.utils.events import EventStorage

from eql_seesaw.engine.tracking import MLflowRun
from tests.engine.conftest import ROOT
from tests.ranks import train_net_on_ranks

CONFIG = "quickstart/seesaw.yaml"


def mlflow_variables(folder):
    return {"MLFLOW_TRACKING_URI": f"file:{folder}/mlflow", "MLFLOW_ALLOW_FILE_STORE": "true"}


@pytest.fixture
def mlflow(monkeypatch, tmp_path):
    mlflow = pytest.importorskip("mlflow")
    for name, value in mlflow_variables(tmp_path).items():
        monkeypatch.setenv(name, value)
    yield mlflow
    mlflow.end_run()


def wandb_records(path):
    """What a file of W&B holds: records in the format of LevelDB's log, of any number of chunks."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, position, record = path.read_bytes(), 7, b""
    while position + 7 <= len(data):
        if 32768 - position % 32768 < 7:  # no chunk begins so close to the end of a block
            position += 32768 - position % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        record += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last chunk
            yield Record.FromString(record)
            record = b""


def metrics(output):
    """{(name, iteration): value} of metrics.json."""
    lines = [json.loads(line) for line in open(output / "metrics.json")]
    return {
        (name, line["iteration"]): value
        for line in lines
        for name, value in line.items()
        if name != "iteration"
    }


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="these are processes without a GPU")
def test_resumed_training_goes_on_in_its_runs(mlflow, overrides, tmp_path):
    """Of two ranks at first, of which one writes."""
    pytest.importorskip("wandb")
    run = ["--config-file", str(ROOT / "configs" / CONFIG), *overrides]
    run += ["EVENT_WRITERS", "('wandb', 'mlflow')", "SOLVER.STEPS", "()"]
    variables = {**mlflow_variables(tmp_path), "WANDB_MODE": "offline"}
    train_net_on_ranks(tmp_path, *run, "SOLVER.MAX_ITER", "2", **variables)
    output = tmp_path / "output"
    first = metrics(output)
    more = ["--resume", *run, "SOLVER.MAX_ITER", "4"]
    train_net_on_ranks(tmp_path, *more, num_ranks=1, **variables)
    expected = {**first, **metrics(output)}
    assert {("total_loss", 1), ("total_loss", 3), ("bbox/AP", 4)} <= expected.keys()
    assert not any(name.startswith("events.out") for name in map(str, output.iterdir()))

    (tracked,) = mlflow.search_runs(output_format="list")
    assert tracked.info.status == "FINISHED"
    assert tracked.data.params["SOLVER.IMS_PER_BATCH"] == "2"
    found = {
        (name, metric.step): metric.value
        for name in tracked.data.metrics
        for metric in mlflow.MlflowClient().get_metric_history(tracked.info.run_id, name)
    }
    assert found == pytest.approx(expected, nan_ok=True)

    files = sorted(output.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 2 and files[0].name == files[1].name  # the id of the run
    records = [record for path in files for record in wandb_records(path)]
    settings = {item.key: item.value_json for r in records for item in r.run.config.update}
    assert settings["SOLVER.IMS_PER_BATCH"] == "2"
    assert all(record.exit.exit_code == 0 for record in records if record.HasField("exit"))
    found = {}
    for record in records:
        row = {item.key or item.nested_key[0]: item.value_json for item in record.history.item}
        for name in row.keys() & {name for name, _ in expected}:
            found[name, int(row["iteration"])] = json.loads(row[name])
    assert found == pytest.approx(expected, nan_ok=True)


def test_run_that_fails_and_goes_on(mlflow, tmp_path):
    state = {}
    for is_resumed in (False, True):
        run = MLflowRun(str(tmp_path))
        if is_resumed:
            run.load_state_dict(state)
        run.trainer = SimpleNamespace(cfg={"SEED": is_resumed}, iter=2, max_iter=4)
        run.before_train()
        state = run.state_dict()
        with EventStorage(2) as storage:
            for value in (1.0, 2.0):
                storage.put_scalar("loss", value, smoothing_hint=False)
                run.write()
                run.write()  # each once
                storage.step()
        if is_resumed:
            run.trainer.iter = 4
        run.close()
        (tracked,) = mlflow.search_runs(output_format="list")
        assert tracked.info.status == ("FINISHED" if is_resumed else "FAILED")
    assert tracked.data.params == {"SEED": "False"}
    history = mlflow.MlflowClient().get_metric_history(tracked.info.run_id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [(2, 1.0), (3, 2.0)] * 2


def test_server_that_is_gone(mlflow, monkeypatch, tmp_path, caplog):
    run = MLflowRun(str(tmp_path))
    run.trainer = SimpleNamespace(cfg={}, iter=2, max_iter=4)
    run.before_train()
    with monkeypatch.context() as gone, EventStorage(2) as storage:
        gone.setenv("MLFLOW_TRACKING_URI", "nowhere://")
        storage.put_scalar("loss", 1.0, smoothing_hint=False)
        run.write()
        run.close()
    lines = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(lines) == 2 and all("EVENT_WRITERS mlflow" in line for line in lines)


def test_server_that_is_missing(mlflow, train_net, overrides, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://")
    error = train_net(CONFIG, *overrides, "EVENT_WRITERS", "('mlflow',)")
    assert error.startswith("error: EVENT_WRITERS mlflow cannot start a run: ")
    assert "nowhere" in error
    assert not list((tmp_path / "output").glob("*.pth"))
