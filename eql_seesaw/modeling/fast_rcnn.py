"""Box predictors: Detectron2's ``FastRCNNOutputLayers`` with a classification loss of ours."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage
from torch import nn

from ..config import loss_arguments, normed_classifier
from ..data.class_statistics import ClassStatistics
from ..data.training_set import class_statistics
from ..losses import ClassificationLoss, build_loss
from ..normed_layers import NormedLinear
from .aligned_linear import AlignedLinear, AlignedNormedLinear
from .calibration import Calibration, build_calibration
from .class_gradients import ClassGradients
from .class_specific_boxes import ClassSpecificDeltas, EncodedBoxes
from .classification_accuracy import ClassificationAccuracy
from .fast_rcnn_inference import fast_rcnn_inference_topk
from .scaled_linear import ScaledLinear, ScaledNormedLinear

# Logits and box deltas.
Predictions = tuple[torch.Tensor, torch.Tensor | ClassSpecificDeltas]


class LongTailFastRCNNOutputLayers(FastRCNNOutputLayers):
    """
    Box predictor with any loss of :data:`eql_seesaw.losses.LOSSES`. Box regression and detections
    are Detectron2's; where there are many classes, they take less time and memory.
    """

    # The loss of a predictor that stands for one; None to read MODEL.ROI_BOX_HEAD.CLS_LOSS.
    loss_name: str | None = None
    cls_score: nn.Linear

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        box2box_transform: Box2BoxTransform,
        num_classes: int,
        loss: ClassificationLoss | Mapping | None = None,
        normed_classifier: bool | None = None,
        scaled_classifier: bool = False,
        aligned_classifier: bool = False,
        temperature: float = 20.0,
        class_groups: Sequence[str] | None = None,
        gradient_statistics: bool = False,
        calibration: Calibration | None = None,
        **kwargs: Any,
    ):
        """
        Args:
            input_shape: shape of the box features.
            box2box_transform, num_classes, kwargs: as for ``FastRCNNOutputLayers``.
            loss: the loss itself; or, in a predictor that stands for one loss, its arguments
                (see :func:`eql_seesaw.losses.build_loss`).
            normed_classifier: whether weight and features are L2-normalised; None for the choice
                of the loss's paper.
            scaled_classifier: whether each logit's weight vector has a learnable scale.
            aligned_classifier: whether the logits have a learnable alignment instead.
            temperature: of the normalised classifier.
            class_groups: K of "r", "c", "f", for training accuracy by frequency group; optional.
            gradient_statistics: whether to collect :class:`ClassGradients` in training.
            calibration: of the scores in inference; None for the loss's own probabilities.

        Raises:
            ValueError: a loss for another number of classes, or none at all.
        """
        super().__init__(
            input_shape, box2box_transform=box2box_transform, num_classes=num_classes, **kwargs
        )
        if not isinstance(loss, ClassificationLoss):
            if self.loss_name is None:
                raise ValueError(f"{type(self).__name__} needs loss=, a ClassificationLoss")
            loss = build_loss(self.loss_name, num_classes, **(loss or {}))
        if loss.num_classes != num_classes:
            raise ValueError(
                f"a loss for {loss.num_classes} classes, but num_classes={num_classes}"
            )
        self.loss = loss
        if normed_classifier is None:
            normed_classifier = loss.normed_classifier
        size = self.cls_score.in_features, loss.num_logits
        if normed_classifier and aligned_classifier:
            self.cls_score = AlignedNormedLinear(*size, temperature, num_classes)
        elif normed_classifier:
            layer = ScaledNormedLinear if scaled_classifier else NormedLinear
            self.cls_score = layer(*size, temperature)
        elif aligned_classifier:
            self.cls_score = AlignedLinear(*size, num_classes)
        else:
            self.cls_score = ScaledLinear(*size) if scaled_classifier else nn.Linear(*size)
        loss.init_classifier(self.cls_score)
        self.class_groups = class_groups
        self.accuracy = ClassificationAccuracy(num_classes, class_groups)
        self.class_gradients = ClassGradients(num_classes) if gradient_statistics else None
        self.calibration = calibration

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        num_classes = cfg.MODEL.ROI_HEADS.NUM_CLASSES
        name = cls.loss_name or cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS
        known_statistics = statistics = class_statistics(cfg)
        if statistics is None:
            # Without a training set the model can only predict, for which a loss takes none.
            ones = np.ones(num_classes, dtype=np.int64)
            statistics = ClassStatistics(ones, ones, num_images=num_classes)
        loss = build_loss(
            name,
            num_classes,
            image_counts=statistics.image_counts,
            instance_counts=statistics.instance_counts,
            num_images=statistics.num_images,
            num_steps=cfg.SOLVER.MAX_ITER * cfg.SOLVER.ACCUMULATION_STEPS,
            **loss_arguments(cfg, name),
        )
        return {
            **super().from_config(cfg, input_shape),
            "loss": loss,
            "calibration": build_calibration(cfg, loss, known_statistics),
            "normed_classifier": normed_classifier(cfg),
            "scaled_classifier": cfg.MODEL.ROI_BOX_HEAD.DECOUPLED == "scale",
            "aligned_classifier": cfg.MODEL.ROI_BOX_HEAD.DECOUPLED == "align",
            "temperature": cfg.MODEL.ROI_BOX_HEAD.TEMPERATURE,
            "class_groups": statistics.groups,
            "gradient_statistics": cfg.MODEL.ROI_BOX_HEAD.GRADIENT_STATISTICS,
        }

    @property
    def has_class_specific_boxes(self) -> bool:
        return self.bbox_pred.out_features > len(self.box2box_transform.weights)

    def forward(self, x: torch.Tensor) -> Predictions:
        """
        Args:
            x: (R, D) or (R, D, H, W) features.

        Returns:
            (R, L) logits, and box deltas, (R, 4) or (R, K * 4). Class-specific deltas are not yet
            computed in training, where only those of each proposal's own class are needed.
        """
        if self.training and self.has_class_specific_boxes:
            x = x.flatten(1)
            return self.cls_score(x), ClassSpecificDeltas(x, self.bbox_pred, self.num_classes)
        return super().forward(x)

    def losses(
        self, predictions: Predictions, proposals: list[Instances]
    ) -> dict[str, torch.Tensor]:
        """
        Args:
            predictions: of :meth:`forward`.
            proposals: per-image sampled proposals with ``proposal_boxes``, ``gt_classes`` and,
                where the image has ground truth, ``gt_boxes``; optionally
                ``gt_annotated_classes``, bool (Ri, K).

        Returns:
            The terms of the classification loss and ``loss_box_reg``.
        """
        logits, deltas = predictions
        if proposals:
            gt_classes = torch.cat([p.gt_classes for p in proposals])
            proposal_boxes = torch.cat([p.proposal_boxes.tensor for p in proposals])
            # Without ground truth all proposals are background, whose boxes are not regressed.
            gt_boxes = torch.cat(
                [(p.gt_boxes if p.has("gt_boxes") else p.proposal_boxes).tensor for p in proposals]
            )
        else:
            gt_classes = torch.empty(0, dtype=torch.int64, device=logits.device)
            proposal_boxes = gt_boxes = logits.new_empty(0, 4)
        if torch.is_grad_enabled():
            predicted_classes = self.loss.predicted_classes(logits)
            self.accuracy.update(predicted_classes, gt_classes, get_event_storage())
        if self.class_gradients is not None:
            self.class_gradients.watch(logits, gt_classes)
        losses = self.loss(logits, gt_classes, self._annotated_classes(proposals))
        # One weight for all terms of the classification, whatever their names.
        weight = self.loss_weight.get("loss_cls", 1.0)
        losses = {name: value * weight for name, value in losses.items()}
        if isinstance(deltas, ClassSpecificDeltas):
            deltas = deltas.of_own_classes(gt_classes)
        losses["loss_box_reg"] = self.box_reg_loss(
            proposal_boxes, gt_boxes, deltas, gt_classes
        ) * self.loss_weight.get("loss_box_reg", 1.0)
        return losses

    def predict_boxes(
        self, predictions: Predictions, proposals: list[Instances]
    ) -> tuple[torch.Tensor, ...]:
        """Boxes of all classes, as the base class."""
        return super().predict_boxes(_computed(predictions), proposals)

    def predict_boxes_for_gt_classes(
        self, predictions: Predictions, proposals: list[Instances]
    ) -> tuple[torch.Tensor, ...]:
        """As the base class."""
        return super().predict_boxes_for_gt_classes(_computed(predictions), proposals)

    def predict_probs(
        self, predictions: Predictions, proposals: list[Instances]
    ) -> tuple[torch.Tensor, ...]:
        """
        Args:
            predictions, proposals: as for :meth:`losses`; no ground truth needed.

        Returns:
            For each image (Ri, K + 1) probabilities, background last.
        """
        logits, _ = predictions
        if self.calibration is None:
            probabilities = self.loss.probabilities(logits)
        else:
            probabilities = self.calibration(logits, self.cls_score)
        # Unlike len(), shapes are not constants in a traced model.
        return probabilities.split([p.proposal_boxes.tensor.shape[0] for p in proposals])

    def inference(
        self, predictions: Predictions, proposals: list[Instances]
    ) -> tuple[list[Instances], list[torch.Tensor]]:
        """
        Args:
            predictions, proposals: as for :meth:`predict_probs`.

        Returns:
            As :func:`~eql_seesaw.modeling.fast_rcnn_inference.fast_rcnn_inference_topk`.
        """
        boxes: Sequence[torch.Tensor | EncodedBoxes]
        if self.has_class_specific_boxes:
            boxes = self._encoded_boxes(predictions, proposals)
        else:
            boxes = self.predict_boxes(predictions, proposals)
        return fast_rcnn_inference_topk(
            boxes,
            self.predict_probs(predictions, proposals),
            [p.image_size for p in proposals],
            self.test_score_thresh,
            self.test_nms_thresh,
            self.test_topk_per_image,
        )

    def _encoded_boxes(
        self, predictions: Predictions, proposals: list[Instances]
    ) -> list[EncodedBoxes]:
        _, deltas = _computed(predictions)
        proposal_boxes = [p.proposal_boxes.tensor for p in proposals]
        return [
            EncodedBoxes(of_image, boxes, self.box2box_transform)
            for of_image, boxes in zip(
                deltas.split([boxes.shape[0] for boxes in proposal_boxes]), proposal_boxes
            )
        ]

    def _annotated_classes(self, proposals: list[Instances]) -> torch.Tensor | None:
        """(R, K) from the proposals' field, if any image has it; no class where one has not."""
        if not any(p.has("gt_annotated_classes") for p in proposals):
            return None
        return torch.cat(
            [
                p.gt_annotated_classes
                if p.has("gt_annotated_classes")
                else p.gt_classes.new_zeros(len(p), self.num_classes, dtype=torch.bool)
                for p in proposals
            ]
        )


def _computed(predictions: Predictions) -> tuple[torch.Tensor, torch.Tensor]:
    logits, deltas = predictions
    if isinstance(deltas, ClassSpecificDeltas):
        deltas = deltas.of_all_classes()
    return logits, deltas


class EQLFastRCNNOutputLayers(LongTailFastRCNNOutputLayers):
    """Box predictor with equalization loss; see :class:`eql_seesaw.losses.EqualizationLoss`."""

    loss_name = "eql"


class SoftmaxEQLFastRCNNOutputLayers(LongTailFastRCNNOutputLayers):
    """
    Box predictor with softmax equalization loss; see
    :class:`eql_seesaw.losses.SoftmaxEqualizationLoss`.
    """

    loss_name = "softmax_eql"


class SeesawFastRCNNOutputLayers(LongTailFastRCNNOutputLayers):
    """Box predictor with Seesaw loss; see :class:`eql_seesaw.losses.SeesawLoss`."""

    loss_name = "seesaw"
