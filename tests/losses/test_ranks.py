"""What losses accumulate over several processes: Seesaw's counts, EQL v2's gradients."""

import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from eql_seesaw.losses import build_loss

K = 5


def batch(step, rank, num_logits):
    generator = torch.Generator().manual_seed(100 * step + rank)
    logits = torch.randn(8, num_logits, generator=generator, dtype=torch.float64)
    gt_classes = torch.randint(0, K + 1, (8,), generator=generator)
    if rank == 1 and step == 1:
        gt_classes.fill_(K)  # a rank without foreground takes part all the same
    return logits, gt_classes


def train_step(loss, logits, gt_classes):
    """Statistics after the step, loss, gradient."""
    logits.requires_grad_()
    value = sum(loss(logits, gt_classes).values())
    value.backward()
    statistics = {key: tensor.clone() for key, tensor in loss.state_dict().items()}
    return statistics, value.detach(), logits.grad


def run_rank(rank, name, port, folder):
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    loss = build_loss(name, K)
    records = [train_step(loss, *batch(step, rank, loss.num_logits)) for step in range(3)]
    torch.save(records, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["seesaw", "eql_v2"])
def test_two_ranks_accumulate_as_one(tmp_path, name):
    """
    Statistics are the same on both ranks and in one process that sees both batches: sums, not
    means. Loss and gradient are its mean over ranks, since the ranks have equally many samples.
    """
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    mp.spawn(run_rank, args=(name, port, tmp_path), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    loss = build_loss(name, K)
    for step, records in enumerate(zip(*ranks, strict=True)):
        (statistics, loss_0, grad_0), (other_statistics, loss_1, grad_1) = records
        parts = [batch(step, rank, loss.num_logits) for rank in range(2)]
        logits, gt_classes = (torch.cat(part) for part in zip(*parts, strict=True))
        expected, value, grad = train_step(loss, logits, gt_classes)
        assert statistics
        for key, tensor in expected.items():
            assert tensor.any()
            assert torch.equal(statistics[key], other_statistics[key])
            # Integers exactly, floats to rounding.
            torch.testing.assert_close(statistics[key], tensor)
        torch.testing.assert_close((loss_0 + loss_1) / 2, value)
        torch.testing.assert_close(torch.cat([grad_0, grad_1]) / 2, grad)
