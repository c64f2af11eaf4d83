"""AP over the strength of a test-time calibration: numbers, table and picture."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.modeling import GeneralizedRCNN
from matplotlib.figure import Figure
from tabulate import tabulate
from tqdm import tqdm

from ..atomic_write import atomic_file
from ..data.dataset_mapper import NamedImageDatasetMapper
from ..engine.setup import read_test_set
from ..evaluation import LongTailLVISEvaluator
from ..evaluation.rle_postprocessing import rle_postprocess
from ..modeling import LongTailFastRCNNOutputLayers

# Metrics of each strength; None is the model without calibration.
Sweep = dict[float | None, dict[str, dict[str, float]]]
COLUMNS = ("AP", "APr", "APc", "APf")
COLORS = ("#4D4D4D", "#D55E00", "#009E73", "#0072B2")


def read_images(
    cfg: CfgNode, name: str, groups: Sequence[str], num_images: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """
    At most ``num_images`` images of a registered dataset, evenly spread over it, and their ground
    truth, as :func:`~eql_seesaw.engine.setup.read_test_set` returns them.
    """
    ground_truth, images = read_test_set(cfg, "--dataset", name, groups)
    if len(images) > num_images:
        chosen = np.linspace(0, len(images) - 1, num_images).round().astype(int)
        images = [images[index] for index in chosen]
        ids = {image["image_id"] for image in images}
        ground_truth = {
            **ground_truth,
            "images": [x for x in ground_truth["images"] if x["id"] in ids],
            "annotations": [x for x in ground_truth["annotations"] if x["image_id"] in ids],
        }
    return ground_truth, images


@torch.no_grad()
def sweep_strengths(
    cfg: CfgNode,
    model: GeneralizedRCNN,
    dataset: tuple[str, dict[str, Any], list[dict[str, Any]]],
    strengths: Sequence[float],
) -> Sweep:
    """
    Evaluate a model without its calibration, and with each strength of it. The heads run once for
    each, since what non-maximum suppression keeps depends on the scores; what comes before them
    runs once.

    Args:
        cfg: config of the model.
        model: in evaluation, on one device, with a calibration.
        dataset: name, ground truth and images of :func:`read_images`.
        strengths: of the calibration.

    Returns:
        Metrics of each, as of :meth:`.LongTailLVISEvaluator.evaluate`; first None's.
    """
    name, ground_truth, images = dataset
    predictors = [m for m in model.modules() if isinstance(m, LongTailFastRCNNOutputLayers)]
    calibrations = [predictor.calibration for predictor in predictors]
    evaluators: dict[float | None, LongTailLVISEvaluator] = {
        strength: LongTailLVISEvaluator(
            name,
            ground_truth=ground_truth,
            max_detections=cfg.TEST.LVIS_MAX_DETECTIONS,
            distributed=False,
        )
        for strength in (None, *strengths)
    }
    loader = build_detection_test_loader(
        images,
        mapper=NamedImageDatasetMapper(cfg, is_train=False),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )
    for inputs in tqdm(loader, "Images", disable=None, unit="image"):
        batch = model.preprocess_image(inputs)
        features = model.backbone(batch.tensor)
        proposals, _ = model.proposal_generator(batch, features, None)
        for strength, evaluator in evaluators.items():
            for predictor, calibration in zip(predictors, calibrations, strict=True):
                predictor.calibration = None if strength is None else calibration
                if strength is not None:
                    calibration.strength = strength
            detections, _ = model.roi_heads(batch, features, proposals, None)
            outputs = [
                {"instances": rle_postprocess(instances, image["height"], image["width"])}
                for image, instances in zip(inputs, detections, strict=True)
            ]
            evaluator.process(inputs, outputs)
    return {strength: evaluator.evaluate() for strength, evaluator in evaluators.items()}


def best_strength(sweep: Sweep) -> float | None:
    """Strength with the best mask AP, without masks box AP; of equal ones the weakest."""
    return max(sweep, key=lambda strength: list(sweep[strength].values())[-1].get("AP", -1.0))


def sweep_table(sweep: Sweep) -> str:
    """A table for boxes and, where there are masks, one for masks; in percent."""
    tables = []
    for task, title in _tasks(sweep).items():
        rows = [
            ["none" if strength is None else f"{strength:g}", *map(metrics[task].get, COLUMNS)]
            for strength, metrics in sweep.items()
        ]
        header = [f"strength ({title})", *COLUMNS]
        tables.append(tabulate(rows, header, "pipe", floatfmt=".1f", missingval="n/a"))
    return "\n\n".join(tables)


def draw_sweep(sweep: Sweep, method: str, path: str | os.PathLike) -> None:
    """A panel for boxes and one for masks, with a line for each group; a PNG, whole or not."""
    tasks = _tasks(sweep)
    strengths = [strength for strength in sweep if strength is not None]
    with matplotlib.rc_context({"axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(4.0 * len(tasks), 3.2), layout="constrained")
        panels = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
        for axes, (task, title) in zip(panels, tasks.items(), strict=True):
            for column, color in zip(COLUMNS, COLORS, strict=True):
                ap = [sweep[strength][task].get(column, np.nan) for strength in strengths]
                axes.plot(strengths, ap, ".-", color=color, label=column)
                before = sweep[None][task].get(column, np.nan)
                axes.axhline(before, color=color, linewidth=0.8, linestyle=":")
            axes.set_title(f"{title}; dotted: without calibration", fontsize=10, loc="left")
            axes.set_xlabel(f"strength of {method}")
        panels[0].set_ylabel("AP in percent")
        panels[-1].legend(frameon=False)
        with atomic_file(path, "wb") as f:
            figure.savefig(f, format="png", dpi=125)


def _tasks(sweep: Mapping) -> dict[str, str]:
    titles = {"bbox": "box", "segm": "mask"}
    return {task: title for task, title in titles.items() if task in next(iter(sweep.values()))}
