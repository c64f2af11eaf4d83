"""Training hooks. Their ``after_train`` is for trainings that were neither stopped nor failed."""

import csv
import dataclasses
import json
import logging
import math
import os
from collections import Counter

import torch
from detectron2.checkpoint import Checkpointer
from detectron2.engine import HookBase, hooks
from detectron2.utils import comm
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..atomic_write import atomic_file
from ..data.class_statistics import ClassStatistics, write_class_statistics
from ..data.frequency_groups import GROUP_NAMES
from ..losses import ClassificationLoss
from ..modeling.class_gradients import add_step, class_gradients

logger = logging.getLogger(__name__)


class BestCheckpointer(hooks.BestCheckpointer):
    """Detectron2's hook, which also remembers the best metric across a resume."""

    def state_dict(self) -> dict:
        best = (self.best_metric, self.best_iter)
        # Detectron2 saves a new best model before it notes the metric.
        latest = self.trainer.storage.latest().get(self._val_metric)
        is_number = latest is not None and math.isfinite(latest[0])
        if is_number and (best[0] is None or latest[0] > best[0]):
            best = latest
        return {"best_metric": best[0], "best_iter": best[1]}

    def load_state_dict(self, state_dict: dict) -> None:
        self.best_metric = state_dict["best_metric"]
        self.best_iter = state_dict["best_iter"]


class ModelEMA(HookBase):
    """
    Keeps the exponential moving average of the trained weights (MODEL_EMA), which is what is
    evaluated and what a checkpoint has as its model; the trained ones are in the hook's state, for
    a resumed run. Buffers, as losses have them for their statistics, are copied, not averaged.

    Args:
        model: the trained one, the same in all processes.
        decay: MODEL_EMA.DECAY.

    Attributes:
        averaged (nn.Module): the model with the average, which takes the place of the trained one
            where weights are loaded.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model = model
        self._average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
        self.averaged = self._average.module
        self._loaded: dict[str, torch.Tensor] = {}

    def state_dict(self) -> dict:
        trained = {name: parameter.detach() for name, parameter in self.model.named_parameters()}
        return {"trained": trained, "num_steps": int(self._average.n_averaged)}

    def load_state_dict(self, state_dict: dict) -> None:
        self._loaded = state_dict["trained"]
        self._average.n_averaged.fill_(state_dict["num_steps"])

    def before_train(self) -> None:
        self.model.load_state_dict({**self.averaged.state_dict(), **self._loaded})
        self._loaded = {}

    def after_step(self) -> None:
        self._average.update_parameters(self.model)


class Checkpoints(hooks.PeriodicCheckpointer):
    """Detectron2's hook, but a checkpoint also comes before each evaluation, which may be long."""

    def __init__(self, checkpointer: Checkpointer, period: int, eval_period: int):
        super().__init__(checkpointer, period)
        self.eval_period = eval_period

    def after_step(self) -> None:
        super().after_step()
        iteration, num_steps = self.trainer.iter, self.trainer.iter + 1
        is_evaluated = self.eval_period > 0 and num_steps % self.eval_period == 0
        if is_evaluated and num_steps % self.period and num_steps < self.trainer.max_iter:
            self.checkpointer.save(f"model_{iteration:07d}", iteration=iteration)


class SkippedImages(HookBase):
    """
    Keeps a list of the training images that were skipped because they could not be read
    (DATALOADER.UNREADABLE_IMAGES "skip"), ``skipped_images.csv``, and sums it up after training.
    """

    def __init__(self, output_dir: str):
        self.path = os.path.join(output_dir, "skipped_images.csv")

    def before_train(self) -> None:
        # Images skipped after the checkpoint that a resumed run goes on from come again.
        rows = self._rows() if comm.is_main_process() else []
        if rows:
            with atomic_file(self.path) as f:
                csv.writer(f).writerows(r for r in rows if int(r[0]) < self.trainer.start_iter)

    def after_step(self) -> None:
        messages = self.trainer.gather_unreadable()
        if not messages or not comm.is_main_process():
            return
        for message in messages:
            logger.warning(f"skipped {message}")
        with open(self.path, "a", encoding="utf-8", newline="") as f:
            csv.writer(f).writerows([self.trainer.iter, message] for message in messages)

    def after_train(self) -> None:
        counts = Counter(message for _, message in self._rows())
        if counts and comm.is_main_process():
            lines = [f"  {count} x {message}" for message, count in counts.most_common(20)]
            logger.warning(
                f"skipped {counts.total()} times, {len(counts)} training images that could not be "
                f"read ({self.path}), most often:\n" + "\n".join(lines)
            )

    def _rows(self) -> list[list[str]]:
        if not os.path.exists(self.path):
            return []
        with open(self.path, encoding="utf-8", newline="") as f:
            # A line that a killed process did not finish is not counted.
            return [row for row in csv.reader(f) if len(row) == 2]


