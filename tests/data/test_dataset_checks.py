import pytest
from PIL import Image

from .project_to_check import found

RLE = {"size": [20, 30], "counts": [0, 600]}


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
    # What is wrong with a category's only annotation leaves it with none, a warning.
    findings = [f for f in report.findings.values() if f.dataset == "train"]
    findings = [f for f in findings if f.kind != "categories that cannot be learnt"]
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
        ("train", "warning", "categories that cannot be learnt"): 1,
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


def test_boxes_of_corners_are_recognised(project):
    project.train["annotations"][0]["bbox"] = [20, 12, 28, 18]
    (finding,) = project.check().findings.values()
    assert finding.kind == "boxes outside the image"
    assert "which would fit as [x0, y0, x1, y1], outside of 30 x 20" in finding.examples[0]
