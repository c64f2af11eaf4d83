"""datasets/prepare_muscima.py: pages made here, and real ones where ../shared has them."""

import json
import runpy
import sys
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pycocotools.mask as mask_util
import pytest
from lvis import LVIS
from PIL import Image

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "datasets" / "prepare_muscima.py"
REAL = ROOT.parent / "shared" / "data" / "muscima-pp" / "v2.0"
TRAIN_PAGE, VAL_PAGE = "CVC-MUSCIMA_W-01_N-10_D-ideal", "CVC-MUSCIMA_W-12_N-04_D-ideal"

script = runpy.run_path(str(SCRIPT))
prepare, LEFT_OUT = script["prepare"], script["LEFT_OUT"]


def node(number, name, top, left, mask):
    mask = np.asarray(mask)
    runs = " ".join(f"{value}:1" for value in mask.ravel())
    return (
        f"<Node><Id>{number}</Id><ClassName>{name}</ClassName><Top>{top}</Top><Left>{left}</Left>"
        f"<Width>{mask.shape[1]}</Width><Height>{mask.shape[0]}</Height><Mask>{runs}</Mask></Node>"
    )


def page(*nodes):
    return f'<?xml version="1.0"?><Nodes dataset="MUSCIMA-pp_2.0">{"".join(nodes)}</Nodes>'


# The first ink is at row 100 and column 50, so that the first tile ends before row 516 and column
# 466, and the second before column 882. The staff line is 1 pixel high and 500 wide.
STAFF_LINE = node(0, "staffLine", 110, 50, np.ones((1, 500), int))
STAFF_SPACE = node(1, "staffSpace", 111, 50, np.ones((5, 500), int))
DOT = node(2, "augmentationDot", 100, 60, [[0, 1, 0], [1, 1, 1]])
REPEATED = DOT.replace("<Id>2<", "<Id>3<")
# 6 of its 20 columns are in the first tile.
BEAM = node(4, "beam", 200, 460, np.ones((2, 20), int))
# 4 of its 20 columns are.
TIE = node(5, "tie", 300, 462, np.ones((1, 20), int))
KEY = node(6, "keySignature", 100, 60, [[0, 1, 0], [1, 1, 1]])
EMPTY = node(7, "legerLine", 150, 60, np.zeros((2, 2), int))
# Through both tiles, and into a third with 268 of its 1,100 columns: less than a quarter.
SPANNER = node(8, "horizontalSpanner", 400, 50, np.ones((1, 1100), int))
TRAIN = page(STAFF_LINE, STAFF_SPACE, DOT, REPEATED, BEAM, TIE, KEY, EMPTY, SPANNER)
# No training page has a tuplet's bracket.
VAL = page(STAFF_LINE, DOT, node(9, "tupleBracket", 100, 80, np.ones((3, 3), int)))


def write_release(folder, train=TRAIN, val=VAL):
    (folder / "specifications").mkdir(parents=True)
    (folder / "specifications" / "cvc-muscima-image-list.txt").write_text("01:10\n12:04\n")
    (folder / "specifications" / "testset-independent.txt").write_text(f"{VAL_PAGE}\n")
    (folder / "data" / "annotations").mkdir(parents=True)
    for name, text in ((TRAIN_PAGE, train), (VAL_PAGE, val)):
        (folder / "data" / "annotations" / f"{name}.xml").write_text(text)
    return folder


@pytest.fixture
def source(tmp_path):
    return write_release(tmp_path / "muscima-pp" / "v2.0").parent


def load(root, split):
    return json.loads((root / f"muscima_{split}.json").read_text())


def picture(root, split, name):
    return np.asarray(Image.open(root / split / name)) < 128


def decode(annotation):
    rle = annotation["segmentation"]
    return mask_util.decode({**rle, "counts": rle["counts"].encode()}).astype(bool)


