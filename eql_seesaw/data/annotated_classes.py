"""Classes that were verified in an image, for losses that spare them."""

import logging
from typing import Any

import torch
from detectron2.config import CfgNode, configurable

from .dataset_mapper import NamedImageDatasetMapper

logger = logging.getLogger(__name__)


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
    def __init__(
        self,
        is_train: bool,
        *,
        num_classes: int,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            is_train: whether it is used in training.
            num_classes: number of foreground classes K.
            kwargs: the arguments of Detectron2's ``DatasetMapper``.
        """
        super().__init__(is_train, **kwargs)
        self.num_classes = num_classes
        self._has_warned = False

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
            self._warn_of_exhaustive_image(dataset_dict)
            return torch.ones(self.num_classes, dtype=torch.bool)
        positives = [
            annotation["category_id"]
            for annotation in dataset_dict["annotations"]
            if not annotation.get("iscrowd", 0)
        ]
        annotated = torch.zeros(self.num_classes, dtype=torch.bool)
        annotated[torch.tensor([*positives, *negatives], dtype=torch.int64)] = True
        return annotated

    def _warn_of_exhaustive_image(self, dataset_dict: dict[str, Any]) -> None:
        worker = torch.utils.data.get_worker_info()
        if self._has_warned or (worker is not None and worker.id > 0):
            return
        self._has_warned = True
        logger.warning(
            "MODEL.ROI_BOX_HEAD.EQL.KEEP_ANNOTATED: image %s has no neg_category_ids, so it counts "
            "as annotated for every class and EQL is plain sigmoid cross-entropy in it and in all "
            "images like it; set KEEP_ANNOTATED to False for a dataset without neg_category_ids",
            dataset_dict.get("image_id"),
        )
