#!/usr/bin/env python3
"""
Convert MUSCIMA++ v2.0, pages of handwritten music, into a long-tailed dataset in LVIS v1 format.

The pages are cut into tiles. They are drawn from the masks, or cut from the pages of CVC-MUSCIMA
where --images names their folder; the annotations are the same. The test pages are those of
MUSCIMA++'s writer-independent list. datasets/README.md says where to download both.
"""

import argparse
import json
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pycocotools.mask as mask_util
from PIL import Image
from tqdm import tqdm

from eql_seesaw.atomic_write import atomic_folder
from eql_seesaw.data.frequency_groups import frequency_groups

TILE_SIZE = 416  # pixels; staff lines are about 32 apart
# A part of an object that a tile's border cuts off is annotated if it has this share of the
# object's pixels, or reaches from one border of the tile to the opposite one, as of a barline.
MIN_SHARE = 0.25
# Of a page, in pixels; the largest has 3,500.
MAX_SIDE = 10_000
# Share of the annotated pixels that must be ink in the picture of a page.
MIN_INK_SHARE = 0.5

# Objects made of others that are annotated, too: the masks that their Outlinks lead to cover on
# average 96% to 100% of these classes' masks, and at most 54% of any other class's.
COMPOSITES = {
    "dynamicsText",
    "keySignature",
    "measureSeparator",
    "ornamentTrill",
    "otherNumericSign",
    "otherText",
    "repeat",
    "staff",
    "staffGrouping",
    "tempoText",
    "timeSignature",
    "transpositionText",
    "tuple",
    "volta",
}
# A second annotation of a letter: each mask of these is also that of a character.
SECOND_ANNOTATIONS = {"dynamicLetterF", "dynamicLetterM", "dynamicLetterP", "dynamicLetterS"}
# As wide as the page: a tile has pieces only. Spaces between staff lines are no ink, either.
STAFF = {"staffLine", "staffSpace"}
NO_CLASS = {"unclassified"}
LEFT_OUT = COMPOSITES | SECOND_ANNOTATIONS | STAFF | NO_CLASS
NOT_INK = {"staffSpace"}

# All pages, and those of the test set with writers of its own.
LISTS = ("cvc-muscima-image-list.txt", "testset-independent.txt")


class Node(NamedTuple):
    """
    An object of a page.

    Attributes:
        top, left: of its box, in pixels.
        mask: bool (height, width), within the box.
    """

    class_name: str
    top: int
    left: int
    mask: np.ndarray


class Tile(NamedTuple):
    """
    Attributes:
        pixels: uint8 (TILE_SIZE, TILE_SIZE), grey.
        objects: (class name, annotation without ids) of each.
        incomplete: classes with a part of an object that is not annotated.
    """

    file_name: str
    pixels: np.ndarray
    objects: list[tuple[str, dict]]
    incomplete: set[str]


