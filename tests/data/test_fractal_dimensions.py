import math

import numpy as np
import pytest
from detectron2.structures import BoxMode

from eql_seesaw.data.class_statistics import fractal_dimensions


def image(*objects, width=200, height=100):
    """Objects are (class, x, y) of their centres, as shares of the image's size."""
    annotations = [
        {
            "category_id": k,
            "bbox": [x * width - 2, y * height - 1, 4, 2],
            "bbox_mode": BoxMode.XYWH_ABS,
        }
        for k, x, y in objects
    ]
    return {"width": width, "height": height, "annotations": annotations}


def grid(k, side):
    """The centres of all cells of a grid."""
    return [(k, (i + 0.5) / side, (j + 0.5) / side) for i in range(side) for j in range(side)]


def test_everywhere_along_a_line_and_few():
    """256 centres fill the grids up to 16 x 16; on a diagonal they fill one cell of each row."""
    everywhere = [(0, (i + 0.5) / 240, (j + 0.5) / 240) for i in range(240) for j in range(240)]
    diagonal = [(1, (i + 0.5) / 256, (i + 0.5) / 256) for i in range(256)]
    few = grid(2, 2)[:3]
    found = fractal_dimensions([image(*everywhere, *diagonal), image(*few)], 4)
    assert found == pytest.approx([2.0, 1.0, 1.0, 1.0], abs=1e-12)
    assert found.dtype == np.float64


def test_four_objects_by_hand():
    """With four, grids of 1 and 2: the slope is log2 of the cells of the second."""
    three = [(0, 0.1, 0.1), (0, 0.9, 0.1), (0, 0.1, 0.9), (0, 0.2, 0.2)]
    assert fractal_dimensions([image(*three)], 1) == pytest.approx([math.log2(3)])
    # Below 1 it is 1.
    one = [(0, 0.1, 0.1)] * 4
    assert fractal_dimensions([image(*one)], 1).tolist() == [1.0]


def test_nine_objects_by_hand():
    """Grids of 1, 2 and 3 with 1, 2 and 3 cells: a line, whatever the shape of the images."""
    cells = [(0, x, 0.4) for x in (0.1, 0.2, 0.4, 0.45, 0.3, 0.7, 0.8, 0.9, 1.0)]
    images = [image(c, width=10 * (i + 1), height=70) for i, c in enumerate(cells)]
    assert fractal_dimensions(images, 1) == pytest.approx([1.0])


def test_crowds_and_modes_of_boxes():
    first = image(*grid(0, 2))
    second = image(*grid(0, 2))
    for annotation in second["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation |= {"bbox": [x, y, x + w, y + h], "bbox_mode": BoxMode.XYXY_ABS}
    assert fractal_dimensions([first], 1) == pytest.approx([2.0])
    assert fractal_dimensions([second], 1) == pytest.approx([2.0])
    for annotation in second["annotations"]:
        annotation["iscrowd"] = 1
    assert fractal_dimensions([second, {"width": 1, "height": 1}], 1).tolist() == [1.0]
    assert fractal_dimensions([], 2).tolist() == [1.0, 1.0]
