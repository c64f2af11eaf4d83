import json
import os
from collections import Counter

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data.datasets.lvis_v1_category_image_count import LVIS_CATEGORY_IMAGE_COUNT
from lvis import LVIS
from PIL import Image

from datasets import make_symbols
from datasets.make_symbols import (
    draw_image,
    generate_symbols,
    long_tailed_image_counts,
    main,
    render_glyph,
    symbol_names,
)

LVIS_COUNTS = [category["image_count"] for category in LVIS_CATEGORY_IMAGE_COUNT]
IMAGE_COUNTS = [1, 2, 10, 11, 30, 100, 101, 5, 3, 1, 40, 12]
ARGUMENTS = {"num_classes": 12, "image_size": 96, "val_images_per_class": 10}
SMALL = {"num_classes": 4, "image_size": 64, "image_counts": [1, 2, 3, 4]}
SMALL |= {"val_images_per_class": 2, "classes_per_image": 2}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "symbols"
    generate_symbols(root, image_counts=IMAGE_COUNTS, **ARGUMENTS)
    return root


@pytest.fixture(scope="module")
def train(root):
    return load(root, "symbols_train.json")


@pytest.fixture(scope="module")
def val(root):
    return load(root, "symbols_val.json")


@pytest.fixture(scope="module")
def exhaustive(root):
    return load(root, "symbols_val_exhaustive.json")


def load(root, name):
    return json.loads((root / name).read_text(encoding="utf-8"))


def contents(root):
    return {
        str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()
    }


def image_counts(dataset):
    """Number of images that hold each class, by category id."""
    pairs = {(a["image_id"], a["category_id"]) for a in dataset["annotations"]}
    return Counter(category_id for _, category_id in pairs)


def by_image(dataset):
    groups = {image["id"]: [] for image in dataset["images"]}
    for annotation in dataset["annotations"]:
        groups[annotation["image_id"]].append(annotation)
    return groups


@pytest.mark.parametrize(
    "num_classes, groups", [(100, {"r": 28, "c": 38, "f": 34}), (50, {"r": 14, "c": 19, "f": 17})]
)
def test_long_tail_has_the_groups_of_lvis_v1(num_classes, groups):
    counts = long_tailed_image_counts(num_classes)
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == 1 and 500 < counts[0] <= 600
    rare = sum(c <= 10 for c in counts)
    common = sum(10 < c <= 100 for c in counts)
    assert {"r": rare, "c": common, "f": num_classes - rare - common} == groups


def test_long_tail_needs_frequent_classes():
    with pytest.raises(ValueError, match="max_image_count must be above 100, got 100"):
        long_tailed_image_counts(10, max_image_count=100)


def test_image_counts_are_exact(train):
    assert image_counts(train) == {i + 1: count for i, count in enumerate(IMAGE_COUNTS)}
    instances = Counter(a["category_id"] for a in train["annotations"])
    for category in train["categories"]:
        assert category["image_count"] == IMAGE_COUNTS[category["id"] - 1]
        assert category["instance_count"] == instances[category["id"]]
    assert len(train["annotations"]) > sum(IMAGE_COUNTS)
    assert "".join(c["frequency"] for c in train["categories"]) == "rrrcccfrrrcc"


