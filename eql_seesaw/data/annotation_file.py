"""The one reader of annotation files in COCO or LVIS format, with the one set of rules for them."""

import contextlib
import gc
import json
import os
from array import array
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import msgspec
import numpy as np
from detectron2.config import CfgNode
from detectron2.utils.file_io import PathManager

from .annotation_entries import (
    CATEGORY_LISTS,
    DECODERS,
    Annotation,
    BrokenEntry,
    Category,
    Form,
    Image,
    decode_unusual,
    entry_id,
    load,
    rle_error,
    segmentation_error,
)
from .findings import Findings, one_line, shorten

SECTIONS = {"images": "image", "annotations": "annotation", "categories": "category"}
# First bytes of files that are called .json, too.
DISGUISES = {
    b"PK\x03\x04": "a ZIP archive; unpack it, and name the JSON file that is in it",
    b"\x1f\x8b": "compressed with gzip; unpack it with gunzip",
    b"version https://git-lfs": "a pointer of Git LFS; fetch the file itself with git lfs pull",
    b"<": "an HTML or XML page, as a failed download leaves behind",
}


class Needs(NamedTuple):
    """
    Needs of whoever reads an annotation file, beyond its form.

    Attributes:
        file_names: images are opened.
        from_coco_url: their names are those of "coco_url", as Detectron2 reads LVIS.
        masks: every object has a mask.
        polygons: masks are polygons.
        whole_rles: compressed masks are looked into, which takes time.
        max_pixels: of an image; 0 for no limit.
    """

    file_names: bool = False
    from_coco_url: bool = False
    masks: bool = False
    polygons: bool = False
    whole_rles: bool = False
    max_pixels: int = 0

    @classmethod
    def of(cls, cfg: CfgNode, is_train: bool, from_coco_url: bool = False) -> "Needs":
        """Needs of a training, or else an evaluation, with this config."""
        names = cls(file_names=True, from_coco_url=from_coco_url)
        if is_train and cfg.DATALOADER.UNREADABLE_IMAGES == "skip":
            return names
        return names._replace(
            masks=cfg.MODEL.MASK_ON,
            polygons=is_train and cfg.MODEL.MASK_ON and cfg.INPUT.MASK_FORMAT == "polygon",
            max_pixels=cfg.INPUT.MAX_IMAGE_PIXELS,
        )


NO_NEEDS = Needs()


