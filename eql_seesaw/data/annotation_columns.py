"""Image and class of every annotation of a dataset, in arrays."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class AnnotationColumns(NamedTuple):
    """
    Columns of a dataset's annotations for class statistics and samplers, image after image.

    Attributes:
        images: (A,) int64, index of each annotation's image, ascending.
        classes: (A,) int64, contiguous class ids.
        is_crowd: (A,) bool.
        num_images: number of images, those without annotations too.
    """

    images: np.ndarray
    classes: np.ndarray
    is_crowd: np.ndarray
    num_images: int

    def without_crowds(self) -> "AnnotationColumns":
        """Without the annotations of crowds; all images stay."""
        if not self.is_crowd.any():
            return self
        images, classes, is_crowd = (column[~self.is_crowd] for column in self[:3])
        return AnnotationColumns(images, classes, is_crowd, self.num_images)

    def of_images(self, keep: np.ndarray) -> "AnnotationColumns":
        """Columns of the images where ``keep``, (num_images,) bool, is True."""
        kept = keep[self.images]
        return AnnotationColumns(
            images=(np.cumsum(keep) - 1)[self.images[kept]],
            classes=self.classes[kept],
            is_crowd=self.is_crowd[kept],
            num_images=int(keep.sum()),
        )

    def classes_of_images(self) -> tuple[np.ndarray, np.ndarray]:
        """
        Images and classes, (P,) int64 each, where an image has a class only once, however many
        instances it has. In ascending order of class, then of image.
        """
        # NumPy sorts 16 bits by radix, many times faster.
        is_small = len(self.classes) > 0 and 0 <= self.classes.min() and self.classes.max() < 2**16
        keys = self.classes.astype(np.uint16) if is_small else self.classes
        order = np.argsort(keys, kind="stable")
        images, keys = self.images[order], keys[order]
        is_new = np.ones(len(order), dtype=bool)
        is_new[1:] = (images[1:] != images[:-1]) | (keys[1:] != keys[:-1])
        return images[is_new], keys[is_new].astype(np.int64)


def joined_columns(columns: Sequence[AnnotationColumns]) -> AnnotationColumns:
    """Columns of datasets whose images come one after the other."""
    *starts, num_images = np.cumsum([0, *(c.num_images for c in columns)]).tolist()
    return AnnotationColumns(
        images=np.concatenate([c.images + i for c, i in zip(columns, starts, strict=True)]),
        classes=np.concatenate([c.classes for c in columns]),
        is_crowd=np.concatenate([c.is_crowd for c in columns]),
        num_images=num_images,
    )


def annotation_columns(dataset_dicts: Sequence[dict[str, Any]]) -> AnnotationColumns:
    """
    The columns of a dataset in Detectron2's standard format; those that it keeps itself, in its
    ``columns``, as :class:`~eql_seesaw.data.annotated_images.AnnotatedImages` does.
    """
    columns = getattr(dataset_dicts, "columns", None)
    if columns is not None:
        return columns
    annotations = [image.get("annotations", ()) for image in dataset_dicts]
    # Two plain loops, since these take nearly all the time.
    classes = [x["category_id"] for of_image in annotations for x in of_image]
    is_crowd = [x["iscrowd"] if "iscrowd" in x else 0 for of_image in annotations for x in of_image]
    return AnnotationColumns(
        images=np.repeat(np.arange(len(annotations)), [len(of_image) for of_image in annotations]),
        classes=np.fromiter(classes, dtype=np.int64, count=len(classes)),
        is_crowd=np.fromiter(is_crowd, dtype=bool, count=len(is_crowd)),
        num_images=len(annotations),
    )