def test_masks_are_exact(root, train):
    for image in train["images"]:
        with Image.open(root / "train" / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"]) == (96, 96)
    for annotations in by_image(train).values():
        masks = np.stack([mask_util.decode(a["segmentation"]) for a in annotations])
        assert masks.shape[1:] == (96, 96)
        # Later objects occlude earlier ones: no pixel belongs to two.
        assert masks.sum(axis=0).max() == 1
        for mask, annotation in zip(masks, annotations, strict=True):
            rows, columns = np.nonzero(mask)
            x, y, width, height = annotation["bbox"]
            assert (x, y) == (columns.min(), rows.min())
            assert (x + width, y + height) == (columns.max() + 1, rows.max() + 1)
            assert annotation["area"] == mask.sum() > 0
            assert annotation["iscrowd"] == 0


def test_validation_is_balanced(exhaustive):
    assert image_counts(exhaustive) == {i + 1: 10 for i in range(12)}


def test_federated_fields_are_consistent(val, exhaustive):
    everything = by_image(exhaustive)
    left_out = 0
    for image in val["images"]:
        annotated = Counter(a["category_id"] for a in by_image(val)[image["id"]])
        drawn = Counter(a["category_id"] for a in everything[image["id"]])
        assert annotated.keys() == drawn.keys()
        negatives = set(image["neg_category_ids"])
        assert len(negatives) == min(8, 12 - len(drawn))
        assert not negatives & drawn.keys()
        not_exhaustive = {c for c in drawn if annotated[c] < drawn[c]}
        assert set(image["not_exhaustive_category_ids"]) == not_exhaustive
        left_out += len(not_exhaustive)
    assert left_out > 0


def test_exhaustive_variant_verifies_every_class(val, exhaustive):
    for image in exhaustive["images"]:
        present = {a["category_id"] for a in by_image(exhaustive)[image["id"]]}
        assert present | set(image["neg_category_ids"]) == set(range(1, 13))
        assert not present & set(image["neg_category_ids"])
        assert image["not_exhaustive_category_ids"] == []
    assert [i["file_name"] for i in exhaustive["images"]] == [i["file_name"] for i in val["images"]]
    assert exhaustive["categories"] == val["categories"]


def test_loads_with_lvis(root):
    lvis = LVIS(str(root / "symbols_val.json"))
    ids = lvis.get_ann_ids()
    assert sorted(ids) == list(range(1, len(ids) + 1))
    assert lvis.ann_to_mask(lvis.anns[1]).sum() == lvis.anns[1]["area"]
    for category in lvis.cats.values():
        assert {"id", "name", "synonyms", "synset", "def", "frequency"} <= category.keys()


def test_same_arguments_same_bytes(tmp_path):
    for name in ("a", "b"):
        generate_symbols(tmp_path / name, **SMALL)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_seed_changes_pictures_and_symbols(tmp_path):
    for seed in (0, 1):
        generate_symbols(tmp_path / str(seed), seed=seed, **SMALL)
    zero, one = contents(tmp_path / "0"), contents(tmp_path / "1")
    assert zero.keys() == one.keys()
    assert all(zero[name] != one[name] for name in zero)
    names = [
        [c["name"] for c in load(tmp_path / seed, "symbols_train.json")["categories"]]
        for seed in "01"
    ]
    # The same symbols, but another one is rare.
    assert names[0] != names[1] and sorted(names[0]) == sorted(names[1])


def test_datasets_share_no_symbol_where_one_passes_over_the_others(tmp_path):
    names = []
    for first in (0, 4):
        generate_symbols(tmp_path / str(first), first_symbol=first, **SMALL)
        dataset = load(tmp_path / str(first), "symbols_train.json")
        names.append({c["name"] for c in dataset["categories"]})
    assert len(names[0] | names[1]) == 8


def test_second_call_returns_at_once(tmp_path, monkeypatch, capsys):
    first = generate_symbols(tmp_path, **SMALL)
    monkeypatch.setattr(make_symbols, "_draw_split", None)
    assert generate_symbols(tmp_path, **SMALL) == first
    assert f"{tmp_path} already holds this dataset" in capsys.readouterr().err


def test_other_arguments_need_overwrite(tmp_path):
    root = tmp_path / "symbols"
    generate_symbols(root, **SMALL)
    with pytest.raises(FileExistsError, match=f"{root} holds .* other arguments .* overwrite"):
        generate_symbols(root, seed=1, **SMALL)
    generate_symbols(root, seed=1, overwrite=True, **SMALL)
    assert load(root, "symbols.json")["arguments"]["seed"] == 1
    assert os.listdir(tmp_path) == ["symbols"]


@pytest.mark.parametrize("name", ["holiday.txt", "symbols.json"])
def test_a_folder_of_something_else_is_never_touched(tmp_path, name):
    (tmp_path / name).write_text("[1]")
    with pytest.raises(FileExistsError, match=f"{tmp_path} exists and is not a symbols dataset"):
        generate_symbols(tmp_path, overwrite=True, **SMALL)
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"image_counts": [1, 2, 3]}, "3 image_counts, but num_classes is 4"),
        (
            {"classes_per_image": 60, "num_classes": 60, "image_counts": [1] * 60},
            "do not fit into an image of 64 pixels",
        ),
        ({"max_image_count": 100}, "max_image_count must be above 100"),
        ({"num_classes": 99999}, "99999 symbols asked for; there are"),
    ],
)
def test_wrong_arguments_leave_nothing_behind(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        generate_symbols(tmp_path / "symbols", **(SMALL | {"image_counts": None} | wrong))
    assert os.listdir(tmp_path) == []


def test_names_are_unique_and_suffice_for_lvis_v1():
    pairs = symbol_names(1203)
    assert len({char for char, _ in pairs}) == len({name for _, name in pairs}) == 1203
    assert ("☂", "umbrella") in pairs[:100]
    assert all(name == name.lower() and " " not in name for _, name in pairs)


def test_enclosed_areas_belong_to_the_object():
    ink, body = (np.asarray(layer) for layer in render_glyph("○"))
    center = ink.shape[0] // 2, ink.shape[1] // 2
    assert ink[center] == 0 and body[center] == 255
    assert body[0, 0] == 0


def test_masks_lie_on_the_drawn_objects():
    glyph = render_glyph("★")
    for seed in range(10):
        background, _ = draw_image([], 96, np.random.default_rng(seed))
        pixels, owner = draw_image([glyph], 96, np.random.default_rng(seed))
        changed = np.abs(pixels.astype(int) - background).max(axis=2) > 50
        for axis in (0, 1):
            drawn = np.flatnonzero(changed.any(axis))
            masked = np.flatnonzero((owner == 0).any(axis))
            assert abs(drawn[0] - masked[0]) <= 1 and abs(drawn[-1] - masked[-1]) <= 1


def test_script_says_what_it_made(tmp_path, capsys):
    root = tmp_path / "symbols"
    main(["--root", str(root), "--num-classes", "3", "--image-size", "64", "--seed", "2"])
    statement = load(root, "symbols.json")
    train, val = statement["summary"]["train"], statement["summary"]["val"]
    assert capsys.readouterr().out.splitlines() == [
        f"{root}: 3 classes (1 rare, 1 common, 1 frequent)",
        f"  train: {train['images']} images, {train['objects']} objects",
        f"  val: {val['images']} images, {val['objects']} objects",
    ]
    (tmp_path / "holiday.txt").write_text("")
    with pytest.raises(SystemExit, match=f"error: {tmp_path} exists and is not .*[^\\n]$"):
        main(["--root", str(tmp_path)])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            ["--first-symbol", "100", "--balanced", "240", "--plain", "--seed", "1"],
            {"first_symbol": 100, "image_counts": [240] * 100, "plain": True, "seed": 1},
        ),
        (["--max-image-count", "4000"], {"image_counts": None, "max_image_count": 4000}),
        (["--num-classes", "30"], {"num_classes": 30, "image_size": 128, "plain": False}),
        (["--lvis-v1-counts"], {"num_classes": 1203, "image_counts": LVIS_COUNTS}),
    ],
)
def test_script_passes_its_options_on(monkeypatch, options, expected):
    made = {}

    def generate(root, **arguments):
        made.update(arguments)
        split = {"images": 0, "objects": 0}
        return {"train": split, "val": split, "classes": {"r": 0, "c": 0, "f": 0}}

    monkeypatch.setattr(make_symbols, "generate_symbols", generate)
    main(options)
    assert made | expected == made
