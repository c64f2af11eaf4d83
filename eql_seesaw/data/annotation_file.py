"""The one reader of annotation files in COCO or LVIS format."""

import contextlib
import gc
import json
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
from detectron2.utils.file_io import PathManager

from .annotation_problems import Problem

SECTIONS = ("images", "annotations", "categories")


class AnnotationFile:
    """
    Text of an annotation file and its entries, which stay text until they are asked for: decoded
    all at once they take ten times the memory of the file.

    Attributes:
        json_file: path of the file.
        text: UTF-8, as it is in the file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not JSON, is cut off, or holds no object.
    """

    def __init__(self, json_file: str) -> None:
        self.json_file = json_file
        with PathManager.open(json_file, "rb") as f:
            self.text: bytes = f.read()
        try:
            if not self.text.isascii():
                self.text.decode()  # msgspec passes over text that is not UTF-8
            self._sections = _split(self.text)
        except (ValueError, RecursionError):
            self.text = _in_strict_json(self.text, json_file)
            self._sections = _split(self.text)

    def raw_entries(self, section: str) -> list[msgspec.Raw]:
        """Entries of "images", "annotations" or "categories", as text; [] without such a list."""
        return getattr(self._sections, section) or []

    def entries(
        self, section: str, note: Callable[[str, Problem], None], may_be_empty: bool = False
    ) -> Iterator[dict[str, Any]]:
        """
        Entries that are objects with an id of their own, in the file's order.

        Args:
            section: "images", "annotations" or "categories".
            note: gets what is wrong with the others, each with its place in the file.
            may_be_empty: take an empty list for no problem.
        """
        raw_entries = self.raw_entries(section)
        if getattr(self._sections, section) is None:
            note(section, Problem("missing sections", "no list; expected COCO or LVIS format"))
        elif not raw_entries and not may_be_empty:
            note(section, Problem("missing sections", "the list is empty"))
        ids: set[int] = set()
        for index, raw in enumerate(raw_entries):
            entry = self.decode(raw)
            problem = id_problem(section, entry.get("id") if isinstance(entry, dict) else None, ids)
            if problem is None:
                ids.add(entry["id"])
                yield entry
            else:
                note(f"{section}[{index}]", problem)

    def decode(self, entry: msgspec.Raw | bytes) -> Any:
        """
        Value of an entry.

        Raises:
            ValueError: it cannot be represented, as a number of 5,000 digits.
        """
        return decode_entry(entry, self.json_file)

    def spans(self, section: str) -> np.ndarray:
        """(N, 2) int64, start and end of each entry in ``text``."""
        raw_entries = self.raw_entries(section)
        spans = np.empty((len(raw_entries), 2), dtype=np.int64)
        if not raw_entries:
            return spans
        first, text = (np.frombuffer(x, dtype=np.uint8) for x in (raw_entries[0], self.text))
        end, starts, lengths = first.ctypes.data - text.ctypes.data, [], []
        for raw in raw_entries:
            entry = memoryview(raw)
            # Between two entries there is nothing but a comma and white space.
            start = self.text.find(entry[0], end)
            end = start + len(entry)
            starts.append(start)
            lengths.append(len(entry))
        spans[:, 0] = starts
        spans[:, 1] = spans[:, 0] + lengths
        return spans


def decode_entry(entry: msgspec.Raw | bytes, json_file: str) -> Any:
    """As :meth:`AnnotationFile.decode`."""
    try:
        return msgspec.json.decode(entry)
    except (ValueError, RecursionError):
        pass
    try:  # the standard library also knows 1e999 and half of a surrogate pair
        return json.loads(bytes(entry))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{json_file}: not JSON, or not complete: {error}") from None


def id_problem(section: str, entry_id: Any, others: set[int]) -> Problem | None:
    """Problem of the id of an entry, if it is no integer or one of ``others``."""
    if type(entry_id) is not int:
        return Problem(f"{section} without an id", 'no integer "id"')
    if entry_id in others:
        return Problem(f"duplicate ids of {section}", f"id {entry_id} occurs more than once")
    return None


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
    annotations: list[msgspec.Raw] | None = None
    categories: list[msgspec.Raw] | None = None


@paused_garbage_collector()
def _split(text: bytes) -> _Sections:
    return msgspec.json.decode(text, type=_Sections)


@paused_garbage_collector()
def _in_strict_json(text: bytes, json_file: str) -> bytes:
    """
    Text of the sections that are lists, as msgspec takes it: what Python's own module reads
    beyond JSON is translated, other encodings into UTF-8 and NaN, a missing value, into null.

    Raises:
        ValueError: Python's own module cannot read it either, or it holds no object. One line.
    """
    try:
        content = json.loads(text, parse_constant=lambda constant: None)
        if isinstance(content, dict):
            lists = {key: content[key] for key in SECTIONS if isinstance(content.get(key), list)}
            encoded = json.dumps(lists, ensure_ascii=False, allow_nan=False)
            return encoded.encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{json_file}: not JSON, or not complete: {error}") from None
    raise ValueError(f"{json_file}: holds no object but a {type(content).__name__}")
