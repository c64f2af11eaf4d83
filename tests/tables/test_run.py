import math
import os
from pathlib import Path

import pytest
import yaml

from datasets.make_symbols import long_tailed_image_counts
from eql_seesaw.config import load_config, merge_config
from eql_seesaw.tables import load_table
from eql_seesaw.tables.miniature import MINIATURE_IMAGES
from eql_seesaw.tables.run import Run
from eql_seesaw.tables.table import Row
from tests.tables.conftest import ROOT, add_to, finish, finish_inputs, runs_of, write_metrics

SEESAW_P = "MODEL.ROI_BOX_HEAD.SEESAW.P"


def test_folder_command_and_config_say_the_same(project):
    run = runs_of("big", seeds=2)["p", 2]
    assert run.folder == f"output/tables/full/big/cascade,{SEESAW_P}=0.2/seed_2"
    command = [
        *("train_net.py", "--config-file", "configs/big/cascade.yaml", "--num-gpus", "4"),
        *(SEESAW_P, "0.2", "SEED", "2", "OUTPUT_DIR", run.folder),
    ]
    assert run.command(4, 8) == command
    os.makedirs(run.folder)
    Path(run.folder, "last_checkpoint").write_text("model_0000019.pth")
    assert run.command(4, 8) == [*command[:5], "--resume", *command[5:]]
    assert load_config(command[2], command[5:]) == run.cfg


def test_schedule_of_another_batch_shows_as_many_images(project):
    run = runs_of("big")["ce", 1]
    settings = " ".join(run.command(2, 2)).partition(f"OUTPUT_DIR {run.folder} ")[2]
    assert settings == (
        "SOLVER.IMS_PER_BATCH 2 SOLVER.BASE_LR 0.005 SOLVER.MAX_ITER 400 SOLVER.STEPS (240, 320) "
        "SOLVER.WARMUP_ITERS 400 SOLVER.CHECKPOINT_PERIOD 200"
    )
    # Two images for each GPU, no more than the recipe's eight, the same on every GPU.
    batches = [run.planned_batch(run.look(), n, None) for n in (1, 3, 4, 5, 8, 16)]
    assert batches == [2, 6, 8, 5, 8, 16]


def test_miniature_takes_all_but_the_method_from_the_miniature(project):
    run = runs_of("big", "mini")["p", 1]
    assert (run.cfg.SOLVER.MAX_ITER, run.cfg.MODEL.MASK_ON) == (10, False)
    assert run.cfg.TEST.BEST_METRIC == "bbox/AP"
    # The miniature has ROI heads of its own, which would turn a cascade's row into another.
    assert run.cfg.MODEL.ROI_HEADS.NAME == "LongTailCascadeROIHeads"
    box_head = run.cfg.MODEL.ROI_BOX_HEAD
    assert (box_head.CLS_LOSS, box_head.SEESAW.P) == ("seesaw", 0.2)
    assert not os.path.exists(run.folder)
    run.prepare_folder()
    command = run.command(4, run.planned_batch(run.look(), 4, None))
    assert command[2] == os.path.join(run.folder, "mini.yaml") and "--num-gpus" not in command
    content = yaml.safe_load(open(command[2]))
    assert os.path.samefile(os.path.join(run.folder, content["_BASE_"]), run.row.config)
    assert load_config(command[2], command[3:]) == run.cfg


def miniature_of(config, overrides):
    """The run in miniature of a row of LVIS with these settings."""
    Path("configs/big/mine.yaml").write_text(yaml.safe_dump({"_BASE_": "seesaw.yaml", **config}))
    row = {"name": "x", "label": "X", "config": "configs/big/mine.yaml", "overrides": overrides}
    table = {"title": "T", "dataset": "lvis_v1", "columns": ["AP"], "rows": [row]}
    Path("tables/mine.yaml").write_text(yaml.safe_dump(table, sort_keys=False))
    return runs_of("mine", "mini")["x", 1]