class AnnotationFile:
    """
    Annotation file, whose annotations stay text until they are asked for: decoded all at once they
    take ten times the memory of the file.

    Oddities that change neither training nor the numbers of the ``lvis`` package are warnings.

    Attributes:
        json_file: path of the file.
        findings: on the file, so far.
        text: UTF-8, as it is in the file.
        categories: by id, in ascending order; each has a "name".
        images: by id, in the file's order.
        image_places: place in the file of each of them.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not JSON, is cut off, or holds no object.
    """

    def __init__(self, json_file: str, needs: Needs = NO_NEEDS) -> None:
        if not PathManager.isfile(json_file):
            raise FileNotFoundError(f"no such file: {json_file}")
        self.json_file = json_file
        self.findings = Findings(json_file)
        self._needs = needs
        with PathManager.open(json_file, "rb") as f:
            self.text: bytes = f.read()
        try:
            if not self.text.isascii():
                self.text.decode()  # msgspec passes over text that is not UTF-8
            self._sections = _split(self.text)
        except (ValueError, RecursionError):
            self.text = _in_strict_json(self.text, json_file)
            self._sections = _split(self.text)
        self.categories = self._read_categories()
        self.images, self.image_places = self._read_images()

    def annotations(self) -> Iterator[tuple[int, Annotation]]:
        """
        Annotations in the file's order, each with its place there. Those of unknown images or
        categories are left out, as by the ``lvis`` package; broken ones are findings.
        """
        ids, places = array("q"), array("q")
        images, categories = self.images, self.categories
        # Else their own entries may be broken, which is among the findings.
        are_all_known = not self.findings.of("error")
        for place, annotation in self._entries("annotations", Annotation):
            image = images.get(annotation.image_id)
            if image is None or annotation.category_id not in categories:
                if are_all_known:
                    self._note_unknown(place, annotation)
                continue
            ids.append(annotation.id)
            places.append(place)
            error = self._annotation_error(annotation, image)
            if error is None:
                yield place, annotation
            else:
                self._note("annotations", place, "unfit annotations", error, "error")
        _, first = np.unique(ids, return_index=True)
        for place in np.delete(np.array(places), first).tolist():
            kind = "annotations with repeated ids"
            self._note("annotations", place, kind, "the id is repeated")

    def spans(self, section: str) -> np.ndarray:
        """(N, 2) int64, start and end in ``text`` of each entry of "images" or "annotations"."""
        raw_entries = getattr(self._sections, section)
        if not raw_entries:
            return np.empty((0, 2), dtype=np.int64)
        first, text = (np.frombuffer(x, dtype=np.uint8) for x in (raw_entries[0], self.text))
        spans, end = array("q"), first.ctypes.data - text.ctypes.data
        for raw in raw_entries:
            # Between two entries there is nothing but a comma and white space.
            start = self.text.index(b"{", end)
            end = start + len(memoryview(raw))
            spans.append(start)
            spans.append(end)
        return np.frombuffer(spans, dtype=np.int64).reshape(-1, 2)

    def _read_categories(self) -> dict[int, dict[str, Any]]:
        categories: dict[int, dict[str, Any]] = {}
        for place, category in self._entries("categories", Category):
            note = partial(self._note, "categories", place)
            category_id = category["id"]
            entry = {**load(self._raw("categories", place)), "id": category_id}
            name = entry.get("name")
            if category_id in categories:
                note("categories with repeated ids", "the id is repeated; the last one counts")
            entry["name"] = one_line(name) if isinstance(name, str) else str(category_id)
            if entry["name"] != name:
                text = f"name is {shorten(name)}, so that it is called {entry['name']}"
                note("categories without a usable name", text)
            categories[category_id] = entry
        return dict(sorted(categories.items()))

    def _read_images(self) -> tuple[dict[int, Image], dict[int, int]]:
        images: dict[int, Image] = {}
        places: dict[int, int] = {}
        image: Any
        for place, image in self._entries("images", Image):
            note = partial(self._note, "images", place)
            if image["id"] in images:
                note("images with repeated ids", "the id is repeated; the last one counts")
            for key in CATEGORY_LISTS:
                if key in image and not self.categories.keys() >= set(image[key]):
                    unknown = next(k for k in image[key] if k not in self.categories)
                    note(f"images with unknown {key}", f"{key} holds {unknown}, in no category")
                    image[key] = [k for k in image[key] if k in self.categories]
            error = self._image_error(image)
            if error is not None:
                note(*error, "error")
            images[image["id"]], places[image["id"]] = image, place
        return images, places

    def _image_error(self, image: Image) -> tuple[str, str] | None:
        """Kind and line of what does not fit the needs of the reader."""
        if self._needs.file_names:
            try:
                image_file_name(image, self._needs.from_coco_url)
            except ValueError as error:
                return "images without a usable file name", str(error)
        max_pixels = self._needs.max_pixels
        if max_pixels and image["width"] * image["height"] > max_pixels:
            return "images that are too large", (
                f"{image['width']} x {image['height']} pixels, more than INPUT.MAX_IMAGE_PIXELS, "
                f"{max_pixels}"
            )
        return None

    def _annotation_error(self, annotation: Annotation, image: Image) -> str | None:
        """Line about what does not fit the image, or the needs of the reader."""
        segmentation, needs = annotation.segmentation, self._needs
        if not segmentation:
            if annotation.bbox is None:
                return "bbox is missing, expected [x, y, width, height]"
            if needs.masks and not annotation.iscrowd:
                return "segmentation is missing, but MODEL.MASK_ON is True"
            return None
        error = segmentation_error(segmentation, image["height"], image["width"])
        if error is None and isinstance(segmentation, dict):
            if needs.polygons and not annotation.iscrowd:
                return "segmentation is an RLE, which needs INPUT.MASK_FORMAT bitmask"
            if needs.whole_rles and isinstance(segmentation["counts"], str):
                return rle_error(segmentation)
        return error

    def _entries(self, section: str, form: type[Form]) -> Iterator[tuple[int, Form]]:
        """Entries of a section that are of its form, with their places; others are findings."""
        raw_entries = getattr(self._sections, section)
        if not raw_entries and (raw_entries is None or section != "annotations"):
            text = "the list is empty" if raw_entries == [] else "no list; expected COCO or LVIS"
            self.findings.add("error", "missing sections", f"{section}: {text}")
        decode = DECODERS[form].decode
        for place, raw in enumerate(raw_entries or ()):
            try:
                entry = decode(raw)
            except ValueError:
                note = partial(self._note, section, place)
                try:
                    entry = decode_unusual(raw, form, note)
                except BrokenEntry as error:
                    note(f"{section} with a broken {error.key}", str(error), "error")
                    continue
            yield place, entry

    def _raw(self, section: str, place: int) -> msgspec.Raw:
        return getattr(self._sections, section)[place]

    def _note(
        self, section: str, place: int, kind: str, text: str, severity: str = "warning"
    ) -> None:
        number = entry_id(self._raw(section, place))
        where = f"{section}[{place}]" if number is None else f"{SECTIONS[section]} {number}"
        self.findings.add(severity, kind, f"{where}: {text}")

    def _note_unknown(self, place: int, annotation: Annotation) -> None:
        key, section, value = "category_id", "categories", annotation.category_id
        if annotation.image_id not in self.images:
            key, section, value = "image_id", "images", annotation.image_id
        text = f"{key} {value} is not in {section}; it is left out"
        self._note("annotations", place, f"annotations of unknown {section}", text)


