"""Checkpoints that know which classification loss they were trained with."""

from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from torch import nn


class LongTailCheckpointer(DetectionCheckpointer):
    """
    Detectron2's checkpointer, which also keeps the name of the loss and the number of classes.

    A classifier trained with another loss or for other classes is useless, often silently so: two
    losses may have classifiers of the same shape. When a model is to be evaluated or a run resumed,
    such a file is refused; when it only gives a new run its start, the classifier and the loss's
    statistics are left at their initialisation and the rest is loaded.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        loss_name: str,
        num_classes: int,
        is_training: bool,
        **checkpointables,
    ):
        """
        Args:
            model, save_dir, checkpointables: as for ``DetectionCheckpointer``.
            loss_name: MODEL.ROI_BOX_HEAD.CLS_LOSS.
            num_classes: MODEL.ROI_HEADS.NUM_CLASSES.
            is_training: whether files without a fitting classifier may start a new run.
        """
        super().__init__(model, save_dir, **checkpointables)
        self.classification = {"loss": loss_name, "num_classes": num_classes}
        self.is_training = is_training
        self._path = ""
        self._must_fit = not is_training

    def save(self, name: str, **kwargs: Any) -> None:
        super().save(name, classification=self.classification, **kwargs)

    def load(self, path: str, checkpointables=None) -> dict[str, Any]:
        """
        As the base class: ``checkpointables`` None resumes a run, [] loads weights only.

        Raises:
            ValueError: the file has no classifier for this loss and number of classes, where it
                must have one; or there is no file where weights are needed.
            FileNotFoundError: no such file.
        """
        if not path and not self.is_training:
            raise ValueError(
                "MODEL.WEIGHTS is empty: name the checkpoint to evaluate, or give --resume to take "
                "the last one in OUTPUT_DIR"
            )
        self._path = path
        self._must_fit = not self.is_training or checkpointables is None
        try:
            return super().load(path, checkpointables=checkpointables)
        except AssertionError as error:  # how fvcore reports a missing file
            raise FileNotFoundError(f"MODEL.WEIGHTS: {error}") from None

    def _load_model(self, checkpoint: Any):
        weights = checkpoint["model"]
        found = checkpoint.pop("classification", self.classification)
        if found != self.classification:
            message = (
                f"MODEL.WEIGHTS: {self._path} was trained with loss {found['loss']!r} for "
                f"{found['num_classes']} classes, but MODEL.ROI_BOX_HEAD.CLS_LOSS is "
                f"{self.classification['loss']!r} and MODEL.ROI_HEADS.NUM_CLASSES is "
                f"{self.classification['num_classes']}"
            )
            if self._must_fit:
                raise ValueError(message)
            self.logger.warning(f"{message}; the classifier starts anew, the rest is loaded")
            for key in [key for key in weights if _is_classifier(key)]:
                del weights[key]
        incompatible = super()._load_model(checkpoint)
        if self._must_fit:
            wrong = [key for key, *_ in incompatible.incorrect_shapes]
            missing = [key for key in incompatible.missing_keys + wrong if _is_classifier(key)]
            if missing:
                raise ValueError(
                    f"MODEL.WEIGHTS: {self._path} has no classifier that fits this config "
                    f"({missing[0]}); it was trained with another loss or other classes"
                )
        return incompatible


def _is_classifier(key: str) -> bool:
    return "box_predictor" in key and (".cls_score." in key or ".loss." in key)