def test_frequencies_mean_as_many_images_in_miniature(project):
    factor = 99_388 / 6_267
    losses = {"EQL": {"LAMBDA": 0.0011}, "SOFTMAX_EQL": {"LAMBDA": 3e-3}}
    losses["DROP_LOSS"] = {"LAMBDA": 0.00177}
    config = {"DATALOADER": {"REPEAT_THRESHOLD": 0.001}, "MODEL": {"ROI_BOX_HEAD": losses}}
    cfg = miniature_of(config, {}).cfg
    eql = cfg.MODEL.ROI_BOX_HEAD.EQL
    assert pytest.approx(0.001 * factor, rel=1e-5) == cfg.DATALOADER.REPEAT_THRESHOLD
    assert pytest.approx(0.0011 * factor, rel=1e-5) == eql.LAMBDA
    assert pytest.approx(3e-3 * factor, rel=1e-5) == cfg.MODEL.ROI_BOX_HEAD.SOFTMAX_EQL.LAMBDA
    assert pytest.approx(0.00177 * factor, rel=1e-5) == cfg.MODEL.ROI_BOX_HEAD.DROP_LOSS.LAMBDA
    # Not in use, so left alone.
    assert (eql.EXPONENTIAL, eql.GOMPERTZ) == ((400.0, 2.0), (1.0, 80.0, 3000.0))
    # The keys in use multiply the frequency.
    for function, values in (("exponential", [400, 2]), ("gompertz", [1, 80, 3000])):
        config = {"MODEL": {"ROI_BOX_HEAD": {"EQL": {"THRESHOLD_FUNCTION": function}}}}
        scaled = list(miniature_of(config, {}).cfg.MODEL.ROI_BOX_HEAD.EQL[function.upper()])
        at = values.index(max(values))
        values[at] /= factor
        assert scaled == pytest.approx(values, rel=1e-5)


def test_frequencies_among_the_overrides_are_scaled_too(project):
    overrides = {"MODEL.ROI_BOX_HEAD.EQL.LAMBDA": 0.0005, "DATALOADER.REPEAT_THRESHOLD": 0.0}
    run = miniature_of({"DATALOADER": {"REPEAT_THRESHOLD": 0.1}}, overrides)
    assert run.cfg.DATALOADER.REPEAT_THRESHOLD == 0
    scaled = pytest.approx(0.0005 * 99_388 / 6_267, rel=1e-5)
    assert scaled == run.cfg.MODEL.ROI_BOX_HEAD.EQL.LAMBDA
    # The folder is named after the row as it is written, and what is trained is what is expected.
    assert "LAMBDA=0.0005," in run.folder
    run.prepare_folder()
    command = run.command(1, run.planned_batch(run.look(), 1, None))
    assert load_config(command[2], command[3:]) == run.cfg


def test_number_of_images_of_the_miniature():
    """As make_symbols.py has it: six classes an image."""
    counts = long_tailed_image_counts(num_classes=100, max_image_count=4000)
    assert math.ceil(sum(counts) / 6) == MINIATURE_IMAGES
    assert f"{MINIATURE_IMAGES:,} training images" in load_table("miniature").notes


def test_rows_of_the_generated_dataset_are_their_own_miniature(project):
    add_to("configs/small/softmax_ce.yaml", "DATALOADER: {REPEAT_THRESHOLD: 0.001}\n")
    run = runs_of("small", "full")["ce", 1]
    assert run.scale == "mini" and run.command(1, 8)[2] == "configs/small/softmax_ce.yaml"
    assert run.cfg.DATALOADER.REPEAT_THRESHOLD == 0.001
    run.prepare_folder()
    assert os.listdir(run.folder) == []


def test_weights_to_start_from_in_miniature(project):
    """For every row that has none of its own, whatever its seed, in the folder of all runs."""
    run = runs_of("big", "mini", seeds=2, output="elsewhere")["ce", 2]
    weights = "elsewhere/mini/miniature/pretrain/seed_1/model_final.pth"
    assert weights == run.cfg.MODEL.WEIGHTS
    assert runs_of("big")["ce", 1].inputs == runs_of("miniature")["pretrain", 1].inputs == []
    # An input without a seed is of the run with the same seed.
    runs = runs_of("small", seeds=2)
    weights = os.path.join(runs["ce", 2].folder, "model_final.pth")
    assert runs["retrain", 2].cfg.MODEL.WEIGHTS == weights


