"""Checkpoints that know which classifier they hold, and what its classes are called."""

import os
from collections.abc import Callable
from itertools import zip_longest
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.engine import TrainerBase
from detectron2.utils import comm
from torch import nn

from ..data.training_set import TrainingSet, are_same_classes
from ..modeling import LongTailFastRCNNOutputLayers, NormedLinear
from .checkpoint_files import (
    has_checkpoint,
    last_good_checkpoint,
    newest_checkpoint,
    prune_checkpoints,
    remove_partial_files,
    write_checkpoint,
    write_tag,
)
from .checkpoint_reading import CheckpointError, check_pickle, load_weights_only
from .checkpoint_training_set import training_set_description, training_set_difference

__all__ = ["CheckpointError", "LongTailCheckpointer", "build_checkpointer"]


class LongTailCheckpointer(DetectionCheckpointer):
    """
    Detectron2's checkpointer, which also keeps a description of the classifier, and the names and
    category ids of its classes, so that predicting takes no dataset.

    A classifier trained with another loss, other classes or another normalisation is useless, often
    silently so, since its weights may have the same shape. When a model is to be evaluated or a run
    resumed, such a file is refused. When it only gives a new run its start, the classifier and the
    loss's statistics are left at their initialisation and the rest is loaded.

    A run is also resumed only on the training set that it began with, unless it is asked for.

    A checkpoint appears under its name when it is whole, and never with weights that are not
    finite, so that there is always a good one to go on from. No file that is read can run code.

    Decoupled training starts with a whole detector: "retrain" leaves out the classifier and the
    loss's statistics of any file, "scale" takes nothing but a fitting one.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        classifier: dict[str, Any],
        is_training: bool,
        decoupled: str = "none",
        metadata: dict[str, list] | None = None,
        training_set: dict[str, Any] | None = None,
        resume_changed: bool = False,
        max_checkpoints: int = 0,
        **checkpointables: Any,
    ):
        """
        Args:
            model, save_dir, checkpointables: as for ``DetectionCheckpointer``.
            classifier: config keys that decide what the classifier's weights mean, and their
                values.
            is_training: whether files without a fitting classifier may start a new run.
            decoupled: MODEL.ROI_BOX_HEAD.DECOUPLED.
            metadata: of :func:`~eql_seesaw.data.class_names.class_metadata`, to be saved as
                "metadata" if it is known. :meth:`load` returns what the file has under this name.
            training_set: of :func:`.training_set_description`, to be saved and, when a run is
                resumed, compared.
            resume_changed: SOLVER.RESUME_CHANGED.
            max_checkpoints: SOLVER.MAX_CHECKPOINTS.
        """
        super().__init__(model, save_dir, **checkpointables)
        self.classifier = classifier
        self.metadata = metadata
        self.is_training = is_training
        self.decoupled = decoupled
        self.training_set = training_set
        self.resume_changed = resume_changed
        self.max_checkpoints = max_checkpoints
        self._path = ""
        self._checked_path = ""
        self._resumes = False

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
        self._check_finite()
        data = {"model": self.model.state_dict(), "classifier": self.classifier}
        for key, checkpointable in self.checkpointables.items():
            data[key] = checkpointable.state_dict()
        for key in ("metadata", "training_set"):
            if getattr(self, key) is not None:
                data[key] = getattr(self, key)
        remove_partial_files(self.save_dir)
        file_name = f"{name}.pth"
        path = os.path.join(self.save_dir, file_name)
        self.logger.info(f"Saving checkpoint to {path}")
        write_checkpoint({**data, **kwargs}, path)
        if name != "model_best":
            write_tag(self.save_dir, file_name)
        prune_checkpoints(self.save_dir, file_name, self.max_checkpoints)

    def has_checkpoint(self) -> bool:
        """True where a run wrote checkpoints into the folder, so that it can be resumed."""
        return has_checkpoint(self.save_dir)

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """
        Args:
            path: weights to start with, if there is nothing to resume.
            resume: go on from the newest checkpoint that can be read, the same on all processes.

        Raises:
            CheckpointError: as for :meth:`load`, or none of the checkpoints can be read.
        """
        newest = self._newest_checkpoint() if resume else ""
        if newest:
            return self.load(newest)
        return self.load(path, checkpointables=[])

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """
        As the base class: ``checkpointables`` None resumes a run, [] loads weights only.

        Raises:
            CheckpointError: no such file, none where weights are needed, one that cannot be read,
                or one whose classifier does not fit where it must.
        """
        if not path and not self.is_training:
            raise CheckpointError(
                "MODEL.WEIGHTS is empty: name the checkpoint to evaluate, or give --resume to take "
                "the last one in OUTPUT_DIR"
            )
        self._path = path
        self._resumes = checkpointables is None
        try:
            return super().load(path, checkpointables=checkpointables)
        except (AssertionError, OSError) as error:  # a missing file, on one process and on several
            hint = ""
            if "://" in path:
                hint = (
                    f" (downloading {path}); without a network, copy the file here and name it in "
                    "MODEL.WEIGHTS"
                )
            raise CheckpointError(f"{self._origin}: {error}{hint}") from None
        finally:
            self._checked_path = ""
            self._parsed_url_during_load = None  # the base class forgets it after an error

    def _newest_checkpoint(self) -> str:
        """The main process chooses, for all."""
        path = error = ""
        if comm.is_main_process():
            try:
                path = self._checked_path = newest_checkpoint(self.save_dir)
            except CheckpointError as reason:
                error = str(reason)
        path, error = comm.all_gather((path, error))[0]
        if error:
            raise CheckpointError(error)
        if path and not all(comm.all_gather(os.path.isfile(path))):
            raise CheckpointError(
                f"--resume: {path} is not there for all processes; OUTPUT_DIR must be on a disk "
                "that all machines share"
            )
        return path

    def _load_file(self, filename: str) -> dict[str, Any]:
        try:
            if filename.endswith(".pkl"):
                check_pickle(filename)
            elif filename.endswith(".pyth"):  # which the base class reads without weights_only
                load_weights_only(filename)
            checkpoint = super()._load_file(filename)
        except CheckpointError as error:
            raise CheckpointError(f"{self._origin}: {error}") from None
        except Exception as error:  # the base class, where something else than weights is inside
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise CheckpointError(f"{self._origin}: cannot read {filename} ({reason})") from None
        if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("model"), dict):
            raise CheckpointError(f"{self._origin}: {self._path} holds no weights of a model")
        return checkpoint

    def _torch_load(self, f: str) -> Any:
        return load_weights_only(f, is_checked=f == self._checked_path)

    def _check_finite(self) -> None:
        tensors = {
            name: tensor
            for name, tensor in self.model.state_dict().items()
            if tensor.is_floating_point() and tensor.numel()
        }
        if not tensors:
            return
        # One number to wait for, however many tensors there are. A sum may overflow.
        sums = torch.stack([tensor.sum().double() for tensor in tensors.values()])
        if sums.isfinite().all():
            return
        wrong = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
        if wrong:
            more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise FloatingPointError(
                f"NaN or infinity in {', '.join(wrong[:3])}{more}; nothing is saved, "
                f"{last_good_checkpoint(self.save_dir)}"
            )

    def _load_model(self, checkpoint: Any) -> Any:
        weights = checkpoint["model"]
        difference = self._difference(checkpoint.pop("classifier", None))
        difference = difference or self._other_classes(checkpoint.get("metadata"))
        training_set = checkpoint.pop("training_set", None)
        if self.is_training and self._resumes:
            self._check_resumed(checkpoint, difference, training_set)
            difference = ""
        must_fit = not self._is_start or self.decoupled == "scale"
        if self._is_start:
            _remove(weights, _is_gradient_statistic)
        if self._is_start and self.decoupled == "retrain":
            self.logger.info(f"{self._path} gives all but the classifier, which starts anew")
            _remove(weights, _is_classifier)
        elif difference and must_fit:
            raise CheckpointError(f"{self._origin}: {self._path} {difference}")
        elif difference and any(map(_is_classifier, weights)):
            self.logger.warning(
                f"MODEL.WEIGHTS: {self._path} {difference}; the classifier starts anew, the rest "
                "is loaded where its shape fits"
            )
            _remove(weights, _is_classifier)
        incompatible = super()._load_model(checkpoint)
        missing = incompatible.missing_keys + [key for key, *_ in incompatible.incorrect_shapes]
        if must_fit and not (self.is_training and self._resumes):
            self._check_classifier(missing)
        if self._is_start and self.decoupled != "none":
            self._check_all_but_classifier(missing)
        return incompatible

    @property
    def _is_start(self) -> bool:
        return self.is_training and not self._resumes

    @property
    def _origin(self) -> str:
        """Place where the user said which file to take."""
        return "--resume" if self._resumes else "MODEL.WEIGHTS"

    def _check_resumed(
        self, checkpoint: dict[str, Any], difference: str, training_set: dict[str, Any] | None
    ) -> None:
        """Refuse a run that has changed, or, where that is asked for, take out what has."""
        difference = difference or self._unfit_classifier(checkpoint["model"])
        others = ""
        if training_set and self.training_set:
            others = training_set_difference(training_set, self.training_set)
        if not difference and not others:
            return
        changes = f"--resume: {self._path} {', and it '.join(filter(None, (difference, others)))}"
        if not self.resume_changed:
            raise CheckpointError(
                f"{changes}; set SOLVER.RESUME_CHANGED True to go on all the same"
            )
        if not difference:
            self.logger.warning(f"{changes}; as SOLVER.RESUME_CHANGED allows, it goes on")
            return
        self.logger.warning(
            f"{changes}; as SOLVER.RESUME_CHANGED allows, the classifier, the loss's statistics "
            "and the optimizer start anew, and the rest goes on"
        )
        _remove(checkpoint["model"], lambda key: _is_classifier(key) or _is_gradient_statistic(key))
        # It may be of other parameters.
        checkpoint.get("trainer", {}).get("_trainer", {}).pop("optimizer", None)

    def _unfit_classifier(self, weights: dict[str, Any]) -> str:
        """Difference in shape of the classifier's weights from this config's, or ""."""
        for key, tensor in self.model.state_dict().items():
            if _is_classifier(key) and (key not in weights or weights[key].shape != tensor.shape):
                return (
                    f"has no {key} that fits this config; it was trained with another loss or "
                    "other classes"
                )
        return ""

    def _check_classifier(self, missing: list[str]) -> None:
        for key in filter(_is_classifier, missing):
            if self._is_start and key.endswith(".cls_score.scale"):
                continue  # a classifier without a scale gets one
            # The loss's statistics are needed to go on training, not to evaluate.
            if self._resumes or ".cls_score." in key:
                raise CheckpointError(
                    f"{self._origin}: {self._path} has no {key} that fits this config; it was "
                    "trained with another loss or other classes"
                )

    def _check_all_but_classifier(self, missing: list[str]) -> None:
        for key in missing:
            if not _is_classifier(key) and not _is_gradient_statistic(key):
                raise CheckpointError(
                    f"MODEL.WEIGHTS: {self._path} has no {key} that fits this config, and "
                    f"MODEL.ROI_BOX_HEAD.DECOUPLED {self.decoupled} would not train it; name the "
                    "checkpoint of a trained detector"
                )

    def _difference(self, found: dict[str, Any] | None) -> str:
        """Difference of a file's classifier from this config's, or ""."""
        if found is None:
            # Not written by this class. Detectron2's own models have a plain softmax classifier;
            # whether it has the right shape is seen when it is loaded.
            found = {**self.classifier, CLS_LOSS: "softmax_ce", NORMED_CLASSIFIER: False}
            if not self.is_training:
                return ""
        found = {DECOUPLED: "none", **found}  # files of before there was the key
        for key, value in self.classifier.items():
            if self._is_start and key == DECOUPLED and value == "scale":
                continue  # a classifier without a scale gets one
            if found.get(key) != value:
                return f"was trained with {key} {found.get(key)}, but here it is {value}"
        return ""

    def _other_classes(self, found: dict[str, list] | None) -> str:
        """Difference of a file's classes from those of the training set, or ""."""
        if not found or not self.metadata:
            return ""
        theirs, ours = found["thing_classes"], self.metadata["thing_classes"]
        if are_same_classes(theirs, ours):
            return ""
        first = next(pair for pair in zip_longest(theirs, ours) if pair[0] != pair[1])
        return f"was trained on other classes: {first[0]!r}, where here it is {first[1]!r}"


