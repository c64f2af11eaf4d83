"""Data that are well-formed but suspicious: each row is found by one check, and by no other."""

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.config import CfgNode, get_cfg
from PIL import Image

from eql_seesaw.config import add_long_tail_config
from eql_seesaw.data.check_datasets import check_datasets
from eql_seesaw.data.pictures import DEEP, EXIF_ORIENTATION, TURNED
from eql_seesaw.data.register import register_datasets
from eql_seesaw.data.training_set import load_training_set

from .project_to_check import CONTENT, found


def on(section, **change):
    return lambda content: content[section][0].update(change)


def repeated_name(content):
    content["categories"][1]["name"] = "tit"


def class_without_objects(content):
    content["annotations"] = content["annotations"][:1]


def repeated_object(content):
    content["annotations"].append({**content["annotations"][0], "id": 13})


def all_crowds_but_one(content):
    content["annotations"][1]["iscrowd"] = 1


def named(name):
    return lambda content: content["categories"][0].update(name=name)


FRACTIONS = "boxes of less than a pixel, as with coordinates from 0 to 1"
OF_BOTH = ("repeated category names", "categories of the background")
IN_IMAGE = "annotation 11 in image 1 of 30 x 20: "


@pytest.mark.parametrize(
    ("change", "kind", "example"),
    [
        (on("annotations", bbox=[1, 2, 0, 4]), "empty boxes", f"{IN_IMAGE}bbox [1.0, 2.0, 0.0, 4"),
        (
            on("annotations", bbox=[25, 2, 7, 4]),
            "boxes outside the image",
            f"{IN_IMAGE}bbox [25.0, 2.0, 7.0, 4.0] [x, y, width, height]",
        ),
        (
            on("annotations", bbox=[20, 12, 28, 18]),
            "boxes outside the image",
            "[x, y, width, height], which would fit as [x0, y0, x1, y1]",
        ),
        (
            on("annotations", segmentation=[[1, 2, 4, 2, 4, 6], [1, 2, 4, 2, 4, 22]]),
            "polygons outside the image",
            f"{IN_IMAGE}polygon 2.00 pixels outside",
        ),
        (on("annotations", bbox=[0.1, 0.2, 0.5, 0.6]), FRACTIONS, f"{IN_IMAGE}bbox [0.1, 0.2, 0.5"),
        (
            on("annotations", bbox=[24, 14, 12, 12]),
            "boxes outside the image",
            "which would fit as [center x, center y, width, height]",
        ),
        (
            on("annotations", bbox=[18, 1, 10, 10], segmentation=[[1, 9, 9, 9, 9, 19, 1, 19]]),
            "masks that lie elsewhere than their boxes",
            "[18.0, 1.0, 10.0, 10.0], but its mask lies in [1.0, 9.0, 8.0, 10.0]",
        ),
        (
            on("annotations", area=300),
            "areas that do not fit their boxes",
            f"{IN_IMAGE}bbox [1.0, 2.0, 3.0, 4.0], but its area is 300",
        ),
        (repeated_object, "objects that are listed twice", "annotation 13 in image 1 of 30 x 20"),
        (on("images", file_name="2.png"), "images that are listed twice", 'image 1: "2.png"'),
        (
            all_crowds_but_one,
            "categories that cannot be learnt",
            'category 2: "owl" has crowds only',
        ),
        (named("__background__"), "categories of the background", 'category 1: "__background__"'),
        (class_without_objects, "categories that cannot be learnt", 'category 2: "owl" has no ann'),
        (repeated_name, "repeated category names", 'category 1: "tit"'),
    ],
)
def test_suspicious(project, change, kind, example):
    change(project.train)
    count = 2 if kind in ("repeated category names", "images that are listed twice") else 1
    expected = {("train", "warning", kind): count}
    if kind in OF_BOTH:
        change(project.val)
        expected["val", "warning", kind] = count
    report = project.check()
    assert found(report) == expected and report.num_errors == 0
    finding = report.findings["train"].found["warning", kind]
    assert example in finding.examples[0]
    assert f"  warning: {kind}: {finding.count}\n    {finding.examples[0]}" in str(report)