def test_configs_of_the_miniature_start_from_the_same_weights_by_hand(monkeypatch):
    monkeypatch.chdir(ROOT)
    for name in ("miniature", "miniature_components", "miniature_imbalance"):
        table = load_table(name)
        for row in table.rows:
            run = Run(table, row, "mini", "output/tables", 1)
            assert merge_config(row.config, []).MODEL.WEIGHTS == run.cfg.MODEL.WEIGHTS


def test_mistake_in_a_row_names_the_row(project):
    table = project / "tables/small.yaml"
    wrong = "label: CE, overrides: {SOLVER.MAX_ITERS: 5},"
    table.write_text(table.read_text().replace("label: CE,", wrong))
    with pytest.raises(ValueError, match="^small/ce: overrides .*did you mean SOLVER.MAX_ITER?"):
        runs_of("small")["ce", 1].cfg  # noqa: B018


def test_folder_names_are_short_and_lead_nowhere_else(project):
    steps = {"SOLVER.STEPS": [110, 145], "DATASETS.TRAIN": "('a', )"}
    run = miniature_of({}, steps)
    assert (run.cfg.SOLVER.STEPS, run.cfg.DATASETS.TRAIN) == ((110, 145), ("a",))
    name = "mine,SOLVER.STEPS=110,145,DATASETS.TRAIN=a,"
    assert run.folder == f"output/tables/mini/big/{name}/seed_1"
    many = {f"MODEL.ROI_BOX_HEAD.SEESAW.KEY_{i}": "../../outside" for i in range(10)}
    overrides = [many, {**many, "SEED": 1}, {"MODEL.WEIGHTS": "../../outside"}]
    rows = [Row(name="r", label="", config="configs/big/ce.yaml", overrides=o) for o in overrides]
    folders = [Run(load_table("big"), row, "full", "output/tables", 1).folder for row in rows]
    assert len(set(folders)) == len(folders)
    for folder in folders:
        assert Path(folder).resolve().is_relative_to(Path("output/tables/full/big").resolve())
        assert max(len(os.fsencode(part)) for part in Path(folder).parts) <= 240


# The rest of this file looks into folders.


@pytest.fixture
def run(project):
    return runs_of("big")["ce", 1]


def found(run):
    return run.look()[:3]


def test_finished_with_the_recipes_batch_and_with_another(run):
    for batch in (None, 2, 16):
        finish(run, batch, segm_AP=20.5)
        # bbox/AP is what says that there was an evaluation.
        assert "not evaluated" in run.look().reason
        finish(run, batch, segm_AP=20.5, bbox_AP=None)
        metrics, reason, _, found_batch = run.look()
        assert metrics["segm/AP"] == 20.5 and math.isnan(metrics["bbox/AP"]) and not reason
        assert found_batch == (batch or 8)


@pytest.mark.parametrize(
    "changes, difference",
    [
        (("MODEL.ROI_BOX_HEAD.CLS_LOSS", "eql"), "CLS_LOSS: eql there, softmax_ce expected"),
        (("SOLVER.IMS_PER_BATCH", 4), "SOLVER.BASE_LR: 0.02 there, 0.01 expected"),
        (("SOLVER.STEPS", (50, 80)), "SOLVER.STEPS: [50, 80] there, [60, 80] expected"),
        # Seesaw counts pass by pass; skipped images are other training images.
        (("SOLVER.ACCUMULATION_STEPS", 2), "SOLVER.ACCUMULATION_STEPS: 2 there, 1 expected"),
        (("DATALOADER.UNREADABLE_IMAGES", "skip"), "UNREADABLE_IMAGES: skip there, stop expected"),
        # These change no number; the last is of another loss than the row's.
        (("MODEL.DEVICE", "cuda", "OUTPUT_DIR", "elsewhere", "DATALOADER.NUM_WORKERS", 9), ""),
        (("TEST.FIXED_AP", True, "MODEL.ROI_BOX_HEAD.GRADIENT_STATISTICS", True), ""),
        (("MODEL.ROI_BOX_HEAD.LDAM.SCALE", 30.0), ""),
    ],
)
def test_another_config_is_no_result(run, changes, difference):
    finish(run, changes=changes, bbox_AP=21.5)
    metrics, reason, conflict = found(run)
    assert bool(metrics) != conflict == bool(difference) and difference in reason
    assert reason.startswith("its config differs in ") == conflict


