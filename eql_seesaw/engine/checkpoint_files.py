"""Checkpoints as files, which may be damaged or written to harm: read, found again and pruned."""

import contextlib
import logging
import os
import pickle
import re
import zipfile
from typing import Any

import torch

logger = logging.getLogger(__name__)

TAG = "last_checkpoint"
FINAL = "model_final.pth"
BEST = "model_best.pth"
NUMBERED = re.compile(r"model_(\d{7,})\.pth")
# Left behind by a killed run, named by atomic_file.
PARTIAL = re.compile(rf"(.+\.pth|{TAG})\.\d+\.partial")
# All that numpy arrays and plain values ask for in a pickle.
SAFE_GLOBALS = {
    "_codecs.encode",
    "builtins.bytearray",
    "builtins.complex",
    "builtins.frozenset",
    "builtins.set",
    "collections.OrderedDict",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy.core.numeric._frombuffer",
    "numpy.dtype",
    "numpy.ndarray",
}


class CheckpointError(ValueError):
    """A file of weights is missing or damaged, cannot be written, or does not fit the config."""


def load_weights_only(path: str) -> dict[str, Any]:
    """
    Content of a file of ``torch.save``, on the CPU, if it is nothing but tensors and plain values;
    otherwise a CheckpointError. With torch 2.10 or newer nothing in it is run; older ones can be
    deceived.
    """
    try:
        # torch.load does not compare the checksums that torch.save wrote.
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if archive.testzip() is not None:
                    raise zipfile.BadZipFile
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what unpickling anything but a checkpoint raises is anything
        raise _unreadable(path, error) from None
    return _as_dict(path, content)


def check_pickle(path: str) -> None:
    """
    Check that a pickle, as Detectron2's and Caffe2's model zoos have them, holds nothing but numpy
    arrays and plain values; otherwise a CheckpointError.
    """
    try:
        with open(path, "rb") as f:
            content = _ArrayUnpickler(f, encoding="latin1").load()
    except Exception as error:
        raise _unreadable(path, error) from None
    _as_dict(path, content)


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # As Python 3 and numpy 1 call them.
        python_3 = f"{module}.{name}".replace("__builtin__.", "builtins.")
        if python_3.replace("numpy._core.", "numpy.core.") not in SAFE_GLOBALS:
            raise pickle.UnpicklingError(f"Unsupported global: {module}.{name}")
        return super().find_class(module, name)


def _as_dict(path: str, content: Any) -> dict[str, Any]:
    if not isinstance(content, dict) or not isinstance(content.get("model", {}), dict):
        raise CheckpointError(f"{path} holds no weights of a model")
    return content


def _unreadable(path: str, error: Exception) -> CheckpointError:
    reason = "not a file of weights, or a damaged one"
    found = re.search(r"(?:GLOBAL|[Gg]lobal:?|class) ([\w.]+\.\w+)", str(error))
    if isinstance(error, OSError) and error.strerror:
        reason = error.strerror
    elif isinstance(error, pickle.UnpicklingError) and found:
        reason = f"it asks for {found[1]}, which weights do not need and which could run code"
    return CheckpointError(f"cannot read {path} ({reason})")


def has_checkpoint(folder: str) -> bool:
    """True where a run wrote a checkpoint, readable or not."""
    return bool(_newest_first(folder))


def newest_checkpoint(folder: str) -> str:
    """
    The checkpoint to resume from: the one that ``last_checkpoint`` names, otherwise the newest. One
    that cannot be read is reported, and an older one taken; the best where there is no other.

    Returns:
        Its path; "" where there is none at all.

    Raises:
        CheckpointError: there are checkpoints, and none can be read.
    """
    errors: list[CheckpointError] = []
    for path in [os.path.join(folder, name) for name in _newest_first(folder)]:
        try:
            checkpoint = load_weights_only(path)
            if "trainer" not in checkpoint and not NUMBERED.fullmatch(os.path.basename(path)):
                raise CheckpointError(f"{path} holds weights alone, and no run to go on with")
        except CheckpointError as error:
            errors.append(error)
            logger.warning(f"{error}; trying an older checkpoint")
        else:
            return path
    if errors:
        raise CheckpointError(
            f"no checkpoint in {folder} can be read: {errors[0]}; to start anew, give "
            "another OUTPUT_DIR or delete them and last_checkpoint"
        )
    return ""


def last_good_checkpoint(folder: str) -> str:
    """Words for an error: which checkpoint there is to go back to."""
    for path in [os.path.join(folder, name) for name in _newest_first(folder)]:
        if os.path.isfile(path):
            return f"the last good checkpoint is {path}"
    return "there is no earlier checkpoint"


def prune_checkpoints(folder: str, name: str, keep: int) -> None:
    """
    Delete all but the ``keep`` newest (0 for all) of the numbered checkpoints
    (``model_0004999.pth``) up to ``name``.
    """
    if keep and NUMBERED.fullmatch(name):
        for other in [name, *_before(folder, name)][keep:]:
            with contextlib.suppress(OSError):
                os.remove(os.path.join(folder, other))


def remove_partial_files(folder: str) -> None:
    """Delete what runs that were killed while they wrote a checkpoint left behind."""
    for name in filter(PARTIAL.fullmatch, _listing(folder)):
        with contextlib.suppress(OSError):
            os.remove(os.path.join(folder, name))


def _newest_first(folder: str) -> list[str]:
    """Names of the checkpoints to take, the newest first."""
    tagged = _read_tag(folder)
    names = _before(folder, tagged or FINAL)
    if tagged or FINAL in _listing(folder):
        names.insert(0, tagged or FINAL)
    if BEST in _listing(folder):
        names.append(BEST)
    return names


def _before(folder: str, name: str) -> list[str]:
    """The numbered checkpoints before one, the newest first; all before one without a number."""
    match = NUMBERED.fullmatch(name)
    numbers = [int(m[1]) for m in map(NUMBERED.fullmatch, _listing(folder)) if m]
    if match:
        numbers = [number for number in numbers if number < int(match[1])]
    return [f"model_{number:07d}.pth" for number in sorted(numbers, reverse=True)]


def _read_tag(folder: str) -> str:
    """The name that ``last_checkpoint`` holds; "" where it is missing."""
    try:
        with open(os.path.join(folder, TAG), encoding="utf-8", errors="replace") as f:
            return f.read().strip()
    except FileNotFoundError:
        return ""


def _listing(folder: str) -> list[str]:
    return os.listdir(folder) if os.path.isdir(folder) else []
