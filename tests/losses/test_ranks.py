"""What losses accumulate over several processes, as Seesaw's counts and EQL v2's gradients."""

import pytest
import torch
import torch.distributed as dist

from eql_seesaw.losses import SoftmaxCrossEntropy, build_loss, summed_together
from eql_seesaw.losses.step_statistics import sum_over_ranks
from tests.ranks import run_on_ranks

K = 5
RANKS = range(3)
STAGES = range(3)
STEPS = range(4)


class CountingLoss(SoftmaxCrossEntropy):
    """Somebody else's loss, which accumulates integers and floats, before and after its use."""

    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.register_buffer("samples", torch.zeros(self.num_logits, dtype=torch.int64))
        self.register_buffer("squares", torch.zeros((), dtype=torch.float64))
        self.register_buffer("rows", torch.zeros((), dtype=torch.int64))
        self.seen_by_loss = None

    def label_statistics(self, gt_classes):
        return {"samples": gt_classes.bincount(minlength=self.num_logits)}

    def losses(self, logits, gt_classes, annotated_classes=None):
        self.seen_by_loss = self.samples.sum().item(), self.rows.item()
        return super().losses(logits, gt_classes, annotated_classes)

    def logit_statistics(self, logits, gt_classes):
        assert not torch.is_grad_enabled()
        squares = logits.square().sum(dtype=torch.float64)
        return {"squares": squares, "rows": torch.tensor(len(logits))}


BUILD = {
    "seesaw": lambda: build_loss("seesaw", K),
    "seesaw, background counted": lambda: build_loss("seesaw", K, objectness=False),
    "eql_v2": lambda: build_loss("eql_v2", K),
    "softmax_eql_v2": lambda: build_loss("softmax_eql_v2", K),
    "equilibrium": lambda: build_loss("equilibrium", K),
    "fcbl": lambda: build_loss("fcbl", K),
    "pcb": lambda: build_loss("pcb", K, num_steps=3),
    "equalized_focal": lambda: build_loss("equalized_focal", K),
    "counting": lambda: CountingLoss(K),
    "softmax_ce": lambda: build_loss("softmax_ce", K),
}
# Of a step, whatever its number of stages.
ALL_REDUCES = {
    "seesaw": 1,
    "seesaw, background counted": 1,
    "eql_v2": 1,
    "softmax_eql_v2": 1,
    "equilibrium": 1,
    "fcbl": 1,
    "pcb": 1,
    "equalized_focal": 1,
    "counting": 2,
    "softmax_ce": 0,
}


def batch(step, stage, rank, num_logits):
    """In step 1 rank 1 has no foreground, in step 2 rank 0 no sample at all."""
    rows = 0 if (step, rank) == (2, 0) else 6
    generator = torch.Generator().manual_seed(1000 * step + 100 * stage + rank)
    logits = torch.randn(rows, num_logits, generator=generator, dtype=torch.float64)
    gt_classes = torch.randint(0, K + 1, (rows,), generator=generator)
    if (step, rank) == (1, 1):
        gt_classes.fill_(K)
    return logits.requires_grad_(), gt_classes


def state(losses):
    return [{key: x.clone() for key, x in loss.state_dict().items()} for loss in losses]


def cascade_step(losses, batches):
    """Statistics of each stage after a step, its losses and gradients."""
    with summed_together(losses, [gt_classes for _, gt_classes in batches]):
        values = [sum(loss(*stage).values()) for loss, stage in zip(losses, batches, strict=True)]
    sum(values).backward()
    return {
        "statistics": state(losses),
        "losses": [value.detach() for value in values],
        "gradients": [logits.grad for logits, _ in batches],
    }


class AllReduces:
    """Counts, in place of ``torch.distributed.all_reduce``."""

    def __init__(self):
        self.count = 0
        self.all_reduce = dist.all_reduce
        dist.all_reduce = self

    def __call__(self, *args, **kwargs):
        self.count += 1
        return self.all_reduce(*args, **kwargs)

    def since_last(self):
        count, self.count = self.count, 0
        return count


