"""Problems that an entry of an annotation file in COCO or LVIS format can have, in words."""

import math
import os
from collections.abc import Container
from typing import Any, NamedTuple

# Beyond this, a coordinate is junk; the comparison is also False for NaN.
MAX_COORDINATE = 1e9


class Problem(NamedTuple):
    """Something wrong in an annotation file: a kind, in the plural, and this one's details."""

    kind: str
    detail: str


class Problems:
    """Problems of one annotation file, counted by kind; the first is raised as one line."""

    def __init__(self, json_file: str) -> None:
        self.json_file = json_file
        self.first: dict[str, str] = {}
        self.counts: dict[str, int] = {}

    def add(self, where: str, problem: Problem | None) -> None:
        """Note a problem, if it is one, of the entry that ``where`` names."""
        if problem is not None:
            self.first.setdefault(problem.kind, f"{where}: {problem.detail}")
            self.counts[problem.kind] = self.counts.get(problem.kind, 0) + 1

    def raise_first(self) -> None:
        """
        Raises:
            ValueError: there are problems. One line with file, first entry, and how many have it.
        """
        for kind, text in self.first.items():
            count = self.counts[kind]
            more = f" (the first of {count} {kind})" if count > 1 else ""
            raise ValueError(f"{self.json_file}: {text}{more}")


def image_file_name(image: dict[str, Any], from_coco_url: bool = False) -> str:
    """
    Path of an image relative to the image folder.

    Args:
        image: entry of the "images" of an annotation file.
        from_coco_url: take "coco_url" even where there is a "file_name".

    Raises:
        ValueError: there is no name, or it leads out of the image folder.
    """
    file_name, url = image.get("file_name"), image.get("coco_url")
    if from_coco_url or file_name is None:
        file_name = "/".join(url.split("/")[-2:]) if isinstance(url, str) else None
    if not isinstance(file_name, str) or not file_name:
        raise ValueError('no "file_name" and no "coco_url"')
    path = file_name.replace("\\", "/")
    if path.startswith("/") or os.path.isabs(file_name) or ".." in path.split("/"):
        raise ValueError(f"'{file_name}' leads out of the image folder")
    return file_name


def is_number(value: Any) -> bool:
    """True for a value from JSON that is a finite number and can be a coordinate."""
    return type(value) in (int, float) and -MAX_COORDINATE < value < MAX_COORDINATE


def name_problem(category: dict[str, Any]) -> Problem | None:
    """Problem of the "name" of an annotation file's category, if anything."""
    name = category.get("name")
    if isinstance(name, str):
        return None
    return Problem("categories without a name", f"name is {shorten(name)}")


def size_problem(image: dict[str, Any]) -> Problem | None:
    """Problem of the "height" and "width" of an annotation file's image, if any."""
    size = [image.get("height"), image.get("width")]
    if all(type(side) is int and 0 < side < MAX_COORDINATE for side in size):
        return None
    return Problem(
        "images without a size", f"height and width are {shorten(size)}, not positive integers"
    )


def category_ids_problem(
    image: dict[str, Any], key: str, category_ids: Container[int]
) -> Problem | None:
    """
    Problem of an image's list of category ids, if it has one.

    Args:
        image: entry of the "images" of an annotation file.
        key: "neg_category_ids" or "not_exhaustive_category_ids".
        category_ids: ids of the file's "categories".
    """
    if key not in image:
        return None
    ids = image[key]
    if not isinstance(ids, list):
        return Problem(f"broken {key}", f"{key} is {shorten(ids)}, expected a list")
    for category_id in ids:
        if type(category_id) is not int or category_id not in category_ids:
            detail = f"{key} holds {shorten(category_id)}, which is not in categories"
            return Problem(f"unknown {key}", detail)
    return None


def image_problem(image: dict[str, Any], category_ids: Container[int]) -> Problem | None:
    """Problem of an image's size or its lists of category ids, if anything."""
    return (
        size_problem(image)
        or category_ids_problem(image, "neg_category_ids", category_ids)
        or category_ids_problem(image, "not_exhaustive_category_ids", category_ids)
    )


def reference_problem(
    annotation: dict[str, Any], key: str, section: str, ids: Container[int]
) -> Problem | None:
    """
    Problem of an annotation's reference to its image or category, if anything.

    Args:
        annotation: entry of the "annotations" of an annotation file.
        key: "image_id" or "category_id".
        section: "images" or "categories".
        ids: of the entries of that section.
    """
    value = annotation.get(key)
    if type(value) is int and value in ids:
        return None
    return Problem(f"unknown {section}", f"{key} {shorten(value)} is not in {section}")


def box_problem(bbox: Any) -> Problem | None:
    """Problem of the "bbox" of an annotation, if it is not four numbers."""
    if isinstance(bbox, list) and len(bbox) == 4 and all(map(is_number, bbox)):
        return None
    return Problem(
        "annotations without a box", f"bbox is {shorten(bbox)}, expected [x, y, width, height]"
    )


def segmentation_problem(segmentation: Any, height: int, width: int) -> Problem | None:
    """
    Problem of the form of an annotation's "segmentation", if anything. Coordinates of
    polygons and the inside of a compressed RLE are not looked at.
    """
    if isinstance(segmentation, list):
        for polygon in segmentation:
            if not isinstance(polygon, list):
                return Problem("broken polygons", f"polygon is {shorten(polygon)}, expected a list")
            if len(polygon) < 6 or len(polygon) % 2:
                return Problem("broken polygons", f"polygon with {len(polygon)} numbers")
        return None
    if not isinstance(segmentation, dict):
        return Problem("broken masks", f"segmentation is {shorten(segmentation)}")
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size != [height, width]:
        expected = f"but the image has [{height}, {width}]"
        return Problem("RLE masks of the wrong size", f"RLE of size {shorten(size)}, {expected}")
    if isinstance(counts, list):
        if not all(type(count) is int and count >= 0 for count in counts):
            return Problem("broken RLE masks", "RLE counts are not all integers from 0")
        if sum(counts) != height * width:
            expected = f"but the image has {height * width}"
            return Problem(
                "RLE masks of the wrong size", f"RLE of {sum(counts)} pixels, {expected}"
            )
    elif not isinstance(counts, str) or not counts:
        return Problem("broken RLE masks", f"RLE counts are {shorten(counts)}")
    return None


def coordinates_problem(polygons: list[list]) -> Problem | None:
    """Problem of the coordinates of polygons, if they are not all numbers."""
    for polygon in polygons:
        if not _are_numbers(polygon):
            return Problem("broken polygons", f"{shorten(polygon)} is not all numbers")
    return None


def _are_numbers(values: list) -> bool:
    """As ``all(map(is_number, values))``, for millions of them; there is at least one value."""
    if not set(map(type, values)) <= {int, float}:
        return False
    # The sum sees a NaN that the others pass over; they see an integer too large for the sum.
    is_bounded = -MAX_COORDINATE < min(values) and max(values) < MAX_COORDINATE
    return is_bounded and not math.isnan(sum(values))


def shorten(value: Any) -> str:
    """A value from JSON as text of at most 40 characters."""
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
