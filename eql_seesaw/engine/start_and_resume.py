"""Ways to take a checkpoint: the start of a new run, to resume one, and to evaluate or predict."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from detectron2.utils import comm

from ..data.training_set import are_same_classes
from ..modeling.backbones import normalisation_doubt, pretrained_backbone
from .checkpoint import CLS_LOSS, DECOUPLED, NORMED_CLASSIFIER, LongTailCheckpointer
from .checkpoint_files import newest_checkpoint
from .checkpoint_reading import CheckpointError
from .torchvision_weights import SETTINGS, is_torchvision_resnet, renamed_torchvision_resnet

COUNTS = ("num_images", "image_counts", "instance_counts")


def load_start(checkpointer: LongTailCheckpointer, path: str, decoupled: str = "none") -> None:
    """
    Give a new run the weights of a file. A classifier trained with another loss, other classes or
    another normalisation is useless, often silently so, since its weights may have the same shape:
    it and the loss's statistics are left at their initialisation, and the rest is loaded.

    Args:
        path: MODEL.WEIGHTS; "" for none.
        decoupled: MODEL.ROI_BOX_HEAD.DECOUPLED, which starts with a whole detector: "retrain"
            leaves out the classifier and the loss's statistics of any file, "scale" takes nothing
            but a fitting one.

    Raises:
        CheckpointError: the file cannot be read, or does not fit where it must.
    """

    def fit(checkpoint: dict[str, Any]) -> None:
        weights = checkpoint["model"]
        if is_torchvision_resnet(weights):
            checkpoint["model"] = weights = renamed_torchvision_resnet(weights)
            checkpoint["matching_heuristics"] = True
            checkpointer.logger.warning(f"MODEL.WEIGHTS: {path} is torchvision's; {SETTINGS}")
        _take_backbone(checkpointer, checkpoint, path)
        _remove(weights, _is_gradient_statistic)
        if decoupled == "retrain":
            checkpointer.logger.info(f"{path} gives all but the classifier, which starts anew")
            _remove(weights, _is_classifier)
            return
        # A classifier without a scale gets one.
        compared = [k for k in checkpointer.classifier if decoupled != "scale" or k != DECOUPLED]
        difference = _difference(checkpointer, checkpoint, compared)
        if difference and decoupled == "scale":
            raise CheckpointError(f"{path} {difference}")
        if difference and any(map(_is_classifier, weights)):
            checkpointer.logger.warning(
                f"MODEL.WEIGHTS: {path} {difference}; the classifier starts anew, the rest is "
                "loaded where its shape fits"
            )
            _remove(weights, _is_classifier)

    with _said_of("MODEL.WEIGHTS"):
        checkpointer.load(path, checkpointables=[], fit=fit)
        if path and decoupled == "none":
            _check_backbone(checkpointer, path)
        for key in checkpointer.missing if decoupled != "none" else ():
            if not _is_classifier(key) and not _is_gradient_statistic(key):
                raise CheckpointError(
                    f"{path} has no {key} that fits this config, and {DECOUPLED} {decoupled} would "
                    "not train it; name the checkpoint of a trained detector"
                )
            if decoupled == "scale" and ".cls_score." in key and not key.endswith(".scale"):
                raise CheckpointError(f"{path} {_without(key)}")


def _take_backbone(
    checkpointer: LongTailCheckpointer, checkpoint: dict[str, Any], path: str
) -> None:
    """Rename the weights of a classifier as the backbones of this project have them."""
    try:
        weights = pretrained_backbone(checkpointer.model, checkpoint["model"])
    except ValueError as error:
        raise CheckpointError(f"the weights of {path} {error}") from None
    if weights is not None:
        checkpoint["model"] = weights
        doubt = normalisation_doubt(checkpointer.model)
        if doubt:
            checkpointer.logger.warning(f"MODEL.WEIGHTS: {path}: {doubt}")


def _check_backbone(checkpointer: LongTailCheckpointer, path: str) -> None:
    """Say that a file is of another model, and stop where that would never be noticed."""
    # Of a ResNet alone; the FPN around it is made anew in most trainings.
    names = [k for k, _ in checkpointer.model.named_parameters() if "backbone." in k]
    names = [name for name in names if ".fpn_" not in name]
    if not names or set(names) - set(checkpointer.missing):
        return
    line = f"{path} gives 0 of {len(names)} tensors of the backbone: it is of another model"
    is_frozen = any(
        not p.requires_grad for k, p in checkpointer.model.named_parameters() if k in set(names)
    )
    if is_frozen:
        raise CheckpointError(
            f"{line}, and MODEL.BACKBONE.FREEZE_AT would leave random weights as they are"
        )
    checkpointer.logger.warning(f"MODEL.WEIGHTS: {line}")


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
    with _said_of("--resume"):
        path = _newest_checkpoint(checkpointer.save_dir)
        if not path:
            return False
        checkpointer.load(path, fit=lambda c: _fit_resumed(checkpointer, c, path, may_have_changed))
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
        if _own_entry(checkpoint, "classifier", CLS_LOSS):
            difference = _difference(checkpointer, checkpoint, checkpointer.classifier)
            if difference:
                raise CheckpointError(f"{path} {difference}")

    found = ""
    if newest:
        with _said_of("--resume"):
            found = _newest_checkpoint(checkpointer.save_dir)
    if not found and not path:
        raise CheckpointError(
            "MODEL.WEIGHTS is empty: name the checkpoint to evaluate, or give --resume to take the "
            "last one in OUTPUT_DIR"
        )
    path = found or path
    with _said_of("--resume" if found else "MODEL.WEIGHTS"):
        checkpoint = checkpointer.load(path, checkpointables=[], fit=fit)
        _check_parameters(checkpointer, path)
        metadata = _own_entry(checkpoint, "metadata", "thing_classes", "category_ids")
        for name, names in (test_classes or {}).items():
            if metadata and not are_same_classes(metadata["thing_classes"], names):
                difference = _other_classes(metadata["thing_classes"], names)
                raise CheckpointError(f"{path} {difference} (dataset '{name}')")
    return metadata


def _check_parameters(checkpointer: LongTailCheckpointer, path: str) -> None:
    """Refuse a file that leaves a part of the model as it was made, at random."""
    parameters = {key.removeprefix("module.") for key, _ in checkpointer.model.named_parameters()}
    for key in checkpointer.missing:
        if key in parameters:
            raise CheckpointError(f"{path} {_without(key)}")


def _fit_resumed(
    checkpointer: LongTailCheckpointer,
    checkpoint: dict[str, Any],
    path: str,
    may_have_changed: bool,
) -> None:
    """Refuse a run that has changed, or, where it may have, take out of the file what has."""
    weights = checkpoint["model"]
    difference = _difference(checkpointer, checkpoint, checkpointer.classifier)
    for key, tensor in checkpointer.model.state_dict().items():
        is_fitting = key in weights and weights[key].shape == tensor.shape
        if not difference and _is_classifier(key) and not is_fitting:
            difference = _without(key)
    others = ""
    training_set = _own_entry(checkpoint, "training_set", "dataset_names", "is_counted", *COUNTS)
    if training_set and checkpointer.training_set:
        others = _training_set_difference(training_set, checkpointer.training_set)
    if not difference and not others:
        return
    changes = f"{path} {', and it '.join(filter(None, (difference, others)))}"
    if not may_have_changed:
        raise CheckpointError(f"{changes}; set SOLVER.RESUME_CHANGED True to go on all the same")
    result = "it goes on"
    if difference:
        result = (
            "the classifier, the loss's statistics and the optimizer start anew, and the rest goes "
            "on"
        )
        _remove(weights, lambda key: _is_classifier(key) or _is_gradient_statistic(key))
        # It may be of other parameters.
        checkpoint.get("trainer", {}).get("_trainer", {}).pop("optimizer", None)
    checkpointer.logger.warning(f"--resume: {changes}; as SOLVER.RESUME_CHANGED allows, {result}")


def _newest_checkpoint(folder: str) -> str:
    """The main process chooses, for all."""
    path = error = ""
    if comm.is_main_process():
        try:
            path = newest_checkpoint(folder)
        except CheckpointError as reason:
            error = str(reason)
    path, error = comm.all_gather((path, error))[0]
    if error:
        raise CheckpointError(error)
    if path and not all(comm.all_gather(os.path.isfile(path))):
        raise CheckpointError(
            f"{path} is not there for all processes; OUTPUT_DIR must be on a disk that all "
            "machines share"
        )
    return path


@contextlib.contextmanager
def _said_of(origin: str) -> Iterator[None]:
    """Begin a message with the place where the user said which file to take."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{origin}: {error}") from None


