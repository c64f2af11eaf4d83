"""From pixels to detections, without any dataset."""

import logging
from collections.abc import Sequence

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.modeling import GeneralizedRCNNWithTTA, build_model
from detectron2.structures import Instances
from PIL import Image

from ..data.pictures import allow_pixels
from ..data.register import (
    class_metadata,
    find_dataset,
    register_datasets,
    register_instances,
)
from ..engine.checkpoint import build_checkpointer
from ..engine.start_and_resume import load_trained
from ..evaluation.drawing import draw_objects

logger = logging.getLogger(__name__)


class BatchPredictor:
    """
    Detectron2's ``DefaultPredictor`` for several images at a time. The names and category ids of
    the classes come from the checkpoint: no dataset is needed.

    ::

        cfg = load_config("output/quickstart/config.yaml", [])
        predictor = BatchPredictor(cfg, "output/quickstart/model_final.pth", score_threshold=0.5)
        image = read_image("photo.jpg", format="BGR")  # of detectron2.data.detection_utils
        (instances,) = predictor([image])
        results = predictor.lvis_results(instances, image_id=1)
        predictor.draw(image, results).save("photo_annotated.png")

    Attributes:
        thing_classes: (K,) class names.
        category_ids: (K,) ids that stand for the classes in results.
    """

    def __init__(self, cfg: CfgNode, weights: str, score_threshold: float = 0.0):
        """
        Args:
            cfg: of :func:`eql_seesaw.engine.load_config`. Its datasets are not read, unless the
                checkpoint does not name its classes, or TEST.CALIBRATION needs their statistics.
            weights: checkpoint.
            score_threshold: lower scores are left out, as are those that
                MODEL.ROI_HEADS.SCORE_THRESH_TEST leaves out.

        Raises:
            ValueError: INPUT.FORMAT is neither BGR nor RGB, or the class statistics that
                TEST.CALIBRATION needs are not there.
            CheckpointError: a ValueError; the checkpoint cannot be read or does not fit the config.
        """
        if cfg.INPUT.FORMAT not in ("BGR", "RGB"):
            raise ValueError(f"INPUT.FORMAT is {cfg.INPUT.FORMAT!r}; it must be BGR or RGB")
        allow_pixels(cfg.INPUT.MAX_IMAGE_PIXELS)
        self._is_rgb = cfg.INPUT.FORMAT == "RGB"
        self._resize = T.ResizeShortestEdge(
            [cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MIN_SIZE_TEST], cfg.INPUT.MAX_SIZE_TEST
        )
        prediction_cfg = _prediction_config(cfg, score_threshold)
        self.model = build_model(prediction_cfg).eval()
        self._augmented_model = None
        if cfg.TEST.AUG.ENABLED:
            self._augmented_model = GeneralizedRCNNWithTTA(prediction_cfg, self.model).eval()
        metadata = load_trained(build_checkpointer(cfg, self.model), weights)
        metadata = metadata or _metadata_of_datasets(cfg)
        if metadata is None:
            num_classes = cfg.MODEL.ROI_HEADS.NUM_CLASSES
            logger.warning(
                f"neither {weights} nor a dataset of the config names the classes; they are "
                f"called category 1 to {num_classes}"
            )
            category_ids = list(range(1, num_classes + 1))
            metadata = {
                "thing_classes": [f"category {i}" for i in category_ids],
                "category_ids": category_ids,
            }
        self.thing_classes: list[str] = metadata["thing_classes"]
        self.category_ids: list[int] = metadata["category_ids"]

    def __call__(self, images: Sequence[np.ndarray]) -> list[Instances]:
        """
        Args:
            images: (Hi, Wi, 3) uint8 each, BGR as OpenCV reads them, of any sizes. Smaller ones
                are padded to the largest, which changes their scores a little.

        Returns:
            For each image, on the CPU: ``pred_boxes``, ``scores``, ``pred_classes`` and, where the
            model has masks, ``pred_masks``, in pixels of the image, highest score first.
        """
        return self.predict([self.preprocess(image) for image in images])

    def preprocess(self, image: np.ndarray) -> dict:
        """One (H, W, 3) uint8 BGR image, resized, as the input of the model."""
        height, width = image.shape[:2]
        pixels = image[:, :, ::-1] if self._is_rgb else image
        pixels = self._resize.get_transform(pixels).apply_image(pixels)
        tensor = torch.as_tensor(np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32))
        return {"image": tensor, "height": height, "width": width}

    def predict(self, inputs: list[dict]) -> list[Instances]:
        """Detections of a batch of what :meth:`preprocess` returned."""
        if not inputs:
            return []
        model = self.model
        if self._augmented_model is not None:
            model = self._augmented_model
            # Images of bytes are resized as in evaluation.
            inputs = [{**x, "image": x["image"].to(torch.uint8)} for x in inputs]
        with torch.no_grad():
            return [output["instances"].to("cpu") for output in model(inputs)]

    def lvis_results(self, instances: Instances, image_id: int) -> list[dict]:
        """
        Detections of an image in LVIS format: "image_id", "category_id", "bbox" (XYWH, pixels),
        "score" and, where the model has masks, "segmentation" (compressed RLE).
        """
        results = instances_to_coco_json(instances, image_id)
        return [{**r, "category_id": self.category_ids[r["category_id"]]} for r in results]

    def draw(self, image: np.ndarray, results: Sequence[dict]) -> Image.Image:
        """Results of :meth:`lvis_results` on their (H, W, 3) uint8 BGR image; returns RGB."""
        classes = {category_id: k for k, category_id in enumerate(self.category_ids)}
        objects = [{**r, "category_id": classes[r["category_id"]]} for r in results]
        # The best on top.
        objects.sort(key=lambda obj: obj["score"])
        return draw_objects(image[:, :, ::-1], objects, self.thing_classes)


def _prediction_config(cfg: CfgNode, score_threshold: float) -> CfgNode:
    """Without datasets whose statistics the model would ask for and not need."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASETS.TEST = ()
    method = cfg.TEST.CALIBRATION.METHOD
    if method in ("none", "tau_norm"):
        cfg.DATASETS.TRAIN, cfg.DATASETS.CLASS_STATISTICS = (), ""
    elif cfg.DATASETS.CLASS_STATISTICS:
        cfg.DATASETS.TRAIN = ()
    else:
        try:
            register_datasets(cfg)
        except (ValueError, FileNotFoundError) as error:
            raise ValueError(
                f"{error}; TEST.CALIBRATION.METHOD {method} needs its class statistics, or a file "
                "of them in DATASETS.CLASS_STATISTICS"
            ) from None
    roi_heads = cfg.MODEL.ROI_HEADS
    # Before NMS, which is then faster and, going from high scores to low, gives the same.
    roi_heads.SCORE_THRESH_TEST = max(score_threshold, roi_heads.SCORE_THRESH_TEST)
    cfg.freeze()
    return cfg


def _metadata_of_datasets(cfg: CfgNode) -> dict[str, list] | None:
    """For checkpoints that name no classes: the first of the config's datasets that does."""
    for key in ("TRAIN", "TEST"):
        for name in cfg.DATASETS[key]:
            try:
                paths = find_dataset(cfg, f"DATASETS.{key}", name)
            except ValueError:  # a dataset that another program registers
                continue
            if paths is not None and name in cfg.DATASETS.REGISTER:
                register_instances(name, *paths)
            metadata = class_metadata(name)
            if metadata and len(metadata["thing_classes"]) == cfg.MODEL.ROI_HEADS.NUM_CLASSES:
                return metadata
    return None
