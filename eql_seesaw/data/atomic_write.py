"""Output that is put in place only when it is complete."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike, mode: str = "w") -> Iterator[IO[Any]]:
    """
    A file to write, which replaces ``path`` at the end of the ``with`` block.

    If the block raises, nothing is left behind and ``path`` stays as it was.

    Args:
        path: file in a folder that exists.
        mode: "w" for text in UTF-8, its line ends written as they are, or "wb".
    """
    partial = f"{os.fspath(path)}.{os.getpid()}.partial"
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    try:
        with open(partial, mode, **text) as f:
            yield f
        os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):
            os.remove(partial)


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
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    replaced = path.with_name(f".{path.name}.{os.getpid()}.replaced")
    partial.mkdir(parents=True)
    try:
        yield partial
        if overwrite:
            os.replace(path, replaced)
        os.replace(partial, path)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