def run_loss(name, rank, all_reduces):
    """What a rank sees of a cascade, and of a loss that is called by itself."""
    losses = [BUILD[name]() for _ in STAGES]
    steps = []
    for step in STEPS:
        batches = [batch(step, stage, rank, losses[0].num_logits) for stage in STAGES]
        steps.append(cascade_step(losses, batches))
        steps[-1]["all_reduces"] = all_reduces.since_last()
    alone = BUILD[name]()
    for step in STEPS:
        alone(*batch(step, 0, rank, alone.num_logits))
    result = {"steps": steps, "alone": state([alone])[0], "alone_all_reduces": all_reduces.count}
    all_reduces.since_last()
    if rank == 0:  # the others are not there: a collective would fail
        before = state(losses)
        batches = [batch(0, stage, rank, losses[0].num_logits) for stage in STAGES]
        with torch.no_grad():
            alone(*batches[0])
            with summed_together(losses, [gt_classes for _, gt_classes in batches]):
                for loss, stage in zip(losses, batches, strict=True):
                    loss(*stage)
        for loss in [*losses, alone]:
            loss.eval()
        cascade_step(losses, batches)
        alone(*batches[0])
        assert all_reduces.count == 0
        for old, new in zip([*before, result["alone"]], state([*losses, alone]), strict=True):
            assert all(torch.equal(old[key], new[key]) for key in old)
    return result