def test_page_calculated_by_hand(source, tmp_path):
    root = tmp_path / "muscima"
    prepare(source, None, root)
    train, val = load(root, "train"), load(root, "val")
    categories = [(c["id"], c["name"], c["image_count"]) for c in train["categories"]]
    assert categories == [
        (1, "augmentationDot", 1),
        (2, "beam", 2),
        (3, "horizontalSpanner", 2),
        (4, "tie", 1),
    ]
    assert val["categories"] == train["categories"]
    assert {c["frequency"] for c in train["categories"]} == {"r"}
    assert train["images"] == [
        {
            "id": 1,
            "file_name": f"{TRAIN_PAGE}_y0100_x0050.png",
            **{"width": 416, "height": 416},
            **{"neg_category_ids": [], "not_exhaustive_category_ids": [4]},
        },
        {
            "id": 2,
            "file_name": f"{TRAIN_PAGE}_y0100_x0466.png",
            **{"width": 416, "height": 416},
            **{"neg_category_ids": [1], "not_exhaustive_category_ids": []},
        },
    ]
    objects = [
        (a["image_id"], a["category_id"], a["bbox"], a["area"]) for a in train["annotations"]
    ]
    assert objects == [
        (1, 1, [10, 0, 3, 2], 4),
        (1, 2, [410, 100, 6, 2], 12),
        (1, 3, [0, 300, 416, 1], 416),
        (2, 2, [0, 100, 14, 2], 28),
        (2, 4, [0, 200, 16, 1], 16),
        (2, 3, [0, 300, 416, 1], 416),
    ]
    dot = np.zeros((416, 416), bool)
    dot[0, 11] = dot[1, 10:13] = True
    assert (decode(train["annotations"][0]) == dot).all()
    ink = dot.copy()
    ink[10] = ink[100:102, 410:] = ink[200, 412:] = ink[300] = True
    assert (picture(root, "train", train["images"][0]["file_name"]) == ink).all()
    assert [a["category_id"] for a in val["annotations"]] == [1]
    # The staff line reaches into a second tile, which has no object.
    assert [image["neg_category_ids"] for image in val["images"]] == [[2, 3, 4]]


def test_pages_of_cvc_muscima(source, tmp_path):
    """White on black as in its own archive, or dark on light; a stain is in the picture only."""
    drawn, cut = tmp_path / "drawn", tmp_path / "cut"
    prepare(source, None, drawn)
    page = np.zeros((700, 1200), np.uint8)
    for tile in load(drawn, "train")["images"]:
        y, x = (int(part[1:5]) for part in tile["file_name"].split("_")[-2:])
        ink = picture(drawn, "train", tile["file_name"])
        page[y : y + 416, x : x + 416] = 255 * ink
    page[400, 50:1150] = 255
    page[600, 100:110] = page[140, 70:80] = 255
    own = tmp_path / "images" / "ideal" / "w-01" / "image" / "p010.png"
    own.parent.mkdir(parents=True)
    Image.fromarray(page).save(own)
    Image.fromarray(255 - page).save(tmp_path / "images" / f"{VAL_PAGE}.png")
    with pytest.raises(ValueError, match="is not complete: 2 of 2 pages are missing"):
        prepare(source, tmp_path, cut)
    prepare(source, tmp_path / "images", cut)
    for split in ("train", "val"):
        assert load(cut, split) == load(drawn, split)
    name = load(cut, "train")["images"][0]["file_name"]
    stain = picture(cut, "train", name) & ~picture(drawn, "train", name)
    assert np.argwhere(stain).tolist() == [[40, x] for x in range(20, 30)]

    Image.fromarray(page[:, :1149]).save(own)
    with pytest.raises(ValueError, match="has 1149 x 700 pixels, but the masks .* to 1150 x 401"):
        prepare(source, tmp_path / "images", tmp_path / "no")
    Image.fromarray(page).resize((2400, 1400)).save(own)
    with pytest.raises(ValueError, match=r"p010.png has ink in \d+% of the pixels of its page's"):
        prepare(source, tmp_path / "images", tmp_path / "no")


@pytest.mark.parametrize(
    "train, message",
    [
        (TRAIN[:-200], "no element found|unclosed token|not well-formed"),
        (TRAIN.replace("Nodes", "CropObjectList"), "<CropObjectList> in place of the <Nodes> of"),
        (
            TRAIN.replace("?>", '?><!DOCTYPE Nodes [<!ENTITY a "a">]>', 1),
            "a document type",
        ),
        (TRAIN.replace("0:1 1:1 0:1", "0:2 1:1 0:1"), r"node 2: its mask has 7 .* 2 x 3 = 6$"),
        (TRAIN.replace("0:1 1:1 0:1", "0:1 2:1 0:1"), "node 2: its mask is not 0:LENGTH"),
        (TRAIN.replace("0:1 1:1 0:1", "0:1 1 0:1"), "node 2: its mask is not 0:LENGTH"),
        (TRAIN.replace("<Top>200<", "<Top>x<"), "node 4: Top, Left, Height and Width are not"),
        (TRAIN.replace("<Top>200<", "<Top>-2<"), r"node 4: its box \(top -2, .*\) lies on no page"),
        (page(), "has no objects$"),
    ],
)
def test_broken_pages(tmp_path, train, message):
    source = write_release(tmp_path / "v2.0", train)
    with pytest.raises(ValueError, match=message) as error:
        prepare(source, None, tmp_path / "muscima")
    assert f"{TRAIN_PAGE}.xml" in str(error.value) and "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["v2.0"]


