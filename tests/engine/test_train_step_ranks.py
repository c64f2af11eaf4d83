"""A step on two processes: passes, and what one of them has to tell the other."""

import math

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch.nn.parallel import DistributedDataParallel

from eql_seesaw.engine.train_step import AccumulatingTrainer, NonFiniteLossError
from tests.engine.test_train_step import Regression, images, train
from tests.ranks import run_on_ranks

NUM_STEPS = 3


def run_rank(rank, folder):
    pool = images(8 * NUM_STEPS)
    # Of the eight images of a step each process takes four, two in each of two passes.
    batches = [pool[i + 4 * rank : i + 4 * rank + 4] for i in range(0, len(pool), 8)]
    batches = [half for batch in batches for half in (batch[:2], batch[2:])]
    broken = [dict(image) for image in batches[0]]
    if rank == 1:
        broken[1]["y"] = torch.tensor(math.nan, dtype=torch.float64)
    model = DistributedDataParallel(Regression())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    trainer = AccumulatingTrainer(model, [*batches, broken, broken], optimizer, num_passes=2)
    record = {"stops": [], "losses": [], "unreadable": []}
    with EventStorage() as storage:
        for trainer.iter in range(NUM_STEPS):
            storage.iter = trainer.iter
            trainer.asked_to_stop = rank == 1 and trainer.iter == 1
            if rank == 1 and trainer.iter == 2:
                batches[4][0]["unreadable"] = ["image 5: cut off"]
            trainer.run_step()
            record["stops"].append(trainer.asked_to_stop)
            record["unreadable"].append(trainer.num_unreadable)
            record["losses"].append(storage.latest()["total_loss"][0])
        record["model"] = {name: t.clone() for name, t in model.module.state_dict().items()}
        trainer.iter = NUM_STEPS
        try:
            trainer.run_step()
        except NonFiniteLossError as error:
            record["error"] = str(error)
    record["unchanged"] = all(
        torch.equal(tensor, record["model"][name])
        for name, tensor in model.module.state_dict().items()
    )
    torch.save(record, folder / f"{rank}.pt")


def test_two_processes_of_two_passes(tmp_path):
    run_on_ranks(2, run_rank, tmp_path)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    pool = images(8 * NUM_STEPS)
    whole, logged, _ = train([pool[i : i + 8] for i in range(0, len(pool), 8)], 1, NUM_STEPS)
    for record in ranks:
        torch.testing.assert_close(record["model"], dict(whole.state_dict()))
        assert record["losses"] == pytest.approx([line["total_loss"] for line in logged])
        # All know what one was asked, and saw.
        assert record["stops"] == [False, True, False]
        assert record["unreadable"] == [0, 0, 1]
        assert record["unchanged"]
        assert record["error"] == ranks[0]["error"]
    message = ranks[0]["error"]
    assert message.startswith("iteration 3, learning rate 0.1: a loss is not finite; rank 1: ")
    assert "loss_square nan" in message and "rank 0" not in message and "\n" not in message
