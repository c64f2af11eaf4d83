"""Images of an annotation file in Detectron2's format, decoded from its text one at a time."""

import dataclasses
import logging
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.structures import BoxMode
from torch.utils.data import ConcatDataset

from .annotation_entries import CATEGORY_LISTS, Annotation, Image, compressed_rle, decode
from .annotation_file import (
    NO_NEEDS,
    AnnotationFile,
    Needs,
    paused_garbage_collector,
)
from .class_statistics import AnnotationColumns, joined_columns

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class AnnotatedImages(Sequence):
    """
    Images in Detectron2's standard format, in ascending order of id, each decoded anew whenever it
    is asked for. Forked workers share the text.

    Class ids, also those in "neg_category_ids" and "not_exhaustive_category_ids" (absent where
    the file has none), are contiguous, in ascending order of the file's category ids. Annotations
    have "bbox" (XYWH, pixels; where the file has none, that of the mask), "category_id", "iscrowd"
    if they are crowds, and where the file has it "segmentation" (polygons, or compressed RLE).

    Attributes:
        class_names: K names.
        contiguous_ids: class of each category id, in ascending order of both.
        paths: (N,) of the files of the images.
        image_texts: (N,) JSON of each image.
        annotation_texts: (A,) JSON of each annotation, image after image.
        is_wide: (N,) bool, True for images that are wider than high.
        columns: of these annotations.
    """

    class_names: list[str]
    contiguous_ids: dict[int, int]
    paths: np.ndarray
    image_texts: np.ndarray
    annotation_texts: np.ndarray
    is_wide: np.ndarray
    columns: AnnotationColumns

    def __len__(self) -> int:
        return self.columns.num_images

    def __getitem__(self, index: int) -> dict[str, Any]:  # type: ignore[override]  # no slices
        image: Any = self.image(index)
        height, width = image["height"], image["width"]
        record: dict[str, Any] = {
            "file_name": self.paths[index],
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
        return decode(self.image_texts[index], Image)

    def annotations(self, index: int) -> list[Annotation]:
        """The annotations of an image as they are in the file."""
        start, end = np.searchsorted(self.columns.images, (index, index + 1))
        return [decode(text, Annotation) for text in self.annotation_texts[start:end]]

    def with_annotations(self) -> "AnnotatedImages":
        """Only the images with an annotation that is no crowd; the text is shared."""
        keep = np.zeros(len(self), dtype=bool)
        keep[self.columns.without_crowds().images] = True
        return dataclasses.replace(
            self,
            paths=self.paths[keep],
            image_texts=self.image_texts[keep],
            annotation_texts=self.annotation_texts[keep[self.columns.images]],
            is_wide=self.is_wide[keep],
            columns=self.columns.of_images(keep),
        )

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


class JoinedImages(ConcatDataset):
    """Images of several annotation files, one file after the other."""

    datasets: list[Any]

    @property
    def is_wide(self) -> np.ndarray:
        """(N,) bool, True for images that are wider than high."""
        return np.concatenate([part.is_wide for part in self.datasets])

    @property
    def columns(self) -> AnnotationColumns:
        """Columns of the annotations of all images."""
        return joined_columns([part.columns for part in self.datasets])


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
        OSError: there is no such file.
        ValueError: the file is not such a file. One line names the file, the first offending
            id, and how many have the same problem.
    """
    file = AnnotationFile(json_file, needs._replace(file_names=True))
    image_ids = sorted(file.images)
    contiguous_ids = {category_id: k for k, category_id in enumerate(file.categories)}
    index_of = {image_id: index for index, image_id in enumerate(image_ids)}
    rows = np.fromiter(
        (
            (text, index_of[x.image_id], contiguous_ids[x.category_id], x.iscrowd)
            for text, x in file.annotations()
        ),
        dtype=[("text", object), ("image", np.int64), ("class", np.int64), ("is_crowd", bool)],
    )
    file.findings.settle(logger)
    rows = rows[np.argsort(rows["image"], kind="stable")]
    texts, images, classes, is_crowd = (
        np.ascontiguousarray(rows[name]) for name in ("text", "image", "class", "is_crowd")
    )
    entries = [file.images[image_id] for image_id in image_ids]
    return AnnotatedImages(
        class_names=[category["name"] for category in file.categories.values()],
        contiguous_ids=contiguous_ids,
        paths=np.fromiter(
            (os.path.join(image_root, file.file_names[i]) for i in image_ids), dtype=object
        ),
        image_texts=np.fromiter((file.image_texts[i] for i in image_ids), dtype=object),
        annotation_texts=texts,
        is_wide=np.array([image["width"] > image["height"] for image in entries]),
        columns=AnnotationColumns(images, classes, is_crowd, num_images=len(image_ids)),
    )
