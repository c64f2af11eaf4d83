"""The trainer: Detectron2's default one, for long-tailed data."""

import logging
import os
import random
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, TrainerBase, create_ddp_model, hooks
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, EventWriter, TensorboardXWriter
from torch import nn

from ..atomic_write import atomic_file
from ..config import loss_arguments, mixed_precision
from ..data.dataset_mapper import AnnotatedClassesMapper, NamedImageDatasetMapper
from ..data.train_loader import TrainLoader, build_train_loader
from ..modeling import freeze_all_but_classifiers, model_summary, protection_doubts
from ..modeling.classification_accuracy import PERIOD
from .adamw import build_adamw
from .checkpoint import build_checkpointer
from .checkpoint_files import last_good_checkpoint
from .evaluation import evaluate
from .hooks import (
    BestCheckpointer,
    Checkpoints,
    GradientStatistics,
    ModelEMA,
    SampleCountsSummary,
    SkippedImages,
)
from .metrics_log import TIMES, MetricsWindow, ResumableJSONWriter
from .setup import Setup
from .start_and_resume import load_start, resume_run
from .stop_signals import StopSignals, TrainingStopped
from .tracking import MLflowRun, TrackedRun, WandbRun
from .train_step import AccumulatingTrainer, NonFiniteLossError

logger = logging.getLogger(__name__)

# Of EVENT_WRITERS; made with OUTPUT_DIR.
WRITERS = {"tensorboard": TensorboardXWriter, "wandb": WandbRun, "mlflow": MLflowRun}


