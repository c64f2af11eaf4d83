"""Annotation files: the same is accepted in training, in an evaluation and by the check."""

import copy
import gzip
import json
import logging
import math
import random

import pytest

from eql_seesaw.data.annotated_images import read_annotated_images
from eql_seesaw.data.annotation_file import AnnotationFile, Needs
from eql_seesaw.data.check_datasets import check_datasets
from eql_seesaw.data.findings import shorten
from eql_seesaw.data.register import register_datasets
from eql_seesaw.data.training_set import load_training_set
from eql_seesaw.evaluation.ground_truth import load_ground_truth

from .junk import replace_one_value

RLE = {"size": [20, 30], "counts": [0, 600]}
NAN = math.nan


def three_ways(project, caplog):
    """Error or warnings of training, evaluation and check about the training set."""
    project.write()
    cfg = project.cfg
    json_file = cfg.DATASETS.REGISTER.train.JSON
    register_datasets(cfg)
    said = []
    for read in (
        lambda: load_training_set(cfg),
        lambda: load_ground_truth(json_file, ["r", "c"], Needs.of(cfg, is_train=False)),
    ):
        caplog.clear()
        try:
            read()
            warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
            said.append([text for text in warnings if text.startswith(json_file)])
        except ValueError as error:
            assert "\n" not in str(error)
            said.append(f"error: {error}")
    found = check_datasets(cfg).findings["train"].found.values()
    found = [finding for finding in found if finding.kind not in ELSEWHERE]
    errors = [f"error: {json_file}: {finding}" for finding in found if finding.severity == "error"]
    warnings = [f"{json_file}: {finding}" for finding in found]
    return [*said, errors[0] if errors else warnings]


# Suspicious data and image files are no matter of the annotation file.
ELSEWHERE = {
    "categories that cannot be learnt",
    "polygons outside the image",
    "empty boxes",
    "boxes outside the image",
    "boxes of the whole image",
    "masks that lie elsewhere than their boxes",
    "areas that do not fit their boxes",
    "objects that are listed twice",
    "images that are listed twice",
    "repeated category names",
    "missing images",
    "images of another size",
}


@pytest.mark.parametrize(
    ("section", "change", "expected"),
    [
        ("images", {"id": "1"}, 'images[0]: id is "1": Expected `int`, got `str` - at `$.id`'),
        ("images", {"id": 2**63}, f"image {2**63}: id is {2**63}: Expected `int` <="),
        ("images", {"height": "20"}, 'image 1: height is "20": Expected `int`'),
        ("images", {"width": 0}, "image 1: width is 0: Expected `int` >= 1"),
        ("images", {"height": None}, "image 1: height is null: Expected `int`"),
        ("images", {"neg_category_ids": 3}, "image 1: neg_category_ids is 3: Expected `array`"),
        ("images", {"file_name": "../1.png"}, "image 1: '../1.png' leads out of the image folder"),
        ("images", {"file_name": "a\\..\\1.png"}, "leads out of the image folder"),
        ("images", {"file_name": 5}, 'image 1: no "file_name" and no "coco_url"'),
        ("annotations", {"image_id": "1"}, 'annotation 11: image_id is "1": Expected `int`'),
        ("annotations", {"bbox": [1, 2, 3]}, "11: bbox is [1, 2, 3]: Expected `array` of length 4"),
        ("annotations", {"bbox": [1, 2, NAN, 4]}, "annotation 11: bbox is [1, 2, NaN, 4]: Expec"),
        ("annotations", {"bbox": None, "segmentation": None}, "annotation 11: bbox is missing"),
        ("annotations", {"area": "big"}, 'annotation 11: area is "big": Expected `int | float'),
        ("annotations", {"segmentation": None}, "11: segmentation is missing, but MODEL.MASK_ON"),
        ("annotations", {"segmentation": "x"}, '11: segmentation is "x": Expected `object | array'),
        (
            "annotations",
            {"segmentation": [[1, 2, 3, 4]]},
            "is [[1, 2, 3, 4]]: Expected `array` of",
        ),
        ("annotations", {"segmentation": [[1] * 7]}, "11: segmentation[0] has 7 numbers, expec"),
        (
            "annotations",
            {"segmentation": [[1] * 99 + [NAN]]},
            "at `$.segmentation[0][99]`",
        ),
        (
            "annotations",
            {"segmentation": {"size": [20, 30]}},
            'segmentation is {"size": [20, 30]}: Object missing required field `counts`',
        ),
        (
            "annotations",
            {"segmentation": {"size": [30, 20], "counts": [0, 600]}},
            "11: segmentation.size is [30, 20], but the image has [20, 30]",
        ),
        (
            "annotations",
            {"segmentation": {"size": [20, 30], "counts": [0, 24]}},
            "11: segmentation.counts are 24 pixels, but the image has 600",
        ),
        (
            "categories",
            {"frequency": "rare"},
            "category 1: frequency is \"rare\": Invalid enum value 'rare'",
        ),
    ],
)
def test_refused(project, caplog, section, change, expected):
    project.train[section][0].update(change)
    training, evaluation, check = three_ways(project, caplog)
    assert training.startswith("error: ") and expected in training
    assert training == check
    assert evaluation == training


