"""Checkpoints that know which classifier they hold, and what its classes are called."""

from collections.abc import Callable
from itertools import zip_longest
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import MetadataCatalog
from torch import nn

from ..data.class_names import category_names
from ..data.class_statistics_cache import file_stamp
from ..data.same_categories import are_same_classes


class CheckpointError(ValueError):
    """A file of weights is missing, or does not fit the config."""


class LongTailCheckpointer(DetectionCheckpointer):
    """
    Detectron2's checkpointer, which also keeps a description of the classifier, and the names and
    category ids of its classes, so that predicting takes no dataset.

    A classifier trained with another loss, other classes or another normalisation is useless, often
    silently so, since its weights may have the same shape. When a model is to be evaluated or a run
    resumed, such a file is refused. When it only gives a new run its start, the classifier and the
    loss's statistics are left at their initialisation and the rest is loaded.

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
        **checkpointables,
    ):
        """
        Args:
            model, save_dir, checkpointables: as for ``DetectionCheckpointer``.
            classifier: config keys that decide what the classifier's weights mean, and their
                values.
            is_training: whether files without a fitting classifier may start a new run.
            decoupled: MODEL.ROI_BOX_HEAD.DECOUPLED.
            metadata: of :func:`class_metadata`, to be saved as "metadata" if it is known.
                :meth:`load` returns what the file has under this name.
        """
        super().__init__(model, save_dir, **checkpointables)
        self.classifier = classifier
        self.metadata = metadata
        self.is_training = is_training
        self.decoupled = decoupled
        self._path = ""
        self._resumes = False

    def save(self, name: str, **kwargs: Any) -> None:
        if self.metadata is not None:
            kwargs["metadata"] = self.metadata
        super().save(name, classifier=self.classifier, **kwargs)

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
            raise CheckpointError(f"MODEL.WEIGHTS: {error}") from None

    def _load_file(self, filename: str) -> dict[str, Any]:
        try:
            checkpoint = super()._load_file(filename)
        except Exception as error:  # what unpickling anything but a checkpoint raises is anything
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise CheckpointError(f"MODEL.WEIGHTS: cannot read {self._path} ({reason})") from None
        if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("model"), dict):
            raise CheckpointError(f"MODEL.WEIGHTS: {self._path} holds no weights of a model")
        return checkpoint

    def _load_model(self, checkpoint: Any):
        weights = checkpoint["model"]
        must_fit = not self._is_start or self.decoupled == "scale"
        difference = self._difference(checkpoint.pop("classifier", None))
        difference = difference or self._other_classes(checkpoint.get("metadata"))
        if self._is_start:
            _remove(weights, _is_gradient_statistic)
        if self._is_start and self.decoupled == "retrain":
            self.logger.info(f"{self._path} gives all but the classifier, which starts anew")
            _remove(weights, _is_classifier)
        elif difference and must_fit:
            raise CheckpointError(f"MODEL.WEIGHTS: {self._path} {difference}")
        elif difference and any(map(_is_classifier, weights)):
            self.logger.warning(
                f"MODEL.WEIGHTS: {self._path} {difference}; the classifier starts anew, the rest "
                "is loaded"
            )
            _remove(weights, _is_classifier)
        incompatible = super()._load_model(checkpoint)
        missing = incompatible.missing_keys + [key for key, *_ in incompatible.incorrect_shapes]
        if must_fit:
            self._check_classifier(missing)
        if self._is_start and self.decoupled != "none":
            self._check_all_but_classifier(missing)
        return incompatible

    @property
    def _is_start(self) -> bool:
        return self.is_training and not self._resumes

    def _check_classifier(self, missing: list[str]) -> None:
        for key in filter(_is_classifier, missing):
            if self._is_start and key.endswith(".cls_score.scale"):
                continue  # a classifier without a scale gets one
            # The loss's statistics are needed to go on training, not to evaluate.
            if self._resumes or ".cls_score." in key:
                raise CheckpointError(
                    f"MODEL.WEIGHTS: {self._path} has no {key} that fits this config; it was "
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
        """How the classifier of a file differs from this config's, or ""."""
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
        """How a file's classes differ from those of the training set, or ""."""
        if not found or not self.metadata:
            return ""
        theirs, ours = found["thing_classes"], self.metadata["thing_classes"]
        if are_same_classes(theirs, ours):
            return ""
        first = next(pair for pair in zip_longest(theirs, ours) if pair[0] != pair[1])
        return f"was trained on other classes: {first[0]!r}, where here it is {first[1]!r}"


def class_metadata(dataset_name: str) -> dict[str, list] | None:
    """
    What the classes of a registered dataset are called.

    Returns:
        {"thing_classes": K names, "category_ids": K ids in the annotation file}, in order of
        contiguous class; None where neither the dataset's metadata nor its annotation file is
        there to say.

    Raises:
        ValueError: the annotation file is malformed.
    """
    metadata = MetadataCatalog.get(dataset_name)
    names = metadata.get("thing_classes")
    if not names:
        json_file = metadata.get("json_file", "")
        if file_stamp(json_file) is None:
            return None
        categories = category_names(json_file)
        return {"thing_classes": list(categories.values()), "category_ids": list(categories)}
    to_contiguous = metadata.get("thing_dataset_id_to_contiguous_id")
    if to_contiguous is None:  # Detectron2's LVIS datasets, whose ids are 1 to K
        category_ids = list(range(1, len(names) + 1))
    else:
        category_ids = sorted(to_contiguous, key=to_contiguous.get)
    # Plain types, which torch.load takes for safe.
    return {"thing_classes": list(map(str, names)), "category_ids": list(map(int, category_ids))}


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
