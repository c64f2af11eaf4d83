import gc

import msgspec
import pytest

from eql_seesaw.data.large_json import decode_json, paused_garbage_collector


def test_decodes():
    assert decode_json(b'{"a": [1, 2.5, null]}') == {"a": [1, 2.5, None]}
    assert decode_json(b"[1, 2]", list[int]) == [1, 2]


@pytest.mark.parametrize("is_enabled", [True, False])
def test_the_collector_is_afterwards_as_it_was(is_enabled):
    was_enabled = gc.isenabled()
    (gc.enable if is_enabled else gc.disable)()
    try:
        with paused_garbage_collector():
            assert not gc.isenabled()
        assert gc.isenabled() == is_enabled
        with pytest.raises(msgspec.DecodeError):
            decode_json(b"{")
        assert gc.isenabled() == is_enabled
    finally:
        (gc.enable if was_enabled else gc.disable)()
