import json

import numpy as np
import pytest

from eql_seesaw.evaluation.result import Result
from eql_seesaw.tables.finished_run import FinishedRun, Method, read_finished_run

CATEGORIES = [
    {"id": 1, "name": "a, b", "group": "f", "train_images": 500, "num_objects": 9}
    | {"bbox": {"AP": 10.0}, "segm": {"AP": 20.5}},
    {"id": 2, "name": "c", "group": "r", "train_images": None, "num_objects": 0}
    | {"bbox": {"AP": None}, "segm": {"AP": None}},
]


METRICS = {"bbox/AP": 4.0, "segm/AP": 5.0}


@pytest.fixture
def folder(tmp_path):
    inference = tmp_path / "inference/val"
    inference.mkdir(parents=True)
    Result("val", "x.json", "e", 300, 1, 1, "", {}, CATEGORIES, {}, {}).save(inference)
    return tmp_path


def read(folder):
    return read_finished_run(folder, "val", "eql", METRICS)


def write_gradients(folder, name, positive, negative):
    (folder / name).write_text(json.dumps({"positive": positive, "negative": negative}))


def test_what_a_run_writes(folder):
    run = read(folder)
    assert (run.loss, run.metrics) == ("eql", METRICS)
    assert run.image_counts == pytest.approx([500, np.nan], nan_ok=True)
    assert run.category_ap["bbox"] == pytest.approx([10, np.nan], nan_ok=True)
    assert run.category_ap["segm"] == pytest.approx([20.5, np.nan], nan_ok=True)
    assert run.gradients is None


def test_gradients(folder):
    write_gradients(folder, "gradient_statistics.json", [1, 2], [3, 4])
    assert read(folder).gradients.tolist() == [[1, 2], [3, 4]]


def test_stages_are_summed(folder):
    for stage in range(3):
        name = f"gradient_statistics_stage{stage}.json"
        write_gradients(folder, name, [1, stage], [0, 1])
    assert read(folder).gradients.tolist() == [[3, 3], [0, 3]]


def test_evaluation_is_missing(folder):
    (folder / "inference/val/per_category.csv").unlink()
    with pytest.raises(FileNotFoundError, match="inference/val/per_category.csv"):
        read(folder)


@pytest.mark.parametrize(
    "name, content",
    [
        ("inference/val/per_category.csv", ""),
        ("inference/val/per_category.csv", "category id,name\n1,a\n"),
        ("inference/val/per_category.csv", "train images,AP box,AP mask\n1,2\n"),
        ("inference/val/per_category.csv", "train images,AP box,AP mask\n1,2,x\n"),
        ("gradient_statistics.json", ""),
        ("gradient_statistics.json", "[]"),
        ("gradient_statistics.json", '{"positive": [1, 2]}'),
        ("gradient_statistics.json", '{"positive": [1, 2], "negative": [1]}'),
        ("gradient_statistics.json", '{"positive": [1], "negative": [1]}'),
        ("gradient_statistics.json", '{"positive": [1, NaN], "negative": [1, 2]}'),
        ("gradient_statistics.json", '{"positive": [1, -1], "negative": [1, 2]}'),
    ],
)
def test_file_is_broken(folder, name, content):
    (folder / name).write_text(content)
    with pytest.raises(ValueError) as error:
        read(folder)
    message = str(error.value)
    assert message.startswith(str(folder / name)) and "\n" not in message


def run(category_ap, gradients=None):
    ap = np.array(category_ap, dtype=float)
    gradients = None if gradients is None else np.array(gradients, dtype=float)
    return FinishedRun("eql", {"segm/AP": 1.0}, np.ones(len(ap)), {"segm": ap}, gradients)


class TestMethod:
    def test_category_ap_is_the_mean_of_the_known(self):
        method = Method("a", [run([1, np.nan, np.nan]), run([3, 4, np.nan])])
        assert method.category_ap("segm") == pytest.approx([2, 4, np.nan], nan_ok=True)

    def test_metric_of_each_seed(self):
        method = Method("a", [run([1]), run([1])])
        assert method.metric("segm/AP") == [1, 1]
        assert np.isnan(method.metric("segm/APr")).tolist() == [True, True]

    def test_gradient_ratios(self):
        method = Method("a", [run([0] * 4, [[1, 0, 1, 0], [2, 1, 0, 0]])])
        assert method.gradient_ratios().tolist() == [0.5, 0, np.inf, 0]
        assert Method("a", [run([0])]).gradient_ratios() is None

    def test_no_runs(self):
        with pytest.raises(ValueError, match="seesaw: no runs"):
            Method("seesaw", [])

    def test_different_classes(self):
        with pytest.raises(ValueError, match="seesaw: runs with 1 and with 2 classes"):
            Method("seesaw", [run([1, 2]), run([1])])