def test_command_line(source, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        """Standard output, or the error's line."""
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
        try:
            script["main"]()
        except SystemExit as error:
            return error.code
        return capsys.readouterr().out

    line = run("--source", tmp_path, "--root", "muscima")
    assert line.startswith(f"error: {tmp_path} is not MUSCIMA++ v2.0 (datasets/README.md ")
    assert run("--source", source, "--root", "muscima").splitlines() == [
        "muscima: 4 classes (4 rare, 0 common, 0 frequent), imbalance 2 : 1",
        "  train: 2 tiles, 6 objects",
        "  val: 1 tiles, 1 objects",
    ]
    line = run("--source", source, "--root", "muscima")
    assert line == "error: muscima is not empty; name another --root, or remove it yourself"
    (source / "v2.0" / "data" / "annotations" / f"{VAL_PAGE}.xml").unlink()
    line = run("--source", source, "--root", "other")
    assert f"not complete: 1 of 2 pages are missing, first {source}" in line


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Two real pages, and what they became."""
    if not REAL.is_dir():
        pytest.skip("needs ../shared/data/muscima-pp")
    texts = [
        (REAL / "data" / "annotations" / f"{name}.xml").read_text()
        for name in (TRAIN_PAGE, VAL_PAGE)
    ]
    folder = tmp_path_factory.mktemp("muscima")
    source = write_release(folder / "v2.0", *texts)
    prepare(source, None, folder / "muscima")
    return source, folder / "muscima"


def test_real_pages(real):
    source, root = real
    lvis = LVIS(str(root / "muscima_train.json"))
    num_pixels = 0
    for image in lvis.dataset["images"]:
        ink = picture(root, "train", image["file_name"])
        annotations = [a for a in lvis.dataset["annotations"] if a["image_id"] == image["id"]]
        assert annotations
        held = {a["category_id"] for a in annotations} | {*image["not_exhaustive_category_ids"]}
        assert sorted([*held, *image["neg_category_ids"]]) == lvis.get_cat_ids()
        for annotation in annotations:
            mask = decode(annotation)
            assert not (mask & ~ink).any() and mask.sum() == annotation["area"]
            assert mask_util.toBbox(annotation["segmentation"]).tolist() == annotation["bbox"]
            num_pixels += annotation["area"]
    # Little is left out at borders.
    nodes = script["read_page"](source / "data" / "annotations" / f"{TRAIN_PAGE}.xml")
    expected = sum(node.mask.sum() for node in nodes if node.class_name not in LEFT_OUT)
    assert 0.95 * expected < num_pixels < expected
    names = {node.class_name for node in nodes}
    assert {c["name"] for c in lvis.dataset["categories"]} == names - LEFT_OUT
    again = root.with_name("again")
    prepare(source, None, again)
    assert read_all(again) == read_all(root)


def read_all(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*.*")}


def test_classes_that_repeat_others(real):
    """Composites: the objects that their Outlinks lead to have nearly all of their pixels."""
    covered = defaultdict(list)
    for path in (real[0] / "data" / "annotations").iterdir():
        elements = list(ElementTree.parse(path).getroot().iter("Node"))
        nodes = [script["_node"]({x.tag: x.text or "" for x in element}) for element in elements]
        by_id = {element.findtext("Id"): node for element, node in zip(elements, nodes)}
        page = np.zeros_like(script["draw_ink"](nodes))
        characters = [n for n in nodes if n.class_name.startswith("character")]
        characters = {(n.top, n.left, n.mask.tobytes()) for n in characters}
        for element, node in zip(elements, nodes):
            parts = [by_id[number] for number in (element.findtext("Outlinks") or "").split()]
            for part in parts:
                on_page(page, part)[part.mask] = True
            if node.mask.any():
                covered[node.class_name].append(on_page(page, node)[node.mask].mean())
            for part in parts:
                on_page(page, part)[:] = False
            if node.class_name in script["SECOND_ANNOTATIONS"]:
                assert (node.top, node.left, node.mask.tobytes()) in characters
    composites = {name for name, shares in covered.items() if np.mean(shares) > 0.9}
    assert composites == script["COMPOSITES"] & covered.keys()
    assert len(composites) > 5


def on_page(page, node):
    height, width = node.mask.shape
    return page[node.top : node.top + height, node.left : node.left + width]
