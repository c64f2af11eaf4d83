"""Old names, until other rooms have moved."""

from typing import Any

import msgspec

from .annotation_file import paused_garbage_collector


def decode_json(text, type=Any):
    with paused_garbage_collector():
        return msgspec.json.decode(text, type=type)
