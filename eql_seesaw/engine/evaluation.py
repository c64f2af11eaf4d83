"""Evaluation of a model on the test sets of a run."""

import logging
import os

from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.modeling import GeneralizedRCNNWithTTA
from detectron2.utils import comm
from torch import nn

from ..data.dataset_mapper import NamedImageDatasetMapper
from ..data.train_loader import leave_signals_to_parent
from ..evaluation import LongTailLVISEvaluator
from ..evaluation.pictures import show_evaluation
from ..evaluation.rle_postprocessing import with_rles
from ..rank_barrier import wait_for_all
from .setup import Setup

logger = logging.getLogger(__name__)


def evaluate(setup: Setup, model: nn.Module, is_trained: bool = True) -> dict:
    """
    Evaluate a model on each dataset of DATASETS.TEST, and draw and report what it does. With
    TEST.AUG.ENABLED do so once more with test-time augmentation, if it ``is_trained``.

    Returns:
        Metrics as Detectron2's trainers have them: {"bbox": {"AP": percent, ...}, ...}, and those
        with augmentation as "bbox_TTA" and so on; where there are several datasets, by their names.
    """
    results = _evaluate(setup, model, augmented=False)
    if setup.cfg.TEST.AUG.ENABLED and is_trained:
        logger.info("The same with test-time augmentation (TEST.AUG), as bbox_TTA and so on")
        augmented_model = GeneralizedRCNNWithTTA(setup.cfg, model).train(model.training)
        for name, metrics in _evaluate(setup, augmented_model, augmented=True).items():
            results[name].update({f"{task}_TTA": values for task, values in metrics.items()})
    wait_for_all()  # all go on, or end, together
    return next(iter(results.values())) if len(results) == 1 else results


def _evaluate(setup: Setup, model: nn.Module, augmented: bool) -> dict[str, dict]:
    """Metrics by dataset."""
    cfg = setup.cfg
    statistics = None if setup.training_set is None else setup.training_set.statistics
    results, evaluated = {}, {}
    for name, ground_truth in setup.ground_truths.items():
        loader = build_detection_test_loader(
            setup.test_images[name],
            mapper=NamedImageDatasetMapper(cfg, is_train=False),
            num_workers=cfg.DATALOADER.NUM_WORKERS,
        )
        loader.worker_init_fn = leave_signals_to_parent
        evaluator = LongTailLVISEvaluator(
            name,
            inference_folder(cfg, name, augmented),
            ground_truth=ground_truth,
            class_statistics=statistics,
            max_detections=cfg.TEST.LVIS_MAX_DETECTIONS,
            engine=cfg.TEST.LVIS_ENGINE,
            fixed_ap=cfg.TEST.FIXED_AP,
            boundary_ap=cfg.TEST.BOUNDARY_AP,
        )
        results[name] = inference_on_dataset(with_rles(model), loader, evaluator)
        evaluated[name] = evaluator.result
        if comm.is_main_process():
            logger.info(f"Evaluation results for {name} in csv format:")
            print_csv_format(results[name])
    for name, result in evaluated.items():
        if result is not None:
            show_evaluation(cfg, result, inference_folder(cfg, name, augmented))
    return results


def inference_folder(cfg: CfgNode, dataset_name: str, augmented: bool = False) -> str:
    """Folder of a dataset's evaluation, or of that with test-time augmentation."""
    folder = "inference_TTA" if augmented else "inference"
    return os.path.join(cfg.OUTPUT_DIR, folder, dataset_name)