class NoDoctype(ElementTree.TreeBuilder):
    """MUSCIMA++ has no document type; others' may define entities that fill the memory."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("a document type (<!DOCTYPE ...>), which MUSCIMA++ has not")


def read_page(path: Path) -> list[Node]:
    """
    Read the objects of a page, without those that have no pixel.

    Raises:
        ValueError: the file is no page of MUSCIMA++ v2.0, with its path and the object's id.
    """
    try:
        root = ElementTree.parse(path, ElementTree.XMLParser(target=NoDoctype())).getroot()
        if root.tag != "Nodes":
            raise ValueError(f"<{root.tag}> in place of the <Nodes> of v2.0")
    except (ElementTree.ParseError, ValueError) as error:
        raise ValueError(f"{path} is no page of MUSCIMA++: {error}") from None
    nodes = []
    for element in root.iter("Node"):
        texts = {child.tag: (child.text or "").strip() for child in element}
        try:
            node = _node(texts)
        except ValueError as error:
            raise ValueError(f"{path}: node {texts.get('Id', 'without Id')}: {error}") from None
        if node.mask.any():
            nodes.append(node)
    if not nodes:
        raise ValueError(f"{path} has no objects")
    return nodes


def _node(texts: dict[str, str]) -> Node:
    if not texts.get("ClassName"):
        raise ValueError("no ClassName")
    try:
        top, left, height, width = (int(texts[k]) for k in ("Top", "Left", "Height", "Width"))
    except (KeyError, ValueError):
        raise ValueError("Top, Left, Height and Width are not four integers") from None
    if min(top, left) < 0 or min(height, width) < 1 or max(top + height, left + width) > MAX_SIDE:
        box = f"top {top}, left {left}, height {height}, width {width}"
        raise ValueError(f"its box ({box}) lies on no page")
    text = texts.get("Mask", "")
    if not text:
        return Node(texts["ClassName"], top, left, np.ones((height, width), bool))
    try:
        runs = np.array([run.split(":") for run in text.split()], dtype=np.int64)
        values, lengths = runs.T
        is_mask = np.isin(values, (0, 1)).all() and lengths.min() >= 0
    except (ValueError, OverflowError):
        is_mask = False
    if not is_mask:
        raise ValueError("its mask is not 0:LENGTH and 1:LENGTH, one after the other")
    # In floating point a sum cannot overflow.
    num_pixels = lengths.sum(dtype=float)
    if num_pixels != height * width:
        raise ValueError(
            f"its mask has {num_pixels:,.0f} pixels, its box "
            f"{height} x {width} = {height * width:,}"
        )
    return Node(
        texts["ClassName"],
        top,
        left,
        np.repeat(values.astype(bool), lengths).reshape(height, width),
    )


def draw_ink(nodes: list[Node]) -> np.ndarray:
    """Draw the masks, staff lines included: bool (height, width), as large as they reach."""
    height = max(node.top + node.mask.shape[0] for node in nodes)
    width = max(node.left + node.mask.shape[1] for node in nodes)
    ink = np.zeros((height, width), dtype=bool)
    for node in nodes:
        if node.class_name not in NOT_INK:
            rows, columns = node.mask.shape
            ink[node.top : node.top + rows, node.left : node.left + columns] |= node.mask
    return ink


def read_picture(path: Path, ink: np.ndarray) -> np.ndarray:
    """
    Read the picture of a page, uint8 (height, width), dark on light also where the file is not.

    Raises:
        ValueError: it is not the picture of the ink.
        OSError: it cannot be read.
    """
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("L"))
    height, width = pixels.shape
    if height < ink.shape[0] or width < ink.shape[1]:
        raise ValueError(
            f"{path} has {width} x {height} pixels, but the masks of its page reach to "
            f"{ink.shape[1]} x {ink.shape[0]}; CVC-MUSCIMA's own size is needed"
        )
    # Most of a page is paper. CVC-MUSCIMA's own files are white on black.
    if np.median(pixels) < 128:
        pixels = 255 - pixels
    share = (pixels[: ink.shape[0], : ink.shape[1]][ink] < 128).mean()
    if share < MIN_INK_SHARE:
        raise ValueError(
            f"{path} has ink in {share:.0%} of the pixels of its page's masks; it is another page, "
            "or has another size than CVC-MUSCIMA's"
        )
    return pixels


def cut_tiles(page: str, nodes: list[Node], pixels: np.ndarray) -> Iterator[Tile]:
    """
    Cut a page into tiles side by side, from the first object's row and column on.

    Args:
        page: name.
        pixels: uint8 (height, width), of the whole page.

    Returns:
        The tiles that have an annotated object, row by row. Beyond the page they are white.
    """
    first_row = min(node.top for node in nodes)
    first_column = min(node.left for node in nodes)
    # By tile; objects by class and box.
    objects: dict[tuple[int, int], dict[tuple, dict]] = {}
    incomplete: dict[tuple[int, int], set[str]] = {}
    for node in nodes:
        if node.class_name in LEFT_OUT:
            continue
        top, left = node.top - first_row, node.left - first_column
        height, width = node.mask.shape
        num_pixels = node.mask.sum()
        for row in range(top // TILE_SIZE, (top + height - 1) // TILE_SIZE + 1):
            for column in range(left // TILE_SIZE, (left + width - 1) // TILE_SIZE + 1):
                part = _part_in_tile(node.mask, top - row * TILE_SIZE, left - column * TILE_SIZE)
                if not part.any():
                    continue
                annotation = _annotation(part)
                reaches_through = max(annotation["bbox"][2:]) == TILE_SIZE
                if annotation["area"] >= MIN_SHARE * num_pixels or reaches_through:
                    in_tile = objects.setdefault((row, column), {})
                    # Some are annotated twice, a few of those with slightly different masks.
                    in_tile.setdefault((node.class_name, *annotation["bbox"]), annotation)
                else:
                    incomplete.setdefault((row, column), set()).add(node.class_name)
    for row, column in sorted(objects):
        top, left = first_row + row * TILE_SIZE, first_column + column * TILE_SIZE
        tile = np.full((TILE_SIZE, TILE_SIZE), 255, dtype=np.uint8)
        shown = pixels[top : top + TILE_SIZE, left : left + TILE_SIZE]
        tile[: shown.shape[0], : shown.shape[1]] = shown
        name = f"{page}_y{top:04d}_x{left:04d}.png"
        shown_objects = [(key[0], x) for key, x in objects[row, column].items()]
        yield Tile(name, tile, shown_objects, incomplete.get((row, column), set()))


def _part_in_tile(mask: np.ndarray, top: int, left: int) -> np.ndarray:
    """Part of a mask, from ``top`` and ``left`` of a tile: uint8 (TILE_SIZE, TILE_SIZE)."""
    tile = np.zeros((TILE_SIZE, TILE_SIZE), dtype=np.uint8, order="F")
    shown = mask[max(-top, 0) : TILE_SIZE - top, max(-left, 0) : TILE_SIZE - left]
    top, left = max(top, 0), max(left, 0)
    tile[top : top + shown.shape[0], left : left + shown.shape[1]] = shown
    return tile


def _annotation(mask: np.ndarray) -> dict:
    rle = mask_util.encode(mask)
    return {
        "bbox": mask_util.toBbox(rle).tolist(),
        "area": int(mask_util.area(rle)),
        "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
    }


class Release(NamedTuple):
    """
    Files of MUSCIMA++, and of CVC-MUSCIMA if it is used.

    Attributes:
        pages: annotation file of each page by name, sorted.
        test_pages: names.
        pictures: picture of each page by name; empty where the pages are to be drawn.
    """

    pages: dict[str, Path]
    test_pages: set[str]
    pictures: dict[str, Path]


def find_release(source: Path, images: Path | None) -> Release:
    """
    Raises:
        ValueError: a folder is something else, or not complete.
    """
    # The archive holds a folder v2.0.
    folder = source / "v2.0" if (source / "v2.0").is_dir() else source
    page_list, test_list = (folder / "specifications" / name for name in LISTS)
    for path in (page_list, test_list):
        if not path.is_file():
            raise ValueError(
                f"{source} is not MUSCIMA++ v2.0 (datasets/README.md says where to download it): "
                f"there is no {path}"
            )
    # WRITER:PAGE
    lines = page_list.read_text(encoding="utf-8").split()
    names = sorted("CVC-MUSCIMA_W-{}_N-{}_D-ideal".format(*line.split(":")) for line in lines)
    pages = {name: folder / "data" / "annotations" / f"{name}.xml" for name in names}
    _check_all_there(source, list(pages.values()))
    pictures = {name: _picture(images, name) for name in names} if images else {}
    if images:
        _check_all_there(images, list(pictures.values()))
    return Release(pages, set(test_list.read_text(encoding="utf-8").split()), pictures)


def _picture(images: Path, page: str) -> Path:
    """NAME.png, or as in CVC-MUSCIMA's own archive: ideal/w-12/image/p004.png."""
    _, writer, number, _ = page.split("_")
    own = images / "ideal" / writer.lower() / "image" / f"p0{number[2:]}.png"
    return own if own.is_file() else images / f"{page}.png"


