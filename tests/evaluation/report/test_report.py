import base64
import io
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
from PIL import Image

from eql_seesaw.evaluation.report import write_report
from eql_seesaw.evaluation.report.__main__ import main
from eql_seesaw.evaluation.report.contents import run_names
from eql_seesaw.evaluation.report.overlays import outline
from eql_seesaw.evaluation.report.run import Run
from eql_seesaw.evaluation.report.thumbnails import thumbnail
from tests.evaluation.report.shapes import Shapes


def script(page, name):
    """The JSON in one of the page's scripts."""
    return json.loads(re.search(rf'<script [^>]*id="{name}">(.*?)</script>', page).group(1))


def read(path):
    with open(path, encoding="utf-8") as f:
        return f.read()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    return read(write_report(Shapes(folder).write(folder / "first")))


def test_files(evaluation):
    path = write_report(evaluation)
    assert path == str(evaluation / "report" / "index.html")
    assert sorted(os.listdir(evaluation / "report")) == [
        "ap_by_training_images.png",
        "calibration.png",
        "confusions.png",
        "index.html",
        "precision_recall.png",
    ]
    with Image.open(evaluation / "report" / "confusions.png") as figure:
        assert round(figure.info["dpi"][0]) == 300


def test_header(page):
    for text in ("first", "shapes_val", "hotcoco 1.3.0", "2026-01-02 03:04", "3 rare"):
        assert text in page
    assert "at most 300 detections per image" in page
    assert "2 of 6 have none" in page


def test_names_are_escaped(page):
    assert "<script>alert" not in page
    data = script(page, "data")
    assert data["names"][3] == "<script>alert(1)</script>"
    assert data["names"][2] == "猫"


def test_nothing_is_loaded(page):
    assert "default-src 'none'" in page
    addresses = re.findall(r"""(?:src|href)=["']([^"'#{]*)""", page)
    assert all(not address or address.startswith("data:") for address in addresses)
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")


def test_data_of_categories(page):
    data = script(page, "data")
    assert data["trainImages"] == [500, 40, 3, 0, 11, None]
    assert data["objects"] == [4, 1, 1, 1, 0, 0]
    assert data["segm"]["AP"][2:] == [100, 0, None, None]
    assert data["segm"]["precision"][:3] == [60, None, 100]
    assert data["segm"]["recall"] == [75, 0, 100, 0, None, None]
    assert data["segm"]["confusions"]["pairs"] == [[1, 0, 1]]


def test_examples_tell_right_from_wrong(page):
    cat = script(page, "examples-0")
    assert [example["file_name"] for example in cat["best"]] == ["4.png", "1.png", "2.png"]
    example = cat["best"][2]
    assert (example["right"], example["wrong"], example["missed"]) == (1, 1, 1)
    assert [d["verdict"] for d in example["detections"]] == ["right", "wrong"]
    assert [d["score"] for d in example["detections"]] == [0.7, 0.6]
    # Missed objects first, as at most so many are drawn.
    assert [obj["score"] for obj in example["objects"]] == [None, 0.7]
    # In units of which an image's longest side has 640.
    assert example["objects"][0]["box"] == [340, 40, 200, 200]
    assert example["objects"][0]["path"].startswith("M340 40l")


def test_missed_object_names_what_was_detected_instead(page):
    (example,) = script(page, "examples-1")["worst"]
    assert example["objects"][0]["instead"] == [0, 0.8]


def test_classes_without_images_have_no_examples(page):
    assert script(page, "examples-4") == {"best": [], "worst": [], "confused": []}


def test_pictures_are_shared_among_classes(page):
    assert len(re.findall(r'id="picture-\d+"', page)) == 4


def test_missing_pictures_are_left_out(evaluation, shapes):
    (shapes.picture_dir / "1.png").unlink()
    (shapes.picture_dir / "2.png").write_text("no picture")
    page = read(write_report(evaluation))
    assert "2 of 4 pictures were not found" in page
    assert len(re.findall(r'id="picture-\d+"', page)) == 2