@pytest.mark.parametrize(
    "weights, there, is_same",
    [
        ("detectron2://MSRA/R-50.pkl", "/disk/R-50.pkl", True),  # downloaded before
        ("detectron2://MSRA/R-50.pkl", "/disk/R-101.pkl", False),
        # The weights of trainings all have that name.
        ("mine/model_final.pth", "/x/model_final.pth", False),
    ],
)
def test_weights_that_a_config_names(run, weights, there, is_same):
    add_to(run.row.config, f"MODEL: {{WEIGHTS: '{weights}'}}\n")
    finish(run, changes=("MODEL.WEIGHTS", there), bbox_AP=21.5)
    metrics, reason, _ = found(run)
    assert bool(metrics) == is_same
    assert is_same or f"MODEL.WEIGHTS: {there} there" in reason


def test_weights_of_an_input_are_known_by_its_run(project):
    """Wherever the folder of all runs has been."""
    run = runs_of("small")["retrain", 1]
    finish_inputs(run)
    moved = "/disk/tables/mini/small/softmax_ce/seed_1/model_final.pth"
    finish(run, changes=("MODEL.WEIGHTS", moved), bbox_AP=1.0)
    assert run.look().metrics
    for wrong in (moved.replace("seed_1", "seed_2"), "/x/model_final.pth"):
        finish(run, changes=("MODEL.WEIGHTS", wrong), bbox_AP=1.0)
        assert f"MODEL.WEIGHTS: {wrong} there" in run.look().reason


def test_input_must_be_finished(project):
    """Else what was trained from it is not what the row asks for."""
    runs = runs_of("small")
    run, source = runs["retrain", 1], runs["ce", 1]
    finish(run, bbox_AP=1.0)
    assert found(run) == (None, "its input small/ce seed 1: not run", True)
    finish(source, bbox_AP=1.0)
    assert run.look().metrics
    write_metrics(source, {"iteration": 49, "bbox/AP": 1.0})
    assert run.look().reason == "its input small/ce seed 1: at iteration 50 of 100"


OLD = {"iteration": 100, "bbox/AP": 21.5}


@pytest.mark.parametrize(
    "lines, reason",
    [
        ([], "does not end with a line of metrics"),
        ([{"iteration": 49, "bbox/AP": 1.0}], "at iteration 50 of 100"),
        ([{"iteration": 99}], "at iteration 100 of 100, not evaluated"),
        # Started again in the same folder: the old evaluation is not this run's.
        ([OLD, {"iteration": 19}], "at iteration 20 of 100"),
        ([OLD, '{"iterat'], "does not end with a line of metrics"),
        # Detectron2 counts one iteration more when it was resumed.
        ([{"iteration": 99}, {"iteration": 101, "bbox/AP": 21.5}], ""),
        # A kill cut a line off; what is written after the run was resumed counts.
        (['{"iterat{"iteration": 19}', OLD], ""),
    ],
)
def test_last_line_of_the_metrics_counts(run, lines, reason):
    finish(run)
    write_metrics(run, *lines)
    metrics, found_reason, conflict = found(run)
    assert bool(metrics) == (not reason)
    assert found_reason.endswith(reason) and not conflict


def test_broken_or_missing_config_is_told(run):
    finish(run, bbox_AP=21.5)
    config = Path(run.folder, "config.yaml")
    config.write_text("SOLVER: [")
    metrics, reason, conflict = found(run)
    assert metrics is None and conflict and "config.yaml" in reason
    config.unlink()
    Path(run.folder, "last_checkpoint").write_text("model_0000019.pth")
    assert found(run) == (None, f"there are checkpoints, but no {config}", True)


def test_first_of_several_test_sets_counts(run):
    config = Path(run.row.config)
    tests = "DATASETS:\n  TEST: [symbols_val, symbols_train]"
    config.write_text(config.read_text().replace("DATASETS:", tests))
    add_to(config, "TEST: {BEST_METRIC: ''}\n")
    finish(run)
    write_metrics(run, {"iteration": 100, "symbols_val/bbox/AP": 3.0, "symbols_train/bbox/AP": 4.0})
    assert run.look().metrics["bbox/AP"] == 3.0