def run_losses_on_rank(rank, folder):
    all_reduces = AllReduces()
    results = {name: run_loss(name, rank, all_reduces) for name in BUILD}
    # A big integer and a float, for which float32 would be too small.
    numbers = [torch.tensor([2**40 + rank]), torch.tensor([[0.1, 2.0**-40]]).double()]
    results["sums"] = sum_over_ranks(numbers)
    assert all_reduces.since_last() == 1
    torch.save(results, folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Record of what each rank has seen."""
    folder = tmp_path_factory.mktemp("ranks")
    run_on_ranks(len(RANKS), run_losses_on_rank, folder)
    return [torch.load(folder / f"{rank}.pt") for rank in RANKS]


def assert_same_sums(actual, expected):
    """Integers exactly, floats to rounding."""
    assert actual.keys() == expected.keys()
    for key, tensor in expected.items():
        assert actual[key].dtype == tensor.dtype in (torch.int64, torch.float64)
        torch.testing.assert_close(actual[key], tensor, rtol=1e-12, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILD)
def test_ranks_accumulate_as_one_process(results, name):
    """
    Statistics are the same on all ranks and in one process that sees all batches: sums, not
    means. Losses and gradients are its own too, each rank's weighted with its number of samples.
    """
    losses = [BUILD[name]() for _ in STAGES]
    for step in STEPS:
        records = [result[name]["steps"][step] for result in results]
        parts = [
            [batch(step, stage, rank, losses[0].num_logits) for rank in RANKS] for stage in STAGES
        ]
        sizes = torch.tensor([len(gt_classes) for _, gt_classes in parts[0]])
        share = sizes / sizes.sum(dtype=torch.float64)
        whole = [
            (
                torch.cat([x for x, _ in part]).detach().requires_grad_(),
                torch.cat([y for _, y in part]),
            )
            for part in parts
        ]
        expected = cascade_step(losses, whole)
        for stage in STAGES:
            for record in records:
                assert_same_sums(record["statistics"][stage], expected["statistics"][stage])
                for key, tensor in records[0]["statistics"][stage].items():
                    assert torch.equal(record["statistics"][stage][key], tensor)
            values = torch.stack([record["losses"][stage] for record in records])
            torch.testing.assert_close(values @ share, expected["losses"][stage])
            gradients = [record["gradients"][stage] for record in records]
            gradients = [x * s for x, s in zip(gradients, share, strict=True)]
            torch.testing.assert_close(torch.cat(gradients), expected["gradients"][stage])


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILD)
def test_one_all_reduce_for_all_stages_and_for_a_loss_by_itself(results, name):
    for result in results:
        counts = [step["all_reduces"] for step in result[name]["steps"]]
        assert counts == [ALL_REDUCES[name]] * len(STEPS)
        assert_same_sums(result[name]["alone"], result[name]["steps"][-1]["statistics"][0])
        assert result[name]["alone_all_reduces"] == len(STEPS) * ALL_REDUCES[name]


@pytest.mark.slow
def test_integers_and_floats_in_one_sum_stay_exact(results):
    for result in results:
        integers, floats = result["sums"]
        assert integers.tolist() == [len(RANKS) * 2**40 + sum(RANKS)]
        assert floats.dtype == torch.float64 and floats.shape == (1, 2)
        assert floats[0].tolist() == [
            pytest.approx(len(RANKS) * torch.tensor(0.1).item(), rel=1e-15),
            len(RANKS) * 2.0**-40,
        ]


def test_sum_of_one_process():
    tensors = [torch.tensor([1, 2]), torch.tensor(0.5)]
    assert all(x is y for x, y in zip(sum_over_ranks(tensors), tensors, strict=True))
    assert sum_over_ranks([]) == []


def test_label_statistics_come_before_and_logit_statistics_after_the_losses_of_all_stages():
    losses = [CountingLoss(K) for _ in STAGES]
    for step in range(2):
        cascade_step(losses, [batch(0, stage, 0, K + 1) for stage in STAGES])
        for loss in losses:
            assert loss.seen_by_loss == (6 * (step + 1), 6 * step)
            assert loss.rows == 6 * (step + 1)
    alone = CountingLoss(K)
    for step in range(2):
        alone(*batch(0, 0, 0, K + 1))
        assert alone.seen_by_loss == (6 * (step + 1), 6 * step)


def test_one_loss_for_all_stages_accumulates_each():
    """Losses need not be different objects."""
    loss, apart = CountingLoss(K), [CountingLoss(K) for _ in STAGES]
    batches = [batch(0, stage, 0, K + 1) for stage in STAGES]
    cascade_step([loss] * len(STAGES), batches)
    cascade_step(apart, batches)
    assert loss.samples.equal(sum(x.samples for x in apart)) and loss.rows == 6 * len(STAGES)


def test_a_failure_within_a_step_leaves_the_losses_usable():
    losses = [build_loss("eql_v2", K) for _ in STAGES]
    batches = [batch(0, stage, 0, K + 1) for stage in STAGES]
    with pytest.raises(ValueError, match="logits of shape"):
        cascade_step(losses, [*batches[:2], batch(0, 2, 0, K)])
    assert not any(tensor.any() for statistics in state(losses) for tensor in statistics.values())
    fresh = [build_loss("eql_v2", K) for _ in STAGES]
    cascade_step(losses, batches)
    cascade_step(fresh, batches)
    for actual, expected in zip(state(losses), state(fresh), strict=True):
        assert_same_sums(actual, expected)


def test_a_label_out_of_range_is_named_before_anything_is_counted():
    losses = [build_loss("seesaw", K) for _ in range(2)]
    with pytest.raises(ValueError, match=f"gt_classes must be in .* got {K + 1}"):
        with summed_together(losses, [torch.tensor([0, K]), torch.tensor([K + 1])]):
            pass
    assert not losses[0].cumulative_counts.any()


def test_an_unknown_buffer_is_an_error():
    class WrongName(SoftmaxCrossEntropy):
        def label_statistics(self, gt_classes):
            return {"counts": gt_classes}

    with pytest.raises(AttributeError, match="counts"):
        WrongName(K)(*batch(0, 0, 0, K + 1))
