"""The one reader of annotation files in COCO or LVIS format, with the one set of rules for them."""

import contextlib
import gc
import json
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import msgspec
from detectron2.config import CfgNode
from detectron2.utils.file_io import PathManager

from .annotation_entries import (
    CATEGORY_LISTS,
    Annotation,
    BrokenEntry,
    Category,
    Form,
    Image,
    decode,
    entry_id,
    load,
    rle_error,
    segmentation_error,
)
from .findings import Findings, one_line, shorten

SECTIONS = {"images": "image", "annotations": "annotation", "categories": "category"}


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
        categories: by id, in ascending order; each has a "name".
        images: by id, in the file's order.
        image_texts: JSON of each of them.
        file_names: of those that have a usable one, where the reader needs it.

    Raises:
        OSError: there is no such file.
        ValueError: it is not JSON, is cut off, or holds no object.
    """

    def __init__(self, json_file: str, needs: Needs = NO_NEEDS) -> None:
        self.json_file = json_file
        self.findings = Findings(json_file)
        self._needs = needs
        with PathManager.open(json_file, "rb") as f:
            text = f.read()
        try:
            if not text.isascii():
                text.decode()  # msgspec passes over text that is not UTF-8
            self._sections = _split(text)
        except (ValueError, RecursionError):
            self._sections = _split(_in_strict_json(text, json_file))
        self.categories = self._read_categories()
        self.images: dict[int, Image] = {}
        self.image_texts: dict[int, msgspec.Raw] = {}
        self.file_names: dict[int, str] = {}
        for text, note, image in self._entries("images", Image):
            self._add_image(text, note, image)

    def annotations(self) -> Iterator[tuple[msgspec.Raw, Annotation]]:
        """
        Annotations in the file's order, each with its JSON. Those of unknown images or categories
        are left out, as by the ``lvis`` package; broken ones are findings.
        """
        ids: set[int] = set()
        images, categories = self.images, self.categories
        # Else their own entries may be broken, which is among the findings.
        are_all_known = not self.findings.of("error")
        for text, note, annotation in self._entries("annotations", Annotation):
            image = images.get(annotation.image_id)
            if image is None or annotation.category_id not in categories:
                section = "images" if image is None else "categories"
                key = "image_id" if image is None else "category_id"
                if are_all_known:
                    note(
                        f"annotations of unknown {section}",
                        f"{key} {getattr(annotation, key)} is not in {section}; it is left out",
                    )
                continue
            if annotation.id in ids:
                note("annotations with repeated ids", "the id is repeated")
            ids.add(annotation.id)
            error = self._annotation_error(annotation, image)
            if error is None:
                yield text, annotation
            else:
                note("unfit annotations", error, "error")

    def _read_categories(self) -> dict[int, dict[str, Any]]:
        categories: dict[int, dict[str, Any]] = {}
        for text, note, category in self._entries("categories", Category):
            category_id = category["id"]
            entry = {**load(text), "id": category_id}
            name = entry.get("name")
            if category_id in categories:
                note("categories with repeated ids", "the id is repeated; the last one counts")
            entry["name"] = one_line(name) if isinstance(name, str) else str(category_id)
            if entry["name"] != name:
                odd = f"name is {shorten(name)}, so that it is called {entry['name']}"
                note("categories without a usable name", odd)
            categories[category_id] = entry
        return dict(sorted(categories.items()))

    def _add_image(self, text: msgspec.Raw, note: Callable[..., None], image: Any) -> None:
        if image["id"] in self.images:
            note("images with repeated ids", "the id is repeated; the last one counts")
        for key in CATEGORY_LISTS:
            unknown = [k for k in image.get(key, ()) if k not in self.categories]
            if unknown:
                note(f"images with unknown {key}", f"{key} holds {unknown[0]}, in no category")
                image[key] = [k for k in image[key] if k in self.categories]
        if self._needs.file_names:
            try:
                name = image_file_name(image, self._needs.from_coco_url)
                self.file_names[image["id"]] = name
            except ValueError as error:
                note("images without a usable file name", str(error), "error")
        width, height, max_pixels = image["width"], image["height"], self._needs.max_pixels
        if max_pixels and width * height > max_pixels:
            note(
                "images that are too large",
                f"{width} x {height} pixels, more than INPUT.MAX_IMAGE_PIXELS, {max_pixels}",
                "error",
            )
        self.images[image["id"]], self.image_texts[image["id"]] = image, text

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

    def _entries(
        self, section: str, form: type[Form]
    ) -> Iterator[tuple[msgspec.Raw, Callable[..., None], Form]]:
        """
        Entries of a section that are of its form, each with its JSON, and a function to note what
        is found about it; others are findings.
        """
        texts = getattr(self._sections, section)
        if not texts and (texts is None or section != "annotations"):
            reason = "the list is empty" if texts == [] else "no list; expected COCO or LVIS"
            self.findings.add("error", "missing sections", f"{section}: {reason}")
        for place, text in enumerate(texts or ()):
            note = partial(self._note, section, place, text)
            try:
                entry = decode(text, form, note)
            except BrokenEntry as error:
                note(f"{section} with a broken {error.key}", str(error), "error")
            else:
                yield text, note, entry

    def _note(
        self,
        section: str,
        place: int,
        text: msgspec.Raw,
        kind: str,
        example: str,
        severity: str = "warning",
    ) -> None:
        number = entry_id(text)
        where = f"{section}[{place}]" if number is None else f"{SECTIONS[section]} {number}"
        self.findings.add(severity, kind, f"{where}: {example}")


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
        raise ValueError(f"{json_file}: not JSON, or not complete: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{json_file}: holds no object but a {type(content).__name__}")
    lists = {
        key: content[key] if isinstance(content[key], list) else None
        for key in SECTIONS
        if key in content
    }
    return json.dumps(lists, ensure_ascii=False).encode("utf-8", "surrogatepass")
