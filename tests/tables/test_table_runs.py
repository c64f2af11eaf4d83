import os

import pytest
import yaml

from eql_seesaw.tables import load_table, table_names
from eql_seesaw.tables.schedule import batch_settings, default_batch, scale_to_batch
from eql_seesaw.tables.table_runs import (
    expected_config,
    reason_not_to_train,
    row_run,
    runs_with_inputs,
    train_command,
    write_config_file,
)
from tests.tables.conftest import ROOT, runs_of


def test_folder_command_and_config_say_the_same(project):
    run = runs_of("big", seeds=2)["p", 2]
    assert run.folder == ("output/tables/full/big/cascade,MODEL.ROI_BOX_HEAD.SEESAW.P=0.2/seed_2")
    command = train_command(run, 4, resume=True, scaled={"SOLVER.STEPS": (1, 2)})
    assert command == [
        *("train_net.py", "--config-file", "configs/big/cascade.yaml", "--num-gpus", "4"),
        *("--resume", "MODEL.ROI_BOX_HEAD.SEESAW.P", "0.2", "SEED", "2"),
        *("OUTPUT_DIR", run.folder, "SOLVER.STEPS", "(1, 2)"),
    ]
    cfg = expected_config(run)
    assert cfg.MODEL.ROI_BOX_HEAD.SEESAW.P == 0.2 and cfg.SEED == 2
    assert run.folder == cfg.OUTPUT_DIR


def test_miniature_takes_all_but_the_method_from_the_miniature(project):
    run = runs_of("big", "mini")["p", 1]
    cfg = expected_config(run)
    assert (cfg.SOLVER.MAX_ITER, cfg.MODEL.MASK_ON) == (10, False)
    assert cfg.TEST.BEST_METRIC == "bbox/AP"
    # The miniature has ROI heads of its own, which would turn a cascade's row into another.
    assert cfg.MODEL.ROI_HEADS.NAME == "LongTailCascadeROIHeads"
    assert (cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS, cfg.MODEL.ROI_BOX_HEAD.SEESAW.P) == ("seesaw", 0.2)
    assert not os.path.exists(run.folder)
    write_config_file(run)
    command = train_command(run, 4, resume=False, scaled={})
    assert command[2] == os.path.join(run.folder, "mini.yaml") and "--num-gpus" not in command
    content = yaml.safe_load(open(command[2]))
    assert os.path.samefile(os.path.join(run.folder, content["_BASE_"]), run.row.config)


def test_rows_of_the_generated_dataset_are_their_own_miniature(project):
    run = runs_of("small", "full")["ce", 1]
    assert run.scale == "mini" and run.config_file == "configs/small/softmax_ce.yaml"
    write_config_file(run)
    assert not os.path.exists(run.folder)


def test_inputs_come_first_and_once_with_the_same_seed(project):
    runs = runs_of("small", seeds=2)
    ordered = runs_with_inputs([runs["retrain", 2], runs["ce", 1], runs["ce", 2]])
    assert [str(run) for run in ordered] == [
        "small/ce seed 2",
        "small/retrain seed 2",
        "small/ce seed 1",
    ]
    weights = os.path.join(runs["ce", 2].folder, "model_final.pth")
    assert expected_config(runs["retrain", 2]).MODEL.WEIGHTS == weights


def test_two_inputs_of_one_config_are_refused(project):
    text = (project / "tables/small.yaml").read_text()
    more = text[text.index("- name: retrain") :].replace("retrain", "other", 1)
    (project / "tables/small.yaml").write_text(text + more.replace("small/ce", "small/seesaw"))
    with pytest.raises(ValueError, match="small/retrain and small/other differ in their inputs"):
        runs_with_inputs(list(runs_of("small").values()))


def test_no_two_rows_of_the_papers_tables_collide():
    tables = [load_table(name) for name in table_names()]
    runs = [row_run(t, row, "full", "output", 1) for t in tables for row in t.rows]
    assert len(runs_with_inputs(runs)) > 50


def test_rows_that_cannot_be_trained(monkeypatch):
    monkeypatch.chdir(ROOT)
    table = load_table("eql_1")
    c4, fpn = table.row("mask_rcnn_r50_c4_eql"), table.row("mask_rcnn_r50_fpn_eql")
    assert "C4" in reason_not_to_train(c4, "mini")
    assert reason_not_to_train(c4, "full") == reason_not_to_train(fpn, "mini") == ""
    row = load_table("seesaw_1").row("mask_rcnn_rfs_ce_test_dev")
    assert "test-dev" in reason_not_to_train(row, "full")


def test_schedule_keeps_the_number_of_images(project):
    cfg = expected_config(runs_of("big")["ce", 1])
    settings = batch_settings(cfg, 2)
    assert settings == {
        "SOLVER.IMS_PER_BATCH": 2,
        "SOLVER.BASE_LR": 0.005,
        "SOLVER.MAX_ITER": 400,
        "SOLVER.STEPS": (240, 320),
        "SOLVER.WARMUP_ITERS": 400,
        "SOLVER.CHECKPOINT_PERIOD": 200,
    }
    assert scale_to_batch(cfg, 6).SOLVER.BASE_LR == 0.015
    assert batch_settings(cfg, 8) == {}
    # Two images for each GPU, no more than the recipe's eight, the same on every GPU.
    assert [default_batch(cfg, n) for n in (1, 3, 4, 5, 8, 16)] == [2, 6, 8, 5, 8, 16]
