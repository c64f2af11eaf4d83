"""A training set in memory as text, so that loading it takes neither long nor much memory."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.structures import BoxMode

from .annotation_columns import AnnotationColumns
from .annotation_file import MAX_COORDINATE, segmentation_problem


@dataclasses.dataclass(frozen=True, eq=False)
class SerializedInstances(Sequence):
    """
    Images in Detectron2's standard format, each decoded anew whenever it is asked for. A forked
    worker shares the text.

    Attributes:
        text: uint8, JSON of the images, one after the other.
        starts: (N,) int64, where in ``text`` an image begins.
        ends: (N,) int64, where it ends.
        is_wide: (N,) bool, whether it is wider than high.
        columns: of the annotations.
    """

    text: torch.Tensor
    starts: np.ndarray
    ends: np.ndarray
    is_wide: np.ndarray
    columns: AnnotationColumns

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> dict[str, Any]:  # type: ignore[override]  # no slices
        text = self.text[self.starts[index] : self.ends[index]].numpy()
        record = msgspec.json.decode(text.data)
        size = record["height"], record["width"]
        record["annotations"] = [
            standard_instance(annotation, annotation["category_id"], *size)
            for annotation in record["annotations"]
        ]
        return record

    def with_annotations(self) -> "SerializedInstances":
        """Only the images with an annotation that is no crowd; the text is shared."""
        keep = np.zeros(len(self), dtype=bool)
        keep[self.columns.images[~self.columns.is_crowd]] = True
        if keep.all():
            return self
        columns, kept = self.columns, keep[self.columns.images]
        return SerializedInstances(
            text=self.text,
            starts=self.starts[keep],
            ends=self.ends[keep],
            is_wide=self.is_wide[keep],
            columns=AnnotationColumns(
                images=(np.cumsum(keep) - 1)[columns.images[kept]],
                classes=columns.classes[kept],
                is_crowd=columns.is_crowd[kept],
                num_images=int(keep.sum()),
            ),
        )


def standard_instance(
    annotation: dict[str, Any], category_id: int, height: int, width: int
) -> dict[str, Any]:
    """
    An annotation in Detectron2's standard format.

    Args:
        annotation: checked, with "bbox" and perhaps "iscrowd" and "segmentation".
        category_id: its contiguous class id.
        height, width: of the image.
    """
    instance = {
        "bbox": annotation["bbox"],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": category_id,
    }
    if "iscrowd" in annotation:
        instance["iscrowd"] = annotation["iscrowd"]
    segmentation = annotation.get("segmentation")
    if segmentation:
        if isinstance(segmentation, dict) and isinstance(segmentation["counts"], list):
            segmentation = mask_util.frPyObjects(segmentation, height, width)
        instance["segmentation"] = segmentation
    return instance


class RawAnnotation(msgspec.Struct, gc=False):
    """An entry of the "annotations" of a file, in which boxes and masks are still text."""

    id: int
    image_id: int
    category_id: int
    bbox: msgspec.Raw
    segmentation: msgspec.Raw = msgspec.Raw(b"null")
    iscrowd: Literal[0, 1] | msgspec.UnsetType = msgspec.UNSET


def serialize_instances(
    records: Sequence[dict[str, Any]],
    annotations: Sequence[RawAnnotation],
    contiguous_ids: dict[int, int],
) -> SerializedInstances | None:
    """
    Args:
        records: the images in Detectron2's standard format, without "annotations".
        annotations: of these images, in any order.
        contiguous_ids: class of each category id.

    Returns:
        The images with their annotations, in the order that these have; None if one of the
        annotations is not as it should be.
    """
    image_indices = {record["image_id"]: index for index, record in enumerate(records)}
    images = [image_indices.get(annotation.image_id, -1) for annotation in annotations]
    classes = [contiguous_ids.get(annotation.category_id, -1) for annotation in annotations]
    if min(images) < 0 or min(classes) < 0:
        return None
    if len({annotation.id for annotation in annotations}) < len(annotations):
        return None
    is_crowd = np.array([annotation.iscrowd == 1 for annotation in annotations])
    order = np.argsort(images, kind="stable")
    columns = AnnotationColumns(
        np.array(images)[order], np.array(classes)[order], is_crowd[order], len(records)
    )

    text, ends = bytearray(), []
    ordered = map(annotations.__getitem__, order.tolist())
    instances = map(_instance_text, ordered, columns.classes.tolist())
    counts = np.bincount(columns.images, minlength=len(records)).tolist()
    for record, count in zip(records, counts, strict=True):
        own = b"[%b]" % b",".join(itertools.islice(instances, count))
        if not _are_valid(own, record["height"], record["width"]):
            return None
        text += b'%b,"annotations":%b}' % (msgspec.json.encode(record)[:-1], own)
        ends.append(len(text))
    return SerializedInstances(
        text=torch.frombuffer(text, dtype=torch.uint8),
        starts=np.array([0, *ends[:-1]]),
        ends=np.array(ends),
        is_wide=np.array([record["width"] > record["height"] for record in records]),
        columns=columns,
    )


def _instance_text(annotation: RawAnnotation, category_id: int) -> bytes:
    crowd = b"" if annotation.iscrowd is msgspec.UNSET else b',"iscrowd":%d' % annotation.iscrowd
    return b'{"bbox":%b,"category_id":%d,"segmentation":%b%b}' % (
        annotation.bbox,
        category_id,
        annotation.segmentation,
        crowd,
    )


_Coordinate = Annotated[float, msgspec.Meta(gt=-MAX_COORDINATE, lt=MAX_COORDINATE)]


class _Geometry(msgspec.Struct, gc=False):
    bbox: tuple[_Coordinate, _Coordinate, _Coordinate, _Coordinate]
    segmentation: Any


_decode_geometry = msgspec.json.Decoder(list[_Geometry]).decode


def _are_valid(instances: bytes, height: int, width: int) -> bool:
    """Whether boxes and masks are what a dataset may hold; the numbers are then forgotten."""
    try:
        geometry = _decode_geometry(instances)
    except (ValueError, RecursionError):
        return False
    return not any(
        instance.segmentation and segmentation_problem(instance.segmentation, height, width)
        for instance in geometry
    )