def test_rounding_is_not(project):
    project.train["annotations"][1]["bbox"] = [0, -0.5, 30.4, 20]
    project.train["annotations"][1]["segmentation"] = [[-0.5, 0, 30, 0, 31, 20]]
    assert found(project.check()) == {}


def test_all_are_counted_and_three_are_shown(project):
    broken = {**project.train["annotations"][0], "bbox": [1, 2, 0, 0]}
    project.train["annotations"][1:] = [
        {**broken, "id": i, "category_id": 2, "bbox": [1, i, 0, 0]} for i in range(5)
    ]
    report = project.check()
    assert found(report) == {("train", "warning", "empty boxes"): 5}
    (finding,) = report.findings["train"].found.values()
    assert len(finding.examples) == 3 and "annotation 0 in image 1" in finding.examples[0]
    assert f"    {finding.examples[2]}\n    ...\n" in str(report)


def test_objects_are_compared_with_their_masks(project):
    """One box with three masks, of which two are the same, in an order that parts them."""
    first = {"image_id": 2, "category_id": 2, "bbox": [2, 2, 9, 9]}
    masks = [[2, 2, 11, 2, 11, 11], [2, 2, 11, 2, 11, 10], [2, 2, 11, 2, 11, 11]]
    project.train["annotations"] += [
        {**first, "id": 20 + i, "segmentation": [mask]} for i, mask in enumerate(masks)
    ]
    assert found(project.check()) == {("train", "warning", "objects that are listed twice"): 1}


def test_classes_are_learnt_from_all_training_sets_together(project):
    """Each of the two has objects of one class."""
    project.train["annotations"] = project.train["annotations"][:1]
    project.val["annotations"] = project.val["annotations"][1:]
    project.cfg.DATASETS.TRAIN = ("train", "val")
    kinds = {kind for _, _, kind in found(project.check())}
    assert "categories that cannot be learnt" not in kinds
    project.val["annotations"][0]["category_id"] = 1
    report = project.check()
    assert found(report)["train", "warning", "categories that cannot be learnt"] == 1


def large_dataset(project, num_images=20):
    """Images of 100 x 80, each with an object in a box and a mask that fit."""
    project.train = {"categories": CONTENT["categories"], "images": [], "annotations": []}
    for i in range(1, num_images + 1):
        name = f"picture {i}.png"
        Image.new("L", (100, 80), i).save(project.folder / "train" / name)
        project.train["images"].append({"id": i, "file_name": name, "height": 80, "width": 100})
        corners = [[i, 5, i + 40, 5, i + 40, 25, i, 25]]
        annotation = {"id": i, "image_id": i, "category_id": 1 + i % 2, "bbox": [i, 5, 40, 20]}
        project.train["annotations"].append({**annotation, "segmentation": corners})
    return project.train


def start(project, caplog):
    """Lines that the start of a training logs about its data."""
    project.cfg.INPUT.MASK_FORMAT = "bitmask"
    project.write()
    register_datasets(project.cfg)
    load_training_set(project.cfg)
    return [r.getMessage() for r in caplog.records if "in a sample of" in r.getMessage()]


def in_rows(content):
    """Masks as RLE that were written row by row, as by numpy's own order."""
    for annotation in content["annotations"]:
        x, y, width, height = annotation["bbox"]
        mask = np.zeros((80, 100), np.uint8)
        mask[y : y + height, x : x + width] = 1
        rle = mask_util.encode(np.asfortranarray(mask.reshape(100, 80).T))
        annotation["segmentation"] = {"size": [80, 100], "counts": rle["counts"].decode()}


def y_before_x(content):
    for annotation in content["annotations"]:
        (polygon,) = annotation["segmentation"]
        annotation["segmentation"] = [[polygon[i ^ 1] for i in range(len(polygon))]]


