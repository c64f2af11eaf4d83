"""Detectron2's dataset mapper, whose errors say which image they are about."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.utils.file_io import PathManager
from PIL import Image

from .findings import one_line, shorten
from .pictures import did_you_mean, reading_error


class NamedImageDatasetMapper(DatasetMapper):
    """
    Detectron2's mapper; what it cannot read is named. In training it looks at the boxes and masks
    that it uses, since a polygon with NaN or an incomplete RLE is only found out in the model, if
    at all.

    Raises (when called):
        ValueError: the image is missing, unreadable or of another size than the annotation file
            says, or one of its annotations is broken. One line with image id and file.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        arguments = super().from_config(cfg, is_train)
        if is_train and cfg.INPUT.SCALE_JITTER:
            size = cfg.INPUT.SCALE_JITTER_SIZE
            jitter = T.ResizeScale(*cfg.INPUT.SCALE_JITTER, size, size)
            others = [
                augmentation
                for augmentation in arguments["augmentations"]
                if not isinstance(augmentation, T.ResizeShortestEdge)
            ]
            # The model pads, also to squares where it needs them.
            crop = T.FixedSizeCrop((size, size), pad=False)
            arguments["augmentations"] = [*others, jitter, crop]
            arguments["recompute_boxes"] = cfg.MODEL.MASK_ON
        return arguments

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        try:
            _check_file(dataset_dict)
            if self.is_train:
                self._check_annotations(dataset_dict)
                # Where images are cropped: Detectron2 would crop polygons with shapely.
                if self.recompute_boxes and self.instance_mask_format == "bitmask":
                    dataset_dict = _with_rle(dataset_dict)
            return super().__call__(dataset_dict)
        except MemoryError:
            raise
        # The decoders of images and masks raise many kinds.
        except Exception as error:
            raise ValueError(unreadable_message(dataset_dict, error)) from error

    def _check_annotations(self, dataset_dict: dict[str, Any]) -> None:
        for annotation in dataset_dict.get("annotations", ()):
            if annotation.get("iscrowd", 0):
                continue  # not used
            if not _are_finite(annotation["bbox"]):
                raise ValueError(f"a box is {shorten(annotation['bbox'])}")
            if self.use_instance_mask:
                _check_segmentation(annotation.get("segmentation"), dataset_dict)


def unreadable_message(dataset_dict: dict[str, Any], error: Exception) -> str:
    """One line that names the image and says what is wrong; that of ``error`` if it does so."""
    file_name = one_line(str(dataset_dict.get("file_name")))
    name = f"image {dataset_dict.get('image_id')}, {file_name}: "
    reason = reading_error(error)
    if isinstance(error, FileNotFoundError):
        reason = f"no such file{did_you_mean(str(dataset_dict.get('file_name')))}"
    # Pillow raises SyntaxError for some broken files.
    known = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
    if not reason or not isinstance(error, known):
        reason = ": ".join(filter(None, (type(error).__name__, reason)))
    return reason if reason.startswith(name) else name + reason


def _check_file(dataset_dict: dict[str, Any]) -> None:
    # Where a PNG breaks while its EXIF data are read, Detectron2 goes on with a black picture.
    with PathManager.open(dataset_dict["file_name"], "rb") as f, Image.open(f) as image:
        width, height = image.size
        if image.format == "PNG":
            image.verify()
    expected = dataset_dict.get("width", width), dataset_dict.get("height", height)
    # Before masks are decoded at the size that was annotated; EXIF, which may turn the picture, is
    # Detectron2's matter.
    if sorted(expected) != sorted((width, height)):
        raise ValueError(f"{width} x {height} pixels, annotated as {expected[0]} x {expected[1]}")


def _check_segmentation(segmentation: Any, dataset_dict: dict[str, Any]) -> None:
    if not segmentation:
        raise ValueError("an annotation has no segmentation, but MODEL.MASK_ON is True")
    if isinstance(segmentation, dict):
        size = [dataset_dict["height"], dataset_dict["width"]]
        if list(segmentation["size"]) != size:
            raise ValueError(f"an RLE is of size {segmentation['size']}, the image of {size}")
        # Of a mask that ends early, pycocotools fills the rest with whatever is in memory.
        decoded = mask_util.decode(segmentation)
        if np.count_nonzero(decoded) != mask_util.area(segmentation):
            raise ValueError(f"an RLE is broken: {shorten(segmentation['counts'])}")
    else:
        for polygon in segmentation:
            if len(polygon) < 6 or len(polygon) % 2:
                raise ValueError(f"a polygon has {len(polygon)} numbers")
            if not _are_finite(polygon):
                raise ValueError(f"a polygon is {shorten(polygon)}")


def _with_rle(dataset_dict: dict[str, Any]) -> dict[str, Any]:
    """The same image, each polygon of its annotations as an RLE."""
    height, width = dataset_dict["height"], dataset_dict["width"]
    annotations = []
    for annotation in dataset_dict["annotations"]:
        segmentation = annotation.get("segmentation")
        if isinstance(segmentation, list) and not annotation.get("iscrowd", 0):
            parts = mask_util.frPyObjects(segmentation, height, width)
            annotation = {**annotation, "segmentation": mask_util.merge(parts)}
        annotations.append(annotation)
    return {**dataset_dict, "annotations": annotations}


def _are_finite(values: Sequence[float]) -> bool:
    return bool(np.isfinite(np.asarray(values, dtype=np.float64)).all())