def build_checkpointer(
    cfg: CfgNode,
    model: nn.Module,
    trainer: TrainerBase | None = None,
    training_set: TrainingSet | None = None,
) -> LongTailCheckpointer:
    """A checkpointer for training with ``trainer`` on a set, or for evaluation without them."""
    is_training = trainer is not None
    metadata: dict[str, list] | None = None
    description = None
    if training_set is not None:
        is_counted = not cfg.DATASETS.CLASS_STATISTICS
        description = training_set_description(training_set, is_counted)
        names, ids = training_set.class_names, training_set.category_ids
        if names is not None and ids is not None:
            metadata = {"thing_classes": names, "category_ids": ids}
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
        is_training=is_training,
        decoupled=cfg.MODEL.ROI_BOX_HEAD.DECOUPLED,
        metadata=metadata,
        training_set=description,
        resume_changed=cfg.SOLVER.RESUME_CHANGED,
        max_checkpoints=cfg.SOLVER.MAX_CHECKPOINTS,
        **({"trainer": trainer} if is_training else {}),
    )


CLS_LOSS = "MODEL.ROI_BOX_HEAD.CLS_LOSS"
NORMED_CLASSIFIER = "MODEL.ROI_BOX_HEAD.NORMED_CLASSIFIER"
DECOUPLED = "MODEL.ROI_BOX_HEAD.DECOUPLED"


def _is_classifier(key: str) -> bool:
    return "box_predictor" in key and (".cls_score." in key or ".loss." in key)


def _is_gradient_statistic(key: str) -> bool:
    return ".class_gradients." in key


def _remove(weights: dict[str, Any], is_removed: Callable[[str], bool]) -> None:
    for key in list(filter(is_removed, weights)):
        del weights[key]
