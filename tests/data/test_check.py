import json

import pytest
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from eql_seesaw.data.check import main

from .project_to_check import found


def test_nothing_wrong(project):
    report = project.check()
    assert found(report) == {} and report.num_errors == 0
    text = str(report)
    assert "train.json: 2 images, 2 annotations, 2 categories" in text
    assert f"2 images needed from {project.folder / 'val'}" in text
    assert text.endswith("\nok")


def test_other_classes_are_refused_as_by_training(project):
    project.val["categories"][1]["name"] = "swan"
    report = project.check()
    assert found(report) == {("val", "error", "other classes"): 1}
    assert "class 1 is 'swan' in 'val', but 'owl' in 'train'" in str(report)
    project.cfg.MODEL.ROI_HEADS.NUM_CLASSES = 80
    report = project.check()
    assert report.num_errors == 3
    assert "NUM_CLASSES is 80, but dataset 'train' has 2 classes" in str(report)
    project.cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    project.cfg.DATASETS.TRAIN, project.cfg.DATASETS.TEST = ("train", "val"), ()
    report = project.check()
    assert report.num_errors == 1 and "'swan' in 'val', but 'owl' in 'train'" in str(report)


def test_images_shared_with_training(project):
    project.cfg.DATASETS.REGISTER.val.IMAGES = project.cfg.DATASETS.REGISTER.train.IMAGES
    report = project.check()
    assert found(report) == {("val", "warning", "images shared with training"): 2}
    assert report.num_errors == 0
    project.cfg.DATASETS.TEST = ("train",)
    assert found(project.check()) == {("train", "warning", "images shared with training"): 2}


def test_files_that_cannot_be_read(project):
    register = project.cfg.DATASETS.REGISTER
    register.cut = CfgNode({"JSON": str(project.folder / "cut.json"), "IMAGES": "images"})
    (project.folder / "cut.json").write_text('{"images": [')
    register.missing = CfgNode({"JSON": "no/such.json", "IMAGES": "images"})
    register.wrong_key = CfgNode({"JSN": "x"})
    DatasetCatalog.register("by_code", lambda: [])
    project.cfg.DATASETS.TEST = ("cut", "missing", "wrong_key", "nowhere", "by_code", "val")
    report = project.check()
    assert found(report) == {
        ("cut", "error", "unreadable annotation file"): 1,
        ("missing", "error", "unreadable annotation file"): 1,
        ("wrong_key", "error", "not registered"): 1,
        ("nowhere", "error", "not registered"): 1,
        ("by_code", "warning", "no annotation file"): 1,
    }
    assert "No such file or directory: 'no/such.json'" in str(report)
    assert "val.json: 2 images" in str(report)  # the others are examined all the same
    project.cfg.DATASETS.TRAIN = project.cfg.DATASETS.TEST = ()
    assert found(project.check()) == {
        ("DATASETS.TRAIN", "error", "no dataset"): 1,
        ("DATASETS.TEST", "warning", "no dataset"): 1,
    }


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
    assert found(report) == {("other_lvis", "error", "missing images"): 1}
    assert f"1 images needed from {root / 'train2017'}" in str(report)
    assert f"1 images needed from {root / 'val2017'}" in str(report)


@pytest.mark.parametrize(
    ("change", "kind", "example"),
    [
        ({"height": 21}, "images of another size", "1.png is 30 x 20, annotated as 30 x 21"),
        ({"file_name": "no.png"}, "missing images", "no.png"),
        ({"file_name": "no/1.png"}, "missing images", "train/no/1.png"),
    ],
)
def test_images_that_do_not_fit(project, change, kind, example):
    project.train["images"][0].update(change)
    report = project.check()
    assert found(report) == {("train", "error", kind): 1} and example in str(report)
    project.cfg.DATALOADER.UNREADABLE_IMAGES = "skip"  # then training goes on without it
    report = project.check()
    assert found(report) == {("train", "warning", kind): 1} and report.num_errors == 0


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


def test_compressed_masks_are_looked_into(project):
    project.cfg.INPUT.MASK_FORMAT = "bitmask"
    rle = {"size": [20, 30], "counts": "oo"}
    for content in (project.train, project.val):
        content["annotations"][1]["segmentation"] = rle
    report = project.check()
    assert report.num_errors == 2
    assert 'annotation 12: segmentation.counts are "oo", which is no RLE' in str(report)


def test_command_line(project, capsys, monkeypatch):
    monkeypatch.setattr("eql_seesaw.config.load_config", lambda config_file, opts: project.cfg)
    project.write()
    assert main(["--config-file", "x.yaml"]) == 0
    output = capsys.readouterr()
    assert output.out.endswith("\nok\n") and output.err == ""
    (project.folder / "train" / "1.png").unlink()
    assert main(["--config-file", "x.yaml"]) == 1
    assert capsys.readouterr().out.endswith("\n1 problem\n")


def test_command_line_with_a_bad_config():
    with pytest.raises(SystemExit, match="^error: .*no.yaml"):
        main(["--config-file", "no.yaml"])
