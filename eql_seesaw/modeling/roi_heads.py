"""ROI heads whose box predictors take their loss from MODEL.ROI_BOX_HEAD.CLS_LOSS."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import CascadeROIHeads, Res5ROIHeads, StandardROIHeads
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage

from ..losses import summed_together
from .fast_rcnn import LongTailFastRCNNOutputLayers
from .fast_rcnn_inference import fast_rcnn_inference_topk


@ROI_HEADS_REGISTRY.register()
class LongTailROIHeads(StandardROIHeads):
    """Detectron2's standard heads (FPN, C5) with our box predictor."""

    @classmethod
    def _init_box_head(cls, cfg, input_shape):
        ret = super()._init_box_head(cfg, input_shape)
        ret["box_predictor"] = LongTailFastRCNNOutputLayers(cfg, ret["box_head"].output_shape)
        return ret


@ROI_HEADS_REGISTRY.register()
class LongTailCascadeROIHeads(CascadeROIHeads):
    """Detectron2's cascade heads with our box predictors; each stage has its own loss state."""

    @configurable
    def __init__(
        self,
        *,
        stage_loss_weights: Sequence[float] = (),
        averages_logits: bool = False,
        **kwargs: Any,
    ):
        """
        Args:
            stage_loss_weights: factors of each stage's losses, whose gradients then reach the
                features undivided. Empty for Detectron2's: factors of 1, and gradients to the
                features divided by the number of stages.
            averages_logits: scores come from the mean of the stages' logits, not from the mean of
                their probabilities.
            kwargs: as for ``CascadeROIHeads``.
        """
        super().__init__(**kwargs)
        self.stage_loss_weights = stage_loss_weights
        self.averages_logits = averages_logits

    @classmethod
    def from_config(cls, cfg, input_shape):
        cascade = cfg.MODEL.ROI_BOX_CASCADE_HEAD
        return {
            **super().from_config(cfg, input_shape),
            "stage_loss_weights": cascade.STAGE_LOSS_WEIGHTS,
            "averages_logits": cascade.AVERAGED == "logits",
        }

    @classmethod
    def _init_box_head(cls, cfg, input_shape):
        ret = super()._init_box_head(cfg, input_shape)
        ret["box_predictors"] = [
            LongTailFastRCNNOutputLayers(
                cfg, box_head.output_shape, box2box_transform=predictor.box2box_transform
            )
            for box_head, predictor in zip(ret["box_heads"], ret["box_predictors"])
        ]
        return ret

    def _forward_box(self, features, proposals, targets=None):
        """
        As the base class, but the losses of all stages sum their statistics over ranks together,
        and inference calls :func:`fast_rcnn_inference_topk`.
        """
        features = [features[name] for name in self.box_in_features]
        image_sizes = [x.image_size for x in proposals]
        boxes, outputs = None, []
        for stage, predictor in enumerate(self.box_predictor):
            if stage > 0:
                proposals = self._create_proposals_from_boxes(boxes, image_sizes)
                if self.training:
                    proposals = self._match_and_label_boxes(proposals, stage, targets)
            predictions = self._run_stage(features, proposals, stage)
            boxes = predictor.predict_boxes(predictions, proposals)
            outputs.append((predictions, proposals))
        if self.training:
            return self._box_losses(outputs)
        return self._box_detections(outputs, boxes, image_sizes)

    def _run_stage(self, features, proposals, stage):
        """As the base class, which divides the gradient that the features get."""
        if not self.stage_loss_weights:
            return super()._run_stage(features, proposals, stage)
        box_features = self.box_pooler(features, [x.proposal_boxes for x in proposals])
        return self.box_predictor[stage](self.box_head[stage](box_features))

    def _box_losses(self, outputs: list[tuple]) -> dict[str, torch.Tensor]:
        """The losses of all stages, from each one's predictions and labelled proposals."""
        losses: dict[str, torch.Tensor] = {}
        gt_classes = [torch.cat([x.gt_classes for x in proposals]) for _, proposals in outputs]
        with summed_together([x.loss for x in self.box_predictor], gt_classes):
            weights = self.stage_loss_weights or [1.0] * len(outputs)
            stages = zip(self.box_predictor, outputs, weights, strict=True)
            for stage, (predictor, output, weight) in enumerate(stages):
                with get_event_storage().name_scope(f"stage{stage}"):
                    stage_losses = predictor.losses(*output)
                for name, loss in stage_losses.items():
                    losses[f"{name}_stage{stage}"] = loss * weight
        return losses

    def _box_detections(
        self, outputs: list[tuple], boxes: list[torch.Tensor], image_sizes: list[tuple[int, int]]
    ) -> list[Instances]:
        """Detections of each image: the last stage's boxes with the mean of all stages' scores."""
        predictor = self.box_predictor[-1]
        # A factor rather than a division, which would round some scores differently.
        share = 1.0 / self.num_cascade_stages
        if self.averages_logits:
            (_, deltas), proposals = outputs[-1]
            logits = sum(logits for (logits, _), _ in outputs) * share
            probs = predictor.predict_probs((logits, deltas), proposals)
        else:
            stage_probs = [
                stage.predict_probs(*output)
                for stage, output in zip(self.box_predictor, outputs, strict=True)
            ]
            probs = [sum(probs) * share for probs in zip(*stage_probs)]
        detections, _ = fast_rcnn_inference_topk(
            boxes,
            probs,
            image_sizes,
            predictor.test_score_thresh,
            predictor.test_nms_thresh,
            predictor.test_topk_per_image,
        )
        return detections

    def _match_and_label_boxes(self, proposals, stage, targets):
        """As the base class; also hands on ``gt_annotated_classes``, one row for a whole image."""
        proposals = super()._match_and_label_boxes(proposals, stage, targets)
        for proposals_per_image, targets_per_image in zip(proposals, targets):
            if targets_per_image.has("gt_annotated_classes") and len(targets_per_image):
                row = targets_per_image.gt_annotated_classes[:1]
                proposals_per_image.gt_annotated_classes = row.expand(len(proposals_per_image), -1)
        return proposals


@ROI_HEADS_REGISTRY.register()
class LongTailRes5ROIHeads(Res5ROIHeads):
    """Detectron2's C4 heads with our box predictor."""

    @classmethod
    def from_config(cls, cfg, input_shape):
        ret = super().from_config(cfg, input_shape)
        channels = ret["box_predictor"].cls_score.in_features
        ret["box_predictor"] = LongTailFastRCNNOutputLayers(
            cfg, ShapeSpec(channels=channels, height=1, width=1)
        )
        return ret