def _check_all_there(folder: Path, paths: list[Path]) -> None:
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise ValueError(
            f"{folder} is not complete: {len(missing)} of {len(paths)} pages are missing, first "
            f"{missing[0]}"
        )


def prepare(source: Path, images: Path | None, root: Path) -> dict[str, dict]:
    """
    Write train/, val/, muscima_train.json and muscima_val.json into ``root``, all or nothing.

    Every object is annotated, so an image's ``neg_category_ids`` are all classes of which it has
    none. Where a tile's border has cut a part off that is too small to be annotated, its class is
    in ``not_exhaustive_category_ids``. Categories are those with a training tile, by name; their
    ids, ``frequency`` and counts of training tiles are the same in both files.

    Returns:
        Contents of the two annotation files: {"train": ..., "val": ...}.

    Raises:
        ValueError, OSError: a file is wrong, with its path, or ``root`` is not empty.
    """
    release = find_release(source, images)
    if root.exists() and any(root.iterdir()):
        raise ValueError(f"{root} is not empty; name another --root, or remove it yourself")
    root = root.resolve()
    tiles: dict[str, list[Tile]] = {"train": [], "val": []}
    with atomic_folder(root) as folder:
        for split in tiles:
            (folder / split).mkdir()
        for page, path in tqdm(release.pages.items(), desc="pages", unit="page", disable=None):
            nodes = read_page(path)
            ink = draw_ink(nodes)
            pixels = np.where(ink, 0, 255).astype(np.uint8)
            if release.pictures:
                pixels = read_picture(release.pictures[page], ink)
            split = "val" if page in release.test_pages else "train"
            for tile in cut_tiles(page, nodes, pixels):
                Image.fromarray(tile.pixels).save(folder / split / tile.file_name)
                # Else hundreds of megabytes stay in memory.
                tiles[split].append(tile._replace(pixels=np.empty(0)))
        categories = _categories(tiles["train"])
        contents = {split: _lvis_json(tiles[split], categories) for split in tiles}
        for split, content in contents.items():
            with open(folder / f"muscima_{split}.json", "w", encoding="utf-8") as f:
                json.dump(content, f)
    return contents


