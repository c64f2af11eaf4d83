"""Annotation files that are wrong, given to a training."""

import pytest

from .conftest import check_error, override, own_annotations, own_images


def fault(done, gives, change, pattern, marked_id):
    marks = pytest.mark.fault(f"Annotation file: {done}", gives)
    return pytest.param(change, pattern, marks=marks, id=marked_id)


def set_in(section, index, **values):
    def change(content):
        content[section][index].update(values)

    return change


def repeat_id(content):
    content["annotations"][1]["id"] = content["annotations"][0]["id"]


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
            r"train.json: annotation 5: bbox is \[1, None, 2, 2\]",
            "nan_box",
        ),
        fault(
            "an annotation of an image that is not listed",
            LINE,
            set_in("annotations", 4, image_id=10**6),
            "train.json: annotation 5: image_id 1000000 is not in images",
            "unknown_image",
        ),
        fault(
            "a mask (RLE) of another size than its image",
            LINE,
            set_in("annotations", 4, segmentation={"size": [5, 5], "counts": [25]}),
            r"train.json: annotation 5: RLE of size \[5, 5\]",
            "mask_size",
        ),
        fault(
            "two annotations with the same id",
            LINE,
            repeat_id,
            r"train.json: annotations\[1\]: id 1 occurs more than once",
            "repeated_id",
        ),
        fault(
            "images without height and width",
            LINE + ", and how many have it",
            remove_sizes,
            r"train.json: image \d+: height and width are .* \(the first of \d+",
            "no_sizes",
        ),
        fault(
            "a file name that leads out of the image folder (`../../etc/passwd`)",
            "one line; the file is not opened",
            set_in("images", 0, file_name="../../etc/passwd"),
            r"train.json: image \d+: '../../etc/passwd' leads out of the image folder",
            "outside",
        ),
        fault(
            "a class without a name",
            LINE,
            set_in("categories", 0, name=None),
            r"train.json: category \d+: name is None",
            "no_name",
        ),
    ],
)
def test_entry(train_net, overrides, symbols, tmp_path, change, pattern):
    extra = own_annotations(symbols, tmp_path / "train.json", change)
    check_error(train_net("quickstart/seesaw.yaml", *overrides, *extra), pattern)
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(
    "text, pattern",
    [
        fault(
            "the HTML page of a failed download",
            "one line: not JSON",
            "<!DOCTYPE html><title>404</title>",
            "train.json: not JSON, or not complete",
            "html",
        ),
        fault(
            "a hundred thousand nested brackets",
            "one line, no overflow",
            "[" * 100_000,
            "train.json: not JSON, or not complete",
            "brackets",
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
