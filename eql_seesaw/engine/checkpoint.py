"""Checkpoints that know which classifier they hold, and what its classes are called."""

import os
from collections.abc import Callable
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.engine import TrainerBase
from torch import nn

from ..atomic_write import atomic_file
from ..data.training_set import TrainingSet
from ..modeling import LongTailFastRCNNOutputLayers, NormedLinear
from .checkpoint_files import (
    TAG,
    CheckpointError,
    check_pickle,
    last_good_checkpoint,
    load_weights_only,
    prune_checkpoints,
    remove_partial_files,
)

CLS_LOSS = "MODEL.ROI_BOX_HEAD.CLS_LOSS"
NORMED_CLASSIFIER = "MODEL.ROI_BOX_HEAD.NORMED_CLASSIFIER"
DECOUPLED = "MODEL.ROI_BOX_HEAD.DECOUPLED"

Fit = Callable[[dict[str, Any]], None]


class LongTailCheckpointer(DetectionCheckpointer):
    """
    Detectron2's checkpointer, which also keeps a description of the classifier and the training
    set, which ``start_and_resume.py`` compares with the run's own, and the names and category ids
    of the classes, so that predicting takes no dataset. A checkpoint appears under its name when it
    is whole, and never with weights that are not finite.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        classifier: dict[str, Any],
        metadata: dict[str, list] | None = None,
        training_set: dict[str, Any] | None = None,
        max_checkpoints: int = 0,
        **checkpointables: Any,
    ):
        """
        Args:
            classifier: config keys that decide what the classifier's weights mean, with values.
            metadata: of :func:`~eql_seesaw.data.register.class_metadata`, if it is known.
            training_set: of :func:`.training_set_description`.
            max_checkpoints: SOLVER.MAX_CHECKPOINTS.
        """
        super().__init__(model, save_dir, **checkpointables)
        self.classifier = classifier
        self.metadata = metadata
        self.training_set = training_set
        self.max_checkpoints = max_checkpoints
        self.missing: list[str] = []
        self._fit: Fit | None = None

    def save(self, name: str, **kwargs: Any) -> None:
        """
        Write ``name``.pth, make ``last_checkpoint`` name it unless it is a copy of the best model,
        and delete old checkpoints. Only the main process writes.

        Raises:
            FloatingPointError: weights are not finite; nothing is written.
            CheckpointError: the file cannot be written, for example to a full disk.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        weights = self.model.state_dict()
        for key, tensor in weights.items():
            if not tensor.isfinite().all():
                raise FloatingPointError(
                    f"NaN or infinity in {key}; nothing is saved, "
                    f"{last_good_checkpoint(self.save_dir)}"
                )
        data = {"model": weights, "classifier": self.classifier}
        for key, checkpointable in self.checkpointables.items():
            data[key] = checkpointable.state_dict()
        for key in ("metadata", "training_set"):
            if getattr(self, key) is not None:
                data[key] = getattr(self, key)
        remove_partial_files(self.save_dir)
        file_name = f"{name}.pth"
        path = os.path.join(self.save_dir, file_name)
        self.logger.info(f"Saving checkpoint to {path}")
        try:
            with atomic_file(path, "wb", durable=True) as f:
                torch.save({**data, **kwargs}, f)
            if name != "model_best":
                with atomic_file(os.path.join(self.save_dir, TAG), durable=True) as f:
                    f.write(file_name)
        except (OSError, RuntimeError) as error:
            # In place of the disk's error, torch's zip writer raises one of its own.
            cause = error if isinstance(error, OSError) else error.__context__
            if not isinstance(cause, OSError):
                raise
            raise CheckpointError(
                f"cannot write {path}: {cause.strerror}; {last_good_checkpoint(self.save_dir)}"
            ) from None
        prune_checkpoints(self.save_dir, file_name, self.max_checkpoints)

    def load(
        self, path: str, checkpointables: list[str] | None = None, fit: Fit | None = None
    ) -> dict[str, Any]:
        """
        As the base class. Names of weights that the file did not have, or in another shape, are in
        ``missing`` afterwards. ``fit`` may look at the file's content before, and change it.

        Raises:
            CheckpointError: no such file, or one that cannot be read.
        """
        self.missing, self._fit = [], fit
        try:
            return super().load(path, checkpointables=checkpointables)
        except (AssertionError, OSError) as error:  # a missing file, on one process and on several
            hint = ""
            if "://" in path:
                hint = "; without a network, copy the file here and name it in MODEL.WEIGHTS"
            raise CheckpointError(f"cannot read {path} ({error}){hint}") from None

    def _load_file(self, filename: str) -> dict[str, Any]:
        if filename.endswith(".safetensors"):
            from safetensors.torch import load_file  # comes with timm

            return {"model": load_file(filename)}
        if filename.endswith(".pkl"):
            check_pickle(filename)
        elif filename.endswith(".pyth"):  # which the base class reads without weights_only
            load_weights_only(filename)
        return super()._load_file(filename)

    def _torch_load(self, f: str) -> Any:
        return load_weights_only(f)

    def _load_model(self, checkpoint: Any) -> Any:
        if self._fit is not None:
            self._fit(checkpoint)
        incompatible = super()._load_model(checkpoint)
        others = [key for key, *_ in incompatible.incorrect_shapes]
        self.missing = [*incompatible.missing_keys, *others]
        return incompatible


def build_checkpointer(
    cfg: CfgNode,
    model: nn.Module,
    trainer: TrainerBase | None = None,
    training_set: TrainingSet | None = None,
) -> LongTailCheckpointer:
    """A checkpointer for training with ``trainer`` on a set, or for evaluation without them."""
    description = None
    if training_set is not None:
        description = training_set_description(training_set, not cfg.DATASETS.CLASS_STATISTICS)
    predictor = next(m for m in model.modules() if isinstance(m, LongTailFastRCNNOutputLayers))
    is_normed = isinstance(predictor.cls_score, NormedLinear)
    loss = cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS
    classifier = {
        CLS_LOSS: loss,
        "MODEL.ROI_HEADS.NUM_CLASSES": cfg.MODEL.ROI_HEADS.NUM_CLASSES,
        NORMED_CLASSIFIER: is_normed,
        "MODEL.ROI_BOX_HEAD.TEMPERATURE": cfg.MODEL.ROI_BOX_HEAD.TEMPERATURE if is_normed else 1.0,
        # A classifier trained anew is like any other.
        DECOUPLED: cfg.MODEL.ROI_BOX_HEAD.DECOUPLED.replace("retrain", "none"),
    }
    link = cfg.MODEL.ROI_BOX_HEAD.get(loss.upper(), {}).get("LINK")
    if link is not None:
        classifier[f"MODEL.ROI_BOX_HEAD.{loss.upper()}.LINK"] = link
    return LongTailCheckpointer(
        model,
        cfg.OUTPUT_DIR,
        classifier=classifier,
        metadata=None if training_set is None else training_set.metadata,
        training_set=description,
        max_checkpoints=cfg.SOLVER.MAX_CHECKPOINTS,
        **({} if trainer is None else {"trainer": trainer}),
    )


def training_set_description(training_set: TrainingSet, is_counted: bool) -> dict[str, Any]:
    """
    Plain values that tell one training set from another, so that a resumed run can compare.
    ``is_counted`` is False where its numbers are of the file DATASETS.CLASS_STATISTICS.
    """
    statistics = training_set.statistics
    return {
        "dataset_names": list(training_set.names),
        "is_counted": is_counted,
        "num_images": int(statistics.num_images),
        "image_counts": statistics.image_counts.tolist(),
        "instance_counts": statistics.instance_counts.tolist(),
    }