@pytest.mark.parametrize(
    ("section", "change", "expected"),
    [
        ("images", {"neg_category_ids": [2, 7]}, "image 1: neg_category_ids holds 7, in no cat"),
        ("images", {"not_exhaustive_category_ids": [7]}, "not_exhaustive_category_ids holds 7"),
        ("images", {"id": 2}, "image 2: the id is repeated; the last one counts"),
        ("annotations", {"image_id": 9}, "annotation 11: image_id 9 is not in images; it is"),
        ("annotations", {"category_id": 9}, "11: category_id 9 is not in categories; it is left"),
        ("annotations", {"id": 12}, "annotation 12: the id is repeated"),
        ("annotations", {"iscrowd": None}, "annotation 11: iscrowd is null, not 0 or 1"),
        ("annotations", {"iscrowd": NAN}, "annotation 11: iscrowd is NaN, not 0 or 1"),
        ("annotations", {"area": NAN}, "annotation 11: area is NaN; that of mask or box is taken"),
        ("categories", {"name": None}, "category 1: name is null, so that it is called 1"),
    ],
)
def test_of_no_consequence(project, caplog, section, change, expected):
    """The ``lvis`` package gives a number, and so do we."""
    project.train[section][0].update(change)
    training, evaluation, check = three_ways(project, caplog)
    assert expected in training[0]
    assert training == evaluation == check


@pytest.mark.parametrize(
    ("section", "change"),
    [
        ("images", {"id": 1.0, "height": 20.0}),
        ("images", {"neg_category_ids": None, "note": NAN}),
        ("annotations", {"bbox": None}),
        ("annotations", {"iscrowd": False, "area": None}),
        ("annotations", {"iscrowd": 1, "segmentation": RLE}),
        ("annotations", {"id": -5, "area": 0, "note": 10**400}),
        ("annotations", {"segmentation": [[-9, 2, 99, 2.5, 4, 6]]}),
        ("categories", {"frequency": None, "note": "\ud800"}),
    ],
)
def test_accepted(project, caplog, section, change):
    project.train[section][0].update(change)
    if change.get("neg_category_ids", 0) is None:
        del project.train[section][0]["neg_category_ids"]
    assert three_ways(project, caplog) == [[], [], []]


def test_large_ids(project, caplog):
    for section, key in (("images", "image_id"), ("categories", "category_id")):
        project.train[section][0]["id"] = project.train["annotations"][0][key] = 2**62 + 1
    project.train["annotations"][0]["id"] = -(2**62)
    assert three_ways(project, caplog) == [[], [], []]


@pytest.mark.parametrize("section", ["images", "annotations", "categories"])
def test_missing_section(project, caplog, section):
    project.train[section] = {}
    assert all(f"{section}: no list" in said for said in three_ways(project, caplog))
    project.train[section] = []
    training, evaluation, check = three_ways(project, caplog)
    if section == "annotations":  # of which nothing can be learnt, but which can be evaluated
        assert "no annotations to train on" in training and "no annotations to train" in check
        assert evaluation == []
    else:
        assert f"{section}: the list is empty" in training
        assert training == evaluation == check


def test_needs_of_the_config(project, caplog):
    project.train["annotations"][0]["segmentation"] = RLE
    expected = "annotation 11: segmentation is an RLE, which needs INPUT.MASK_FORMAT bitmask"
    training, evaluation, check = three_ways(project, caplog)
    assert expected in training and training == check and evaluation == []
    project.cfg.INPUT.MASK_FORMAT = "bitmask"
    assert three_ways(project, caplog) == [[], [], []]

    project.train["annotations"][0]["segmentation"] = None
    assert all(said.startswith("error") for said in three_ways(project, caplog))
    project.cfg.MODEL.MASK_ON = False
    assert three_ways(project, caplog) == [[], [], []]


def test_counts_what_is_of_one_kind(project, caplog):
    for annotation in project.train["annotations"]:
        annotation["bbox"] = "x"
    training, evaluation, check = three_ways(project, caplog)
    assert training == evaluation == check
    assert training.endswith(
        'train.json: annotation 11: bbox is "x": Expected `array | null`, got `str` - at `$.bbox` '
        "(the first of 2 annotations with a broken bbox)"
    )


def test_annotations_of_a_broken_image_are_not_mentioned(project):
    project.train["images"][0]["height"] = -1
    project.write()
    file = AnnotationFile(str(project.folder / "train.json"))
    assert [annotation.id for _, annotation in file.annotations()] == [12]
    assert [finding.kind for finding in file.findings.found.values()] == [
        "images with a broken height"
    ]


