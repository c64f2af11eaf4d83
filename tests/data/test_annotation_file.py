import json

import pytest

from eql_seesaw.data.annotation_file import AnnotationFile
from eql_seesaw.data.annotation_problems import (
    box_problem,
    image_file_name,
    is_number,
    segmentation_problem,
    shorten,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"images": [', "not JSON, or not complete"),
        ("", "not JSON, or not complete"),
        ("[" * 100_000, "not JSON, or not complete"),
        ("[]", "holds no object but a list"),
    ],
)
def test_file_that_is_no_json_object(tmp_path, text, expected):
    json_file = tmp_path / "x.json"
    json_file.write_text(text)
    with pytest.raises(ValueError) as info:
        AnnotationFile(str(json_file))
    assert str(info.value).startswith(f"{json_file}: {expected}") and "\n" not in str(info.value)


def test_file_that_is_not_utf_8(tmp_path):
    json_file = tmp_path / "x.json"
    json_file.write_bytes(b'{"images": [{"note": "\xe9"}]}')
    with pytest.raises(ValueError, match="x.json: not JSON, or not complete: .*utf-8"):
        AnnotationFile(str(json_file))


def test_entries_are_kept_where_others_are_broken(tmp_path):
    first, second = {"id": 5, "name": "owl"}, {"id": 2, "name": "tit"}
    json_file = tmp_path / "x.json"
    categories = [first, 7, second, {"id": 5}, "{", [{}]]
    json_file.write_text(json.dumps({"categories": categories, "images": [], "annotations": {}}))
    file, problems = AnnotationFile(str(json_file)), []
    assert list(file.entries("categories", lambda *x: problems.append(x))) == [first, second]
    assert [(where, problem.kind) for where, problem in problems] == [
        ("categories[1]", "categories without an id"),
        ("categories[3]", "duplicate ids of categories"),
        ("categories[4]", "categories without an id"),
        ("categories[5]", "categories without an id"),
    ]
    texts = [json.loads(file.text[start:end]) for start, end in file.spans("categories")]
    assert texts == categories

    problems.clear()
    assert list(file.entries("images", lambda *x: problems.append(x), may_be_empty=True)) == []
    assert problems == []
    for section, detail in (("images", "list is empty"), ("annotations", "no list; expected")):
        assert list(file.entries(section, lambda *x: problems.append(x))) == []
        where, problem = problems.pop()
        assert where == section and detail in problem.detail


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings(tmp_path, encoding):
    json_file = tmp_path / "x.json"
    categories = [{"id": 1, "name": "é\ud800"}, {"id": 2, "area": float("nan"), "x": 10**400}]
    json_file.write_text(json.dumps({"categories": categories}), encoding)
    file = AnnotationFile(str(json_file))
    assert list(file.entries("categories", pytest.fail)) == [
        categories[0],
        {"id": 2, "area": None, "x": 10**400},
    ]


def test_file_name_comes_from_coco_url_where_there_is_none():
    url = "http://images.cocodataset.org/train2017/000000000009.jpg"
    both = {"file_name": "COCO_9.jpg", "coco_url": url}
    assert image_file_name(both) == "COCO_9.jpg"
    assert image_file_name(both, from_coco_url=True) == "train2017/000000000009.jpg"
    assert image_file_name({"coco_url": url}) == "train2017/000000000009.jpg"


def test_numbers_and_boxes():
    assert all(map(is_number, [0, -1.5, 10**8]))
    assert not any(map(is_number, [True, "1", None, float("nan"), float("inf"), 10**400]))
    assert box_problem([0, 1.5, 2, 3]) is None
    assert box_problem([0, 1.5, 2]).detail == "bbox is [0, 1.5, 2], expected [x, y, width, height]"


@pytest.mark.parametrize(
    "segmentation",
    [
        [[0, 0, 4, 0, 4, 4], [1, 1, 2, 1, 2, 2, 1, 2]],
        {"size": [2, 3], "counts": [1, 5]},
        {"size": [2, 3], "counts": "compressed"},
    ],
)
def test_segmentations_without_a_problem(segmentation):
    assert segmentation_problem(segmentation, 2, 3) is None


def test_text_of_a_value_stays_short():
    assert shorten("ab") == "'ab'"
    assert shorten(list(range(1000))) == repr(list(range(1000)))[:37] + "..."
