"""Files of detections that other machines show late, or that killed evaluations left behind."""

import errno
import json
import os

import numpy as np
import pytest

from eql_seesaw.engine import hold_output_dir
from eql_seesaw.evaluation import lvis_evaluator, results_file
from eql_seesaw.evaluation.detections import Detections
from eql_seesaw.evaluation.lvis_evaluator import LongTailLVISEvaluator
from eql_seesaw.evaluation.result import Result
from eql_seesaw.evaluation.results_file import ResultsWriter, whole_files
from tests.evaluation.test_lvis_evaluator import STATISTICS, coco_val, evaluate  # noqa: F401


def test_late_file_is_waited_for(tmp_path, monkeypatch):
    path = tmp_path / "late.partial"
    sizes = iter([-1, -1, 3, 7])

    def size(path):
        return next(sizes, 7)

    monkeypatch.setattr(results_file, "_size", size)
    assert whole_files([(str(path), 7)], seconds=60) == [str(path)]
    assert next(sizes, None) is None  # it was looked at until it was whole


def test_file_that_stays_away(tmp_path):
    path = tmp_path / "here.partial"
    path.write_bytes(b"[\n\n]\n")
    written = [(str(path), 5), (str(path), 6), (str(tmp_path / "gone"), 5)]
    assert whole_files(written, seconds=0) == [str(path), None, None]


@pytest.mark.fault(
    "Fixed AP cannot be computed, for example for want of disk or memory",
    "A warning; AP and all other numbers are there",
)
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), MemoryError()])
def test_fixed_ap_takes_no_other_number_along(coco_val, tmp_path, monkeypatch, caplog, error):  # noqa: F811
    def fail(*_):
        # The numbers that everybody needs are there by then.
        assert "bbox" in Result.load(tmp_path).metrics
        raise error

    monkeypatch.setattr(lvis_evaluator, "evaluate_fixed_ap", fail)
    settings = {"class_statistics": STATISTICS, "boundary_ap": True}
    expected = evaluate(LongTailLVISEvaluator(coco_val, **settings))
    evaluator = LongTailLVISEvaluator(coco_val, str(tmp_path), fixed_ap=True, **settings)
    assert evaluate(evaluator) == expected == Result.load(tmp_path).metrics
    assert "no Fixed AP (" in caplog.text


@pytest.mark.fault(
    "The official package is asked for, and a rank's detections are on another machine",
    "A warning; the numbers are hotcoco's, which are the same",
)
def test_official_engine_without_a_shared_folder(coco_val, monkeypatch, caplog):  # noqa: F811
    monkeypatch.setattr(lvis_evaluator, "whole_files", lambda written, seconds: [None])
    expected = evaluate(LongTailLVISEvaluator(coco_val, class_statistics=STATISTICS))
    evaluator = LongTailLVISEvaluator(coco_val, class_statistics=STATISTICS, engine="lvis")
    assert evaluate(evaluator) == expected
    assert evaluator.result.engine.startswith("hotcoco") and "ranks [0]" in caplog.text


@pytest.mark.fault(
    "The disk is full while detections are written",
    "One line that names the file; nothing half-written stays",
)
def test_full_disk(small_disk):
    writer = ResultsWriter(str(small_disk))
    boxes = np.zeros((1000, 4))
    many = Detections(1, np.ones(1000, dtype=int), np.full(1000, 0.5), boxes, None)
    with pytest.raises(OSError, match="No space left on device: .*lvis_instances_results"):
        for _ in range(12):
            writer.write(many)
        writer.close()
    del writer
    assert os.listdir(small_disk) == []


@pytest.mark.fault(
    "Evaluations were killed before", "What they left behind goes with the next run in the folder"
)
def test_leftovers_of_killed_evaluations(tmp_path):
    folder = tmp_path / "inference" / "lvis_v1_val"
    folder.mkdir(parents=True)
    names = ("lvis_instances_results.x1y2.partial", "lvis_instances_results.json.77.partial")
    for name in (*names, "notes.partial", "lvis_instances_results.json"):
        (folder / name).write_text(json.dumps([]))
    with hold_output_dir(str(tmp_path), eval_only=True):
        assert len(os.listdir(folder)) == 4  # they may be another evaluation's
    os.utime(folder / names[0], (0, 0))
    with hold_output_dir(str(tmp_path), eval_only=True):
        assert names[0] not in os.listdir(folder) and names[1] in os.listdir(folder)
    with hold_output_dir(str(tmp_path), eval_only=False):
        assert sorted(os.listdir(folder)) == ["lvis_instances_results.json", "notes.partial"]
