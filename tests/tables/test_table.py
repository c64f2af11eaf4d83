import functools
import re
from collections import defaultdict

import msgspec
import pytest

from eql_seesaw.classification.__main__ import recipe_for
from eql_seesaw.classification.training import loss_and_classifier
from eql_seesaw.config import load_config, merge_config
from eql_seesaw.losses import LOSSES
from eql_seesaw.tables import load_table, table, table_names
from eql_seesaw.tables.measure import classification_options
from eql_seesaw.tables.miniature import as_overrides
from eql_seesaw.tables.plan import runs_with_inputs
from eql_seesaw.tables.run import Run
from tests.tables.conftest import ROOT

DATA = table.DATA
# Those with a source, so that `make test` passes beside tables of one's own.
PAPER_TABLES = [
    name for name in table_names() if not load_table(name).is_miniature and load_table(name).source
]
# Of the two papers and their authors' repositories, whose rows have a config file each.
OWN_CONFIGS = {name for name in PAPER_TABLES if name.startswith(("eql", "seesaw"))}
PAPER_ROWS = [(name, row) for name in PAPER_TABLES for row in load_table(name).rows if row.config]
CLASSIFICATION_ROWS = [
    (name, row) for name in PAPER_TABLES for row in load_table(name).rows if row.classification
]
# Rows printed in each table of the publications.
PRINTED = {
    **{"eql_1": 12, "eql_2": 9, "eql_3": 3, "eql_4": 2, "eql_5": 7},
    **{"eql_repo": 6, "eql_v2_repo": 7, "ecm": 4, "gol": 5, "fracal": 2, "balms": 2, "disalign": 7},
    **{"seesaw_1": 24, "seesaw_2": 6, "seesaw_3": 6, "seesaw_4": 3, "seesaw_5": 6},
    **{"seesaw_6": 6, "seesaw_7": 5, "seesaw_8": 4, "seesaw_9": 9},
    **{"eql_7": 9, "eql_8": 4, "eql_9": 5, "eql_10": 6, "seesaw_10": 10, "seesaw_11": 5},
    **{"eql_6": 3, "eql_11": 6, "eql_12": 5, "seesaw_12": 12, "seesaw_13": 3},
}


def value_of(cfg, key):
    return functools.reduce(lambda node, name: node[name], key.split("."), cfg)


def test_every_printed_row_is_there():
    published = {
        name: sum(bool(row.published) for row in load_table(name).rows) for name in PAPER_TABLES
    }
    assert published == PRINTED


def test_every_table_loads():
    for name in table_names():
        table = load_table(name)
        assert table.name == name and table.title
        for row in table.rows:
            assert row.label and row.seeds >= 1
            if row.published and row.split == "val":
                assert list(row.published) == table.columns, (name, row.name)


@pytest.mark.parametrize(
    "table, row, printed",
    [
        ("eql_1", "mask_rcnn_r50_fpn_eql", [22.8, 36.0, 24.4, 11.3, 24.7, 25.1, 23.3]),
        ("eql_2", "lambda_0_176", [20.8, 11.7, 20.2, 25.2, 20.8]),
        ("eql_3", "exponential", [22.3, 10.4, 24.0, 25.0, 22.8]),
        ("eql_4", "without_excluding_function", [22.2, 12.5, 24.7, 23.1, 22.7]),
        ("eql_5", "softmax_ce", [20.2, 32.6, 21.3, 4.5, 20.8, 25.6, 15.5, 27.7, 34.4, 20.7]),
        ("eql_repo", "r50_eql", [24.0, 9.4, 25.2, 28.4, 23.6]),
        ("eql_v2_repo", "eql_v2", [23.7, 14.9, 22.8, 28.6]),
        ("ecm", "cascade_r101_2x", [30.6, 33.4]),
        ("gol", "gol_r50", [27.7, 21.4, 27.7, 30.4, 27.5]),
        ("fracal", "fracal_r50", [28.5, 23.0, 28.1, 31.5, 28.4]),
        ("balms", "balanced_softmax", [26.4, 15.9, 27.3, 29.6, 25.9]),
        ("disalign", "cosine_disalign", [27.1, 16.3, 28.8, 29.4, 26.3]),
        ("eql_6", "eql", [57.83, 64.95, 60.18, 61.17, 58.23, 44.6]),
        ("eql_7", "lambda_5_gamma_0_9", [43.74, 71.42]),
        ("eql_8", "softmax_eql", [43.38, 71.94]),
        ("eql_9", "gamma_0_95", [46.5, 32.8, 16.4, 35.8, 60.7]),
        ("eql_10", "oltr", [35.6, None]),
        ("eql_11", "mask_testing", [36.4, 25.5, 38.6, 38.1]),
        ("eql_12", "third", [24.04, 36.51, 25.68, 15.32, 24.95, 31.12]),
        ("seesaw_10", "cb_focal", [45.3, 60.4, 40.6, 19.2]),
        ("seesaw_11", "q_2_5", [48.4, 65.8, 42.9, 18.7]),
        ("seesaw_12", "seesaw", [36.8, 25.5, 35.6, 42.9, 39.8]),
        ("seesaw_13", "htc", [24.8, 14.5, 24.1, 30.2, 27.0]),
        ("seesaw_1", "cascade_rfs_seesaw_norm_mask", [30.1, 21.4, 30.0, 33.9, 32.8]),
        ("seesaw_1", "cascade_rfs_seesaw_norm_mask_test_dev", [30.0, 23.0, 29.3, 34.1]),
        ("seesaw_2", "full", [26.4, 19.6, 26.1, 29.8, 27.4]),
        ("seesaw_3", "bags_normed", [25.5, 19.2, 25.0, 28.9, 25.8]),
        ("seesaw_4", "pre_recorded", [26.3, 19.6, 25.8, 29.8, 27.4]),
        ("seesaw_5", "p_0_8", [25.7, 19.1, 25.0, 29.4, 26.8]),
        ("seesaw_6", "q_3_0", [25.4, 17.3, 24.9, 29.5, 26.4]),
        ("seesaw_7", "tau_10", [24.7, 16.7, 24.1, 28.8, 25.7]),
        ("seesaw_8", "seesaw_without_objectness", [25.3, 16.0, 25.1, 29.4, 26.5]),
        ("seesaw_9", "de_seesaw_rfs", [25.8, 18.7, 25.3, 29.6, 26.9]),
    ],
)
def test_published_numbers(table, row, printed):
    assert list(load_table(table).row(row).published.values()) == printed


