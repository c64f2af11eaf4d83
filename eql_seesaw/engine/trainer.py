"""The trainer: Detectron2's default one, for long-tailed data."""

import json
import logging
import os
import weakref
from typing import Optional

from detectron2.config import CfgNode
from detectron2.data import (
    DatasetCatalog,
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
)
from detectron2.engine import (
    AMPTrainer,
    DefaultTrainer,
    SimpleTrainer,
    TrainerBase,
    create_ddp_model,
)
from detectron2.utils import comm
from torch import nn

from ..data.annotated_classes import AnnotatedClassesMapper
from ..data.class_statistics import ClassStatistics, get_class_statistics
from ..data.dataset_mapper import NamedImageDatasetMapper
from ..evaluation import LongTailLVISEvaluator, draw_predictions
from ..modeling import model_summary
from .checkpoint import LongTailCheckpointer
from .hooks import BestCheckpointer, SampleCountsSummary

logger = logging.getLogger(__name__)


class LongTailTrainer(DefaultTrainer):
    """
    Trains a model with the loss of MODEL.ROI_BOX_HEAD.CLS_LOSS, on GPUs or CPUs, and evaluates it
    as LVIS does: AP of rare, common and frequent classes in the log, in ``metrics.json`` and in
    TensorBoard, and per-category AP and pictures under ``OUTPUT_DIR/inference``.
    """

    def __init__(self, cfg: CfgNode):
        """
        Args:
            cfg: of :func:`eql_seesaw.engine.load_config`, its datasets registered.
        """
        # Not DefaultTrainer.__init__: it gives DDP a GPU id on machines without a GPU.
        TrainerBase.__init__(self)
        cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)
        device_ids = None if cfg.MODEL.DEVICE == "cpu" else [comm.get_local_rank()]
        model = create_ddp_model(model, broadcast_buffers=False, device_ids=device_ids)
        trainer_class = AMPTrainer if cfg.SOLVER.AMP.ENABLED else SimpleTrainer
        self._trainer = trainer_class(model, data_loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = build_checkpointer(cfg, model, trainer=weakref.proxy(self))
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        # Reads and checks the annotations to evaluate on now, not after hours of training.
        for dataset_name in cfg.DATASETS.TEST:
            self.build_evaluator(cfg, dataset_name)
        self.register_hooks(self.build_hooks())

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        model = super().build_model(cfg)
        logger.info(f"What decides the results:\n{model_summary(model)}")
        return model

    @classmethod
    def build_train_loader(cls, cfg: CfgNode):
        keep_annotated = cfg.MODEL.ROI_BOX_HEAD.EQL.KEEP_ANNOTATED
        mapper = AnnotatedClassesMapper if keep_annotated else NamedImageDatasetMapper
        return build_detection_train_loader(cfg, mapper=mapper(cfg, is_train=True))

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str):
        mapper = NamedImageDatasetMapper(cfg, is_train=False)
        return build_detection_test_loader(cfg, dataset_name, mapper=mapper)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> LongTailLVISEvaluator:
        return LongTailLVISEvaluator(
            dataset_name,
            inference_folder(cfg, dataset_name),
            class_statistics=class_statistics(cfg),
            max_detections=cfg.TEST.LVIS_MAX_DETECTIONS,
        )

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: Optional[list] = None) -> dict:
        """As Detectron2's; then draws TEST.NUM_PICTURES images of each dataset."""
        results = super().test(cfg, model, evaluators)
        if cfg.TEST.NUM_PICTURES > 0 and comm.is_main_process():
            for dataset_name in cfg.DATASETS.TEST:
                draw_pictures(cfg, dataset_name)
        return results

    def build_hooks(self) -> list:
        period = self.cfg.TEST.EVAL_PERIOD
        ret = super().build_hooks()
        summary = SampleCountsSummary(period, class_statistics(self.cfg), self.cfg.OUTPUT_DIR)
        if not comm.is_main_process():
            return ret
        # The writers stay last, so that they see what the others put into the storage.
        if self.cfg.TEST.BEST_METRIC:
            ret.insert(-1, BestCheckpointer(period, self.checkpointer, self.cfg.TEST.BEST_METRIC))
        ret.insert(-1, summary)
        return ret

    def train(self):
        """Train, then name the files to look at. Returns the last evaluation's results."""
        results = super().train()
        if comm.is_main_process():
            log_files(self.cfg)
        return results


def build_checkpointer(
    cfg: CfgNode, model: nn.Module, trainer: Optional[TrainerBase] = None
) -> LongTailCheckpointer:
    """A checkpointer for training with ``trainer``, or for evaluation without one."""
    checkpointables = {} if trainer is None else {"trainer": trainer}
    return LongTailCheckpointer(
        model,
        cfg.OUTPUT_DIR,
        loss_name=cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS,
        num_classes=cfg.MODEL.ROI_HEADS.NUM_CLASSES,
        is_training=trainer is not None,
        **checkpointables,
    )


def class_statistics(cfg: CfgNode) -> ClassStatistics:
    """Statistics of the config's training set."""
    return get_class_statistics(
        cfg.DATASETS.TRAIN, cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.DATASETS.CLASS_STATISTICS
    )


def inference_folder(cfg: CfgNode, dataset_name: str) -> str:
    """Where the evaluation of a dataset writes."""
    return os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name)


def draw_pictures(cfg: CfgNode, dataset_name: str) -> None:
    """Draw ground truth beside the results that the last evaluation wrote."""
    folder = inference_folder(cfg, dataset_name)
    with open(os.path.join(folder, "lvis_instances_results.json")) as f:
        results = json.load(f)
    draw_predictions(
        DatasetCatalog.get(dataset_name),
        results,
        MetadataCatalog.get(dataset_name),
        os.path.join(folder, "predictions.png"),
        num_pictures=cfg.TEST.NUM_PICTURES,
        score_threshold=cfg.TEST.PICTURE_SCORE_THRESH,
        image_counts=class_statistics(cfg).image_counts,
    )


def log_files(cfg: CfgNode) -> None:
    """Log which of a finished run's files are worth looking at."""
    lines = [
        f"{os.path.join(cfg.OUTPUT_DIR, 'metrics.json')}  losses, accuracies and AP by iteration"
    ]
    for dataset_name in cfg.DATASETS.TEST:
        folder = inference_folder(cfg, dataset_name)
        lines.append(f"{os.path.join(folder, 'per_category.csv')}  AP of every category")
        if cfg.TEST.NUM_PICTURES > 0:
            picture = os.path.join(folder, "predictions.png")
            lines.append(f"{picture}  ground truth beside predictions")
    lines.append(f"tensorboard --logdir {cfg.OUTPUT_DIR}  curves")
    logger.info("Files to look at:\n  " + "\n  ".join(lines))
