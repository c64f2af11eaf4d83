import subprocess
import sys

import numpy as np
import pytest

from eql_seesaw.benchmarks import lvis_evaluation
from eql_seesaw.benchmarks.lvis_like_validation_set import (
    lvis_like_detections,
    lvis_like_ground_truth,
)


def test_ground_truth_is_like_lvis():
    ground_truth = lvis_like_ground_truth(num_images=300)
    groups = [category["frequency"] for category in ground_truth["categories"]]
    assert [groups.count(group) for group in "rcf"] == [337, 461, 405]
    # LVIS v1 has 12.7 objects an image.
    assert 11 < len(ground_truth["annotations"]) / 300 < 15
    present = {(a["image_id"], a["category_id"]) for a in ground_truth["annotations"]}
    for image in ground_truth["images"]:
        assert not any((image["id"], k) in present for k in image["neg_category_ids"])
        assert all((image["id"], k) in present for k in image["not_exhaustive_category_ids"])
    assert ground_truth == lvis_like_ground_truth(num_images=300)


def test_detections():
    ground_truth = lvis_like_ground_truth(num_images=3)
    by_image = list(lvis_like_detections(ground_truth, 50))
    assert [len(results) for results in by_image] == [50] * 3
    scores = np.array([[result["score"] for result in results] for results in by_image])
    assert len(np.unique(scores)) < scores.size  # some are tied
    assert ((scores >= 0) & (scores <= 1)).all()
    assert by_image == list(lvis_like_detections(ground_truth, 50))


@pytest.mark.slow
def test_command():
    command = [sys.executable, "-m", "eql_seesaw.benchmarks.lvis_evaluation", "--images", "20"]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    rows = [line.split("|") for line in process.stdout.splitlines() if "hotcoco" in line]
    assert len(rows) == 2
    assert all(float(row[-2]) == 0 for row in rows)  # the largest difference
    assert "from the last image to the table" in process.stdout


@pytest.mark.slow
def test_rows():
    rows = list(lvis_evaluation.rows("cpu", quick=True))
    names = [f"LVIS evaluation of {name}" for name in ("boxes", "masks")]
    assert [row.work for row in rows] == [
        work for name in names for work in (name, f"{name}, files loaded")
    ]
    assert all(row.identical for row in rows)
    assert [row.time_limit for row in rows] == [0.02, 0.05] * 2
    for alone, with_files in zip(rows[::2], rows[1::2]):
        assert alone.seconds < with_files.seconds and alone.peer_seconds < with_files.peer_seconds
        assert alone.memory > 0 and alone.peer_memory > 0


def test_nothing_on_a_gpu():
    assert not list(lvis_evaluation.rows("cuda", quick=True))
