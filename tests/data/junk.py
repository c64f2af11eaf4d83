"""Values that a broken or hostile annotation file may hold."""

import copy
import math

JUNK = [None, True, -1, 1e400, math.nan, "", "x", [], [[]], {}, {"id": 1}, 10**400]


def replace_one_value(content, rng):
    """Put junk in the place of a random value of nested lists and dicts."""
    node = content
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = rng.choice(keys)
        if not isinstance(node[key], (dict, list)) or not node[key] or rng.random() < 0.1:
            node[key] = copy.deepcopy(rng.choice(JUNK))
            return
        node = node[key]
