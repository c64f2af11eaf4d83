import logging

import pytest

from eql_seesaw import train
from eql_seesaw.engine.next_steps import log_next_steps
from tests.modeling.tiny_model import tiny_config


@pytest.mark.parametrize("folder, script", [(".", "train_net.py"), ("..", "project/train_net.py")])
def test_commands_work_from_where_training_was_started(
    tmp_path, caplog, monkeypatch, folder, script
):
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setattr("sys.argv", [str(tmp_path / "project" / "train_net.py")])
    monkeypatch.chdir(folder)
    with caplog.at_level(logging.INFO):
        log_next_steps(tiny_config(tmp_path, "LongTailROIHeads"))
    assert f" {script} --config-file " in caplog.text


def test_commands_of_a_training_that_is_a_module(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("sys.argv", [train.__file__])
    with caplog.at_level(logging.INFO):
        log_next_steps(tiny_config(tmp_path, "LongTailROIHeads"))
    assert " -m eql_seesaw.train --config-file " in caplog.text


def test_no_evaluation_is_offered_without_a_dataset_for_it(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        log_next_steps(tiny_config(tmp_path, "LongTailROIHeads", "DATASETS.TEST", ()))
    assert "tensorboard" in caplog.text and "--eval-only" not in caplog.text


@pytest.mark.parametrize("decoupled, offers", [("none", True), ("scale", False)])
def test_another_loss_is_offered_where_it_can_be_trained(tmp_path, caplog, decoupled, offers):
    """The weights that decoupled training starts from hold one loss's classifier."""
    cfg = tiny_config(tmp_path, "LongTailROIHeads", "MODEL.ROI_BOX_HEAD.DECOUPLED", decoupled)
    with caplog.at_level(logging.INFO):
        log_next_steps(cfg)
    assert ("MODEL.ROI_BOX_HEAD.CLS_LOSS" in caplog.text) == offers
