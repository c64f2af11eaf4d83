import io
import json

import numpy as np
import pytest

from eql_seesaw.evaluation.detections import Detections
from eql_seesaw.evaluation.results_file import CollectedResults, ResultsFile

MASK = {"size": [4, 4], "counts": "04000"}
RESULTS = [
    {"image_id": 7, "category_id": 2, "bbox": [0, 1.5, 2, 3], "score": 0.25, "segmentation": MASK},
    {"image_id": 3, "category_id": 1, "bbox": [1, 1, 1, 1], "score": 1, "segmentation": MASK},
    {"image_id": 7, "category_id": 1, "bbox": [2, 2, 2, 2], "score": 0.5, "segmentation": MASK},
]


def write(tmp_path, content):
    path = tmp_path / "results.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_detections_by_image(tmp_path):
    results = ResultsFile(write(tmp_path, RESULTS))
    assert results.image_ids.tolist() == [7, 3, 7]
    assert results.category_ids.tolist() == [2, 1, 1]
    assert results.scores.tolist() == [0.25, 1, 0.5]
    assert results.detections(7).iou_types == ("bbox", "segm")
    assert results.detections(7).to_results() == [RESULTS[0], RESULTS[2]]
    assert results.detections(3).to_results() == [RESULTS[1]]
    assert results.detections(4).to_results() == []


def test_boxes_only_and_masks_only(tmp_path):
    for key, iou_types in (("segmentation", ("bbox",)), ("bbox", ("segm",))):
        content = [{k: v for k, v in result.items() if k != key} for result in RESULTS]
        results = ResultsFile(write(tmp_path, content))
        assert results.detections(3).iou_types == iou_types
        assert results.detections(3).to_results() == [content[1]]
    nothing = ResultsFile(write(tmp_path, [])).detections(3)
    assert nothing.iou_types == ("bbox",) and nothing.to_results() == []


@pytest.mark.parametrize("key", ["bbox", "segmentation"])
def test_region_that_some_detections_lack(tmp_path, key):
    content = [*RESULTS[:2], {k: v for k, v in RESULTS[2].items() if k != key}]
    with pytest.raises(ValueError, match=f"detection 2 has no '{key}', but the first has"):
        ResultsFile(write(tmp_path, content))


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "cannot mmap an empty file"),
        (json.dumps({"annotations": []}), "Expected `array`"),
        (
            json.dumps([RESULTS[0], {**RESULTS[1], "bbox": [1, 2, 3]}]),
            r"Expected `array` of length 4 - at `\$\[1\].bbox`",
        ),
        (json.dumps([{"image_id": 1, "category_id": 1, "score": 1}]), "detection 0 has neither"),
        (
            json.dumps([{**RESULTS[0], "image_id": 2**63}]),
            "Expected `int` <= .*image_id`",
        ),
    ],
)
def test_broken_file(tmp_path, content, message):
    with pytest.raises(ValueError, match=f"results.json: {message}") as error:
        ResultsFile(write(tmp_path, content))
    assert "\n" not in str(error.value)


def detections(image_id, scores):
    count = len(scores)
    boxes = np.arange(4 * count, dtype=float).reshape(count, 4)
    return Detections(image_id, np.ones(count, np.int64), np.array(scores), boxes, [MASK] * count)


def test_collected_results_are_one_list():
    collected = CollectedResults()
    parts = [detections(1, [0.5, 0.1]), detections(2, []), detections(3, [0.7])]
    for part in parts:
        collected.add(part)
        assert collected.detections(part.image_id).to_results() == part.to_results()
    assert collected.detections(4).to_results() == []
    file = io.BytesIO()
    collected.write(file)
    assert json.loads(file.getvalue()) == [r for part in parts for r in part.to_results()]
    assert file.getvalue().count(b"\n") == 5  # a detection a line
    empty = io.BytesIO()
    CollectedResults().write(empty)
    assert json.loads(empty.getvalue()) == []
