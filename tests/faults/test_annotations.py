"""Annotation files that are wrong, given to a training."""

import json

import pytest

from .conftest import check_error, override, own_annotations, own_images


def fault(done, gives, change, pattern, marked_id):
    marks = pytest.mark.fault(f"Annotation file: {done}", gives)
    return pytest.param(change, pattern, marks=marks, id=marked_id)


def set_in(section, index, **values):
    def change(content):
        content[section][index].update(values)

    return change


def remove_annotations(content):
    content["annotations"] = []


def remove_sizes(content):
    for image in content["images"]:
        del image["height"], image["width"]


LINE = "one line with file, entry and value, before anything is written"


@pytest.mark.parametrize(
    "change, pattern",
    [
        fault(
            "a box with NaN",
            LINE,
            set_in("annotations", 4, bbox=[1, float("nan"), 2, 2]),
            r"train.json: annotation 5: bbox is \[1, NaN, 2, 2\]",
            "nan_box",
        ),
        fault(
            "a mask (RLE) of another size than its image",
            LINE,
            set_in("annotations", 4, segmentation={"size": [5, 5], "counts": [25]}),
            r"train.json: annotation 5: segmentation.size is \[5, 5\]",
            "mask_size",
        ),
        fault(
            "a polygon of two points",
            LINE,
            set_in("annotations", 0, segmentation=[[1, 1, 5, 5]]),
            r"annotation 1: segmentation is \[\[1, 1, 5, 5\]\]: Expected `array` of length >= 6",
            "polygon",
        ),
        fault(
            "no annotations at all",
            "one line with the dataset, before anything is written",
            remove_annotations,
            "DATASETS.TRAIN: symbols_train: no annotations to train on",
            "no_annotations",
        ),
        fault(
            "images without height and width",
            LINE + ", and how many have it",
            remove_sizes,
            r"train.json: image \d+: height is missing: .* \(the first of \d+",
            "no_sizes",
        ),
        fault(
            "a file name that leads out of the image folder (`../../etc/passwd`)",
            "one line; the file is not opened",
            set_in("images", 0, file_name="../../etc/passwd"),
            r"train.json: image \d+: '../../etc/passwd' leads out of the image folder",
            "outside",
        ),
    ],
)
def test_entry(train_net, overrides, symbols, tmp_path, change, pattern):
    extra = own_annotations(symbols, tmp_path / "train.json", change)
    check_error(train_net("quickstart/seesaw.yaml", *overrides, *extra), pattern)
    assert not (tmp_path / "output").exists()


@pytest.mark.fault(
    "Annotation file: annotations with the same id or of images and classes that are not listed, "
    "`neg_category_ids` that are no classes, `iscrowd` that is null, a class without a name",
    "a warning for each kind with entry, value and number; it is left out, and training goes on",
)
def test_of_no_consequence(train_net, overrides, symbols, tmp_path):
    def change(content):
        images, annotations = content["images"], content["annotations"]
        images[0]["neg_category_ids"].append(77)
        annotations[1]["id"] = annotations[0]["id"]
        annotations[2]["image_id"] = 10**6
        annotations[3]["category_id"] = annotations[4]["category_id"] = 77
        annotations[5]["iscrowd"] = None
        content["categories"][0]["name"] = None

    extra = own_annotations(symbols, tmp_path / "train.json", change)
    validation = json.loads((symbols / "symbols_val.json").read_text())
    validation["categories"][0]["name"] = None
    (tmp_path / "val.json").write_text(json.dumps(validation))
    extra += ["DATASETS.REGISTER.symbols_val.JSON", str(tmp_path / "val.json")]
    assert train_net("quickstart/seesaw.yaml", *overrides, *extra) is None
    log = (tmp_path / "output" / "log.txt").read_text()
    for expected in (
        "image 1: neg_category_ids holds 77, in no category",
        "annotation 1: the id is repeated",
        "annotation 3: image_id 1000000 is not in images; it is left out",
        "annotation 4: category_id 77 is not in categories; it is left out (the first of 2 ",
        "annotation 6: iscrowd is null, not 0 or 1",
        "category 1: name is null, so that it is called 1",
    ):
        assert f"train.json: {expected}" in log


@pytest.mark.parametrize(
    "text, pattern",
    [
        fault(
            "the HTML page of a failed download",
            "one line that says so, as for a ZIP archive, gzip, Git LFS and Latin-1",
            "<!DOCTYPE html><title>404</title>",
            "train.json: an HTML or XML page, as a failed download leaves behind",
            "html",
        ),
        fault(
            "a hundred thousand nested brackets",
            "one line, no overflow",
            "[" * 100_000,
            "train.json: not JSON, or not complete",
            "brackets",
        ),
        fault(
            "cut off in the middle",
            "one line: not complete JSON",
            '{"categories": [{"id": 1, "name": "a"}], "images": [{"id"',
            "train.json: not JSON, or not complete",
            "cut",
        ),
        fault("an empty file", "one line", "", "train.json: not JSON, or not complete", "empty"),
    ],
)
def test_file(train_net, overrides, tmp_path, text, pattern):
    (tmp_path / "train.json").write_text(text)
    extra = override("JSON", tmp_path / "train.json")
    check_error(train_net("quickstart/seesaw.yaml", *overrides, *extra), pattern)
    assert not (tmp_path / "output").exists()


@pytest.mark.fault(
    "An image is smaller than its annotations say",
    "one line with image and both sizes; nothing is saved",
)
def test_image_of_another_size(train_net, overrides, symbols, tmp_path):
    from PIL import Image

    extra = own_images(symbols, tmp_path / "images")
    for path in (tmp_path / "images").iterdir():
        Image.new("RGB", (40, 30)).save(path)
    error = train_net("quickstart/seesaw.yaml", *overrides, *extra)
    check_error(error, r"(40.*30|30.*40).*64|64.*(40.*30|30.*40)")
    assert not list((tmp_path / "output").glob("*.pth"))