def _difference(
    checkpointer: LongTailCheckpointer, checkpoint: dict[str, Any], compared: Iterable[str]
) -> str:
    """Difference of a file's classifier or classes from the checkpointer's, or ""."""
    found = _own_entry(checkpoint, "classifier", CLS_LOSS)
    if found is None:
        # Detectron2's own models have a plain softmax classifier; whether it has the right shape is
        # seen when it is loaded.
        found = {**checkpointer.classifier, CLS_LOSS: "softmax_ce", NORMED_CLASSIFIER: False}
    # Files of before there were these keys.
    links = [key for key in checkpointer.classifier if key.endswith(".LINK")]
    found = {DECOUPLED: "none", **dict.fromkeys(links, "sigmoid"), **found}
    for key in compared:
        value = checkpointer.classifier[key]
        if found.get(key) != value:
            return f"was trained with {key} {found.get(key)}, but here it is {value}"
    metadata = _own_entry(checkpoint, "metadata", "thing_classes", "category_ids")
    if metadata and checkpointer.metadata:
        theirs, ours = metadata["thing_classes"], checkpointer.metadata["thing_classes"]
        if not are_same_classes(theirs, ours):
            return _other_classes(theirs, ours)
    return ""


def _other_classes(theirs: Sequence[str], ours: Sequence[str]) -> str:
    first = next(pair for pair in zip_longest(theirs, ours) if pair[0] != pair[1])
    return f"was trained on other classes: {first[0]!r}, where here it is {first[1]!r}"


