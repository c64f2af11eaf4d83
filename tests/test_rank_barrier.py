"""Rank 0 evaluates longer than a collective waits."""

import threading

import pytest
from detectron2.data import MetadataCatalog
from detectron2.utils import comm

from eql_seesaw import rank_barrier
from eql_seesaw.evaluation import LongTailLVISEvaluator
from eql_seesaw.evaluation.lvis_evaluation import LVISEvaluation
from tests.evaluation.test_lvis_evaluator import STATISTICS, coco_val, evaluate  # noqa: F401
from tests.ranks import run_on_ranks

TIMEOUT, WORK = 3.0, 4.5  # seconds


def test_one_process_waits_for_nobody():
    rank_barrier.wait_for_all()


def evaluate_on_rank(rank, folder):
    add_remaining = LVISEvaluation.add_remaining

    def slow_add_remaining(evaluation, iou_types):
        threading.Event().wait(WORK)
        add_remaining(evaluation, iou_types)

    LVISEvaluation.add_remaining = slow_add_remaining
    metadata = MetadataCatalog.get("tiny_val")
    metadata.set(thing_dataset_id_to_contiguous_id={3: 0, 7: 1, 8: 2})
    metadata.set(json_file=str(folder / "val.json"))
    evaluator = LongTailLVISEvaluator("tiny_val", str(folder), class_statistics=STATISTICS)
    evaluate(evaluator, range(3 * rank, 3 * rank + 3))
    comm.all_gather("an ordinary collective")


@pytest.mark.slow
def test_evaluation_longer_than_the_timeout(coco_val, tmp_path):  # noqa: F811
    run_on_ranks(2, evaluate_on_rank, tmp_path, timeout=TIMEOUT)
