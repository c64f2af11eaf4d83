"""The results of a prediction, as files."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from ..atomic_write import atomic_file


class PredictionsWriter:
    """
    Writer that :func:`results_files` gives; results are written as they come, not kept.

    Attributes:
        images: entries of ``images.json`` so far.
        num_detections: detections so far.
    """

    def __init__(self, predictions_file: IO[str]):
        self.images: list[dict] = []
        self.num_detections = 0
        self._file = predictions_file

    def add(self, image: dict, results: Sequence[dict]) -> None:
        """
        Args:
            image: its entry in ``images.json``.
            results: its detections in LVIS format.
        """
        self.images.append(image)
        for result in results:
            self._file.write((",\n" if self.num_detections else "") + json.dumps(result))
            self.num_detections += 1


@contextlib.contextmanager
def results_files(
    folder: Path, thing_classes: Sequence[str], category_ids: Sequence[int]
) -> Iterator[PredictionsWriter]:
    """
    Write ``predictions.json``, a list of detections in LVIS format, and ``images.json``, the
    "images" and "categories" that their ids stand for, both whole or not at all.

    The second file has the form of a dataset without annotations, so that COCO and LVIS tools
    can load the first one with it.
    """
    with atomic_file(folder / "predictions.json") as f, atomic_file(folder / "images.json") as g:
        f.write("[\n")
        writer = PredictionsWriter(f)
        yield writer
        f.write("\n]\n")
        categories = [
            {"id": category_id, "name": name}
            for category_id, name in zip(category_ids, thing_classes, strict=True)
        ]
        content = {"images": writer.images, "categories": categories, "annotations": []}
        json.dump(content, g, ensure_ascii=False, indent=1)
