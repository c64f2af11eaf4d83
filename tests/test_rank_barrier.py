"""Rank 0 evaluates longer than a collective waits."""

import multiprocessing
import os
import threading
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from detectron2.data import MetadataCatalog
from detectron2.utils import comm

from eql_seesaw import rank_barrier
from eql_seesaw.evaluation import LongTailLVISEvaluator, lvis_evaluator
from eql_seesaw.evaluation.lvis_evaluation import LVISEvaluation
from tests.evaluation.test_lvis_evaluator import STATISTICS, coco_val, evaluate  # noqa: F401

TIMEOUT, WORK = 3.0, 4.5  # seconds


def test_one_process_waits_for_nobody():
    rank_barrier.wait_for_all()


def evaluate_on_rank(rank, folder, barrier, is_plain, messages):
    torch.set_num_threads(1)
    if is_plain:
        lvis_evaluator.wait_for_all = comm.synchronize
    add_remaining = LVISEvaluation.add_remaining

    def slow_add_remaining(evaluation):
        threading.Event().wait(WORK)
        add_remaining(evaluation)

    LVISEvaluation.add_remaining = slow_add_remaining
    barrier.wait()  # both have started, so that from here on only the evaluation takes long
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=TIMEOUT),
    )
    metadata = MetadataCatalog.get("tiny_val")
    metadata.set(thing_dataset_id_to_contiguous_id={3: 0, 7: 1, 8: 2})
    metadata.set(json_file=os.path.join(folder, "val.json"))
    evaluator = LongTailLVISEvaluator("tiny_val", folder, class_statistics=STATISTICS)
    try:
        evaluate(evaluator, range(3 * rank, 3 * rank + 3))
        comm.all_gather("an ordinary collective")
        messages.put((rank, ""))
    except (RuntimeError, FileNotFoundError) as error:  # rank 1 took its file with it
        messages.put((rank, str(error)))
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.fault("AP takes rank 0 longer than a collective waits", "the others wait for it")
@pytest.mark.parametrize("is_plain", [False, True])
def test_evaluation_longer_than_the_timeout(coco_val, tmp_path, is_plain):  # noqa: F811
    """With an ordinary barrier the same evaluation fails."""
    context = multiprocessing.get_context("spawn")
    barrier, messages = context.Barrier(2), context.Queue()
    arguments = (str(tmp_path), barrier, is_plain, messages)
    torch.multiprocessing.spawn(evaluate_on_rank, arguments, nprocs=2)
    said = dict(messages.get(timeout=10) for _ in range(2))
    if is_plain:
        assert "Timed out" in said[1]
    else:
        assert said == {0: "", 1: ""}