class LongTailTrainer(DefaultTrainer):
    """
    Trains a model with the loss of MODEL.ROI_BOX_HEAD.CLS_LOSS, on GPUs or CPUs, and evaluates it
    as LVIS does.
    """

    iter: int

    def __init__(self, setup: Setup):
        """``setup`` has a training set."""
        # Not DefaultTrainer.__init__: it gives DDP a GPU id on machines without a GPU.
        TrainerBase.__init__(self)
        training_set = setup.training_set
        assert training_set is not None and training_set.images is not None, "there is one"
        self.setup, self.training_set = setup, training_set
        cfg = DefaultTrainer.auto_scale_workers(setup.cfg, comm.get_world_size())
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg, training_set.images)
        device_ids = None if cfg.MODEL.DEVICE == "cpu" else [torch.cuda.current_device()]
        model = create_ddp_model(model, broadcast_buffers=False, device_ids=device_ids)
        self._trainer = AccumulatingTrainer(
            model,
            data_loader,
            optimizer,
            num_passes=cfg.SOLVER.ACCUMULATION_STEPS,
            mixed_precision=mixed_precision(cfg),
        )
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.ema: ModelEMA | None = None
        # The model that is loaded, saved and evaluated.
        self.kept_model = model
        if cfg.MODEL_EMA.ENABLED:
            self.ema = ModelEMA(getattr(model, "module", model), cfg.MODEL_EMA.DECAY)
            self.kept_model = self.ema.averaged
        self.checkpointer = build_checkpointer(
            cfg, self.kept_model, trainer=weakref.proxy(self), training_set=training_set
        )
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        # Images drawn before start_iter, by all processes together.
        self._start_images = 0
        self.cfg = cfg
        self.signals = StopSignals()
        self.writers: list[EventWriter] = []
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume: bool = True) -> None:
        """
        As Detectron2's: with ``resume`` go on from the newest good checkpoint in OUTPUT_DIR, its
        place in the stream of images included; otherwise start with MODEL.WEIGHTS.
        """
        cfg = self.cfg
        if not (resume and resume_run(self.checkpointer, cfg.SOLVER.RESUME_CHANGED)):
            load_start(self.checkpointer, cfg.MODEL.WEIGHTS, cfg.MODEL.ROI_BOX_HEAD.DECOUPLED)
        if comm.is_main_process():
            if not resume:
                self.metrics_writer.start_anew()
            with atomic_file(os.path.join(cfg.OUTPUT_DIR, "config.yaml")) as f:
                f.write(cfg.dump())
        loader = self.data_loader
        images_per_pass = loader.stream["images_per_pass"] * loader.stream["world_size"]
        loader.num_passes = self._start_images // images_per_pass

    def train(self) -> dict | None:
        """
        As Detectron2's.

        Raises:
            TrainingStopped: a signal asked for it; the checkpoint to go on from is saved.
            NonFiniteLossError: a loss is NaN or infinite; no checkpoint has seen it.
        """
        with self.signals:
            comm.synchronize()  # from here on a signal finds all processes prepared
            return super().train()

    def run_step(self) -> None:
        # From the place in training alone, so that a resumed run draws what the first would have.
        place = (self.data_loader.stream["seed"], self.iter, comm.get_rank())
        seed = int(np.random.SeedSequence(place).generate_state(1)[0])
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        self._trainer.asked_to_stop = bool(self.signals.requested)
        try:
            super().run_step()
        except NonFiniteLossError as error:
            last = last_good_checkpoint(self.cfg.OUTPUT_DIR)
            raise NonFiniteLossError(f"{error}; {last}") from None

    def after_step(self) -> None:
        if self._trainer.asked_to_stop and self.iter + 1 < self.max_iter:
            # Evaluation, which may take long, is left to the run that goes on.
            for hook in self._hooks_before_checkpoint:
                hook.after_step()
            self.checkpointer.save(f"model_{self.iter:07d}", iteration=self.iter)
            logger.info(f"stopped by a signal after iteration {self.iter}; --resume goes on")
            comm.synchronize()  # none ends before the checkpoint is there
            raise TrainingStopped(together=True)
        super().after_step()

    def after_train(self) -> None:
        # Detectron2 counts one further where no step was left to do.
        self.iter = min(self.iter, self.max_iter)
        if self.iter == self.max_iter:
            super().after_train()
            return
        # Stopped or failed: nothing is evaluated, summed up or written of a step that is not whole.
        for writer in self.writers:
            writer.close()

    def state_dict(self) -> dict:
        num_steps = min(self.iter + 1, self.max_iter) - self.start_iter
        images = self._start_images + num_steps * self.cfg.SOLVER.IMS_PER_BATCH
        return {**super().state_dict(), "images": images, "stream": self.data_loader.stream}

    def load_state_dict(self, state_dict: dict) -> None:
        rates = list(self.scheduler.base_lrs)
        super().load_state_dict(state_dict)
        if rates != self.scheduler.base_lrs:
            logger.warning(
                f"the learning rate goes on as it began, {max(self.scheduler.base_lrs):g}; "
                f"SOLVER.BASE_LR, now {max(rates):g}, has no effect on a resumed run"
            )
        if "optimizer" not in state_dict["_trainer"]:
            rates = self.scheduler.get_lr()
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
        self.start_iter = self.iter + 1
        images = self.start_iter * self.cfg.SOLVER.IMS_PER_BATCH
        self._start_images = state_dict.get("images", images)  # not in older checkpoints
        saved = state_dict.get("stream", {})
        if self.cfg.SEED < 0 and "seed" in saved:
            self.data_loader.stream["seed"] = saved["seed"]
        here = self.data_loader.stream
        changed = {key: (saved[key], here.get(key)) for key in saved if here.get(key) != saved[key]}
        if changed:
            logger.warning(
                f"the stream of images is not that of the checkpoint (there and here: {changed}); "
                f"it goes on after {self._start_images:,} images, some may come twice or not at all"
            )

    @property
    def loss_scale(self) -> float:
        """Factor that float16 multiplies the loss with; 1.0 without it."""
        return self._trainer.grad_scaler.get_scale()

    def gather_unreadable(self) -> list[str]:
        """Lines of all processes on what they skipped in the last step; every one must call it."""
        if not self._trainer.num_unreadable:
            return []
        return [line for lines in comm.all_gather(self._trainer.unreadable) for line in lines]

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        model = super().build_model(cfg)
        if cfg.MODEL.ROI_BOX_HEAD.DECOUPLED != "none":
            freeze_all_but_classifiers(model)
        logger.info(f"What decides the results:\n{model_summary(model)}")
        for doubt in protection_doubts(model):
            logger.warning(doubt)
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        if cfg.SOLVER.OPTIMIZER == "SGD":
            return super().build_optimizer(cfg, model)
        return build_adamw(cfg, model)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode, images: Sequence[dict[str, Any]]) -> TrainLoader:
        arguments = loss_arguments(cfg, cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS)
        keep_annotated = arguments.get("keep_annotated", False)
        mapper = AnnotatedClassesMapper if keep_annotated else NamedImageDatasetMapper
        return build_train_loader(cfg, images, mapper(cfg, is_train=True))

    def build_hooks(self) -> list:
        """Detectron2's hooks and ours; those after the checkpointer can be run again for a step."""
        cfg, period = self.cfg, self.cfg.TEST.EVAL_PERIOD
        replaced = hooks.EvalHook | hooks.PeriodicWriter | hooks.PeriodicCheckpointer
        # Detectron2 leaves None for a hook that is switched off.
        before = [hook for hook in super().build_hooks() if hook and not isinstance(hook, replaced)]
        before += [MetricsWindow(self.model), SkippedImages(cfg.OUTPUT_DIR)]
        if cfg.MODEL.ROI_BOX_HEAD.GRADIENT_STATISTICS:
            before.append(GradientStatistics(cfg.OUTPUT_DIR))
        if self.ema is not None:
            before.append(self.ema)  # last, to see the buffers that the others change
        checkpoints, after = [], [hooks.EvalHook(period, self._evaluate)]
        if comm.is_main_process():
            checkpointer = self.checkpointer
            checkpoints.append(Checkpoints(checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD, period))
            if cfg.TEST.BEST_METRIC and cfg.DATASETS.TEST:
                after.append(BestCheckpointer(period, checkpointer, cfg.TEST.BEST_METRIC))
            statistics, names = self.training_set.statistics, self.training_set.class_names
            after.append(SampleCountsSummary(period, statistics, names, cfg.OUTPUT_DIR))
            after += [writer for writer in self.writers if isinstance(writer, TrackedRun)]
            # Last, to see what the others put into the storage.
            after.append(hooks.PeriodicWriter(self.writers, PERIOD))
        self._hooks_before_checkpoint, self._hooks_after_checkpoint = before, after
        return [*before, *checkpoints, *after]

    def build_writers(self) -> list:
        self.metrics_writer = ResumableJSONWriter(os.path.join(self.cfg.OUTPUT_DIR, "metrics.json"))
        self.writers = [
            CommonMetricPrinter(self.max_iter),
            self.metrics_writer,
            *(WRITERS[name](self.cfg.OUTPUT_DIR) for name in self.cfg.EVENT_WRITERS),
        ]
        return self.writers

    def _evaluate(self) -> dict:
        try:
            with self.signals.at_once():
                is_trained = self.iter >= self.max_iter
                self._last_eval_results = evaluate(self.setup, self.kept_model, is_trained)
        except TrainingStopped:
            logger.info("stopped by a signal in an evaluation; --resume begins with it")
            raise
        return self._last_eval_results

    def before_train(self) -> None:
        """
        As Detectron2's, then the rest of a step after its checkpoint, evaluation and metrics, where
        the run that saved it did not get as far.
        """
        super().before_train()
        last, done = self.start_iter - 1, {}
        if comm.is_main_process():
            done = self.metrics_writer.go_back(last)
            # AP, which the checkpoint does not have, counts for later lines and checkpoints.
            known = {name for name, (_, i) in self.storage.latest().items() if i == last}
            for name, value in done.items():
                if name not in known.union(("iteration", *TIMES)):
                    self.storage.put_scalar(name, value, smoothing_hint=False, cur_iter=last)
        if self.start_iter == 0 or comm.all_gather(bool(done))[0]:
            return
        self.iter = self.storage.iter = last
        for hook in self._hooks_after_checkpoint:
            hook.after_step()
        self.iter = self.storage.iter = self.start_iter
