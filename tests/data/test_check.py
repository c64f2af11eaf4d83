import copy
import json
import random
import sys
import types

import pytest
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from eql_seesaw.data.check import main
from eql_seesaw.data.check_datasets import check_datasets

from .junk import replace_one_value
from .project_to_check import found


def test_nothing_wrong(project):
    report = project.check()
    assert found(report) == {} and report.num_errors == 0
    text = str(report)
    assert "train.json: 2 images, 2 annotations, 2 categories" in text
    assert f"2 images needed from {project.folder / 'val'}" in text
    assert text.endswith("\nok")


def test_categories_without_annotations(project):
    """Of the training set only; they count as rare, and get no detection worth its name."""
    for content in (project.train, project.val):
        content["categories"].append({"id": 99, "name": "auk"})
    project.cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    report = project.check()
    assert found(report) == {("train", "warning", "categories that cannot be learnt"): 1}
    assert "category 99: 'auk' has no annotation" in str(report) and report.num_errors == 0


def test_categories_of_another_dataset(project):
    project.val["categories"][1]["name"] = "swan"
    report = project.check()
    assert found(report) == {("val", "error", "categories of another dataset"): 1}
    assert "class 1 is 'swan', but 'owl' in train" in str(report)


def test_images_shared_with_training(project):
    project.cfg.DATASETS.REGISTER.val.IMAGES = project.cfg.DATASETS.REGISTER.train.IMAGES
    assert found(project.check()) == {("val", "error", "images shared with training"): 2}
    project.cfg.DATASETS.TEST = ("train",)
    assert found(project.check()) == {("train", "warning", "images shared with training"): 2}


def test_files_that_cannot_be_read(project):
    project.cfg.DATASETS.REGISTER.cut = CfgNode(
        {"JSON": str(project.folder / "cut.json"), "IMAGES": "images"}
    )
    (project.folder / "cut.json").write_text('{"images": [')
    missing = {"JSON": "no/such.json", "IMAGES": "images"}
    project.cfg.DATASETS.REGISTER.missing = CfgNode(missing)
    project.cfg.DATASETS.REGISTER.wrong_key = CfgNode({"JSN": "x"})
    project.cfg.DATASETS.TEST = ("cut", "missing", "wrong_key", "nowhere", "val")
    report = project.check()
    assert found(report) == {
        ("cut", "error", "unreadable annotation file"): 1,
        ("missing", "error", "unreadable annotation file"): 1,
        ("wrong_key", "error", "not registered"): 1,
        ("nowhere", "error", "not registered"): 1,
    }
    assert "no/such.json: No such file" in str(report)
    assert "val.json: 2 images" in str(report)  # the others are examined all the same


def test_lvis_val_needs_train2017(project):
    json_file = project.folder / "lvis.json"
    project.val["images"][0]["coco_url"] = "http://images.cocodataset.org/train2017/1.png"
    project.val["images"][1]["coco_url"] = "http://images.cocodataset.org/val2017/2.png"
    json_file.write_text(json.dumps(project.val))
    root = project.folder / "coco"
    (root / "val2017").mkdir(parents=True)
    Image.new("RGB", (30, 20)).save(root / "val2017" / "2.png")
    DatasetCatalog.register("other_lvis", lambda: [])
    # As Detectron2 registers LVIS, whose v0.5 has file names that no longer exist.
    metadata = MetadataCatalog.get("other_lvis")
    metadata.set(json_file=str(json_file), image_root=str(root), evaluator_type="lvis")
    project.cfg.DATASETS.TEST = ("other_lvis",)
    report = project.check()
    assert found(report) == {("other_lvis", "error", "missing image folders"): 1}
    assert f"{root / 'train2017'}, for 1 images" in str(report)
    assert f"1 images needed from {root / 'val2017'}" in str(report)


def test_survives_junk(project):
    rng = random.Random(0)
    project.cfg.INPUT.MASK_FORMAT = "bitmask"
    project.train["annotations"][1]["segmentation"] = {"size": [20, 30], "counts": [0, 600]}
    original, errors = project.train, 0
    for _ in range(200):
        project.train = copy.deepcopy(original)
        for _ in range(rng.randint(1, 4)):
            replace_one_value(project.train, rng)
        errors += project.check().num_errors > 0
    assert errors > 100
    for project.train in (None, [], 5, {}, {"images": [1], "annotations": {}}):
        assert project.check().num_errors > 0


@pytest.fixture
def load_config_returns(monkeypatch):
    """Stand in for reading a config file, which is the engine's business."""

    def stand_in(load_config):
        module = types.SimpleNamespace(load_config=load_config)
        monkeypatch.setitem(sys.modules, "eql_seesaw.config", module)

    return stand_in


def test_command_line(project, capsys, load_config_returns):
    project.check()
    load_config_returns(lambda config_file, opts: project.cfg)
    assert main(["--config-file", "x.yaml"]) == 0
    output = capsys.readouterr()
    assert output.out.endswith("\nok\n") and output.err == ""

    (project.folder / "train" / "1.png").unlink()
    assert main(["--config-file", "x.yaml"]) == 1
    assert capsys.readouterr().out.endswith("\n1 problem\n")


def test_command_line_with_a_bad_config(capsys, load_config_returns):
    def load_config(config_file, opts):
        raise ValueError(f"{config_file} {opts}: no such key")

    load_config_returns(load_config)
    assert main(["--config-file", "x.yaml", "A", "1"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: x.yaml ['A', '1', ") and error.endswith("]: no such key\n")


def test_real_photographs(project, coco200):
    for name in ("train", "val"):
        entry = project.cfg.DATASETS.REGISTER[name]
        entry.JSON = str(coco200 / f"instances_{name}2017.json")
        entry.IMAGES = str(coco200 / f"{name}2017")
    project.cfg.MODEL.ROI_HEADS.NUM_CLASSES = 80
    # 69 of the 80 categories have objects to learn from.
    warnings = {("train", "warning", "categories that cannot be learnt"): 11}
    assert found(check_datasets(project.cfg)) == warnings
