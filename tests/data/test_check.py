import copy
import json
import math
import random
import sys
import types
from pathlib import Path

import pytest
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from eql_seesaw.config import add_long_tail_config
from eql_seesaw.data.check import check_datasets, main

COCO200 = Path(__file__).parents[3] / "shared" / "data" / "coco200"

CONTENT = {
    "images": [
        {"id": 1, "file_name": "1.png", "height": 20, "width": 30, "neg_category_ids": [2]},
        {"id": 2, "file_name": "2.png", "height": 20, "width": 30},
    ],
    "annotations": [
        {
            "id": 11,
            "image_id": 1,
            "category_id": 1,
            "bbox": [1, 2, 3, 4],
            "segmentation": [[1, 2, 4, 2, 4, 6]],
        },
        {
            "id": 12,
            "image_id": 2,
            "category_id": 2,
            "bbox": [0, 0, 30, 20],
            "segmentation": [[0, 0, 30, 0, 30, 20]],
        },
    ],
    "categories": [{"id": 1, "name": "tit"}, {"id": 2, "name": "owl"}],
}
RLE = {"size": [20, 30], "counts": [0, 600]}


class Project:
    """A folder with the datasets "train" and "val", two images each, and a config for them."""

    def __init__(self, folder):
        self.folder = folder
        self.train, self.val = copy.deepcopy(CONTENT), copy.deepcopy(CONTENT)
        self.cfg = get_cfg()
        add_long_tail_config(self.cfg)
        self.cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
        self.cfg.MODEL.MASK_ON = True
        for name in ("train", "val"):
            images = folder / name
            images.mkdir()
            for i in (1, 2):
                Image.new("RGB", (30, 20)).save(images / f"{i}.png")
            entry = {"JSON": str(folder / f"{name}.json"), "IMAGES": str(images)}
            self.cfg.DATASETS.REGISTER[name] = CfgNode(entry)
        self.cfg.DATASETS.TRAIN, self.cfg.DATASETS.TEST = ("train",), ("val",)

    def check(self):
        for name in ("train", "val"):
            (self.folder / f"{name}.json").write_text(json.dumps(getattr(self, name)))
        return check_datasets(self.cfg)


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


def found(report):
    return {(f.dataset, f.severity, f.kind): f.count for f in report.findings.values()}


def test_nothing_wrong(project):
    report = project.check()
    assert found(report) == {} and report.num_errors == 0
    text = str(report)
    assert "train.json: 2 images, 2 annotations, 2 categories" in text
    assert f"2 images needed from {project.folder / 'val'}" in text
    assert text.endswith("\nok")


@pytest.mark.parametrize(
    ("section", "change", "kind", "example"),
    [
        ("images", {"height": 21}, "images of another size", "is 30 x 20, annotated as 30 x 21"),
        ("images", {"height": 0}, "images without a size", "image 1: height and width are [0, 30]"),
        ("images", {"file_name": "no.png"}, "missing images", "no.png"),
        ("images", {"file_name": "no/1.png"}, "missing image folders", "train/no, for 1 images"),
        ("images", {"file_name": "../1.png"}, "images without a usable file name", "leads out"),
        ("images", {"neg_category_ids": [9]}, "unknown neg_category_ids", "image 1:"),
        ("images", {"neg_category_ids": 9}, "broken neg_category_ids", "expected a list"),
        (
            "images",
            {"not_exhaustive_category_ids": [9]},
            "unknown not_exhaustive_category_ids",
            "holds 9",
        ),
        (
            "annotations",
            {"bbox": [1, 2, 3]},
            "annotations without a box",
            "annotation 11 in image 1",
        ),
        ("annotations", {"bbox": [1, 2, 0, 4]}, "empty boxes", "annotation 11 in image 1"),
        ("annotations", {"bbox": [25, 2, 7, 4]}, "boxes outside the image", "of 30 x 20"),
        ("annotations", {"bbox": [-2, 2, 7, 4]}, "boxes outside the image", "of 30 x 20"),
        ("annotations", {"segmentation": [[1] * 7]}, "broken polygons", "polygon with 7 numbers"),
        ("annotations", {"segmentation": [[1] * 4]}, "broken polygons", "polygon with 4 numbers"),
        ("annotations", {"segmentation": [["1"] * 6]}, "broken polygons", "is not all numbers"),
        (
            "annotations",
            {"segmentation": [[1, 2, 4, 2, 4, 22]]},
            "polygons outside the image",
            "polygon 2.00 pixels outside",
        ),
        ("annotations", {"segmentation": RLE}, "RLE masks", "INPUT.MASK_FORMAT bitmask"),
        ("annotations", {"segmentation": []}, "annotations without segmentation", "MASK_ON"),
        ("annotations", {"category_id": 9}, "unknown categories", "category_id 9"),
        ("annotations", {"image_id": 9}, "unknown images", "annotation 11: image_id 9"),
        ("annotations", {"id": None}, "annotations without an id", "annotations[0]"),
        ("categories", {"name": 5}, "categories without a name", "category 1: name is 5"),
    ],
)
def test_one_problem(project, section, change, kind, example):
    project.train[section][0].update(change)
    report = project.check()
    findings = [f for f in report.findings.values() if f.dataset == "train"]
    assert [(f.severity, f.kind, f.count) for f in findings] == [("error", kind, 1)]
    assert example in findings[0].examples[0]
    assert f"  error: {kind}: 1\n    {findings[0].examples[0]}" in str(report)


