"""python -m eql_seesaw.evaluation, as users type it."""

import json

import numpy as np
import pycocotools.mask as mask_util
import pytest

from eql_seesaw.data.annotation_entries import compressed_rle
from eql_seesaw.evaluation.result import Result


def metrics(folder):
    return Result.load(str(folder)).metrics


def test_annotation_file(run, files, load, caplog, capsys):
    assert run("results.json", "--dataset", "val.json") is None
    # Where the log goes depends on what has run in this process before.
    output = caplog.text + capsys.readouterr().out
    assert "| box" in output and "| mask" in output
    assert (files / "results_evaluation" / "report" / "index.html").exists()
    assert metrics(files / "results_evaluation")["bbox"]["AP"] > 0
    assert "predictions.png: where the images are was not said (--images FOLDER)" in output
    # The copy that the report reads holds what was given.
    given = load("results.json")
    copied = load("results_evaluation/lvis_instances_results.json")

    def order(result):
        return result["image_id"], json.dumps(result, sort_keys=True)

    assert sorted(copied, key=order) == sorted(given, key=order)


def test_engines_and_further_numbers(run, files):
    options = ("TEST.FIXED_AP", "True", "TEST.BOUNDARY_AP", "True", "TEST.REPORT", "False")
    for engine in ("hotcoco", "lvis"):
        arguments = ("results.json", "--dataset", "val.json", "--output", engine)
        assert run(*arguments, "TEST.LVIS_ENGINE", engine, *options) is None
    assert metrics(files / "hotcoco") == metrics(files / "lvis")
    names = ["bbox", "segm", "bbox_fixed", "segm_fixed", "bbox_pool", "segm_pool", "boundary"]
    assert list(metrics(files / "hotcoco")) == names
    assert not (files / "hotcoco" / "report").exists()


def test_registered_dataset_with_groups_of_the_training_set(run, files, load):
    """A file in COCO format, whose groups come from the training set's class statistics."""
    dataset = load("val.json")
    for category in dataset["categories"]:
        del category["frequency"]
    for image in dataset["images"]:
        del image["neg_category_ids"], image["not_exhaustive_category_ids"]
    (files / "coco.json").write_text(json.dumps(dataset))
    (files / "config.yaml").write_text(
        "DATASETS:\n"
        "  REGISTER: {tiny: {JSON: coco.json, IMAGES: .}}\n"
        "  TRAIN: ('tiny',)\n"
        "MODEL: {ROI_HEADS: {NUM_CLASSES: 6}}\n"
    )
    arguments = ("results.json", "--dataset", "tiny", "--config-file", "config.yaml")
    assert run(*arguments, "TEST.REPORT", "False") is None
    record = Result.load(str(files / "results_evaluation"))
    assert {category["group"] for category in record.categories} == {"r"}
    assert record.categories[0]["train_images"] > 0
    assert "frequency; give a config whose training set" in run(
        "results.json", "--dataset", "coco.json"
    ).replace('"', "")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda text: text[:-30], "results.json: Input data was truncated"),
        (
            lambda text: text.replace('"score": 0', '"score": NaN, "x": 0', 1),
            "results.json: JSON is malformed: invalid character (byte",
        ),
        (lambda text: text.replace('"image_id": ', '"image_id": 9'), "detection 0 has image_id 9"),
        (lambda text: text.replace("[150, 190]", "[190, 151]"), "has a mask of size [190, 151]"),
        (lambda text: text.replace('"category_id": 2,', '"category_id": 99,'), "category_id 99"),
    ],
)
def test_bad_results(run, files, change, message):
    path = files / "results.json"
    path.write_text(change(path.read_text()))
    assert message in run("results.json", "--dataset", "val.json")
    assert sorted(p.name for p in files.rglob("*") if p.is_file()) == ["results.json", "val.json"]


def test_other_mistakes(run, files):
    assert "no such file: nowhere.json" in run("nowhere.json", "--dataset", "val.json")
    line = run("results.json", "--dataset", "other.json")
    assert "No such file or directory: 'other.json'" in line
    assert "no dataset is registered as 'vall'" in run("results.json", "--dataset", "vall")
    line = run("results.json", "--dataset", "val.json", "--output", "val.json")
    assert line == "error: --output val.json is a file; name a folder"
    line = run("results.json", "--dataset", "val.json", "TEST.LVIS_ENGINE", "coco")
    assert "TEST.LVIS_ENGINE is 'coco'" in line
    line = run("results.json", "--dataset", "val.json", "TEST.LVIS_MAX_DETECTIONS", "0")
    assert "TEST.LVIS_MAX_DETECTIONS is 0" in line


def test_masks_of_other_tools(run, files, load):
    """Polygons and uncompressed RLE."""
    images = load("val.json")["images"]
    size = {image["id"]: (image["height"], image["width"]) for image in images}
    results, theirs = load("results.json"), []
    for i, result in enumerate(results):
        x, y, width, height = result["bbox"]
        polygons = [[x, y, x + width, y, x + width, y + height, x, y + height]]
        rle = compressed_rle(polygons, *size[result["image_id"]])
        runs = np.flatnonzero(np.diff(mask_util.decode(rle).ravel("F"), prepend=0))
        counts = np.diff(runs, prepend=0, append=np.prod(rle["size"])).tolist()
        mask = {"size": rle["size"], "counts": counts} if i % 2 else polygons
        theirs.append({**result, "segmentation": mask})
        result["segmentation"] = {**rle, "counts": rle["counts"].decode()}
    (files / "results.json").write_text(json.dumps(results))
    (files / "theirs.json").write_text(json.dumps(theirs))
    for name in ("results", "theirs"):
        assert run(f"{name}.json", "--dataset", "val.json", "TEST.REPORT", "False") is None
    assert metrics(files / "theirs_evaluation") == metrics(files / "results_evaluation")
    written = [load(f"{x}_evaluation/lvis_instances_results.json") for x in ("results", "theirs")]
    assert written[0] == written[1]


def test_well_formed_but_wrong(run, files, load, caplog):
    results = load("results.json")
    images = {image["id"]: image for image in load("val.json")["images"]}
    for result in results:
        width, height = (images[result["image_id"]][key] for key in ("width", "height"))
        result["score"] *= 100
        result["bbox"] = [0.6 * width, 0.6 * height, width, height]
    (files / "results.json").write_text(json.dumps(results))
    assert run("results.json", "--dataset", "val.json", "TEST.REPORT", "False") is None
    assert "if they are percent, divide by 100" in caplog.text
    assert f"{len(results)} of {len(results)} boxes lead out of their image" in caplog.text
