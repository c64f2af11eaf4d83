"""ROI heads whose box predictors take their loss from MODEL.ROI_BOX_HEAD.CLS_LOSS."""

from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import CascadeROIHeads, Res5ROIHeads, StandardROIHeads

from .fast_rcnn import LongTailFastRCNNOutputLayers


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
