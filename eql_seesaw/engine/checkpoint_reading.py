"""Reading files of weights that may be damaged, or written to harm."""

import codecs
import collections
import functools
import logging
import os
import pickle
import re
import zipfile
from typing import Any

import numpy as np
import torch

logger = logging.getLogger(__name__)

# The first without known ways around weights_only.
SAFE_TORCH = (2, 10)
ZIP_MAGIC = b"PK\x03\x04"

# Needed by numpy arrays in a pickle, by the names that Python 2 and 3 and numpy 1 and 2 give.
_ARRAY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMERIC_MODULES = ("numpy.core.numeric", "numpy._core.numeric")
SAFE_GLOBALS = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("_codecs", "encode"): codecs.encode,
    **{(module, name): None for module in _ARRAY_MODULES for name in ("_reconstruct", "scalar")},
    **{(module, "_frombuffer"): None for module in _NUMERIC_MODULES},
    **{
        (module, kind.__name__): kind
        for module in ("builtins", "__builtin__")
        for kind in (set, frozenset, bytearray, complex)
    },
}


class CheckpointError(ValueError):
    """A file of weights is missing or damaged, cannot be written, or does not fit the config."""


def read_checkpoint(path: str) -> dict[str, Any]:
    """
    Read a checkpoint of ``torch.save`` to the CPU, without running what may be in it.

    Raises:
        CheckpointError: in one line; the file is missing, damaged, or no checkpoint of a model.
    """
    checkpoint = load_weights_only(path)
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("model"), dict):
        raise CheckpointError(f"{path} holds no weights of a model")
    return checkpoint


def load_weights_only(path: str) -> Any:
    """
    Content of a file of ``torch.save``, on the CPU, if it is nothing but tensors and plain values.

    Raises:
        CheckpointError: in one line.
    """
    try:
        _check_integrity(path)
        _warn_of_old_torch()
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what unpickling anything but a checkpoint raises is anything
        raise CheckpointError(f"cannot read {path} ({_reason(error)})") from None


def check_pickle(path: str) -> None:
    """
    Check that a pickle, as Detectron2's and Caffe2's model zoos have them, holds nothing but numpy
    arrays and plain values.

    Raises:
        CheckpointError: in one line.
    """
    try:
        with open(path, "rb") as f:
            content = _ArrayUnpickler(f, encoding="latin1").load()
    except Exception as error:
        raise CheckpointError(f"cannot read {path} ({_reason(error)})") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no weights of a model")


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in SAFE_GLOBALS:
            raise pickle.UnpicklingError(f"Unsupported global: {module}.{name}")
        return SAFE_GLOBALS[module, name] or super().find_class(module, name)


def _check_integrity(path: str) -> None:
    """torch.load does not compare the checksums that torch.save wrote."""
    if os.path.isdir(path):
        raise CheckpointError("a folder")
    with open(path, "rb") as f:
        start = f.read(len(ZIP_MAGIC))
    if not start:
        raise CheckpointError("an empty file")
    if start != ZIP_MAGIC:
        return
    try:
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise CheckpointError("a TorchScript program, not a file of weights")
            damaged = archive.testzip()
    except (zipfile.BadZipFile, EOFError):
        raise CheckpointError("cut short or damaged") from None
    if damaged is not None:
        raise CheckpointError(f"damaged: the checksum of {damaged} in it is wrong")


@functools.cache
def _warn_of_old_torch() -> None:
    """Said once: what torch.load itself did not keep out."""
    version = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if version < SAFE_TORCH:
        logger.warning(
            f"torch {torch.__version__}: a file of weights made to harm may run code (before 2.6, "
            "CVE-2025-32434) or overwrite memory (before 2.10, CVE-2026-24747); load only files "
            "that you trust, or install a newer torch"
        )


def _reason(error: Exception) -> str:
    if isinstance(error, CheckpointError):
        return str(error)
    if isinstance(error, OSError):
        return error.strerror or repr(error)
    found = re.search(r"(?:GLOBAL|[Gg]lobal:?|class) ([\w.]+\.\w+)", str(error))
    if isinstance(error, pickle.UnpicklingError) and found:
        return f"it asks for {found[1]}, which weights do not need and which could run code"
    return "not a file of weights, or a damaged one"
