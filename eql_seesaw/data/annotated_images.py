"""Images of an annotation file in Detectron2's format, decoded from its text one at a time."""

import dataclasses
import logging
import os
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.structures import BoxMode

from .annotation_entries import CATEGORY_LISTS, Annotation, Form, Image, compressed_rle, decode
from .annotation_file import (
    NO_NEEDS,
    AnnotationFile,
    Needs,
    image_file_name,
    paused_garbage_collector,
)
from .class_statistics import AnnotationColumns, joined_columns

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class AnnotatedImages(Sequence):
    """
    Images in Detectron2's standard format, in ascending order of id, each decoded anew whenever it
    is asked for. Forked workers share the text and the arrays.

    Class ids, also those in "neg_category_ids" and "not_exhaustive_category_ids" (absent where
    the file has none), are contiguous, in ascending order of the file's category ids. Annotations
    have "bbox" (XYWH, pixels; where the file has none, that of the mask), "category_id", "iscrowd"
    if they are crowds, and where the file has it "segmentation" (polygons, or compressed RLE).

    Attributes:
        image_root: folder that file names are relative to.
        from_coco_url: whether file names are those of "coco_url", as Detectron2 reads LVIS.
        class_names: K names.
        contiguous_ids: class of each category id, in ascending order of both.
        text: of the annotation file.
        image_spans: (N, 2) int64, start and end of each image in ``text``.
        annotation_spans: (A, 2) int64, start and end of each annotation in ``text``, image after
            image.
        is_wide: (N,) bool, True for images that are wider than high.
        columns: of these annotations.
    """

    image_root: str
    from_coco_url: bool
    class_names: list[str]
    contiguous_ids: dict[int, int]
    text: bytes
    image_spans: np.ndarray
    annotation_spans: np.ndarray
    is_wide: np.ndarray
    columns: AnnotationColumns

    def __len__(self) -> int:
        return self.columns.num_images

    def __getitem__(self, index: int) -> dict[str, Any]:  # type: ignore[override]  # no slices
        image: Any = self.image(index)
        height, width = image["height"], image["width"]
        file_name = image_file_name(image, self.from_coco_url)
        record: dict[str, Any] = {
            "file_name": os.path.join(self.image_root, file_name),
            "height": height,
            "width": width,
            "image_id": image["id"],
        }
        to_class = self.contiguous_ids
        for key in CATEGORY_LISTS:
            if key in image:
                record[key] = [to_class[i] for i in image[key] if i in to_class]
        record["annotations"] = [
            self._instance(annotation, height, width) for annotation in self.annotations(index)
        ]
        return record

    def image(self, index: int) -> Image:
        """An image as it is in the file."""
        return self._decode(self.image_spans[index], Image)

    def annotations(self, index: int) -> list[Annotation]:
        """The annotations of an image as they are in the file."""
        start, end = np.searchsorted(self.columns.images, (index, index + 1))
        return [self._decode(span, Annotation) for span in self.annotation_spans[start:end]]

    def with_annotations(self) -> "AnnotatedImages":
        """Only the images with an annotation that is no crowd; the text is shared."""
        keep = np.zeros(len(self), dtype=bool)
        keep[self.columns.without_crowds().images] = True
        return dataclasses.replace(
            self,
            image_spans=self.image_spans[keep],
            annotation_spans=self.annotation_spans[keep[self.columns.images]],
            is_wide=self.is_wide[keep],
            columns=self.columns.of_images(keep),
        )

    def _decode(self, span: np.ndarray, form: type[Form]) -> Form:
        start, end = span.tolist()
        return decode(self.text[start:end], form)

    def _instance(self, annotation: Annotation, height: int, width: int) -> dict[str, Any]:
        instance = {
            "bbox": annotation.box(height, width),
            "bbox_mode": BoxMode.XYWH_ABS,
            "category_id": self.contiguous_ids[annotation.category_id],
        }
        if annotation.iscrowd:
            instance["iscrowd"] = 1
        segmentation: Any = annotation.segmentation
        if isinstance(segmentation, dict):
            segmentation = compressed_rle(segmentation, height, width)
        if segmentation:
            instance["segmentation"] = segmentation
        return instance


@dataclasses.dataclass(frozen=True, eq=False)
class JoinedImages(Sequence):
    """Images of several annotation files, one file after the other."""

    parts: Sequence[AnnotatedImages]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, index: int) -> dict[str, Any]:  # type: ignore[override]  # no slices
        for part in self.parts:
            if index < len(part):
                return part[index]
            index -= len(part)
        raise IndexError(index)

    @property
    def is_wide(self) -> np.ndarray:
        """(N,) bool, True for images that are wider than high."""
        return np.concatenate([part.is_wide for part in self.parts])

    @property
    def columns(self) -> AnnotationColumns:
        """Columns of the annotations of all images."""
        return joined_columns([part.columns for part in self.parts])


@paused_garbage_collector()
def read_annotated_images(
    json_file: str, image_root: str, needs: Needs = NO_NEEDS
) -> AnnotatedImages:
    """
    Read and check an annotation file in COCO or LVIS format.

    Args:
        json_file: annotation file, with "images", "annotations" and "categories".
        image_root: folder that an image's "file_name" is relative to. Where that is absent, as in
            LVIS v1, the last two parts of "coco_url" are taken, and this is the folder that holds
            ``train2017`` and ``val2017``.
        needs: of training with them, beyond usable file names.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not such a file. One line names the file, the first offending
            id, and how many have the same problem.
    """
    file = AnnotationFile(json_file, needs._replace(file_names=True))
    image_ids = sorted(file.images)
    contiguous_ids = {category_id: k for k, category_id in enumerate(file.categories)}
    index_of = {image_id: index for index, image_id in enumerate(image_ids)}
    places, images, classes, is_crowd = array("q"), array("q"), array("q"), array("b")
    for place, annotation in file.annotations():
        places.append(place)
        images.append(index_of[annotation.image_id])
        classes.append(contiguous_ids[annotation.category_id])
        is_crowd.append(annotation.iscrowd)
    file.findings.settle(logger)

    order = np.argsort(images, kind="stable")
    columns = AnnotationColumns(
        images=np.array(images, dtype=np.int64)[order],
        classes=np.array(classes, dtype=np.int64)[order],
        is_crowd=np.array(is_crowd, dtype=bool)[order],
        num_images=len(image_ids),
    )
    in_order = [file.images[image_id] for image_id in image_ids]
    return AnnotatedImages(
        image_root=image_root,
        from_coco_url=needs.from_coco_url,
        class_names=[category["name"] for category in file.categories.values()],
        contiguous_ids=contiguous_ids,
        text=file.text,
        image_spans=file.spans("images")[[file.image_places[i] for i in image_ids]],
        annotation_spans=file.spans("annotations")[np.array(places, dtype=np.int64)[order]],
        is_wide=np.array([image["width"] > image["height"] for image in in_order]),
        columns=columns,
    )
