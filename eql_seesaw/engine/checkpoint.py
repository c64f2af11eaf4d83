"""Checkpoints that know which classifier they hold."""

from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from torch import nn


class CheckpointError(ValueError):
    """A file of weights is missing, or does not fit the config."""


class LongTailCheckpointer(DetectionCheckpointer):
    """
    Detectron2's checkpointer, which also keeps a description of the classifier.

    A classifier trained with another loss, other classes or another normalisation is useless, often
    silently so, since its weights may have the same shape. When a model is to be evaluated or a run
    resumed, such a file is refused. When it only gives a new run its start, the classifier and the
    loss's statistics are left at their initialisation and the rest is loaded.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        classifier: dict[str, Any],
        is_training: bool,
        **checkpointables,
    ):
        """
        Args:
            model, save_dir, checkpointables: as for ``DetectionCheckpointer``.
            classifier: config keys that decide what the classifier's weights mean, and their
                values.
            is_training: whether files without a fitting classifier may start a new run.
        """
        super().__init__(model, save_dir, **checkpointables)
        self.classifier = classifier
        self.is_training = is_training
        self._path = ""
        self._resumes = False

    def save(self, name: str, **kwargs: Any) -> None:
        super().save(name, classifier=self.classifier, **kwargs)

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """
        As the base class: ``checkpointables`` None resumes a run, [] loads weights only.

        Raises:
            CheckpointError: no such file, none where weights are needed, or one whose classifier
                does not fit where it must.
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
            raise CheckpointError(f"MODEL.WEIGHTS: {error}") from None

    def _load_model(self, checkpoint: Any):
        weights = checkpoint["model"]
        must_fit = self._resumes or not self.is_training
        difference = self._difference(checkpoint.pop("classifier", None))
        if difference and must_fit:
            raise CheckpointError(f"MODEL.WEIGHTS: {self._path} {difference}")
        if difference and any(map(_is_classifier, weights)):
            self.logger.warning(
                f"MODEL.WEIGHTS: {self._path} {difference}; the classifier starts anew, the rest "
                "is loaded"
            )
            for key in [key for key in weights if _is_classifier(key)]:
                del weights[key]
        incompatible = super()._load_model(checkpoint)
        if must_fit:
            shapes = [key for key, *_ in incompatible.incorrect_shapes]
            for key in filter(_is_classifier, incompatible.missing_keys + shapes):
                # The loss's statistics are needed to go on training, not to evaluate.
                if self._resumes or ".cls_score." in key:
                    raise CheckpointError(
                        f"MODEL.WEIGHTS: {self._path} has no {key} that fits this config; it was "
                        "trained with another loss or other classes"
                    )
        return incompatible

    def _difference(self, found: dict[str, Any] | None) -> str:
        """How the classifier of a file differs from this config's, or ""."""
        if found is None:
            # Not written by this class. Detectron2's own models have a plain softmax classifier;
            # whether it has the right shape is seen when it is loaded.
            found = {**self.classifier, CLS_LOSS: "softmax_ce", NORMED_CLASSIFIER: False}
            if not self.is_training:
                return ""
        for key, value in self.classifier.items():
            if found.get(key) != value:
                return f"was trained with {key} {found.get(key)}, but here it is {value}"
        return ""


CLS_LOSS = "MODEL.ROI_BOX_HEAD.CLS_LOSS"
NORMED_CLASSIFIER = "MODEL.ROI_BOX_HEAD.NORMED_CLASSIFIER"


def _is_classifier(key: str) -> bool:
    return "box_predictor" in key and (".cls_score." in key or ".loss." in key)
