"""The statistics of EQL v2 over several processes."""

import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from eql_seesaw.losses import EqualizationLossV2

K = 5


def batch(step, rank):
    generator = torch.Generator().manual_seed(100 * step + rank)
    logits = torch.randn(8, K + 1, generator=generator, dtype=torch.float64)
    gt_classes = torch.randint(0, K + 1, (8,), generator=generator)
    if rank == 1 and step == 1:
        gt_classes.fill_(K)  # a rank without foreground takes part all the same
    return logits, gt_classes


def run_rank(rank, port, folder):
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    loss = EqualizationLossV2(K)
    records = []
    for step in range(3):
        logits, gt_classes = batch(step, rank)
        logits.requires_grad_()
        value = loss(logits, gt_classes)["loss_cls"]
        value.backward()
        statistics = {key: tensor.clone() for key, tensor in loss.state_dict().items()}
        records.append((statistics, value.detach(), logits.grad))
    torch.save(records, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_sum_as_one(tmp_path):
    """
    Statistics are the same on both ranks and in one process that sees both batches: sums, not
    means. Loss and gradient are its mean over ranks, since the ranks have equally many samples.
    """
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    mp.spawn(run_rank, args=(port, tmp_path), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    loss = EqualizationLossV2(K)
    for step in range(3):
        parts = [batch(step, rank) for rank in range(2)]
        logits = torch.cat([part[0] for part in parts]).requires_grad_()
        value = loss(logits, torch.cat([part[1] for part in parts]))["loss_cls"]
        value.backward()
        (statistics, loss_0, grad_0), (other_statistics, loss_1, grad_1) = first[step], second[step]
        torch.testing.assert_close(statistics, other_statistics, rtol=0, atol=0)
        torch.testing.assert_close(statistics, dict(loss.state_dict()))
        torch.testing.assert_close((loss_0 + loss_1) / 2, value.detach())
        torch.testing.assert_close(torch.cat([grad_0, grad_1]) / 2, logits.grad)
    assert (loss.positive_gradients > 0).any() and (loss.negative_gradients > 0).all()