class SampleCountsSummary(HookBase):
    """
    Logs what the losses have counted, by frequency group, at each evaluation; after training it
    writes the counts as class statistics, ``recorded_statistics.json``. With
    MODEL.ROI_BOX_HEAD.SEESAW.COUNTS "fixed" and DATASETS.CLASS_STATISTICS set to this file, another
    run uses them as "pre-recorded" sample numbers (Seesaw paper, table 4).
    """

    def __init__(
        self,
        period: int,
        statistics: ClassStatistics,
        class_names: list[str] | None,
        output_dir: str,
    ):
        """``period`` is in iterations; 0 for after training only."""
        self.period = period
        self.statistics = statistics
        self.class_names = class_names
        self.output_dir = output_dir

    def after_step(self) -> None:
        if self.period > 0 and (self.trainer.iter + 1) % self.period == 0:
            self._log()

    def after_train(self) -> None:
        self._log()
        counts = dict(sample_counts(self.trainer.model))
        for index, instance_counts in enumerate(counts.values()):
            suffix = f"_stage{index}" if len(counts) > 1 else ""
            write_class_statistics(
                dataclasses.replace(self.statistics, instance_counts=instance_counts.numpy()),
                os.path.join(self.output_dir, f"recorded_statistics{suffix}.json"),
                self.class_names,
            )

    def _log(self):
        groups = self.statistics.groups
        for name, counts in sample_counts(self.trainer.model):
            parts = []
            for key, group_name in GROUP_NAMES.items():
                group = counts[torch.tensor([g == key for g in groups])]
                if len(group):
                    parts.append(
                        f"{group_name} {int(group.sum())} (median {int(group.median())} a class, "
                        f"{int((group == 0).sum())} of {len(group)} classes without any)"
                    )
            logger.info(f"samples counted by {name}: {'; '.join(parts)}")


class GradientStatistics(HookBase):
    """
    Sums each class's positive and negative gradients over steps and processes (see
    :class:`~eql_seesaw.modeling.class_gradients.ClassGradients`). After training it writes them as
    ``gradient_statistics.json``, {"positive": [K numbers], "negative": [K numbers]}; of a cascade,
    a file for each stage, ``gradient_statistics_stage0.json`` and so on.
    """

    def __init__(self, output_dir: str):
        self.output_dir = output_dir
        self.loss_scale = 1.0

    def before_train(self) -> None:
        self.loss_scale = self.trainer.loss_scale

    def after_step(self) -> None:
        # Of the next step, read once. float16 lowers it where it left out a step.
        next_scale = self.trainer.loss_scale
        is_skipped = next_scale < self.loss_scale
        add_step(self.trainer.model, math.inf if is_skipped else self.loss_scale)
        self.loss_scale = next_scale

    def after_train(self) -> None:
        stages = class_gradients(self.trainer.model) if comm.is_main_process() else []
        for index, stage in enumerate(stages):
            suffix = f"_stage{index}" if len(stages) > 1 else ""
            positive, negative = stage.sums.tolist()
            path = os.path.join(self.output_dir, f"gradient_statistics{suffix}.json")
            with atomic_file(path) as f:
                json.dump({"positive": positive, "negative": negative}, f)


def sample_counts(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """The foreground samples that each loss of a model has counted: name, int64 (K,) on CPU."""
    return [
        (name.removeprefix("module."), counts.cpu())
        for name, module in model.named_modules()
        if isinstance(module, ClassificationLoss) and (counts := module.sample_counts()) is not None
    ]
