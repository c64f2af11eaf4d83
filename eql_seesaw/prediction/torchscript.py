"""A detector in one TorchScript file that runs with torch and torchvision alone."""

import contextlib
import json
import os
import warnings
from collections.abc import Iterator

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.export import TracingAdapter
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import Instances
from torchvision.ops import boxes as box_ops

from ..atomic_write import atomic_file
from .batch_predictor import BatchPredictor

METADATA_FILE = "metadata.json"


def export_torchscript(
    cfg: CfgNode, weights: str, output: str, image: np.ndarray | None = None
) -> int:
    """
    Write a detector to a TorchScript file, after comparing what the file holds with the model: on
    ``image`` and on a part of it, to the bit. This is done on a CPU. Neither the training set nor
    any other dataset is needed.

    Args:
        cfg: of :func:`eql_seesaw.engine.load_config`.
        weights: checkpoint.
        output: the file, replaced if it is there.
        image: (H, W, 3) uint8, BGR, like those that the model is for; None for noise.

    Returns:
        The number of detections that were compared.

    Raises:
        ValueError: the checkpoint does not fit the config, or the file's outputs differ from the
            model's. Nothing is written.
        FileNotFoundError: the folder of ``output`` does not exist.
    """
    _check_output(output)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "cpu"
    predictor = BatchPredictor(cfg, weights)
    predictor.model.requires_grad_(False)
    if image is None:
        image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    pixels = predictor.preprocess(image)["image"]
    part = pixels[:, : pixels.shape[1] * 3 // 4 + 1, : pixels.shape[2] // 2 + 1].contiguous()

    model = TracingAdapter(predictor.model, [{"image": pixels}], _detect)
    traced = _trace(model, pixels)
    metadata = json.dumps(_metadata(cfg, predictor), indent=1)
    with atomic_file(output, "wb") as f:
        torch.jit.save(traced, f, _extra_files={METADATA_FILE: metadata})
        f.flush()
        exported = torch.jit.load(f.name)
        return sum(_compare(exported, model, x) for x in (pixels, part))


@contextlib.contextmanager
def exact_tracing() -> Iterator[None]:
    """Within, ``torch.jit.trace`` of our models records what they do whatever the image."""
    batched_nms = box_ops.batched_nms
    # Detectron2's RPN calls it. Traced, it would keep the feature levels apart by offsets whatever
    # the number of proposals, which rounds their boxes; scripted, it decides at each call.
    box_ops.batched_nms = torch.jit.script(batched_nms)
    try:
        yield
    finally:
        box_ops.batched_nms = batched_nms


def _check_output(output: str) -> None:
    folder = os.path.dirname(output) or "."
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"--output {output}: there is no folder {folder}")
    if os.path.isdir(output):
        raise ValueError(f"--output {output} is a folder; name a file")


def _metadata(cfg: CfgNode, predictor: BatchPredictor) -> dict:
    return {
        "thing_classes": predictor.thing_classes,
        "category_ids": predictor.category_ids,
        "input_format": cfg.INPUT.FORMAT,
        "min_size_test": cfg.INPUT.MIN_SIZE_TEST,
        "max_size_test": cfg.INPUT.MAX_SIZE_TEST,
        "outputs": _output_names(cfg.MODEL.MASK_ON),
        "score_thresh_test": cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST,
        "nms_thresh_test": cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST,
        "detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
        "cls_loss": cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS,
        "calibration": cfg.TEST.CALIBRATION.METHOD,
        "calibration_strength": cfg.TEST.CALIBRATION.STRENGTH,
    }


def _output_names(has_masks: bool) -> list[str]:
    """In the order of TracingAdapter: the fields of Instances in alphabetical order, their size."""
    masks = ["pred_masks"] if has_masks else []
    return ["pred_boxes", "pred_classes", *masks, "scores", "image_size"]


def _detect(model: GeneralizedRCNN, inputs: list[dict]) -> Instances:
    return model.inference(inputs, do_postprocess=False)[0]


def _trace(model: TracingAdapter, image: torch.Tensor) -> torch.jit.ScriptModule:
    with exact_tracing(), warnings.catch_warnings():
        # They are about branches, of which the comparison tells whether they matter.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        return torch.jit.trace(model, (image,), check_trace=False)


def _compare(exported: torch.jit.ScriptModule, model: TracingAdapter, image: torch.Tensor) -> int:
    """The number of detections in an image, where both find the same; otherwise a ValueError."""
    where = "on an image of {}x{}; nothing was written".format(*image.shape[1:])
    expected = model(image)
    try:
        found = exported(image)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ValueError(f"the exported model fails with {reason!r} {where}") from None
    names = _output_names(has_masks=len(expected) == 5)
    for name, a, b in zip(names, expected, found, strict=True):
        if not torch.equal(a, b):
            raise ValueError(f"the exported model's {name} differ from the model's own {where}")
    return len(expected[0])
