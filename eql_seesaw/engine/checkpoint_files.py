"""The checkpoints of a run's folder: written whole, named, found again and pruned."""

import contextlib
import errno
import logging
import os
import re
from typing import Any

import torch

from ..atomic_write import atomic_file
from .checkpoint_reading import CheckpointError, read_checkpoint

logger = logging.getLogger(__name__)

TAG = "last_checkpoint"
NUMBERED = re.compile(r"model_(\d{7,})\.pth")
# Left behind by a killed run, named by atomic_file.
PARTIAL = re.compile(rf"(.+\.pth|{TAG})\.\d+\.partial")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_checkpoint(data: dict[str, Any], path: str) -> None:
    """
    Write ``data`` with ``torch.save``, whole or not at all, and wait until the disk has it.

    Raises:
        CheckpointError: the disk is full or cannot be written to; in one line that names the file,
            for a full disk the bytes that are free, and the last good checkpoint.
    """
    try:
        with atomic_file(path, "wb", durable=True) as f:
            torch.save(data, f)
    except (OSError, RuntimeError) as error:
        cause = _os_error(error)
        if cause is None:
            raise
        raise _not_written(path, cause) from None


def write_tag(folder: str, name: str) -> None:
    """
    Make ``last_checkpoint`` name a file of the folder.

    Raises:
        CheckpointError: as for :func:`write_checkpoint`.
    """
    path = os.path.join(folder, TAG)
    try:
        with atomic_file(path, durable=True) as f:
            f.write(name)
    except OSError as error:
        raise _not_written(path, error) from None


def read_tag(folder: str) -> str:
    """The name that ``last_checkpoint`` holds; "" where it is missing or damaged."""
    try:
        with open(os.path.join(folder, TAG), encoding="utf-8") as f:
            name = f.read(256).strip()
    except (OSError, UnicodeDecodeError):
        return ""
    return name if re.fullmatch(r"[^/\0]+\.pth", name) else ""


def has_checkpoint(folder: str) -> bool:
    """True where a run wrote a checkpoint, readable or not."""
    return bool(read_tag(folder) or _numbered(folder) or _unnumbered(folder))


def newest_checkpoint(folder: str) -> str:
    """
    The checkpoint to resume from: the one that ``last_checkpoint`` names, otherwise the newest. One
    that cannot be read is reported, and an older one taken.

    Returns:
        Its path; "" where there is none at all.

    Raises:
        CheckpointError: there are checkpoints, and none can be read.
    """
    tagged = read_tag(folder)
    if not tagged and has_checkpoint(folder):
        tag = os.path.join(folder, TAG)
        logger.warning(f"{tag} is missing or damaged; taking the newest checkpoint beside it")
    errors: list[str] = []
    if tagged and _is_readable(os.path.join(folder, tagged), errors):
        return os.path.join(folder, tagged)
    for path in _newest_first(folder, tagged):
        if _is_readable(path, errors):
            return path
    if errors:
        raise CheckpointError(
            f"no checkpoint in {folder} can be read: {errors[0]}; to start anew, give "
            "another OUTPUT_DIR or delete them and last_checkpoint"
        )
    return ""


def last_good_checkpoint(folder: str) -> str:
    """Words for an error: which checkpoint there is to go back to."""
    numbered = _numbered(folder)
    path = os.path.join(folder, read_tag(folder))
    if not os.path.isfile(path):
        path = next(
            iter([*sorted(numbered, key=numbered.__getitem__)[::-1], *_unnumbered(folder)]), ""
        )
    return f"the last good checkpoint is {path}" if path else "there is no earlier checkpoint"


def prune_checkpoints(folder: str, name: str, keep: int) -> None:
    """
    Delete all but the ``keep`` newest of the numbered checkpoints (``model_0004999.pth``).

    Args:
        name: the one just written. Those with higher numbers are of a run before it, and older.
        keep: 0 for all.
    """
    match = NUMBERED.fullmatch(name)
    if not keep or not match:
        return
    number = int(match[1])
    numbered = _numbered(folder)
    newest_first = sorted(numbered, key=lambda p: (numbered[p] <= number, numbered[p]))[::-1]
    for path in filter(os.path.isfile, newest_first[keep:]):
        try:
            os.remove(path)
        except OSError as error:
            logger.warning(f"cannot delete the old checkpoint {path}: {error.strerror}")


def remove_partial_files(folder: str) -> None:
    """Delete what runs that were killed while they wrote a checkpoint left behind."""
    for name in filter(PARTIAL.fullmatch, _listing(folder)):
        with contextlib.suppress(OSError):
            os.remove(os.path.join(folder, name))


def _is_readable(path: str, errors: list[str]) -> bool:
    try:
        checkpoint = read_checkpoint(path)
        if not NUMBERED.fullmatch(os.path.basename(path)) and "iteration" not in checkpoint:
            raise CheckpointError(f"{path} holds no iteration to go on from")
    except CheckpointError as error:
        errors.append(str(error))
        logger.warning(f"{error}; trying an older checkpoint")
        return False
    return True


def _newest_first(folder: str, tagged: str) -> list[str]:
    """The other checkpoints that are not newer than the tagged one."""
    iterations = _numbered(folder)
    for path in _unnumbered(folder):
        try:
            iterations[path] = int(read_checkpoint(path)["iteration"])
        except (CheckpointError, KeyError, TypeError, ValueError):
            iterations[path] = -1  # tried last, and then reported
    iterations.pop(os.path.join(folder, tagged), None)
    match = NUMBERED.fullmatch(tagged)
    # Higher numbers are of a run that was here before.
    last = int(match[1]) if match else max(iterations.values(), default=0)
    candidates = [path for path, iteration in iterations.items() if iteration <= last]
    return sorted(candidates, key=iterations.__getitem__, reverse=True)


def _numbered(folder: str) -> dict[str, int]:
    """Iteration of each numbered checkpoint, by its path."""
    matches = filter(None, map(NUMBERED.fullmatch, _listing(folder)))
    return {os.path.join(folder, match[0]): int(match[1]) for match in matches}


def _unnumbered(folder: str) -> list[str]:
    names = {"model_final.pth", "model_best.pth"}.intersection(_listing(folder))
    return [os.path.join(folder, name) for name in sorted(names)]


def _listing(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _not_written(path: str, error: OSError) -> CheckpointError:
    folder, reason = os.path.dirname(path), error.strerror
    if error.errno in FULL:
        disk = os.statvfs(folder)
        free = disk.f_bavail * disk.f_frsize
        reason = f"{reason}, {free:,} bytes are free"
    return CheckpointError(f"cannot write {path}: {reason}; {last_good_checkpoint(folder)}")


def _os_error(error: BaseException | None) -> OSError | None:
    """The error of the disk, in whose place torch's zip writer raises one of its own."""
    while error is not None and not isinstance(error, OSError):
        error = error.__context__
    return error