def test_junk_is_one_line_or_the_same_for_all(project, caplog):
    rng = random.Random(0)
    original, errors = project.train, 0
    for _ in range(100):
        project.train = copy.deepcopy(original)
        replace_one_value(project.train, rng)
        training, evaluation, check = three_ways(project, caplog)
        if "no annotations to train on" not in training:
            assert training == evaluation == check
        errors += isinstance(training, str)
    assert 20 < errors < 90


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b'{"images": [', "not JSON, or not complete"),
        (b"", "not JSON, or not complete"),
        (b"[" * 100_000, "not JSON, or not complete"),
        (
            b'{"images": [{"note": "\xe9"}]}',
            "not JSON, or not complete: 'utf-8' codec can't decode",
        ),
        (gzip.compress(b"{}", mtime=0), "not JSON, or not complete"),
        (b"<!DOCTYPE html>", "not JSON, or not complete"),
        (b"[]", "holds no object but a list"),
    ],
)
def test_file_that_is_no_json_object(tmp_path, text, expected):
    json_file = tmp_path / "x.json"
    json_file.write_bytes(text)
    for read in (AnnotationFile, lambda path: read_annotated_images(path, ""), load_ground_truth):
        with pytest.raises(ValueError) as info:
            read(str(json_file))
        message = str(info.value)
        assert message.startswith(f"{json_file}: {expected}") and "\n" not in message
        with pytest.raises(FileNotFoundError, match="No such file or directory: '.*nowhere.json'"):
            read("nowhere.json")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings(tmp_path, encoding):
    json_file = tmp_path / "x.json"
    categories = [
        {"id": 1, "name": "é", "note": "\ud800"},
        {"id": 2, "area": math.nan, "x": 10**400},
    ]
    json_file.write_text(json.dumps({"categories": categories}), encoding)
    assert list(AnnotationFile(str(json_file)).categories.values()) == [
        categories[0],
        {"id": 2, "name": "2", "area": "NaN", "x": 10**400},
    ]


def test_text_of_a_value_stays_short():
    assert shorten("ab") == '"ab"'
    assert shorten(list(range(1000))) == repr(list(range(1000)))[:37] + "..."


@pytest.mark.parametrize(
    "change, expected",
    [
        ({"segmentation": [[1, 2, 9e8, 2, 4, 6]]}, "900000000.0"),
        ({"segmentation": {"size": [65_000] * 2, "counts": "04"}}, "segmentation.size is [65000"),
        ({"segmentation": {"size": [20, 30], "counts": [0, 2**33]}}, "counts are 8589934592 pix"),
        ({"bbox": [0, 0, 9e8, 3]}, "900000000.0"),
    ],
)
def test_sizes_that_nobody_means(project, caplog, change, expected):
    project.cfg.INPUT.MASK_FORMAT = "bitmask"
    project.train["annotations"][0].update(change)
    said = three_ways(project, caplog)
    assert all(expected in line and line.startswith("error") for line in said)


def test_areas_of_large_objects(project, caplog):
    project.train["images"][0].update(width=10_000, height=10_000)
    large = {"bbox": [0, 0, 9000, 9000], "segmentation": [[0, 0, 9000, 0, 9000, 9000, 0, 9000]]}
    project.train["annotations"][0].update(large, area=81_000_000)
    assert three_ways(project, caplog) == [[], [], []]


def test_images_that_are_too_large(project, caplog):
    project.train["images"][0].update(width=20_000, height=20_000)
    expected = "20000 x 20000 pixels, more than INPUT.MAX_IMAGE_PIXELS, 178956970"
    said = three_ways(project, caplog)
    assert all(expected in line and line.startswith("error") for line in said)
    project.cfg.INPUT.MAX_IMAGE_PIXELS = 400_000_000
    training, evaluation, _ = three_ways(project, caplog)
    assert training == evaluation == []


@pytest.mark.parametrize(
    "name, called",
    [("line\nbreak", "line break"), ("bell\a", "bell\\u0007"), ("half \ud83e", "half \\ud83e")],
)
def test_odd_names_of_classes(project, caplog, name, called):
    project.train["categories"][0]["name"] = name
    training, evaluation, check = three_ways(project, caplog)
    assert training == evaluation == check and f"so that it is called {called}" in training[0]
    assert load_training_set(project.cfg).class_names[0] == called


def test_names_with_joiners_stay(project, caplog):
    project.train["categories"][0]["name"] = "\N{MAN}\N{ZERO WIDTH JOINER}\N{ROCKET} \u4eba"
    assert three_ways(project, caplog) == [[], [], []]


@pytest.mark.parametrize("annotations", [None, []])
def test_set_for_a_server_has_no_annotations(project, annotations):
    del project.train["annotations"]
    if annotations is not None:
        project.train["annotations"] = annotations
    project.write()
    ground_truth = load_ground_truth(project.cfg.DATASETS.REGISTER.train.JSON, ["r", "c"])
    assert ground_truth["annotations"] == [] and len(ground_truth["images"]) == 2
