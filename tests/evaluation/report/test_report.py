import base64
import dataclasses
import html
import io
import os
import re
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
from PIL import Image

from eql_seesaw.evaluation.report import write_report
from eql_seesaw.evaluation.report.__main__ import main
from eql_seesaw.evaluation.report.contents import run_names
from eql_seesaw.evaluation.report.examples import outline, thumbnail
from eql_seesaw.evaluation.result import Result
from tests.evaluation.report.shapes import Shapes


def read(path):
    return Path(path).read_text(encoding="utf-8")


def category(page, category_id):
    """What the page shows of a class when it is opened."""
    (text,) = re.findall(rf'<script [^>]*id="content-{category_id}">(.*?)</script>', page, re.S)
    return text


def table_row(page, name):
    """Texts of a class in the table of categories, by heading."""
    table = re.search(r'<table class="sortable".*?</table>', page, re.S).group()
    heads = [re.sub("<.*?>", "", head) for head in re.findall(r"<th scope=\"col\".*?</th>", table)]
    (row,) = (row for row in re.findall(r"<tr><th.*?</tr>", table, re.S) if f">{name}</a>" in row)
    cells = [re.sub("<.*?>", "", cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", row, re.S)]
    return list(zip(heads, cells, strict=True))


@pytest.fixture
def shapes(tmp_path):
    return Shapes(tmp_path)


@pytest.fixture
def folder(shapes, tmp_path):
    """The folder of an evaluation of ``Shapes``."""
    folder = tmp_path / "first" / "inference" / "shapes_val"
    shapes.evaluate(folder)
    return folder


@pytest.fixture
def without_png(monkeypatch):
    """Of the report only the page, as the other charts take a second."""
    monkeypatch.setattr("eql_seesaw.evaluation.report.charts.save_png_files", lambda *_: None)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    result = Shapes(folder).evaluate(folder / "first")
    return read(write_report(result, folder / "report"))


def test_files(folder, capsys):
    main([str(folder)])
    assert capsys.readouterr().out.strip() == str(folder / "report" / "index.html")
    assert sorted(os.listdir(folder / "report")) == [
        "ap_by_training_images.png",
        "calibration.png",
        "confusions.png",
        "index.html",
        "precision_recall.png",
    ]
    with Image.open(folder / "report" / "confusions.png") as chart:
        assert round(chart.info["dpi"][0]) == 300


def test_names_are_escaped(page):
    assert "<script>alert" not in page
    assert page.count(html.escape(Shapes.names[3])) > 2
    assert html.escape(Shapes.names[4], quote=False).replace('"', "&#34;") in page
    # In the chart, too, where names are Matplotlib's.
    assert "$x$" in page and "猫" in page


def test_nothing_is_loaded(page):
    assert "default-src 'none'" in page
    addresses = re.findall(r"""(?:src|href)=["']([^"'#{$]*)""", page)
    assert all(not address or address.startswith("data:") for address in addresses)
    known = ("http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink", "http-equiv")
    for name in known:
        page = page.replace(name, "")
    assert "http" not in page and "url(" not in page.replace("url(#", "")


def test_numbers_of_a_category(page):
    cat = table_row(page, "cat")
    assert cat[:4] == [
        ("Name", "cat"),
        ("Group", "frequent"),
        ("Training images", "500"),
        ("Objects", "4"),
    ]
    # Masks, then boxes.
    assert [value for title, value in cat if title == "Precision"] == ["60.0", "60.0"]
    assert [value for title, value in cat if title == "Recall"] == ["75.0", "75.0"]
    assert dict(table_row(page, "猫"))["AP masks"] == "100.0"
    assert set(dict(table_row(page, "$x$")[4:]).values()) == {"n/a"}
    assert dict(table_row(page, "$x$"))["Training images"] == "n/a"


def test_metrics_and_operating_points(page, folder):
    metrics = Result.load(folder).metrics["segm"]
    row = re.search(r'class="text">masks</th>\s*(.*?)</tr>', page, re.S).group(1)
    values = re.findall("<td>(.*?)</td>", row)
    assert values[:5] == [f"{metrics[name]:.1f}" for name in ("AP", "APr", "APc", "APf", "AP50")]
    (points,) = re.findall(r'aria-label="Operating points of masks">(.*?)</table>', page, re.S)
    # Of 7 objects 4 are found by 6 detections, of which 2 are wrong.
    row = re.search(r'class="text">all</th>(.*?)</tr>', points).group(1)
    assert re.findall("<td>(.*?)</td>", row)[:5] == ["7", "6", "66.7", "57.1", "61.5"]


def test_charts_show_every_class(page):
    (section,) = re.findall(r'<section id="training-images".*?</section>', page, re.S)
    # Those with ground truth and known training images; masks, then boxes.
    links = re.findall(r'<a xlink:href="#category-(\d)">', section)
    assert sorted(links) == ["1", "1", "2", "2", "3", "3", "4", "4"]
    assert "_blank" not in page and "#0072b2" not in page.split("</style>")[1]
    assert "var(--rare)" in section


def test_examples_tell_right_from_wrong(page):
    cat = category(page, 1)
    best, worst = cat.split("Worst images")
    captions = re.findall("<figcaption>(.*?)</figcaption>", best)
    assert captions == [
        "1 right, 0 wrong, 0 missed · 4.png",
        "1 right, 1 wrong, 0 missed · 1.png",
        "1 right, 1 wrong, 1 missed · 2.png",
    ]
    last = best.split("<figure>")[-1]
    # Missed objects first, as at most so many are drawn; longest side of an image is 640 units.
    drawn = re.findall(r'<path class="(.*?)" d="(.*?)"', last)
    assert [kind for kind, _ in drawn] == ["missed", "object", "right", "wrong"]
    assert drawn[0][1].startswith("M340 40l")
    assert re.findall(r"<text .*?>(.*?)</text>", last) == ["missed", "✕ 0.60", "0.70"]
    assert "None has a mistake." in worst


def test_missed_object_names_what_was_detected_instead(page):
    dog = category(page, 2)
    assert "0 right, 0 wrong, 1 missed; there instead: cat 0.80 · 1.png" in dog
    assert "Objects detected as something else: cat (1)" in dog
    assert "No image has an object of this class" in category(page, 5)


def test_missing_pictures_are_left_out(shapes, folder, page, without_png):
    # Pictures are shared among classes.
    assert len(re.findall(r'id="picture-\d+"', page)) == 4
    (shapes.picture_dir / "1.png").unlink()
    (shapes.picture_dir / "2.png").write_text("no picture")
    page = read(write_report(Result.load(folder), folder / "report"))
    assert "2 of 4 pictures were not found" in page
    assert len(re.findall(r'id="picture-\d+"', page)) == 2
    assert "picture not found" in category(page, 2)


def test_boxes_only(shapes, tmp_path):
    result = shapes.evaluate(tmp_path / "boxes", iou_types=("bbox",))
    page = read(write_report(result, tmp_path / "report"))
    assert "AP masks" not in page and 'value="bbox" checked' in page
    assert "<rect class=" in category(page, 1) and "<path" not in category(page, 1)


def test_no_detections(shapes, tmp_path):
    result = shapes.evaluate(tmp_path / "none", results=[])
    page = read(write_report(result, tmp_path / "report"))
    assert dict(table_row(page, "cat"))["AP masks"] == "0.0"
    assert "0 right, 0 wrong, 2 missed" in category(page, 1).split("Worst images")[1]
    assert "No object's best detection is of another class." in page


def test_image_whose_detections_do_not_count(shapes, tmp_path, without_png):
    """They are of a class that nobody has looked for there."""
    results = [{**x, "category_id": 2} if x["image_id"] == 2 else x for x in shapes.results]
    result = shapes.evaluate(tmp_path / "others", results=results)
    page = read(write_report(result, tmp_path / "report"))
    assert "0 right, 0 wrong, 2 missed" in category(page, 1).split("Worst images")[1]


def test_compare(folder, shapes, tmp_path, capsys, without_png):
    shapes.evaluate(tmp_path / "other", results=shapes.results[:3])
    main([str(folder), "--compare", str(tmp_path / "other")])
    path = capsys.readouterr().out.strip()
    assert path == str(folder / "comparison" / "index.html")
    page = read(path)
    row = dict(table_row(page, "猫"))
    assert (row["AP masks"], row["AP masks, other"], row["Difference"]) == (
        "100.0",
        "0.0",
        "+100.0",
    )
    # The other rare class with ground truth has AP 0 in both.
    assert "<td>+50.0</td>" in page
    gains = re.findall(r'data-changes="gains">.*?<tbody>(.*?)</tbody>', page, re.S)[0]
    assert re.findall(r">([^<]*)</a>", gains) == ["猫", "cat"]
    assert page.count('<span class="against">first only</span>') == 4
    assert "only</span>" not in read(write_report(Result.load(folder), tmp_path / "alone"))


@pytest.mark.parametrize(
    "one, another, names",
    [
        ("seesaw/seed_1", "eql/seed_1", ["seesaw/seed_1", "eql/seed_1"]),
        ("seesaw/seed_1", "seesaw/seed_2", ["seed_1", "seed_2"]),
        ("seed_1", "seed_1/seed_1", ["seed_1", "seed_1/seed_1"]),
    ],
)
def test_run_names_are_as_long_as_tells_them_apart(tmp_path, one, another, names):
    folders = [tmp_path / "b" / name / "inference" / "val" for name in (one, another)]
    assert run_names(folders) == names
    assert run_names(folders[:1]) == [Path(one).name]
    assert run_names([tmp_path / "inference" / name for name in ("a", "b")]) == ["a", "b"]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("evaluation.json", None, "no evaluation.json"),
        ("matches_segm.npz", None, "matches_segm.npz"),
        ("lvis_instances_results.json", None, "lvis_instances_results.json"),
        ("lvis_instances_results.json", "[]", "not those that were evaluated"),
        ("../../../val.json", None, "val.json"),
    ],
)
def test_broken_input_is_one_line(name, content, message, folder):
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(SystemExit, match=f"^error: .*{message}.*$"):
        main([str(folder)])
    assert not (folder / "report" / "index.html").exists()


def test_runs_that_cannot_be_compared(folder, tmp_path):
    result = Result.load(folder)
    for values, message in (
        ({"dataset": "another"}, "shapes_val and another"),
        ({"num_images": 2}, "differ in number of images, 4 and 2"),
        ({"categories": []}, "they differ in categories"),
        ({"metrics": {"bbox": {}}}, "they differ in IoU types"),
    ):
        with pytest.raises(ValueError, match=message):
            write_report(result, tmp_path, other=dataclasses.replace(result, **values))


def test_score_threshold(folder, capsys, without_png):
    with pytest.raises(SystemExit, match="score threshold is 30"):
        main([str(folder), "--score-threshold", "30"])
    main([str(folder), "--score-threshold", "0.65"])
    cat = category(read(capsys.readouterr().out.strip()), 1)
    scores = {float(score) for score in re.findall(r">(?:✕ )?(0\.\d\d)</text>", cat)}
    assert scores == {0.9, 0.8, 0.7, 0.85}


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
    header, content = thumbnail(str(tmp_path / "turned.jpg")).split(",")
    assert header == "data:image/webp;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as small:
        assert small.size == (144, 288)
