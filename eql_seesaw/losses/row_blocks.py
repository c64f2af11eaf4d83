"""Blocks of rows of a large (rows, columns) matrix, so that temporaries stay small."""

from collections.abc import Iterator

from torch import Tensor

# Elements of a block: on CPU what stays in a core's cache, on GPU enough to fill the device.
CPU_BLOCK_ELEMENTS = 2**17
GPU_BLOCK_ELEMENTS = 2**23


def row_blocks(matrix: Tensor) -> Iterator[slice]:
    """Slices that cover the rows of ``matrix`` (rows, columns) in order; none if it is empty."""
    elements = CPU_BLOCK_ELEMENTS if matrix.device.type == "cpu" else GPU_BLOCK_ELEMENTS
    rows, columns = matrix.shape
    step = max(1, elements // max(1, columns))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))
