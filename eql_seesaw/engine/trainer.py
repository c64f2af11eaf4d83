"""The trainer: Detectron2's default one, for long-tailed data."""

import contextlib
import logging
import os
import weakref
from collections.abc import Iterator

from detectron2.config import CfgNode
from detectron2.data import (
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.engine import (
    AMPTrainer,
    DefaultTrainer,
    SimpleTrainer,
    TrainerBase,
    create_ddp_model,
)
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from torch import nn

from ..config import loss_arguments
from ..data.annotated_classes import AnnotatedClassesMapper
from ..data.class_names import class_names
from ..data.class_statistics import ClassStatistics, get_class_statistics
from ..data.dataset_mapper import NamedImageDatasetMapper
from ..data.train_sampler import SAMPLERS, build_train_sampler
from ..evaluation import LongTailLVISEvaluator, draw_evaluation
from ..evaluation.report import write_report
from ..modeling import (
    LongTailFastRCNNOutputLayers,
    NormedLinear,
    freeze_all_but_classifiers,
    model_summary,
)
from .checkpoint import (
    CLS_LOSS,
    DECOUPLED,
    NORMED_CLASSIFIER,
    LongTailCheckpointer,
    class_metadata,
)
from .hooks import BestCheckpointer, GradientStatistics, SampleCountsSummary

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
        if cfg.MODEL.ROI_BOX_HEAD.DECOUPLED != "none":
            freeze_all_but_classifiers(model)
        logger.info(f"What decides the results:\n{model_summary(model)}")
        return model

    @classmethod
    def build_train_loader(cls, cfg: CfgNode):
        arguments = loss_arguments(cfg, cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS)
        keep_annotated = arguments.get("keep_annotated", False)
        mapper = AnnotatedClassesMapper if keep_annotated else NamedImageDatasetMapper
        dataset = sampler = None
        if cfg.DATALOADER.SAMPLER_TRAIN in SAMPLERS:
            dataset = get_detection_dataset_dicts(
                cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
            )
            sampler = build_train_sampler(cfg, dataset)
        return build_detection_train_loader(
            cfg, mapper=mapper(cfg, is_train=True), dataset=dataset, sampler=sampler
        )

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
            engine=cfg.TEST.LVIS_ENGINE,
            fixed_ap=cfg.TEST.FIXED_AP,
            boundary_ap=cfg.TEST.BOUNDARY_AP,
        )

    @classmethod
    def test(
        cls,
        cfg: CfgNode,
        model: nn.Module,
        evaluators: DatasetEvaluator | list[DatasetEvaluator] | None = None,
    ) -> dict:
        """As Detectron2's; then, unless ``evaluators`` are given, pictures and reports."""
        is_own = evaluators is None
        if is_own:
            evaluators = [cls.build_evaluator(cfg, name) for name in cfg.DATASETS.TEST]
        try:
            results = super().test(cfg, model, evaluators)
        except Exception:
            logger.exception("Exception during evaluation:")
            raise
        if is_own and comm.is_main_process():
            for dataset_name in cfg.DATASETS.TEST:
                show_evaluation(cfg, inference_folder(cfg, dataset_name))
        comm.synchronize()  # all go on, or end, together
        return results

    def build_hooks(self) -> list:
        period = self.cfg.TEST.EVAL_PERIOD
        ret = super().build_hooks()
        if self.cfg.MODEL.ROI_BOX_HEAD.GRADIENT_STATISTICS:
            # First, so that checkpoints hold the step that they are of.
            ret.insert(0, GradientStatistics(self.cfg.OUTPUT_DIR))
        if not comm.is_main_process():
            return ret
        # The writers stay last, so that they see what the others put into the storage.
        metric = self.cfg.TEST.BEST_METRIC
        if metric and self.cfg.DATASETS.TEST:
            ret.insert(-1, BestCheckpointer(period, self.checkpointer, metric))
        statistics = class_statistics(self.cfg)
        names = class_names(self.cfg.DATASETS.TRAIN[0])
        ret.insert(-1, SampleCountsSummary(period, statistics, names, self.cfg.OUTPUT_DIR))
        return ret


def build_checkpointer(
    cfg: CfgNode, model: nn.Module, trainer: TrainerBase | None = None
) -> LongTailCheckpointer:
    """A checkpointer for training with ``trainer``, or for evaluation without one."""
    checkpointables = {} if trainer is None else {"trainer": trainer}
    predictor = next(m for m in model.modules() if isinstance(m, LongTailFastRCNNOutputLayers))
    is_normed = isinstance(predictor.cls_score, NormedLinear)
    classifier = {
        CLS_LOSS: cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS,
        "MODEL.ROI_HEADS.NUM_CLASSES": cfg.MODEL.ROI_HEADS.NUM_CLASSES,
        NORMED_CLASSIFIER: is_normed,
        "MODEL.ROI_BOX_HEAD.TEMPERATURE": cfg.MODEL.ROI_BOX_HEAD.TEMPERATURE if is_normed else 1.0,
        # A classifier trained anew is like any other.
        DECOUPLED: "scale" if cfg.MODEL.ROI_BOX_HEAD.DECOUPLED == "scale" else "none",
    }
    return LongTailCheckpointer(
        model,
        cfg.OUTPUT_DIR,
        classifier=classifier,
        is_training=trainer is not None,
        decoupled=cfg.MODEL.ROI_BOX_HEAD.DECOUPLED,
        metadata=class_metadata(cfg.DATASETS.TRAIN[0]) if trainer is not None else None,
        **checkpointables,
    )


def show_evaluation(cfg: CfgNode, folder: str) -> None:
    """
    Draw TEST.NUM_PICTURES images and write the report (TEST.REPORT) of an evaluation, into its
    folder. What goes wrong is logged and not raised: pictures are no reason to lose an evaluation,
    or to stop a training.
    """
    picture = os.path.join(folder, "predictions.png")
    if cfg.TEST.NUM_PICTURES > 0:
        with _logged_failure(picture):
            draw_evaluation(folder, picture, cfg.TEST.NUM_PICTURES, cfg.TEST.PICTURE_SCORE_THRESH)
    if cfg.TEST.REPORT:
        with _logged_failure(f"the report of {folder}"):
            report = write_report(folder, score_threshold=cfg.TEST.PICTURE_SCORE_THRESH)
            logger.info(f"Report: {report}")


@contextlib.contextmanager
def _logged_failure(what: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        reason = f"no such file: {error.filename}" if error.filename else error
        logger.warning(f"Could not draw {what}: {reason}")
    except Exception:
        logger.warning(f"Could not draw {what}:", exc_info=True)


def class_statistics(cfg: CfgNode) -> ClassStatistics | None:
    """Statistics of the config's training set; None if it names none."""
    if not cfg.DATASETS.TRAIN and not cfg.DATASETS.CLASS_STATISTICS:
        return None
    return get_class_statistics(
        cfg.DATASETS.TRAIN, cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.DATASETS.CLASS_STATISTICS
    )


def inference_folder(cfg: CfgNode, dataset_name: str) -> str:
    """Where the evaluation of a dataset writes."""
    return os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name)
