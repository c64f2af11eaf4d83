"""Files of detections in LVIS's results format."""

import contextlib
import glob
import itertools
import mmap
import os
import re
import tempfile
import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import IO, Any

import msgspec
import numpy as np

from ..data.annotation_file import paused_garbage_collector
from .detections import Detections

# Detections that are Python objects at a time.
BLOCK = 2**16
PREFIX, SUFFIX = "lvis_instances_results.", ".partial"


class ResultsWriter:
    """
    Collects detections in a temporary file, one a line, which is a list in JSON once it is closed.

    The file is gone with this object.

    Attributes:
        num_results: detections written.
        num_bytes: size of the closed file.
    """

    def __init__(self, folder: str | None):
        """
        Args:
            folder: folder for the file; None for the system's temporary one.
        """
        self._file = tempfile.NamedTemporaryFile(
            dir=folder, prefix=PREFIX, suffix=SUFFIX, delete=False
        )
        # Unlike delete=True, this bears a folder that has been removed meanwhile.
        weakref.finalize(self, _remove, self._file)
        self._encode = msgspec.json.Encoder().encode
        self.num_results = self.num_bytes = 0
        self._file.write(b"[\n")

    @property
    def path(self) -> str:
        return self._file.name

    def write(self, detections: Detections) -> None:
        """
        Raises:
            OSError: as of a full disk; names the file.
        """
        lines = [self._encode(result) for result in detections.to_results()]
        if lines:
            with self._named_errors():
                self._file.write(b",\n" if self.num_results else b"")
                self._file.write(b",\n".join(lines))
            self.num_results += len(lines)

    def close(self) -> None:
        """
        End the list, for other processes to read. Nothing can be written after this.

        Raises:
            OSError: as of a full disk; names the file.
        """
        with self._named_errors():
            self._file.write(b"\n]\n")
            self._file.flush()
            # A network file system shows others what it has been told to keep.
            os.fsync(self._file.fileno())
            self.num_bytes = self._file.tell()
            self._file.close()

    @contextlib.contextmanager
    def _named_errors(self):
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.path) from None


def _remove(file):
    with contextlib.suppress(OSError):  # of a full disk
        file.close()
    with contextlib.suppress(OSError):
        os.remove(file.name)


def whole_files(written: Sequence[tuple[str, int]], seconds: float) -> list[str | None]:
    """
    Wait for what other machines have written, since a network file system may show it late.

    Args:
        written: path and size in bytes of closed files.
        seconds: to wait at most.

    Returns:
        Their paths; None for one that is still not here, or not whole.
    """
    end = time.monotonic() + seconds
    while True:
        paths = [path if _size(path) == num_bytes else None for path, num_bytes in written]
        if None not in paths or time.monotonic() > end:
            return paths
        time.sleep(0.1)


def _size(path: str) -> int:
    try:
        # Opening a file asks the server for its size, looking at it does not.
        with open(path, "rb") as f:
            return os.fstat(f.fileno()).st_size
    except OSError:
        return -1


def remove_stale(folder: str, seconds: float) -> None:
    """
    Delete what evaluations that were killed have left behind.

    Args:
        folder: of an evaluation; it need not exist.
        seconds: since when nothing was written to such a file.
    """
    for path in glob.glob(os.path.join(glob.escape(folder), f"{PREFIX}*{SUFFIX}")):
        with contextlib.suppress(OSError):
            if time.time() - os.path.getmtime(path) >= seconds:
                os.remove(path)


def concatenate_results(paths: Iterable[str], output: IO[bytes]) -> None:
    """Make one list of the closed files of several :class:`ResultsWriter`, without parsing them."""
    output.write(b"[\n")
    separator = b""
    for path in paths:
        # Between "[\n" and "\n]\n".
        remaining = os.path.getsize(path) - 5
        if remaining <= 0:
            continue
        output.write(separator)
        separator = b",\n"
        with open(path, "rb") as f:
            f.seek(2)
            while remaining > 0:
                output.write(block := f.read(min(remaining, 2**24)))
                remaining -= len(block)
    output.write(b"\n]\n")


ABSENT = msgspec.Raw()


class _Result(msgspec.Struct, gc=False):
    image_id: int
    category_id: int
    score: float
    bbox: tuple[float, float, float, float] | None = None
    segmentation: msgspec.Raw = ABSENT


_decode = msgspec.json.Decoder(_Result).decode
_decode_mask = msgspec.json.Decoder().decode


