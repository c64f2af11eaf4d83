"""Detectron2's post-processing for evaluation: masks become RLE without being pasted first."""

from detectron2.modeling import GeneralizedRCNN, detector_postprocess
from detectron2.structures import Instances, ROIMasks
from torch import nn

from .mask_encoding import paste_and_encode


def rle_postprocess(results: Instances, output_height: int, output_width: int) -> Instances:
    """
    As Detectron2's ``detector_postprocess``, but instead of ``pred_masks`` of the size of the image
    the outcome has ``pred_rles``, the same masks as a list of compressed RLE.

    Args:
        results: raw detections of an R-CNN, with ``pred_masks``, (N, 1, M, M) or ``ROIMasks``, or
            without. As there, they may be changed.
        output_height, output_width: of the image.
    """
    fields = dict(results.get_fields())
    if "pred_masks" in fields:
        fields["mask_probs"] = fields.pop("pred_masks")  # a name that is left alone
    detections = detector_postprocess(
        Instances(results.image_size, **fields), output_height, output_width
    )
    if detections.has("mask_probs"):
        probs = detections.mask_probs
        probs = probs.tensor if isinstance(probs, ROIMasks) else probs[:, 0]
        boxes = detections.pred_boxes.tensor
        detections.pred_rles = paste_and_encode(probs, boxes, detections.image_size)
        detections.remove("mask_probs")
    return detections


class RLEModel(nn.Module):
    """A model in evaluation whose detections have ``pred_rles``, see :func:`rle_postprocess`."""

    def __init__(self, model: GeneralizedRCNN):
        super().__init__()
        self.model = model
        self.train(model.training)  # which evaluation restores

    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        """
        Args:
            batched_inputs: as for ``GeneralizedRCNN``.

        Returns:
            {"instances": Instances} for each image.
        """
        raw = self.model.inference(batched_inputs, do_postprocess=False)
        return [
            {
                "instances": rle_postprocess(
                    results,
                    image.get("height", results.image_size[0]),
                    image.get("width", results.image_size[1]),
                )
            }
            for image, results in zip(batched_inputs, raw, strict=True)
        ]


def with_rles(model: nn.Module) -> nn.Module:
    """
    The model for :class:`LongTailLVISEvaluator`, without pasted masks if it is Detectron2's
    ``GeneralizedRCNN``, on one GPU or in ``DistributedDataParallel``; else the model itself.
    """
    inner = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    # A class of its own may have a post-processing of its own.
    return RLEModel(inner) if type(inner) is GeneralizedRCNN else model