def test_boxes_only(shapes, tmp_path):
    folder = shapes.write(tmp_path / "boxes", iou_types=("bbox",))
    page = read(write_report(folder))
    assert list(script(page, "data")["tasks"]) == ["bbox"]
    assert "path" not in script(page, "examples-0")["best"][0]["objects"][0]
    assert "task-switch" not in page.split("<script")[0]


def test_no_detections(shapes, tmp_path):
    folder = shapes.write(tmp_path / "none", results=[])
    page = read(write_report(folder))
    assert script(page, "data")["segm"]["AP"][:4] == [0, 0, 0, 0]
    assert script(page, "examples-0")["worst"][0]["missed"] == 2


def test_compare(evaluation, shapes, tmp_path):
    other = shapes.write(tmp_path / "other", results=shapes.results[:3])
    path = write_report(evaluation, tmp_path / "out", compare=other)
    assert path == str(tmp_path / "out" / "index.html")
    page = read(path)
    data = script(page, "data")
    assert (data["run"], data["other"]) == ("first", "other")
    assert data["segm"]["AP"][2] == 100
    assert data["segm"]["otherAP"][2] == 0
    # The other rare class with ground truth has AP 0 in both.
    assert "<td>+50.0</td>" in page


@pytest.mark.parametrize(
    "one, another, names",
    [
        ("seesaw", "eql", ["seesaw", "eql"]),
        ("seesaw/seed_1", "eql/seed_1", ["seesaw/seed_1", "eql/seed_1"]),
        ("seesaw/seed_1", "seesaw/seed_2", ["seed_1", "seed_2"]),
        ("a/x/seed_1", "b/x/seed_1", ["a/x/seed_1", "b/x/seed_1"]),
        ("seed_1", "seed_1/seed_1", ["b/seed_1", "seed_1/seed_1"]),
        ("x,A=1,B=2/seed_1", "x,A=1,B=3/seed_1", ["x,B=2/seed_1", "x,B=3/seed_1"]),
        ("x,A=1/seed_1", "x/seed_1", ["x,A=1/seed_1", "x/seed_1"]),
        ("seed_1", "seed_1", ["seed_1", "seed_1"]),
    ],
)
def test_run_names_are_as_long_as_tells_them_apart(tmp_path, one, another, names):
    base = tmp_path / "b"
    runs = [Run(base / name / "inference" / "val", None, {}) for name in (one, another)]
    assert run_names(*runs) == names
    assert run_names(runs[0], None) == [Path(one).name]


def test_run_names_of_one_run_evaluated_twice(tmp_path):
    runs = [Run(tmp_path / "inference" / name, None, {}) for name in ("val", "val_old")]
    assert run_names(*runs) == ["val", "val_old"]


def test_sections_of_one_of_two_runs_say_so(evaluation, shapes, tmp_path):
    other = shapes.write(tmp_path / "elsewhere" / "first" / "inference" / "shapes_val")
    alone = write_report(evaluation)
    path = write_report(evaluation, compare=other)
    assert path == str(evaluation / "comparison" / "index.html") != alone
    name = f"{tmp_path.name}/first"
    assert read(path).count(f'<span class="against">{name} only</span>') == 4
    assert "only</span>" not in read(alone)


def test_footnote_says_where_the_groups_are_from(page, evaluation):
    by_count, others = "Classes are rare with at most 10 training", "The groups are those"
    assert by_count in page and others not in page
    categories = json.loads((evaluation / "evaluation.json").read_text())["categories"]
    categories[0]["group"] = "r"
    change(evaluation, categories=categories)
    page = read(write_report(evaluation))
    assert "1 of 5 classes are in another than their training images say" in page
    assert others in page and by_count not in page
    for category in categories:
        category["train_images"] = None
    change(evaluation, categories=categories)
    page = read(write_report(evaluation))
    assert f"{others} of the annotation file.\n" in page and by_count not in page


