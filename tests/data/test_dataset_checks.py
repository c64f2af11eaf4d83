"""Data that are well-formed but suspicious: each row is found by one check, and by no other."""

import pytest

from .project_to_check import found


def on(section, **change):
    return lambda content: content[section][0].update(change)


def repeated_name(content):
    content["categories"][1]["name"] = "tit"


def class_without_objects(content):
    content["annotations"] = content["annotations"][:1]


IN_IMAGE = "annotation 11 in image 1 of 30 x 20: "


@pytest.mark.parametrize(
    ("change", "kind", "example"),
    [
        (on("annotations", bbox=[1, 2, 0, 4]), "empty boxes", f"{IN_IMAGE}bbox [1.0, 2.0, 0.0, 4"),
        (on("annotations", bbox=[1, 2, 3, -4]), "empty boxes", f"{IN_IMAGE}bbox [1.0, 2.0, 3.0"),
        (
            on("annotations", bbox=[25, 2, 7, 4]),
            "boxes outside the image",
            f"{IN_IMAGE}bbox [25.0, 2.0, 7.0, 4.0] [x, y, width, height]",
        ),
        (on("annotations", bbox=[-2, 2, 7, 4]), "boxes outside the image", "bbox [-2.0, 2.0, 7"),
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
        (class_without_objects, "categories that cannot be learnt", "category 2: owl has no ann"),
        (repeated_name, "repeated category names", 'category 1: "tit"'),
    ],
)
def test_suspicious(project, change, kind, example):
    change(project.train)
    if kind == "repeated category names":
        change(project.val)
        expected = {("train", "warning", kind): 2, ("val", "warning", kind): 2}
    else:
        expected = {("train", "warning", kind): 1}
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
