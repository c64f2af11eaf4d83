import os

import pytest

from eql_seesaw.tables import load_table, plan, table_names
from eql_seesaw.tables.__main__ import main
from eql_seesaw.tables.plan import rows_not_trained
from eql_seesaw.tables.run import Run
from tests.tables.conftest import ROOT, add_to, finish, finish_inputs, runs_of


def test_list_counts_rows_with_results(run_command):
    for run in (runs_of("big", seeds=2)["ce", 2], runs_of("small")["ce", 1]):
        finish(run, segm_AP=1.0, bbox_AP=1.0)
    status, text = run_command("list")
    assert status == 0
    assert [line.split() for line in text.splitlines()[2:]] == [
        ["big", "Big", "table", "lvis_v1", "3", "1", "0"],
        ["miniature", "Weights", "to", "start", "from", "symbols", "2", "0"],
        ["small", "Small", "table", "symbols", "3", "1"],
    ]


def test_show(run_command):
    status, text = run_command("show", "big")
    assert status == 0 and "A paper, table 7" in text and "A note." in text
    assert "| ce       | CE           | 20.0 |   5.0 |    21.0 |" in text
    assert "  p: configs/big/cascade.yaml MODEL.ROI_BOX_HEAD.SEESAW.P 0.2\n" in text
    _, text = run_command("show", "small")
    assert "    MODEL.WEIGHTS: model_final.pth of small/ce\n" in text and "\n\n\n" not in text
    _, text = run_command("show", "miniature")
    assert text.count("    MODEL.WEIGHTS: model_final.pth of miniature/pretrain seed 1\n") == 1


def planned(text):
    """Runs, as a plan names them."""
    return [line[2:].partition(":")[0] for line in text.splitlines() if line.startswith("# ")]


def test_every_row_comes_once_before_any_a_second_time_and_inputs_first(run_command):
    _, text = run_command("plan", "small", "--rows", "seesaw,retrain", "--seeds", 2)
    rows = ("seesaw", "ce", "retrain")
    assert planned(text) == [f"small/{row} seed {n}" for n in (1, 2) for row in rows]


def test_plan_for_another_machine(run_command, project):
    (project / "val.json").unlink()
    status, text = run_command("plan", "big", "--gpus", 2)
    assert status == 0
    assert "Missing: val.json; datasets/README.md says what to download." in text
    assert "This machine has no GPU; the commands are for 2." in text
    assert (
        "Batch of 4 images, learning rate 0.01, 200 iterations (recipe: 8, 0.02, 100; learning "
        "rate scaled linearly, as many images seen; --batch gives another): 800 images, 0.0 epochs "
        "of the 99,388" in text
    )
    assert "Left out: test_dev: published on test-dev" in text
    commands = [line for line in text.splitlines() if line.startswith("python ")]
    assert commands[1] == (
        "python train_net.py --config-file configs/big/cascade.yaml --num-gpus 2 "
        "MODEL.ROI_BOX_HEAD.SEESAW.P 0.2 SEED 1 "
        "OUTPUT_DIR output/tables/full/big/cascade,MODEL.ROI_BOX_HEAD.SEESAW.P=0.2/seed_1 "
        "SOLVER.IMS_PER_BATCH 4 SOLVER.BASE_LR 0.01 SOLVER.MAX_ITER 200 SOLVER.STEPS '(120, 160)' "
        "SOLVER.WARMUP_ITERS 200 SOLVER.CHECKPOINT_PERIOD 100"
    )


def test_plan_names_the_folders_of_lvis_images(run_command, project, monkeypatch):
    monkeypatch.setattr(plan, "find_dataset", lambda *_: ("train.json", "coco/"))
    for name in ("softmax_ce", "seesaw"):
        config = project / f"configs/big/{name}.yaml"
        names = "  TRAIN: [lvis_v1_train]\n  TEST: [lvis_v1_val]\n"
        config.write_text(config.read_text().replace("DATASETS:\n", f"DATASETS:\n{names}"))
    (project / "coco/val2017").mkdir(parents=True)
    _, text = run_command("plan", "big")
    assert "Missing: coco/train2017; datasets/README.md says what to download." in text