def image_file_name(image: Mapping[str, Any], from_coco_url: bool = False) -> str:
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


@contextlib.contextmanager
def paused_garbage_collector() -> Iterator[None]:
    """
    While millions of objects are made, the collector would look at all of them again and again, and
    find nothing, for half of the time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class _Sections(msgspec.Struct):
    images: list[msgspec.Raw] | None = None
    # A set to be tested on a server has none.
    annotations: list[msgspec.Raw] | None = []
    categories: list[msgspec.Raw] | None = None


@paused_garbage_collector()
def _split(text: bytes) -> _Sections:
    return msgspec.json.decode(text, type=_Sections)


@paused_garbage_collector()
def _in_strict_json(text: bytes, json_file: str) -> bytes:
    """
    Text of the sections that are lists, as msgspec takes it: what Python's own module reads
    beyond JSON is translated, other encodings into UTF-8, and NaN into the text "NaN".

    Raises:
        ValueError: Python's own module cannot read it either, or it holds no object. One line.
    """
    try:
        content = json.loads(text, parse_constant=str)
    except (ValueError, RecursionError) as error:
        reason = next((DISGUISES[start] for start in DISGUISES if text.startswith(start)), "")
        if isinstance(error, UnicodeDecodeError) and not reason:
            reason = f"its text is not UTF-8 ({error}); if it is Latin-1: iconv -f latin1 -t utf8"
        reason = reason or f"not JSON, or not complete: {error}"
        raise ValueError(f"{json_file}: {reason}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{json_file}: holds no object but a {type(content).__name__}")
    lists = {
        key: content[key] if isinstance(content[key], list) else None
        for key in SECTIONS
        if key in content
    }
    return json.dumps(lists, ensure_ascii=False).encode("utf-8", "surrogatepass")
