"""Detectron2's dataset mapper, whose errors say which image they are about."""

import logging
from typing import Any

import pycocotools.mask as mask_util
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import log_first_n
from PIL import Image

from .annotation_entries import rle_error
from .findings import one_line
from .pictures import reading_error


class NamedImageDatasetMapper(DatasetMapper):
    """
    Detectron2's mapper; what it cannot read is named. It also looks at what Detectron2 would pass
    over: PNG files and compressed masks that end early, and missing masks.

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
            _check_png(dataset_dict["file_name"])
            if self.is_train and self.use_instance_mask:
                _check_masks(dataset_dict)
                # Where images are cropped: Detectron2 would crop polygons with shapely.
                if self.recompute_boxes and self.instance_mask_format == "bitmask":
                    dataset_dict = _with_rle(dataset_dict)
            return super().__call__(dataset_dict)
        except MemoryError:
            raise
        # The decoders of images and masks raise many kinds.
        except Exception as error:
            raise ValueError(unreadable_message(dataset_dict, error)) from error


class AnnotatedClassesMapper(NamedImageDatasetMapper):
    """
    Detectron2's mapper, which also says which classes were verified in the image.

    The training "instances" get a field ``gt_annotated_classes``, (N, K) bool, with the same row
    for each of the N instances. A class is True if the image has a non-crowd annotation of it,
    before any cropping, or its contiguous id is in "neg_category_ids". An image without
    "neg_category_ids" is exhaustively annotated, as in COCO: all of its classes are verified, and
    the row is True. The first such image is named in a warning, since the loss then suppresses
    nothing.
    """

    @configurable
    def __init__(self, is_train: bool, *, num_classes: int, **kwargs: Any) -> None:
        """
        Args:
            is_train: whether it is used in training.
            num_classes: number of foreground classes K.
            kwargs: the arguments of Detectron2's ``DatasetMapper``.
        """
        super().__init__(is_train, **kwargs)
        self.num_classes = num_classes

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        arguments = super().from_config(cfg, is_train)
        arguments["num_classes"] = cfg.MODEL.ROI_HEADS.NUM_CLASSES
        return arguments

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        mapped = super().__call__(dataset_dict)
        if "instances" in mapped:
            instances = mapped["instances"]
            row = self._annotated_classes(dataset_dict)
            instances.gt_annotated_classes = row.expand(len(instances), -1)
        return mapped

    def _annotated_classes(self, dataset_dict: dict[str, Any]) -> torch.Tensor:
        negatives = dataset_dict.get("neg_category_ids")
        if negatives is None:
            worker = torch.utils.data.get_worker_info()
            if worker is None or worker.id == 0:
                log_first_n(
                    logging.WARNING,
                    f"MODEL.ROI_BOX_HEAD.EQL.KEEP_ANNOTATED: image {dataset_dict.get('image_id')} "
                    "has no neg_category_ids, so it counts as annotated for every class and EQL is "
                    "plain sigmoid cross-entropy in it and in all images like it; set "
                    "KEEP_ANNOTATED to False for a dataset without neg_category_ids",
                    name=__name__,
                )
            return torch.ones(self.num_classes, dtype=torch.bool)
        positives = [
            annotation["category_id"]
            for annotation in dataset_dict["annotations"]
            if not annotation.get("iscrowd", 0)
        ]
        annotated = torch.zeros(self.num_classes, dtype=torch.bool)
        annotated[torch.tensor([*positives, *negatives], dtype=torch.int64)] = True
        return annotated


def unreadable_message(dataset_dict: dict[str, Any], error: Exception) -> str:
    """One line that names the image and says what is wrong; that of ``error`` if it does so."""
    file_name = one_line(str(dataset_dict.get("file_name")))
    name = f"image {dataset_dict.get('image_id')}, {file_name}: "
    reason = reading_error(error)
    # Pillow raises SyntaxError for some broken files.
    if not isinstance(error, OSError | ValueError | SyntaxError | Image.DecompressionBombError):
        reason = f"{type(error).__name__}: {reason}".removesuffix(": ")
    return reason if reason.startswith(name) else name + reason


def _check_png(file_name: str) -> None:
    # Where a PNG breaks while its EXIF data are read, Detectron2 goes on with a black picture.
    with PathManager.open(file_name, "rb") as f, Image.open(f) as image:
        if image.format == "PNG":
            image.verify()


def _check_masks(dataset_dict: dict[str, Any]) -> None:
    for annotation in dataset_dict.get("annotations", ()):
        segmentation = annotation.get("segmentation")
        if annotation.get("iscrowd", 0):
            continue
        if segmentation is None or len(segmentation) == 0:
            raise ValueError("segmentation is missing, but MODEL.MASK_ON is True")
        error = rle_error(segmentation) if isinstance(segmentation, dict) else None
        if error is not None:
            raise ValueError(error)


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