def _own_entry(checkpoint: dict[str, Any], name: str, *keys: str) -> dict[str, Any] | None:
    """Entry of a checkpoint; None where it is another project's, which lacks our keys."""
    found = checkpoint.get(name)
    return found if isinstance(found, dict) and all(key in found for key in keys) else None


def _without(key: str) -> str:
    what = "another loss or other classes" if _is_classifier(key) else "another model"
    return f"has no {key} that fits this config; it was trained with {what}"


def _is_classifier(key: str) -> bool:
    return "box_predictor" in key and (".cls_score." in key or ".loss." in key)


def _is_gradient_statistic(key: str) -> bool:
    return ".class_gradients." in key


def _remove(weights: dict[str, Any], is_removed: Callable[[str], bool]) -> None:
    for key in list(filter(is_removed, weights)):
        del weights[key]


def _training_set_difference(found: dict[str, Any], expected: dict[str, Any]) -> str:
    """Difference of a file's training set from this config's, or ""."""
    # The same images may have another name, or lie elsewhere. A file of statistics cannot tell.
    is_counted = found["is_counted"] and expected["is_counted"]
    compared = COUNTS if is_counted else (*COUNTS, "dataset_names")
    if all(found[key] == expected[key] for key in compared):
        return ""
    theirs, ours = map(_describe, (found, expected))
    if theirs == ours:
        counted, index = next(
            (counted, index)
            for counted in ("instance", "image")
            for index, count in enumerate(found[f"{counted}_counts"])
            if [count] != expected[f"{counted}_counts"][index : index + 1]
        )
        theirs, ours = (
            f"{name} with {description[f'{counted}_counts'][index]} {counted}s of class {index}"
            for name, description in ((theirs, found), (ours, expected))
        )
    return f"was trained on {theirs}, but here it is {ours}"


def _describe(training_set: dict[str, Any]) -> str:
    names = ", ".join(training_set["dataset_names"])
    num_instances = sum(training_set["instance_counts"])
    return f"{names} ({training_set['num_images']} images, {num_instances} instances)"