def test_what_is_trained_alike_was_published_alike():
    """A model that is in several tables of a paper has the same numbers in all of them."""
    printed = defaultdict(dict)
    for name, row in PAPER_ROWS + CLASSIFICATION_ROWS:
        if row.published:
            paper = name.rstrip("_0123456789")
            settings = (paper, row.config, row.classification, str(row.overrides), row.split)
            for column, value in row.published.items():
                if value is not None:
                    printed[settings].setdefault(column, set()).add(value)
    # EQL's table 9 has one decimal of the two in its table 10.
    for columns in printed.values():
        assert all(max(values) - min(values) < 0.095 for values in columns.values())


@pytest.mark.parametrize("name, row", PAPER_ROWS, ids=lambda x: getattr(x, "name", x))
def test_config_of_a_row(name, row):
    """It is valid, and of the table's dataset and no other."""
    dataset = load_table(name).dataset
    cfg = load_config(str(ROOT / row.config), as_overrides(row.overrides))
    assert list(cfg.DATASETS.TRAIN) == [f"{dataset}_train"]
    assert list(cfg.DATASETS.TEST) == [f"{dataset}_val"]
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == {"lvis_v0.5": 1230, "lvis_v1": 1203}[dataset]
    for key, value in row.overrides.items():
        if name in OWN_CONFIGS:
            assert isinstance(value, (int, float)), "what has a name is a file"
        assert value_of(merge_config(str(ROOT / row.config), []), key) != value


def test_calibrated_rows_evaluate_a_checkpoint_as_it_is():
    """Nothing is trained, and all else is as in the row that the checkpoint comes from."""
    table = load_table("fracal")
    for row in (table.row("fracal_r50"), table.row("fracal_r101")):
        cfg = load_config(str(ROOT / row.config), as_overrides(row.overrides))
        assert cfg.SOLVER.BASE_LR == 0 and cfg.SOLVER.MAX_ITER <= 16
        source = table.row(row.inputs["MODEL.WEIGHTS"].row.removeprefix("fracal/"))
        assert row.baseline == source.name and row.config == source.config
        own = row.overrides.keys() - source.overrides.keys()
        assert {key for key in own if not key.startswith("SOLVER.")} == {"TEST.CALIBRATION.METHOD"}
        assert source.overrides.items() <= row.overrides.items()


@pytest.mark.parametrize("name, row", CLASSIFICATION_ROWS, ids=lambda x: getattr(x, "name", x))
def test_command_of_a_row(name, row):
    """Its loss has arguments that the loss takes, and its data are the table's."""
    args = classification_options(row, "output")
    (loss,) = args.loss
    assert args.root and not args.features
    loss_and_classifier(loss, recipe_for(args), [500, 40, 2])
    assert args.data.replace("-", "_").startswith(load_table(name).dataset)


