import json
import logging
import sys

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from eql_seesaw.command_line import argument_parser
from eql_seesaw.config import normed_classifier
from eql_seesaw.engine import load_config, set_up
from eql_seesaw.engine.placement import find_placement
from eql_seesaw.engine.setup import _without_expected_traceback
from tests.engine.conftest import ROOT


@pytest.mark.parametrize(
    "in_file, value, expected",
    [
        ("true", "auto", None),
        ("auto", "True", True),
        ("false", "true", True),
        ("auto", "False", False),
    ],
)
def test_normed_classifier_can_be_overridden_whatever_the_file_says(
    tmp_path, in_file, value, expected
):
    config = tmp_path / "config.yaml"
    base = ROOT / "configs" / "quickstart" / "seesaw.yaml"
    config.write_text(
        f"_BASE_: {base}\nMODEL: {{ROI_BOX_HEAD: {{NORMED_CLASSIFIER: {in_file}}}}}\n"
    )
    cfg = load_config(str(config), ["MODEL.ROI_BOX_HEAD.NORMED_CLASSIFIER", value])
    assert normed_classifier(cfg) is expected


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "config.yaml: "),
        ("MODEL: [1", "config.yaml: "),
        ("_BASE_: nowhere.yaml", "nowhere.yaml"),
        ("OUTPUT_DIR: !!python/object/apply:os.system ['exit']", "config.yaml: .*os.system"),
        ("VERSION: 2\nNO_SUCH_KEY: 1", "NO_SUCH_KEY"),
        ("VERSION: 2\nSOLVER: {MAX_ITERS: 1}", "did you mean SOLVER.MAX_ITER"),
        ("VERSION: 2\nINPUT: {MIN_SIZE_TRAIN: (128,)}", r"write a list: \[1, 2\]"),
    ],
)
def test_unreadable_config_is_one_line(tmp_path, text, message):
    config = tmp_path / "config.yaml"
    config.write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        load_config(str(config), [])
    assert "\n" not in str(error.value)


def test_missing_config_is_one_line():
    with pytest.raises(FileNotFoundError, match="config file nowhere.yaml: no such file"):
        load_config("nowhere.yaml", [])


def test_override_with_a_key_that_does_not_exist():
    with pytest.raises(ValueError, match="Non-existent key: .*; did you mean SOLVER.MAX_ITER"):
        load_config("", ["SOLVER.MAX_ITERS", "5"])


def test_override_of_a_whole_section():
    with pytest.raises(ValueError, match="name the keys inside it one by one"):
        load_config("", ["MODEL.ROI_HEADS", "{'NUM_CLASSES': 5}"])


@pytest.fixture
def their_dataset(symbols):
    """A dataset of somebody else's loader, without an image folder, and what the loader gives."""
    json_file = symbols / "symbols_val.json"
    images = json.loads(json_file.read_text())["images"]
    records = [
        {"file_name": f"/elsewhere/{x['id']}.png", "image_id": x["id"], "height": 9, "width": 9}
        for x in images
    ]
    DatasetCatalog.register("theirs", lambda: records)
    MetadataCatalog.get("theirs").json_file = str(json_file)
    yield records
    DatasetCatalog.remove("theirs")
    MetadataCatalog.remove("theirs")


def test_images_to_evaluate_are_those_of_their_loader(overrides, symbols, their_dataset):
    config = str(ROOT / "configs" / "quickstart" / "seesaw.yaml")
    words = ["--config-file", config, *overrides, "DATASETS.TEST", "('theirs', 'symbols_val')"]
    words += ["TEST.BEST_METRIC", ""]
    args = argument_parser("").parse_args(words)
    args.placement = find_placement(args, {})
    setup = set_up(args)
    assert setup.test_images["theirs"] == their_dataset
    own = setup.test_images["symbols_val"]
    assert own[0]["file_name"].startswith(str(symbols)) and len(own) == len(their_dataset)


@pytest.mark.parametrize("error", [ValueError("image 3: cut off"), KeyError("a mistake of ours")])
def test_tracebacks_of_expected_errors_are_left_out(caplog, error):
    try:
        raise error
    except Exception:
        record = logging.LogRecord("", logging.ERROR, "", 1, "During training:", (), sys.exc_info())
    assert _without_expected_traceback(record)
    text = logging.Formatter().format(record)
    if isinstance(error, ValueError):
        assert text == "Training ends: image 3: cut off"
    else:
        assert text.startswith("During training:\nTraceback")
