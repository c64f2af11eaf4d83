"""The file beside an annotation file that keeps its class statistics and class names."""

import errno
import json
import logging
import os
from typing import Any

from detectron2.utils.logger import log_first_n

from ..atomic_write import atomic_file
from .annotation_file import read_annotation_file

CACHE_SUFFIX = ".class_statistics.json"


def file_stamp(json_file: str) -> tuple[int, int] | None:
    """Size and time of the last change, which differ once a file was changed; None without one."""
    if not os.path.isfile(json_file):
        return None
    stat = os.stat(json_file)
    return stat.st_size, stat.st_mtime_ns


def read_cache(json_file: str) -> dict[str, Any] | None:
    """
    What :func:`write_cache` wrote for an annotation file, with "thing_classes", a list of names;
    None if there is none, or the annotation file has changed since.
    """
    stamp = file_stamp(json_file)
    try:
        content = read_annotation_file(json_file + CACHE_SUFFIX)
    except (OSError, ValueError):
        return None
    written = content.get("annotation_file_size"), content.get("annotation_file_mtime_ns")
    thing_classes = content.get("thing_classes")
    are_names = isinstance(thing_classes, list) and all(isinstance(n, str) for n in thing_classes)
    return content if stamp == written and are_names else None


def write_cache(json_file: str, stamp: tuple[int, int], content: dict[str, Any]) -> None:
    """
    Keep ``content`` beside an annotation file; where its folder is read-only, say that in the log.

    Args:
        json_file: the annotation file.
        stamp: of the annotation file, taken before it was read.
        content: to be written as JSON.
    """
    cache_file = json_file + CACHE_SUFFIX
    size, mtime_ns = stamp
    try:
        # The superuser may write everywhere, but a folder marked read-only is meant to stay as is.
        if not os.stat(os.path.dirname(cache_file) or ".").st_mode & 0o222:
            raise PermissionError(errno.EACCES, "the folder is read-only")
        with atomic_file(cache_file) as f:
            stamped = {"annotation_file_size": size, "annotation_file_mtime_ns": mtime_ns}
            json.dump({**content, **stamped}, f)
    except OSError as error:
        message = f"No {cache_file} ({error.strerror}): classes are counted at each start"
        log_first_n(logging.INFO, message, key="message")
