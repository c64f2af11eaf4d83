"""Entries of annotation files in COCO or LVIS format: their form, and what is wrong with one."""

import json
import math
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import numpy as np
import pycocotools.mask as mask_util
from typing_extensions import NotRequired, TypedDict

from .findings import shorten

# Beyond this, a coordinate is junk, which the code of masks would take gigabytes for.
MAX_COORDINATE = 10**6

Id = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 2)]
Side = Annotated[int, msgspec.Meta(gt=0, lt=MAX_COORDINATE)]
# Integers stay integers: Detectron2 resizes boxes of integers to integers.
Number = (
    Annotated[int, msgspec.Meta(gt=-MAX_COORDINATE, lt=MAX_COORDINATE)]
    | Annotated[float, msgspec.Meta(gt=-MAX_COORDINATE, lt=MAX_COORDINATE)]
)
Polygon = Annotated[list[Number], msgspec.Meta(min_length=6)]


class Category(TypedDict):
    """Category. Its other keys are kept as they are."""

    id: Id
    frequency: NotRequired[Literal["r", "c", "f"] | None]


class Image(TypedDict):
    """Image. Without "neg_category_ids", every category counts as annotated in it."""

    id: Id
    height: Side
    width: Side
    file_name: NotRequired[Any]
    coco_url: NotRequired[Any]
    neg_category_ids: NotRequired[list[int]]
    not_exhaustive_category_ids: NotRequired[list[int]]


class Rle(TypedDict):
    """Mask as [height, width], and the lengths of its runs: text, or integers."""

    size: list[int]
    counts: Annotated[str, msgspec.Meta(min_length=1)] | list[Annotated[int, msgspec.Meta(ge=0)]]


class Annotation(msgspec.Struct, gc=False):
    """Object of a category in an image. One of box (x, y, width, height) and mask is needed."""

    id: Id
    image_id: Id
    category_id: Id
    bbox: tuple[Number, Number, Number, Number] | None = None
    segmentation: list[Polygon] | Rle | None = None
    area: int | float | None = None
    iscrowd: Literal[0, 1] | bool = 0

    def box(self, height: int, width: int) -> list[int | float]:
        """[x, y, width, height] in pixels; where the file has none, that of the mask."""
        if self.bbox is not None:
            return list(self.bbox)
        return mask_util.toBbox(compressed_rle(self.segmentation, height, width)).tolist()


CATEGORY_LISTS = ("neg_category_ids", "not_exhaustive_category_ids")

Form = TypeVar("Form", Category, Image, Annotation)
DECODERS: dict[Any, msgspec.json.Decoder] = {
    form: msgspec.json.Decoder(form) for form in (Category, Image, Annotation)
}


class BrokenEntry(ValueError):
    """Error of an entry's form: the section's key that is broken, and a line that says how."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(text)
        self.key = key


def decode(
    text: msgspec.Raw | bytes,
    form: type[Form],
    note: Callable[[str, str], None] = lambda kind, oddity: None,
) -> Form:
    """
    An entry, from its text in JSON. What its decoder does not take gets a slow look, which can say
    what is wrong.

    Args:
        note: gets kind and text of what is odd but of no consequence, as for the ``lvis`` package.

    Raises:
        BrokenEntry: the entry has another form.
    """
    try:
        return DECODERS[form].decode(text)
    except ValueError:
        entry = load(text)
    if not isinstance(entry, dict):
        raise BrokenEntry("form", f"{shorten(entry)} is no object")
    entry = {key: _whole(value) for key, value in entry.items()}
    if form is Annotation:
        _mend_annotation(entry, note)
    try:
        return msgspec.convert(entry, form)
    except (ValueError, OverflowError) as error:
        # msgspec says what is expected, and where; a user wants to see the value, too.
        found = re.findall(r"`\$\.(\w+)|field `(\w+)`", str(error))[-1]
        key = found[0] or found[1]
        seen = shorten(entry[key]) if key in entry else "missing"
        raise BrokenEntry(key, f"{key} is {seen}: {error}") from None


def load(text: msgspec.Raw | bytes) -> Any:
    """Value of JSON text, also where it has what Python's own module knows alone, as 1e999."""
    return json.loads(bytes(text))


def entry_id(text: msgspec.Raw | bytes) -> int | None:
    """Id of an entry, if it has one."""
    entry = load(text)
    value = _whole(entry.get("id")) if isinstance(entry, dict) else None
    return value if type(value) is int else None


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _mend_annotation(entry: dict[str, Any], note: Callable[[str, str], None]) -> None:
    if entry.get("area") in ("NaN", "Infinity", "-Infinity", math.inf, -math.inf):
        note("odd areas", f"area is {shorten(entry['area'])}; that of mask or box is taken")
        entry["area"] = None
    is_crowd = entry.get("iscrowd", 0)
    if is_crowd not in (0, 1):
        entry["iscrowd"] = int(is_crowd == "1")
        note("odd values of iscrowd", f"iscrowd is {shorten(is_crowd)}, not 0 or 1")


def segmentation_error(segmentation: list | Rle, height: int, width: int) -> str | None:
    """Line about a segmentation that does not fit its image; None if it does."""
    if isinstance(segmentation, list):
        for index, polygon in enumerate(segmentation):
            if len(polygon) % 2:
                return f"segmentation[{index}] has {len(polygon)} numbers, expected pairs of them"
        return None
    size, counts = segmentation["size"], segmentation["counts"]
    if size != [height, width]:
        return f"segmentation.size is {shorten(size)}, but the image has [{height}, {width}]"
    if isinstance(counts, list) and sum(counts) != height * width:
        return f"segmentation.counts are {sum(counts)} pixels, but the image has {height * width}"
    return None


def rle_error(rle: Any) -> str | None:
    """Line about compressed counts that do not make up the image; None if they do."""
    try:
        # Of a mask that ends early, pycocotools fills the rest with whatever is in memory.
        if np.count_nonzero(mask_util.decode(rle)) == mask_util.area(rle):
            return None
    except ValueError:
        pass
    return f"segmentation.counts are {shorten(rle['counts'])}, which is no RLE of the image"


def compressed_rle(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """Mask of polygons, or of either kind of RLE, as one compressed RLE."""
    if isinstance(segmentation, list):
        return mask_util.merge(mask_util.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return mask_util.frPyObjects(segmentation, height, width)
    return segmentation
