import os
from pathlib import Path

import pytest

import eql_seesaw.tables.__main__ as command
from eql_seesaw.tables import plan
from tests.tables.conftest import ROOT, finish, finish_inputs, runs_of


def test_list_counts_rows_with_results(run_command):
    runs = runs_of("big", seeds=2)
    finish(runs["ce", 2], segm_AP=1.0, bbox_AP=1.0)
    status, text = run_command("list")
    assert status == 0
    assert [line.split() for line in text.splitlines()[2:]] == [
        ["big", "Big", "table", "lvis_v1", "3", "1", "0"],
        ["small", "Small", "table", "symbols", "3", "0"],
    ]


def test_show(run_command):
    status, text = run_command("show", "big")
    assert status == 0 and "A paper, table 7" in text and "A note." in text
    assert "| ce       | CE           | 20.0 |   5.0 |    21.0 |" in text
    assert "  p: configs/big/cascade.yaml MODEL.ROI_BOX_HEAD.SEESAW.P 0.2\n" in text
    _, text = run_command("show", "small")
    assert "    MODEL.WEIGHTS: model_final.pth of small/ce\n" in text
    _, text = run_command("show", "miniature")
    assert text.count("    MODEL.WEIGHTS: model_final.pth of miniature/pretrain seed 1\n") == 1


def test_every_row_comes_once_before_any_a_second_time(run_command):
    _, text = run_command("plan", "small", "--rows", "ce,seesaw", "--seeds", 2)
    runs = [line.partition(":")[0] for line in text.splitlines() if line.startswith("# small/")]
    assert runs == [f"# small/{row} seed {seed}" for seed in (1, 2) for row in ("ce", "seesaw")]


@pytest.mark.parametrize("name", ["plan", "run", "collect"])
def test_miniature_has_no_full_scale(run_command, name):
    status, _ = run_command(name, "small", "--scale", "full")
    assert status == "error: table small is itself a miniature; leave --scale full out"
    assert not Path("output").exists()


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


def test_plan_says_what_is_done_to_frequencies(run_command):
    scaled = "Frequencies (the repeat threshold, EQL's lambda) are multiplied by 99,388 / 6,267,"
    assert scaled in run_command("plan", "big", "--scale", "mini")[1]
    assert "Frequencies" not in run_command("plan", "big")[1] + run_command("plan", "small")[1]


def test_plan_in_miniature_leaves_out_what_is_finished(run_command):
    runs = runs_of("big", "mini")
    finish_inputs(runs["ce", 1])
    finish(runs["ce", 1], bbox_AP=1.0)
    status, text = run_command("plan", "big", "--scale", "mini")
    assert status == 0 and "# big/ce seed 1: finished" in text
    _, *rows = [line.partition(":")[0] for line in text.splitlines() if line.startswith("# big/")]
    names = ",".join(row.split("/")[1].split()[0] for row in rows)
    command = f"python -m eql_seesaw.tables run big --scale mini --rows {names}"
    assert rows and text.splitlines()[-1] == command
    assert not os.path.exists("output/tables/mini/big/cascade"), "a plan writes nothing"


def test_planned_command_keeps_what_was_asked_for(run_command):
    _, text = run_command("plan", "big", "--scale", "mini", "--seeds", 2, "--output", "o")
    assert text.splitlines()[-1].endswith(" --rows ce,p --seeds 2 --output o")


def test_row_that_is_trained_as_another_is_planned_as_that_one(run_command, project):
    (project / "configs/big/norm_mask.yaml").write_text(
        "_BASE_: softmax_ce.yaml\nMODEL: {ROI_MASK_HEAD: {NAME: NormedMaskRCNNConvUpsampleHead}}\n"
    )
    with open(project / "tables/big.yaml", "a") as f:
        f.write("- {name: n, label: N, config: configs/big/norm_mask.yaml}\n")
    status, text = run_command("plan", "big", "--scale", "mini", "--rows", "n")
    assert status == 0 and text.startswith("n: in miniature the same as row ce\n")
    assert text.splitlines()[-1] == "python -m eql_seesaw.tables run big --scale mini --rows ce"
    runs = runs_of("big", "mini")
    finish_inputs(runs["ce", 1])
    finish(runs["ce", 1], bbox_AP=50.0)
    _, text = run_command("collect", "big", "--scale", "mini", "--rows", "n")
    assert "| CE | 1 | 50.0 |" in " ".join(text.split()), "the row that stands for it"


def test_mistakes_are_one_line(run_command, monkeypatch, project):
    cases = {
        ("show", "sesaw"): "sesaw",
        ("plan", "big", "--rows", "ce,xy"): "xy",
        ("run", "big", "--rows", "test_dev"): "no row is left to train",
    }
    for arguments, part in cases.items():
        status, _ = run_command(*arguments)
        assert status.startswith("error: ") and part in status and "\n" not in status
    assert run_command("plan", "big", "--seeds", "0")[0] == 2
    status, text = run_command("collect", "big", "--rows", "ce", "p")
    assert status == 2 and text.startswith("usage: python -m eql_seesaw.tables collect ")
    assert text.endswith(": error: unrecognized arguments: p\n")
    Path("train_net.py").unlink()
    assert "no train_net.py here" in run_command("list")[0]


@pytest.mark.slow
def test_every_row_of_the_papers_can_be_planned_in_both_scales(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(ROOT)
    for name in command.table_names():
        is_miniature = command.load_table(name).dataset == "symbols"
        for scale in ("mini",) if is_miniature else ("full", "mini"):
            arguments = ["plan", name, "--scale", scale, "--output", str(tmp_path)]
            assert command.main(arguments) == 0
            text = capsys.readouterr().out
            planned = text.count(f"# {name}/")
            left_out = text.count("Left out: ") + text.count(": in miniature the same as row ")
            assert planned + left_out >= len(command.load_table(name).rows)