def test_plan_in_miniature_leaves_out_what_is_finished(run_command):
    run = runs_of("big", "mini")["ce", 1]
    finish_inputs(run)
    finish(run, bbox_AP=1.0)
    _, text = run_command("plan", "big", "--scale", "mini")
    assert "are multiplied by 99,388 / 6,267, so that they mean as many training images" in text
    assert "# miniature/pretrain seed 1: finished\n\n# big/ce seed 1: finished" in text
    assert text.splitlines()[-1].endswith(" eql_seesaw.tables run big --scale mini --rows p")
    assert not os.path.exists("output/tables/mini/big/cascade"), "a plan writes nothing"
    _, text = run_command("plan", "big", "--scale", "mini", "--seeds", 2, "--output", "o")
    assert text.splitlines()[-1].endswith(" --rows ce,p --seeds 2 --output o")


def test_row_that_is_trained_as_another_is_planned_as_that_one(run_command, project):
    (project / "configs/big/norm_mask.yaml").write_text(
        "_BASE_: softmax_ce.yaml\nMODEL: {ROI_MASK_HEAD: {NAME: NormedMaskRCNNConvUpsampleHead}}\n"
    )
    add_to("tables/big.yaml", "- {name: n, label: N, config: configs/big/norm_mask.yaml}\n")
    status, text = run_command("plan", "big", "--scale", "mini", "--rows", "n")
    assert status == 0 and text.startswith("n: in miniature the same as row ce\n")
    assert text.splitlines()[-1] == "python -m eql_seesaw.tables run big --scale mini --rows ce"
    run = runs_of("big", "mini")["ce", 1]
    finish_inputs(run)
    finish(run, bbox_AP=50.0)
    _, text = run_command("collect", "big", "--scale", "mini", "--rows", "n")
    assert "| CE | 1 | 50.0 |" in " ".join(text.split()), "the row that stands for it"


def test_rows_that_cannot_be_trained(monkeypatch):
    monkeypatch.chdir(ROOT)
    rows = rows_not_trained(load_table("eql_1"), "mini", "")
    assert rows["mask_rcnn_r50_c4_eql"] == ("a C4 model has no miniature", "")
    first = "mask_rcnn_r50_fpn_eql"
    assert not {first, "cascade_r50_fpn_eql"} & rows.keys()
    # One backbone and no masks: what differs in these only would be trained a second time.
    assert rows["mask_rcnn_r101_fpn_eql"] == (f"in miniature the same as row {first}", first)
    assert not rows_not_trained(load_table("eql_1"), "full", "")
    rows = rows_not_trained(load_table("seesaw_1"), "full", "")
    assert "test-dev" in rows["mask_rcnn_rfs_ce_test_dev"][0]


def test_rows_of_one_folder_ask_for_the_same():
    """They are one run."""
    settings = {}
    for name in table_names():
        table = load_table(name)
        for row in table.rows:
            run = Run(table, row, "full", "output", 1)
            if row.config:
                assert settings.setdefault(run.folder, run.settings) == run.settings, run
    assert len(settings) > 50


def test_mistakes_are_one_line(run_command):
    cases = {
        ("show", "sesaw"): "no table 'sesaw'; there are big, miniature, small",
        ("plan", "big", "--rows", "ce,xy"): "table big has no row 'xy'; it has ce, p, test_dev",
        ("run", "big", "--rows", "test_dev"): "big: no row is left to train",
        ("run", "small", "--scale", "full"): "table small has no --scale full; leave it out",
    }
    for arguments, message in cases.items():
        assert run_command(*arguments)[0] == f"error: {message}"
    assert run_command("plan", "big", "--seeds", "0")[0] == 2
    status, text = run_command("collect", "big", "--rows", "ce", "p")
    assert status == 2 and text.endswith(": error: unrecognized arguments: p\n")


@pytest.mark.slow
def test_every_row_of_the_papers_can_be_planned_in_miniature(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(ROOT)
    for name in table_names():
        table = load_table(name)
        if table.is_classification or "mini" not in table.scales:
            continue
        assert main(["plan", name, "--scale", "mini", "--output", str(tmp_path)]) == 0
        text = capsys.readouterr().out
        left_out = text.count("Left out: ") + text.count(": in miniature the same as row ")
        assert text.count(f"# {name}/") + left_out >= len(table.rows)
