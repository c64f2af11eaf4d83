"""Output that is put in place only when it is complete."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


@contextlib.contextmanager
def atomic_file(
    path: str | os.PathLike, mode: str = "w", durable: bool = False
) -> Iterator[IO[Any]]:
    """
    A file to write, which replaces ``path`` at the end of the ``with`` block.

    If the block raises, nothing is left behind and ``path`` stays as it was.

    Args:
        path: file in a folder that exists.
        mode: "w" for text in UTF-8, its line ends written as they are, or "wb". What UTF-8 has no
            place for, as in the name of a file from a disk with another encoding, is escaped.
        durable: wait until the disk has it, so that a power cut leaves the old or the new file.
    """
    folder, name = os.path.split(path)
    partial = os.path.join(folder, partial_name(name))
    text: dict[str, Any] = {}
    if "b" not in mode:
        text = {"encoding": "utf-8", "errors": "backslashreplace", "newline": ""}
    try:
        with open(partial, mode, **text) as f:
            yield f
            if durable:
                f.flush()
                os.fsync(f.fileno())
        os.replace(partial, path)
        if durable:
            _sync_folder(folder or ".")
    finally:
        with contextlib.suppress(OSError):
            os.remove(partial)


def partial_name(name: str) -> str:
    """Name of a file or folder that is to become ``name``; not longer than file systems allow."""
    return f"{os.fsdecode(os.fsencode(name)[:200])}.{os.getpid()}.partial"


def _sync_folder(folder: str) -> None:
    """Wait until the disk knows of the files' names, where the file system can say so."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def atomic_folder(path: Path, overwrite: bool = False) -> Iterator[Path]:
    """
    A folder to fill, which becomes ``path`` at the end of the ``with`` block.

    If the block raises, nothing is left behind and ``path`` stays as it was.

    Args:
        path: absent or an empty folder, unless ``overwrite`` is true.
        overwrite: delete what is in ``path``.

    Raises:
        OSError: ``path`` is not empty, and ``overwrite`` is false.
    """
    partial = path.with_name(f".{partial_name(path.name)}")
    replaced = path.with_name(f".replaced_{partial_name(path.name)}")
    partial.mkdir(parents=True)
    try:
        yield partial
        if overwrite:
            os.replace(path, replaced)
        os.replace(partial, path)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