def each(**change):
    return lambda content: [a.update(change) for a in content["annotations"]]


def mostly_crowds(content):
    for annotation in content["annotations"][:15]:
        annotation["iscrowd"] = 1


def twice(content):
    content["annotations"] += [{**a, "id": a["id"] + 100} for a in content["annotations"]]


@pytest.mark.parametrize(
    "change, expected",
    [
        (in_rows, "20 of 20 are masks that lie elsewhere than their boxes, such as annotation 1"),
        (y_before_x, "are masks that lie elsewhere than their boxes"),
        (mostly_crowds, "15 of 20 are crowds (iscrowd), which training leaves out"),
        (twice, "20 of 40 are objects that are listed twice"),
        (each(bbox=[0, 0, 100, 80], segmentation=[[0, 0, 100, 0, 100, 80, 0, 80]]), "whole image"),
        (each(bbox=[60, 40, 90, 70], segmentation=[[60, 40, 90, 40, 90, 70]]), "[x0, y0, x1, y1]"),
    ],
)
def test_start_of_a_training_looks_at_a_sample(project, caplog, change, expected):
    content = large_dataset(project)
    assert start(project, caplog) == []
    change(content)
    (line,) = start(project, caplog)
    assert expected in line and line.startswith("dataset 'train', in a sample of 20 images: ")


def save_all(project, save, number=20):
    for image in project.train["images"][:number]:
        save(project.folder / "train" / image["file_name"])


def deep(path, value=30_000):
    Image.fromarray(np.full((80, 100), value, np.uint16)).save(path)


def turned(path):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 3
    Image.new("L", (100, 80)).save(path, exif=exif)


@pytest.mark.parametrize("what", ["fractions", "deep pictures"])
def test_data_of_which_nothing_can_be_learnt_are_refused(project, caplog, what):
    content = large_dataset(project)
    if what == "fractions":
        each(bbox=[0.1, 0.2, 0.3, 0.4], segmentation=[[0.1, 0.2, 0.4, 0.2, 0.4, 0.6]])(content)
        expected = FRACTIONS
    else:
        save_all(project, deep)
        expected = DEEP
    with pytest.raises(
        ValueError, match=f"DATASETS.TRAIN: dataset 'train': 20 of 20 are {expected}"
    ):
        start(project, caplog)
    assert found(project.check())["train", "error", expected] == 20


@pytest.mark.parametrize("save, kind", [(deep, DEEP), (turned, TURNED)])
def test_pictures_that_are_read_as_others_than_they_look(project, caplog, save, kind):
    large_dataset(project)
    save_all(project, save, number=10)
    (line,) = start(project, caplog)
    assert f"10 of 20 are {kind}" in line
    assert found(project.check())["train", "warning", kind] == 10


def test_deep_pictures_of_8_bits_are_read_as_they_look(project, caplog):
    large_dataset(project)
    save_all(project, lambda path: deep(path, value=100))
    assert start(project, caplog) == []


def test_picture_that_was_annotated_as_it_is_stored(project):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    Image.new("RGB", (30, 20)).save(project.folder / "train" / "1.png", exif=exif)
    report = project.check()
    (line,) = report.findings["train"].found["error", "images of another size"].examples
    assert "is 20 x 30, annotated as 30 x 20; EXIF: orientation 6, but annotated as it is" in line


def test_photographs_are_as_they_should_be(coco200, caplog):
    """Real annotations and pictures, in which every finding would be a false one."""
    cfg = get_cfg()
    add_long_tail_config(cfg)
    for split in ("train", "val"):
        entry = {
            "JSON": f"{coco200}/instances_{split}2017.json",
            "IMAGES": f"{coco200}/{split}2017",
        }
        cfg.DATASETS.REGISTER[split] = CfgNode(entry)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("train",), ("val",)
    report = check_datasets(cfg)
    assert found(report) == {("train", "warning", "categories that cannot be learnt"): 11}
    register_datasets(cfg)
    load_training_set(cfg)
    assert "in a sample of" not in caplog.text