def test_folder_of_a_training_names_those_of_its_evaluations(evaluation, shapes, tmp_path, capsys):
    assert main([str(tmp_path / "first")]) == 1
    assert capsys.readouterr().err.endswith(f"no evaluation.json; did you mean {evaluation}?\n")
    for i in range(4):
        shapes.write(tmp_path / "many" / str(i))
    assert main([str(tmp_path / "many")]) == 1
    many = ", ".join(str(tmp_path / "many" / str(i)) for i in range(3))
    assert f"did you mean {many} or 1 more?" in capsys.readouterr().err


def change(folder, **values):
    path = folder / "evaluation.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def remove(name):
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
    "damage, message",
    [
        (shutil.rmtree, "no evaluation.json"),
        (remove("evaluation.json"), "no evaluation.json"),
        (remove("matches_segm.npz"), "no matches_segm.npz"),
        (remove("lvis_instances_results.json"), "no lvis_instances_results.json"),
        (lambda folder: (folder / "matches_bbox.npz").write_bytes(b"PK"), "matches_bbox.npz"),
        (lambda folder: (folder / "evaluation.json").write_text("{"), "evaluation.json"),
        (
            lambda folder: (folder / "lvis_instances_results.json").write_text("[]"),
            "not those that were evaluated",
        ),
        (lambda folder: change(folder, annotation_file="/none.json"), "/none.json"),
        (lambda folder: change(folder, metrics={}), "neither boxes nor masks"),
    ],
)
def test_broken_input_is_one_line(damage, message, evaluation, capsys):
    damage(evaluation)
    assert main([str(evaluation)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert message in error
    assert not (evaluation / "report" / "index.html").exists()


@pytest.mark.parametrize(
    "values, message",
    [
        ({"dataset": "another"}, "shapes_val and another"),
        ({"categories": []}, "6 and 0 categories"),
        ({"metrics": {"bbox": {}}}, "masks and boxes, and of boxes"),
    ],
)
def test_compare_with_another_dataset(values, message, evaluation, shapes, tmp_path, capsys):
    other = shapes.write(tmp_path / "other")
    change(other, **values)
    assert main([str(evaluation), "--compare", str(other)]) == 1
    assert message in capsys.readouterr().err


def test_compare_with_other_names(evaluation, shapes, tmp_path):
    other = shapes.write(tmp_path / "other")
    categories = json.loads((other / "evaluation.json").read_text())["categories"]
    categories[1]["name"] = "hen"
    change(other, categories=categories)
    with pytest.raises(ValueError, match="category 2 'dog' is 2 'hen' there"):
        write_report(evaluation, compare=other)


def test_threshold_is_checked(evaluation):
    with pytest.raises(ValueError, match="score threshold is 30"):
        write_report(evaluation, score_threshold=30)


def test_main_prints_the_path(evaluation, capsys):
    assert main([str(evaluation), "--score-threshold", "0.65"]) == 0
    path = capsys.readouterr().out.strip()
    cat = script(read(path), "examples-0")
    assert {d["score"] for e in cat["best"] for d in e["detections"]} == {0.9, 0.8, 0.7, 0.85}


def test_outline_of_polygons_and_masks():
    assert outline([[1, 1, 3, 1, 3, 4]], 10, 10, 2) == "M2 2l4 0 0 6z"
    mask = np.zeros((20, 20), np.uint8)
    mask[5:10, 2:12] = 1
    rle = mask_util.encode(np.asfortranarray(mask))
    points = set(re.findall(r"-?\d+ -?\d+", outline(rle, 20, 20, 32)))
    assert len(points) == 4
    assert outline(mask_util.encode(np.asfortranarray(0 * mask)), 20, 20, 32) == ""


def test_thumbnails_are_small_and_turned_upright(tmp_path):
    image = Image.new("RGB", (1000, 500))
    exif = Image.Exif()
    exif[0x0112] = 6  # a camera on its side
    image.save(tmp_path / "turned.jpg", exif=exif)
    url = thumbnail(str(tmp_path / "turned.jpg"))
    header, content = url.split(",")
    assert header == "data:image/webp;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as small:
        assert small.size == (144, 288)