def _categories(tiles: list[Tile]) -> list[dict]:
    """The "categories" of an LVIS file: classes of the training tiles, with their counts."""
    in_tiles = [[name for name, _ in tile.objects] for tile in tiles]
    image_counts = Counter(name for names in in_tiles for name in set(names))
    instance_counts = Counter(name for names in in_tiles for name in names)
    names = sorted(image_counts)
    groups = frequency_groups([image_counts[name] for name in names])
    return [
        {
            "id": category_id,
            "name": name,
            "synonyms": [name],
            "frequency": group,
            "image_count": image_counts[name],
            "instance_count": instance_counts[name],
        }
        for category_id, (name, group) in enumerate(zip(names, groups, strict=True), start=1)
    ]


def _lvis_json(tiles: list[Tile], categories: list[dict]) -> dict:
    """An LVIS file of tiles. Objects of classes that are not among the categories are left out."""
    id_of = {category["name"]: category["id"] for category in categories}
    images: list[dict] = []
    annotations: list[dict] = []
    for image_id, tile in enumerate(tiles, start=1):
        objects = [(id_of[name], x) for name, x in tile.objects if name in id_of]
        incomplete = {id_of[name] for name in tile.incomplete if name in id_of}
        shown = {category_id for category_id, _ in objects} | incomplete
        images.append(
            {
                "id": image_id,
                "file_name": tile.file_name,
                "width": TILE_SIZE,
                "height": TILE_SIZE,
                "neg_category_ids": [k for k in id_of.values() if k not in shown],
                "not_exhaustive_category_ids": sorted(incomplete),
            }
        )
        for category_id, annotation in objects:
            ids = {"id": len(annotations) + 1, "image_id": image_id, "category_id": category_id}
            annotations.append({**ids, **annotation})
    return {
        "info": {"description": "MUSCIMA++ v2.0 in tiles, CC BY-NC-SA 4.0"},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--source", type=Path, required=True, metavar="FOLDER", help="MUSCIMA++ v2.0, unpacked"
    )
    parser.add_argument(
        "--images",
        type=Path,
        metavar="FOLDER",
        help="pages of CVC-MUSCIMA: CVC-MUSCIMA_W-01_N-10_D-ideal.png ..., or its "
        "CvcMuscima-Distortions (default: draw the pages from the masks)",
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=Path(__file__).parent / "muscima",
        metavar="FOLDER",
        help="to write; absent or empty (default: muscima, beside this script)",
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    try:
        contents = prepare(args.source, args.images, args.root)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    categories = contents["train"]["categories"]
    groups = Counter(category["frequency"] for category in categories)
    counts = [category["instance_count"] for category in categories]
    print(
        f"{args.root}: {len(categories)} classes ({groups['r']} rare, {groups['c']} common, "
        f"{groups['f']} frequent), imbalance {max(counts) / min(counts):,.0f} : 1"
    )
    for split, content in contents.items():
        images, annotations = len(content["images"]), len(content["annotations"])
        print(f"  {split}: {images:,} tiles, {annotations:,} objects")


if __name__ == "__main__":
    main()