class ResultsFile:
    """
    Detections in a JSON file, a list in LVIS's results format, by image.

    Masks stay as they are in the file until they are asked for: as Python objects, those of LVIS's
    validation set would take many gigabytes.

    Attributes:
        path: of the file.
        image_ids, category_ids: int64 (N,), of every detection in the file's order.
        scores: float64 (N,).
    """

    def __init__(self, path: str):
        """
        Raises:
            FileNotFoundError: no such file.
            ValueError: no list of detections; in one line with the file and the place in it.
        """
        if not os.path.isfile(path):
            raise FileNotFoundError(f"no such file: {path}")
        self.path = path
        with open(path, "rb") as f:
            if os.path.getsize(path) == 0:
                raise ValueError(f"{path}: the file is empty; expected a list of detections.")
            content = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
        try:
            # All of it as Python objects would take several times the memory.
            with paused_garbage_collector():
                self._results = msgspec.json.decode(content, type=list[msgspec.Raw])
        except msgspec.DecodeError as error:
            raise ValueError(f"{path}: {_reason(error, content)}") from None
        count = len(self._results)
        self.image_ids = np.empty(count, np.int64)
        self.category_ids = np.empty(count, np.int64)
        self.scores = np.empty(count, np.float64)
        self._boxes = np.empty((count, 4), np.float64)
        self._has_boxes, self._has_masks = True, False
        with paused_garbage_collector():
            for start in range(0, count, BLOCK):
                self._read_block(start)
        # Stable, so that the detections of an image stay in the file's order.
        self._order = np.argsort(self.image_ids, kind="stable")
        self._sorted_image_ids = self.image_ids[self._order]

    def check_ids(
        self, image_ids: Sequence[int], category_ids: Sequence[int], annotation_file: str
    ) -> None:
        """
        Args:
            image_ids, category_ids: of the ground truth.
            annotation_file: where they are, for the error.

        Raises:
            ValueError: a detection has another id.
        """
        for key, ids, known in (
            ("image_id", self.image_ids, image_ids),
            ("category_id", self.category_ids, category_ids),
        ):
            unknown = np.flatnonzero(~np.isin(ids, known))
            if len(unknown):
                hint = "; is it the file of another dataset?" if len(unknown) == len(ids) else ""
                raise ValueError(
                    f"{self.path}: detection {unknown[0]} has {key} {ids[unknown[0]]}, which is "
                    f"not in {annotation_file} ({len(unknown)} of {len(ids)} detections){hint}"
                )

    def doubts(self, images: Sequence[Mapping[str, Any]]) -> list[str]:
        """
        Lines about values that are well-formed, but most likely mean something else.

        Args:
            images: of the ground truth, which has all images of the file.
        """
        doubts = []
        if len(self.scores) and self.scores.max() > 1:
            doubts.append(
                f"scores go up to {self.scores.max():g}; if they are percent, divide by 100: AP "
                "stays as it is, calibration errors and pictures do not"
            )
        if self._has_boxes and len(self._boxes):
            sizes = {image["id"]: (image["width"], image["height"]) for image in images}
            size = np.array([sizes[image_id] for image_id in self.image_ids.tolist()])
            x_y, width_height = self._boxes[:, :2], self._boxes[:, 2:]
            leads_out: np.ndarray = np.any(x_y + width_height > size + 1, axis=1)
            is_corner: np.ndarray = np.all(
                (width_height > x_y) & (width_height <= size + 1), axis=1
            )
            num_wrong = np.count_nonzero(leads_out)
            if num_wrong > len(leads_out) / 4 and is_corner[leads_out].mean() > 0.9:
                doubts.append(
                    f"{num_wrong} of {len(leads_out)} boxes lead out of their image; they seem to "
                    "be x0, y0, x1, y1, but in LVIS's results format a box is x, y, width, height"
                )
        return doubts

    def indices(self, image_id: int) -> np.ndarray:
        """int64 (n,), positions of an image's detections in the file, ascending."""
        bounds = np.searchsorted(self._sorted_image_ids, [image_id, image_id + 1])
        return self._order[slice(*bounds)]

    def detections(self, image_id: int) -> Detections:
        """Detections of an image; none if there is nothing of it in the file."""
        indices = self.indices(image_id)
        return Detections(
            image_id,
            self.category_ids[indices],
            self.scores[indices],
            self._boxes[indices] if self._has_boxes else None,
            _Masks([self._results[i] for i in indices]) if self._has_masks else None,
        )

    def _read_block(self, start):
        block = slice(start, start + BLOCK)
        try:
            results = list(map(_decode, self._results[block]))
        except msgspec.DecodeError:
            results = [self._decode_or_name(i) for i in range(start, len(self._results))]
        count = len(results)
        for name, column in (
            ("image_id", self.image_ids),
            ("category_id", self.category_ids),
            ("score", self.scores),
        ):
            try:
                column[block] = np.fromiter(map(attrgetter(name), results), column.dtype, count)
            except OverflowError:
                raise ValueError(f"{self.path}: a detection has an impossible {name}.") from None
        boxes = list(map(attrgetter("bbox"), results))
        masks = list(map(attrgetter("segmentation"), results))
        if start == 0:
            self._has_boxes, self._has_masks = boxes[0] is not None, masks[0] is not ABSENT
            if not self._has_boxes and not self._has_masks:
                raise ValueError(f"{self.path}: detection 0 has neither 'bbox' nor 'segmentation'.")
        for key, has_region, regions, absent in (
            ("bbox", self._has_boxes, boxes, None),
            ("segmentation", self._has_masks, masks, ABSENT),
        ):
            if has_region and absent in regions:
                i = start + regions.index(absent)
                raise ValueError(f"{self.path}: detection {i} has no '{key}', but the first has.")
        if self._has_boxes:
            numbers = itertools.chain.from_iterable(boxes)
            self._boxes[block] = np.fromiter(numbers, np.float64, 4 * count).reshape(-1, 4)

    def _decode_or_name(self, i):
        try:
            return _decode(self._results[i])
        except msgspec.DecodeError as error:
            raise ValueError(f"{self.path}: detection {i}: {error}") from None


class _Masks(Sequence):
    """Masks that are decoded when they are asked for."""

    def __init__(self, results: list[msgspec.Raw]):
        self._results = results

    def __len__(self):
        return len(self._results)

    def __getitem__(self, i):
        return _decode_mask(_decode(self._results[i]).segmentation)


def _reason(error, content):
    """msgspec's message, and what is usually behind it."""
    reason = str(error)
    place = re.search(r"\(byte (\d+)\)", reason)
    if place is not None:
        byte = int(place.group(1))
        if re.search(rb"NaN|Infinity", content[max(0, byte - 12) : byte + 12]):
            return f"NaN or Infinity at byte {byte}; scores and boxes must be finite numbers."
    if isinstance(error, msgspec.ValidationError):
        return f"not a list of detections in LVIS's results format: {reason}."
    return f"not a whole JSON file ({reason}); was it cut off while being written or copied?"
