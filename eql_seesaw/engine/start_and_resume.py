"""Ways to take a checkpoint: the start of a new run, to resume one, and to evaluate or predict."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from detectron2.utils import comm

from ..data.training_set import are_same_classes
from ..modeling.backbones import normalisation_doubt, pretrained_backbone
from .checkpoint import CLS_LOSS, DECOUPLED, NORMED_CLASSIFIER, LongTailCheckpointer
from .checkpoint_files import CheckpointError, newest_checkpoint
from .torchvision_weights import SETTINGS, renamed_torchvision_resnet

COUNTS = ("num_images", "image_counts", "instance_counts")


def load_start(checkpointer: LongTailCheckpointer, path: str, decoupled: str = "none") -> None:
    """
    Give a new run the weights of a file. Where a classifier was trained with another loss, other
    classes or another normalisation, it and the loss's statistics are left at their initialisation,
    since its weights may have the same shape, and the rest is loaded.

    Args:
        path: MODEL.WEIGHTS; "" for none.
        decoupled: MODEL.ROI_BOX_HEAD.DECOUPLED: "retrain" leaves out the classifier and the loss's
            statistics of any file, "scale" and "align" take nothing but a fitting one.

    Raises:
        CheckpointError: the file cannot be read, or does not fit where it must.
    """
    logger = checkpointer.logger
    keeps_classifier = decoupled in ("scale", "align")

    def fit(checkpoint: dict[str, Any]) -> None:
        for warning in _rename_backbone(checkpointer, checkpoint, path):
            logger.warning(f"MODEL.WEIGHTS: {path}: {warning}")
        weights = checkpoint["model"]
        _remove(weights, _is_of_its_run)
        if decoupled == "retrain":
            logger.info(f"{path} gives all but the classifier, which starts anew")
            _remove(weights, _is_classifier)
            return
        compared = list(checkpointer.classifier)
        decoupled_there = checkpoint.get("classifier", {}).get(DECOUPLED, "none")
        if keeps_classifier and decoupled_there == "none":
            compared.remove(DECOUPLED)  # a classifier without a scale, or an alignment, gets one
        difference = _difference(checkpointer, checkpoint, compared)
        if difference and keeps_classifier:
            raise CheckpointError(f"{path} {difference}")
        if difference and any(map(_is_classifier, weights)):
            logger.warning(
                f"MODEL.WEIGHTS: {path} {difference}; the classifier starts anew, the rest is "
                "loaded where its shape fits"
            )
            _remove(weights, _is_classifier)

    checkpointer.load(path, checkpointables=[], fit=fit)
    if decoupled == "retrain":
        _check_parameters(checkpointer, path, may_lack=_is_classifier)
    elif keeps_classifier:
        new = (".cls_score.scale", ".cls_score.alignment.")
        _check_parameters(checkpointer, path, may_lack=lambda key: any(x in key for x in new))
    # The FPN around a backbone is made anew in most trainings.
    parameters = [key for key, _ in checkpointer.model.named_parameters()]
    backbone = {key for key in parameters if "backbone." in key and ".fpn_" not in key}
    if backbone and backbone <= set(checkpointer.missing):
        raise CheckpointError(
            f"{path} gives 0 of {len(backbone)} tensors of the backbone: it is of another model"
        )


def resume_run(checkpointer: LongTailCheckpointer, may_have_changed: bool = False) -> bool:
    """
    Go on with the run in the checkpointer's folder: from its newest checkpoint that can be read,
    the same on all processes. The run must be the same: classifier, classes and training set.

    Args:
        may_have_changed: SOLVER.RESUME_CHANGED. What has changed is said; if it is the classifier,
            that, the loss's statistics and the optimizer start anew.

    Returns:
        False where there is no checkpoint.

    Raises:
        CheckpointError: none of the checkpoints can be read, or the run has changed.
    """
    path = _newest_checkpoint(checkpointer.save_dir)
    if not path:
        return False

    def fit(checkpoint: dict[str, Any]) -> None:
        weights = checkpoint["model"]
        unfit = [
            _without(key)
            for key, tensor in checkpointer.model.state_dict().items()
            if _is_classifier(key) and (key not in weights or weights[key].shape != tensor.shape)
        ]
        difference = _difference(checkpointer, checkpoint, checkpointer.classifier)
        difference = difference or "".join(unfit[:1])
        others = _training_set_difference(checkpoint.get("training_set"), checkpointer.training_set)
        if not difference and not others:
            return
        changes = f"{path} {', and it '.join(filter(None, (difference, others)))}"
        if not may_have_changed:
            raise CheckpointError(
                f"{changes}; set SOLVER.RESUME_CHANGED True to go on all the same"
            )
        anew = "it "
        if difference:
            anew = "the classifier, the loss's statistics and the optimizer start anew, the rest "
            _remove(weights, lambda key: _is_classifier(key) or _is_of_its_run(key))
            # They may be of other parameters.
            trainer = checkpoint.get("trainer", {})
            trainer.get("_trainer", {}).pop("optimizer", None)
            trainer.get("hooks", {}).pop("ModelEMA", None)
        checkpointer.logger.warning(f"{changes}; as SOLVER.RESUME_CHANGED allows, {anew}goes on")

    checkpointer.load(path, fit=fit)
    if not may_have_changed:
        _check_parameters(checkpointer, path)
    return True


def load_trained(
    checkpointer: LongTailCheckpointer,
    path: str,
    newest: bool = False,
    test_classes: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, list] | None:
    """
    Load a trained model's weights, to evaluate it or to predict with it.

    Args:
        path: MODEL.WEIGHTS.
        newest: take the newest checkpoint in the checkpointer's folder instead, if there is one.
        test_classes: class names of each dataset to evaluate on, by its name.

    Returns:
        {"thing_classes": names, "category_ids": ids of the annotation file}, K each; None where the
        file does not tell.

    Raises:
        CheckpointError: no file is named, it cannot be read, it was trained on other classes, or a
            part of the model is missing in it.
    """

    def fit(checkpoint: dict[str, Any]) -> None:
        # Others than ours say nothing of their classifier; its shape is seen below.
        if "classifier" in checkpoint:
            difference = _difference(checkpointer, checkpoint, checkpointer.classifier)
            if difference:
                raise CheckpointError(f"{path} {difference}")

    path = (_newest_checkpoint(checkpointer.save_dir) if newest else "") or path
    if not path:
        raise CheckpointError(
            "MODEL.WEIGHTS is empty: name the checkpoint to evaluate, or give --resume to take the "
            "last one in OUTPUT_DIR"
        )
    checkpoint = checkpointer.load(path, checkpointables=[], fit=fit)
    _check_parameters(checkpointer, path)
    metadata = checkpoint.get("metadata")
    for name, names in (test_classes or {}).items():
        if metadata and not are_same_classes(metadata["thing_classes"], names):
            difference = _other_classes(metadata["thing_classes"], names)
            raise CheckpointError(f"{path} {difference} (dataset '{name}')")
    return metadata


def _rename_backbone(
    checkpointer: LongTailCheckpointer, checkpoint: dict[str, Any], path: str
) -> list[str]:
    """Rename the weights of a classifier as our backbones have them; warnings to log."""
    warnings = []
    renamed = renamed_torchvision_resnet(checkpoint["model"])
    if renamed is not None:
        checkpoint.update(model=renamed, matching_heuristics=True)
        warnings.append(SETTINGS)
    try:
        weights = pretrained_backbone(checkpointer.model, checkpoint["model"])
    except ValueError as error:
        raise CheckpointError(f"the weights of {path} {error}") from None
    if weights is not None:
        checkpoint["model"] = weights
        warnings.append(normalisation_doubt(checkpointer.model))
    return list(filter(None, warnings))


def _check_parameters(
    checkpointer: LongTailCheckpointer,
    path: str,
    may_lack: Callable[[str], bool] = lambda key: False,
) -> None:
    """Refuse a file that leaves a part of the model as it was made, at random."""
    parameters = dict(checkpointer.model.named_parameters())
    for key in checkpointer.missing:
        if key in parameters and not may_lack(key):
            raise CheckpointError(f"{path} {_without(key)}")


def _newest_checkpoint(folder: str) -> str:
    """The main process chooses, for all."""
    path: str | CheckpointError = ""
    if comm.is_main_process():
        try:
            path = newest_checkpoint(folder)
        except CheckpointError as error:
            path = error
    path = comm.all_gather(path)[0]
    if isinstance(path, CheckpointError):
        raise path
    if path and not all(comm.all_gather(os.path.isfile(path))):
        raise CheckpointError(
            f"{path} is not there for all processes; OUTPUT_DIR must be on a disk that all "
            "machines share"
        )
    return path


def _difference(
    checkpointer: LongTailCheckpointer, checkpoint: dict[str, Any], compared: Iterable[str]
) -> str:
    """Difference of a file's classifier or classes from the checkpointer's, or ""."""
    # Detectron2's own models have a plain softmax classifier; whether it has the right shape is
    # seen when it is loaded.
    plain = {**checkpointer.classifier, CLS_LOSS: "softmax_ce", NORMED_CLASSIFIER: False}
    found = checkpoint.get("classifier", plain)
    # Files of before there were these keys.
    links = [key for key in checkpointer.classifier if key.endswith(".LINK")]
    found = {DECOUPLED: "none", **dict.fromkeys(links, "sigmoid"), **found}
    for key in compared:
        value = checkpointer.classifier[key]
        if found.get(key) != value:
            return f"was trained with {key} {found.get(key)}, but here it is {value}"
    metadata = checkpoint.get("metadata")
    if metadata and checkpointer.metadata:
        theirs, ours = metadata["thing_classes"], checkpointer.metadata["thing_classes"]
        if not are_same_classes(theirs, ours):
            return _other_classes(theirs, ours)
    return ""


def _other_classes(theirs: Sequence[str], ours: Sequence[str]) -> str:
    first = next(pair for pair in zip_longest(theirs, ours) if pair[0] != pair[1])
    return f"was trained on other classes: {first[0]!r}, where here it is {first[1]!r}"


def _without(key: str) -> str:
    what = "another loss or other classes" if _is_classifier(key) else "another model"
    return f"has no {key} that fits this config; it was trained with {what}"


def _is_classifier(key: str) -> bool:
    return "box_predictor" in key and (".cls_score." in key or ".loss." in key)


def _is_of_its_run(key: str) -> bool:
    """A statistic of one run, or a count of its steps, which says nothing in the next."""
    return ".class_gradients." in key or key.endswith(".loss.steps")


def _remove(weights: dict[str, Any], is_removed: Callable[[str], bool]) -> None:
    for key in list(filter(is_removed, weights)):
        del weights[key]


def _training_set_difference(found: dict[str, Any] | None, here: dict[str, Any] | None) -> str:
    """Difference of a file's training set from this config's, or ""; files may not tell it."""
    if found is None or here is None:
        return ""
    # The same images may have another name, or lie elsewhere. A file of statistics cannot tell.
    is_counted = found["is_counted"] and here["is_counted"]
    compared = COUNTS if is_counted else (*COUNTS, "dataset_names")
    if all(found[key] == here[key] for key in compared):
        return ""
    theirs, ours = (
        f"{', '.join(each['dataset_names'])} ({each['num_images']} images, "
        f"{sum(each['instance_counts'])} instances)"
        for each in (found, here)
    )
    other = " with other numbers of some classes" if theirs == ours else ""
    return f"was trained on {theirs}, but here it is {ours}{other}"
