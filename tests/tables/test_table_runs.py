import math
import os

import pytest
import yaml

from eql_seesaw.config import load_config, merge_config
from eql_seesaw.data.symbols import long_tailed_image_counts
from eql_seesaw.schedule import scale_to_batch
from eql_seesaw.tables import load_table, table_names, table_runs
from eql_seesaw.tables.batch import batch_settings, default_batch
from eql_seesaw.tables.table_runs import (
    MINIATURE_IMAGES,
    expected_config,
    row_run,
    rows_not_trained,
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


def miniature_of(config, overrides):
    """A row of LVIS with these settings: its run in miniature, and that run's config."""
    with open("configs/big/mine.yaml", "w") as f:
        yaml.safe_dump({"_BASE_": "seesaw.yaml", **config}, f)
    row = {"name": "x", "label": "X", "config": "configs/big/mine.yaml", "overrides": overrides}
    with open("tables/mine.yaml", "w") as f:
        content = {"title": "T", "dataset": "lvis_v1", "columns": ["AP"], "rows": [row]}
        yaml.safe_dump(content, f, sort_keys=False)
    run = runs_of("mine", "mini")["x", 1]
    return run, expected_config(run)


def test_frequencies_mean_as_many_images_in_miniature(project):
    lvis, miniature = 99_388, 6_267
    losses = {"EQL": {"LAMBDA": 0.0011}, "SOFTMAX_EQL": {"LAMBDA": 3e-3}}
    config = {"DATALOADER": {"REPEAT_THRESHOLD": 0.001}, "MODEL": {"ROI_BOX_HEAD": losses}}
    _, cfg = miniature_of(config, {})
    box_head = cfg.MODEL.ROI_BOX_HEAD
    assert miniature * cfg.DATALOADER.REPEAT_THRESHOLD == pytest.approx(lvis * 0.001, rel=1e-5)
    assert miniature * box_head.EQL.LAMBDA == pytest.approx(lvis * 0.0011, rel=1e-5)
    assert miniature * box_head.SOFTMAX_EQL.LAMBDA == pytest.approx(lvis * 3e-3, rel=1e-5)
    # Not in use, so left alone.
    assert (box_head.EQL.EXPONENTIAL, box_head.EQL.GOMPERTZ) == ((400.0, 2.0), (1.0, 80.0, 3000.0))


def test_frequencies_among_the_overrides_are_scaled_too(project):
    eql = "MODEL.ROI_BOX_HEAD.EQL"
    overrides = {f"{eql}.LAMBDA": 0.0005, "DATALOADER.REPEAT_THRESHOLD": 0.0}
    overrides |= {f"{eql}.THRESHOLD_FUNCTION": "gompertz", f"{eql}.GOMPERTZ": [1, 80, 3000]}
    run, cfg = miniature_of({"DATALOADER": {"REPEAT_THRESHOLD": 0.1}}, overrides)
    assert cfg.DATALOADER.REPEAT_THRESHOLD == 0
    assert cfg.MODEL.ROI_BOX_HEAD.EQL.LAMBDA == pytest.approx(0.0005 * 99_388 / 6_267, rel=1e-5)
    *first, c = cfg.MODEL.ROI_BOX_HEAD.EQL.GOMPERTZ
    assert first == [1, 80] and c == pytest.approx(3000 * 6_267 / 99_388, rel=1e-5)
    # The folder is named after the row as it is written, and what is trained is what is expected.
    assert "LAMBDA=0.0005," in run.folder
    write_config_file(run)
    command = train_command(run, 1, resume=False, scaled={})
    assert load_config(command[2], command[3:]).dump() == cfg.dump()


def test_exponential_of_a_frequency(project):
    eql = {"THRESHOLD_FUNCTION": "exponential"}
    _, cfg = miniature_of({"MODEL": {"ROI_BOX_HEAD": {"EQL": eql}}}, {})
    a, n = cfg.MODEL.ROI_BOX_HEAD.EQL.EXPONENTIAL
    assert a == pytest.approx(400 * 6_267 / 99_388, rel=1e-5) and n == 2


def test_thresholds_of_eql_rise_in_miniature_as_in_the_paper(monkeypatch):
    monkeypatch.chdir(ROOT)
    table, images = load_table("eql_2"), []
    for row in table.rows[1:]:
        eql = expected_config(row_run(table, row, "mini", "", 1)).MODEL.ROI_BOX_HEAD.EQL
        images.append(eql.LAMBDA * MINIATURE_IMAGES if eql.LAMBDA else eql.MAX_IMAGE_COUNT)
    assert images == sorted(images) and (images[0], round(images[1])) == (10, 28)


def test_number_of_images_of_the_miniature():
    """As make_symbols.py has it: six classes an image."""
    counts = long_tailed_image_counts(num_classes=100, max_image_count=4000)
    assert MINIATURE_IMAGES == math.ceil(sum(counts) / 6)
    assert f"{MINIATURE_IMAGES:,} training images" in load_table("miniature").notes


def test_rows_of_the_miniatures_own_tables_keep_their_frequencies(project):
    with open("configs/small/softmax_ce.yaml", "a") as f:
        f.write("DATALOADER: {REPEAT_THRESHOLD: 0.001}\n")
    assert expected_config(runs_of("small")["ce", 1]).DATALOADER.REPEAT_THRESHOLD == 0.001


def test_folder_names_have_no_blanks_and_brackets(project):
    overrides = {"SOLVER.STEPS": [110, 145], "SOLVER.MAX_ITER": 160, "DATASETS.TRAIN": "('a', )"}
    run, cfg = miniature_of({}, overrides)
    assert (cfg.SOLVER.STEPS, cfg.DATASETS.TRAIN) == ((110, 145), ("a",))
    name = "mine,SOLVER.STEPS=110,145,SOLVER.MAX_ITER=160,DATASETS.TRAIN=a,"
    assert run.folder == f"output/tables/mini/big/{name}/seed_1"


def test_two_values_of_one_folder_name_are_refused(project):
    row = "- {name: %s, label: X, config: configs/small/seesaw.yaml, overrides: {X: [%s]}}\n"
    with open("tables/small.yaml", "a") as f:
        f.write(row % ("flat", "1, 2") + row % ("nested", "[1], [2]"))
    with pytest.raises(ValueError, match="small/flat and small/nested differ in their .*overrides"):
        runs_with_inputs(list(runs_of("small").values()))


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


def test_weights_to_start_from_in_miniature(project):
    """For every row that has none of its own, whatever its seed, in the folder of all runs."""
    run = runs_of("big", "mini", seeds=2, output="elsewhere")["ce", 2]
    weights = "elsewhere/mini/miniature/pretrain/seed_1/model_final.pth"
    assert expected_config(run).MODEL.WEIGHTS == weights
    assert [str(x) for x in runs_with_inputs([run])] == [
        "miniature/pretrain seed 1",
        "big/ce seed 2",
    ]
    assert runs_of("big")["ce", 1].inputs == runs_of("miniature")["pretrain", 1].inputs == ()
    decoupled = (
        (project / "tables/big.yaml")
        .read_text()
        .replace(
            "  label: CE\n",
            "  label: CE\n  inputs: {MODEL.WEIGHTS: {row: big/p, file: best.pth}}\n",
        )
    )
    (project / "tables/big.yaml").write_text(decoupled)
    run = runs_of("big", "mini", seeds=2)["ce", 2]
    assert [(key, str(x), file) for key, x, file in run.inputs] == [
        ("MODEL.WEIGHTS", "big/p seed 2", "best.pth")
    ]


def test_configs_of_the_miniature_start_from_the_same_weights_by_hand(monkeypatch):
    monkeypatch.chdir(ROOT)
    for name in ("miniature", "miniature_components", "miniature_imbalance"):
        table = load_table(name)
        for row in table.rows:
            run = row_run(table, row, "mini", "output/tables", 1)
            weights = merge_config(row.config, []).MODEL.WEIGHTS
            assert expected_config(run).MODEL.WEIGHTS == weights


def test_rows_that_cannot_be_trained(monkeypatch):
    monkeypatch.chdir(ROOT)
    eql_1, seesaw_1 = load_table("eql_1"), load_table("seesaw_1")
    rows = rows_not_trained(eql_1, "mini")
    assert rows["mask_rcnn_r50_c4_eql"] == ("a C4 model has no miniature", "")
    assert not {"mask_rcnn_r50_fpn_eql", "cascade_r50_fpn_eql"} & rows.keys()
    # One backbone and no masks: what differs in these only would be trained a second time.
    same = "in miniature the same as row"
    first = "mask_rcnn_r50_fpn_eql"
    assert rows["mask_rcnn_r101_fpn_eql"] == (f"{same} {first}", first)
    assert not rows_not_trained(eql_1, "full")
    rows, first = rows_not_trained(seesaw_1, "mini"), "mask_rcnn_rfs_seesaw"
    assert rows["mask_rcnn_rfs_seesaw_norm_mask"] == (f"{same} {first}", first)
    assert "test-dev" in rows["mask_rcnn_rfs_ce_test_dev"].reason
    assert "test-dev" in rows_not_trained(seesaw_1, "full")["mask_rcnn_rfs_ce_test_dev"].reason


def test_row_of_the_same_folder_is_shown_with_the_other(project):
    (project / "tables/twice.yaml").write_text(
        "{title: Twice, dataset: symbols, columns: [AP], rows: ["
        "{name: a, label: A, config: configs/small/seesaw.yaml},"
        "{name: b, label: B, config: configs/small/seesaw.yaml}]}"
    )
    table = table_runs.load_table("twice")
    assert not rows_not_trained(table, "mini")


def test_masks_tell_rows_apart_where_the_miniature_has_them(project):
    config = project / "configs/big/norm_mask.yaml"
    config.write_text(
        "_BASE_: softmax_ce.yaml\nMODEL: {ROI_MASK_HEAD: {NAME: NormedMaskRCNNConvUpsampleHead}}\n"
    )
    table = project / "tables/big.yaml"
    table.write_text(
        table.read_text() + "- {name: n, label: N, config: configs/big/norm_mask.yaml}\n"
    )
    big = table_runs.load_table("big")
    assert rows_not_trained(big, "mini")["n"] == ("in miniature the same as row ce", "ce")
    miniature = project / table_runs.MINIATURE_CONFIG
    text = miniature.read_text().replace("MASK_ON: False", "MASK_ON: True")
    miniature.write_text(text.replace("TEST: {BEST_METRIC: bbox/AP}\n", ""))
    assert "n" not in rows_not_trained(big, "mini")


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


def test_mistake_in_a_row_names_the_row(project):
    table = project / "tables/small.yaml"
    table.write_text(
        table.read_text().replace("label: CE,", "label: CE, overrides: {SOLVER.MAX_ITERS: 5},")
    )
    small = table_runs.load_table("small")
    run = row_run(small, small.row("ce"), "mini", "output/tables", 1)
    with pytest.raises(ValueError, match="^small/ce: overrides .*did you mean SOLVER.MAX_ITER?"):
        expected_config(run)