def test_table_of_ones_own_that_the_page_shows(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    page = (ROOT / "docs/tables.md").read_text()
    (block,) = re.findall(r"```yml\n(.*?)```", page, re.DOTALL)
    folder, name = re.search(r"`(eql_seesaw/tables/data)/(\w+)\.yaml`", page).groups()
    assert ROOT / folder == DATA
    (tmp_path / f"{name}.yaml").write_text(block)
    (tmp_path / "miniature.yaml").symlink_to(DATA / "miniature.yaml")
    monkeypatch.setattr(table, "DATA", tmp_path)
    mine, miniature = load_table(name), load_table("miniature")
    assert [row.name for row in mine.rows] == ["seesaw", "p_0_4", "longer"]
    assert [row.seeds for row in mine.rows] == [3, 3, 1]
    assert [row.baseline for row in mine.rows] == ["", "seesaw", "seesaw"]
    runs = [Run(mine, row, "mini", "output", 1) for row in mine.rows]
    for run in runs:
        for key, value in run.row.overrides.items():
            assert value_of(run.cfg, key) == (tuple(value) if isinstance(value, list) else value)
    # Rows that are there already are not trained again.
    assert runs[0].folder == Run(miniature, miniature.row("seesaw"), "mini", "output", 1).folder
    assert runs_with_inputs(runs)[0].name == "miniature/pretrain"


def test_every_loss_has_its_row():
    page = (ROOT / "docs/losses.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) - {"CLS_LOSS"} == set(LOSSES)


def test_inputs_are_what_the_configs_take_by_themselves():
    """So that the rows can also be trained one after another with their configs alone."""
    rows = [row for name, row in PAPER_ROWS if name in OWN_CONFIGS]
    inputs = [(row.config, key, x) for row in rows for key, x in row.inputs.items()]
    assert len(inputs) == 10
    for config, key, source in inputs:
        assert source.seed is None
        source_table, _, source_row = source.row.partition("/")
        source_config = load_table(source_table).row(source_row).config
        output_dir = merge_config(str(ROOT / source_config), []).OUTPUT_DIR
        value = value_of(merge_config(str(ROOT / config), []), key)
        assert value == f"{output_dir}/{source.file}"


MINE = """
title: A title
dataset: lvis_v1
columns: [AP, APbox]
seeds: 3
rows:
- name: first
  label: First
  config: configs/lvis_v1/mask_rcnn_R_50_FPN_2x_seesaw.yaml
  published: {AP: 1, APbox: null}
- name: second
  label: Second
  config: configs/lvis_v1/mask_rcnn_R_50_FPN_2x_eql.yaml
  overrides: {SOLVER.BASE_LR: 0.1}
  inputs: {MODEL.WEIGHTS: {row: mine/first, file: model_final.pth}}
  seeds: 1
"""


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "DATA", tmp_path)

    def load(old="", new=""):
        (tmp_path / "mine.yaml").write_text(MINE.replace(old, new, 1))
        return load_table("mine")

    return load


def test_values_and_defaults(load):
    table = load()
    first, second = table.rows
    assert (table.source, table.notes, table.columns) == ("", "", ["AP", "APbox"])
    assert first.published_cells(table.columns) == ["1.0", ""]
    assert (first.split, first.seeds, first.overrides, first.inputs) == ("val", 3, {}, {})
    assert (second.seeds, second.published) == (1, {})
    assert second.overrides == {"SOLVER.BASE_LR": 0.1}
    source = {"row": "mine/first", "file": "model_final.pth", "seed": None}
    assert msgspec.to_builtins(second.inputs) == {"MODEL.WEIGHTS": source}


def test_inputs_of_the_table_are_those_of_every_row_but_their_source(load):
    start = "{row: mine/first, file: start.pth, seed: 1}"
    inputs = f"inputs: {{MODEL.WEIGHTS: {start}, DATASETS.CLASS_STATISTICS: {start}}}"
    first, second = load("seeds: 3", inputs).rows
    assert first.inputs == {}
    # A row's own come first.
    files = {key: source.file for key, source in second.inputs.items()}
    assert files == {"MODEL.WEIGHTS": "model_final.pth", "DATASETS.CLASS_STATISTICS": "start.pth"}


@pytest.mark.parametrize(
    "old, new, message",
    [
        (MINE, "", "Expected `object`, got `null`"),
        ("rows:", "rows: [1", "while parsing a flow sequence"),
        ("seeds: 3", "color: red", "unknown field `color`"),
        ("APbox]", "AR]", "'AR' - at `$.columns[1]`"),
        (
            "  config: configs/lvis_v1/mask_rcnn_R_50_FPN_2x_seesaw.yaml\n",
            "",
            "row first has no conf",
        ),
        ("first", "second", "two rows are named 'second'"),
        ("label: First", "label: First\n  baseline: x", "row first: its baseline 'x' is no row"),
        ("model_final.pth", "x, seed: 0", ">= 1 - at `$.rows[1].inputs[...].seed`"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(load, old, new, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        load(old, new)
    assert str(error.value).startswith(f"{table.DATA}/mine.yaml: ")
    assert "\n" not in str(error.value)