def test_several_problems_are_counted(project):
    broken = {**project.train["annotations"][0], "bbox": [1, 2, 0, 0]}
    project.train["annotations"] = [{**broken, "id": i} for i in range(5)]
    project.train["images"].append(dict(project.train["images"][0]))
    report = project.check()
    assert found(report) == {
        ("train", "error", "duplicate ids of images"): 1,
        ("train", "error", "empty boxes"): 5,
    }
    finding = report.findings["train", "error", "empty boxes"]
    assert len(finding.examples) == 3 and "annotation 0" in finding.examples[0]
    assert str(report).endswith("\n6 problems")


def test_rounding_is_a_warning(project):
    project.train["annotations"][1]["bbox"] = [0, 0, 30.4, 20]
    project.train["annotations"][1]["segmentation"] = [[-0.5, 0, 30, 0, 30, 20]]
    report = project.check()
    assert [f.severity for f in report.findings.values()] == ["warning", "warning"]
    assert report.num_errors == 0 and str(report).endswith("\nok")


def test_unreadable_images(project):
    path = project.folder / "train" / "1.png"
    Image.effect_noise((30, 20), 50).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:-100])  # opens, but does not decode
    (project.folder / "train" / "2.png").write_bytes(b"<html>")
    assert found(project.check()) == {("train", "error", "unreadable images"): 2}


def test_exif_orientation_swaps_the_size(project):
    picture = Image.new("RGB", (20, 30))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(project.folder / "train" / "1.png", exif=exif)
    assert found(project.check()) == {}


def test_masks(project):
    project.cfg.INPUT.MASK_FORMAT = "bitmask"
    train, val = project.train["annotations"], project.val["annotations"]
    val[0]["segmentation"] = RLE
    train[0]["segmentation"] = {"size": [20, 31], "counts": [620]}
    train[1]["segmentation"] = {"size": [20, 30], "counts": "oo"}
    assert found(project.check()) == {
        ("train", "error", "RLE masks of the wrong size"): 1,
        ("train", "error", "broken RLE masks"): 1,
    }
    for annotation in train:
        annotation["segmentation"] = None
    project.cfg.MODEL.MASK_ON = False
    assert found(project.check()) == {}


def test_crowds_may_be_rle_or_without_mask(project):
    train = project.train["annotations"]
    train[0].update(iscrowd=1, segmentation=RLE)
    train[1].update(iscrowd=1, segmentation=None)
    assert found(project.check()) == {}


def test_number_of_classes(project):
    project.cfg.MODEL.ROI_HEADS.NUM_CLASSES = 80
    report = project.check()
    assert report.num_errors == 2
    assert "MODEL.ROI_HEADS.NUM_CLASSES is 80, but" in str(report)


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
    try:
        report = project.check()
    finally:
        DatasetCatalog.remove("other_lvis")
        MetadataCatalog.remove("other_lvis")
    assert found(report) == {("other_lvis", "error", "missing image folders"): 1}
    assert f"{root / 'train2017'}, for 1 images" in str(report)
    assert f"1 images needed from {root / 'val2017'}" in str(report)


def test_survives_junk(project):
    rng = random.Random(0)
    junk = [None, True, -1, 1e400, math.nan, "", "x", [], [[]], {}, {"id": 1}, 10**400]
    project.cfg.INPUT.MASK_FORMAT = "bitmask"
    project.train["annotations"][1]["segmentation"] = RLE
    original, errors = project.train, 0
    for _ in range(200):
        project.train = copy.deepcopy(original)
        for _ in range(rng.randint(1, 4)):
            replace_one_value(project.train, rng, junk)
        errors += project.check().num_errors > 0
    assert errors > 100
    for project.train in (None, [], 5, {}, {"images": [1], "annotations": {}}):
        assert project.check().num_errors > 0


def replace_one_value(content, rng, junk):
    node = content
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = rng.choice(keys)
        if not isinstance(node[key], (dict, list)) or not node[key] or rng.random() < 0.1:
            node[key] = copy.deepcopy(rng.choice(junk))
            return
        node = node[key]


@pytest.fixture
def load_config_returns(monkeypatch):
    """Stand in for reading a config file, which is the engine's business."""

    def stand_in(load_config):
        module = types.SimpleNamespace(load_config=load_config)
        monkeypatch.setitem(sys.modules, "eql_seesaw.engine.setup", module)

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
    assert capsys.readouterr().err == "error: x.yaml ['A', '1']: no such key\n"


@pytest.mark.skipif(not COCO200.is_dir(), reason="needs ../shared/data/coco200")
def test_real_photographs(project):
    for name in ("train", "val"):
        entry = project.cfg.DATASETS.REGISTER[name]
        entry.JSON = str(COCO200 / f"instances_{name}2017.json")
        entry.IMAGES = str(COCO200 / f"{name}2017")
    project.cfg.MODEL.ROI_HEADS.NUM_CLASSES = 80
    assert found(check_datasets(project.cfg)) == {}
