"""Decoding JSON of hundreds of megabytes."""

import contextlib
import gc
import mmap
from collections.abc import Iterator
from typing import Any

import msgspec


def decode_json(text: bytes | mmap.mmap, type: Any = Any) -> Any:
    """
    ``msgspec.json.decode`` with :func:`paused_garbage_collector`.

    Raises:
        msgspec.DecodeError: ``text`` is not JSON, or not of this type.
    """
    with paused_garbage_collector():
        return msgspec.json.decode(text, type=type)


@contextlib.contextmanager
def paused_garbage_collector() -> Iterator[None]:
    """
    While millions of objects are made, the collector would look at all of them again and again, and
    find nothing, for half of the time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
