import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from eql_seesaw.losses import LOSSES
from eql_seesaw.modeling import ClassGradients
from eql_seesaw.modeling.class_gradients import add_step, class_gradients
from tests.ranks import run_on_ranks

from .tiny_model import NUM_CLASSES, ROI_HEADS, tiny_config, training_batch

K = 3
# dL/dz of four samples: classes 0, 2, 2 and background; K + 1 logits.
GRADIENTS = torch.tensor(
    [
        [-0.5, 0.25, 0.125, 0.125],
        [0.25, 0.5, -1.0, 0.25],
        [0.0, 0.125, -0.25, 0.125],
        [0.5, 0.0, 0.25, -0.75],
    ]
)
GT_CLASSES = torch.tensor([0, 2, 2, K])
POSITIVE = [0.5, 0.0, 1.25]
NEGATIVE = [0.75, 0.875, 0.375]


def backward(module, gradients=GRADIENTS, gt_classes=GT_CLASSES):
    """A step whose loss has these gradients with respect to the logits."""
    features = torch.zeros(gradients.shape, requires_grad=True, dtype=gradients.dtype)
    logits = features * 1
    module.watch(logits, gt_classes)
    (logits * gradients).sum().backward()
    torch.testing.assert_close(
        features.grad, gradients, equal_nan=True
    )  # nothing changes for the classifier


def test_by_hand():
    module = ClassGradients(K)
    backward(module)
    assert module.sums.sum() == 0
    add_step(module)
    assert module.sums.tolist() == [POSITIVE, NEGATIVE]
    assert module.sums.dtype == torch.float64 and module.step_sums.sum() == 0
    backward(module)
    backward(module, GRADIENTS[:0], GT_CLASSES[:0])
    add_step(module)
    add_step(module)  # a step without any sample
    assert module.sums.tolist() == [[2 * x for x in POSITIVE], [2 * x for x in NEGATIVE]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_sums_in_double_precision(dtype):
    module = ClassGradients(1)
    number = 5000
    gradients = torch.full((number, 2), 0.5, dtype=dtype)
    gradients[0, 0] = 2.0**-11
    backward(module, gradients, torch.full((number,), 1))
    add_step(module)
    assert module.sums[1].item() == (number - 1) * 0.5 + 2.0**-11


def test_loss_scale_is_divided_out():
    module = ClassGradients(K)
    backward(module, 1024 * GRADIENTS)
    add_step(module, loss_scale=1024.0)
    assert module.sums.tolist() == [POSITIVE, NEGATIVE]


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_step_that_mixed_precision_skips_is_left_out(value):
    """As a whole, also where one of its passes was finite."""
    module = ClassGradients(K)
    backward(module)
    add_step(module)
    overflown = GRADIENTS.clone()
    overflown[2, 1] = value
    backward(module)
    backward(module, overflown)
    add_step(module)
    assert module.sums.tolist() == [POSITIVE, NEGATIVE] and module.step_sums.sum() == 0


def test_nothing_in_evaluation_and_without_gradients():
    module = ClassGradients(K)
    with torch.no_grad():
        module.watch(torch.zeros(4, K + 1, requires_grad=True) * 1, GT_CLASSES)
    backward(module.eval())
    assert module.step_sums.sum() == 0


@pytest.mark.parametrize(
    "roi_heads, name",
    [
        *(("LongTailROIHeads", name) for name in ("eql", "softmax_ce", "bags")),
        *((roi_heads, "seesaw") for roi_heads in ROI_HEADS if roi_heads != "LongTailROIHeads"),
    ],
)
def test_every_layout_and_stage(tmp_path, roi_heads, name):
    """What the hook sees is the gradient that autograd gives for the logits."""
    cfg = tiny_config(
        tmp_path,
        roi_heads,
        *("MODEL.ROI_BOX_HEAD.CLS_LOSS", name, "MODEL.ROI_BOX_HEAD.GRADIENT_STATISTICS", True),
    )
    model = build_model(cfg).train()
    seen = []

    def keep(module, args):
        args[0].retain_grad()
        seen.append(args[:2])

    for module in model.modules():
        if isinstance(module, LOSSES[name]):
            module.register_forward_pre_hook(keep)
    with EventStorage():
        sum(model(training_batch()).values()).backward()
    add_step(model)
    stages = class_gradients(model)
    assert len(stages) == len(seen) == (3 if "Cascade" in roi_heads else 1)
    for stage, (logits, gt_classes) in zip(stages, seen, strict=True):
        magnitude = logits.grad.double().abs()
        for c in range(NUM_CLASSES):
            positive = magnitude[gt_classes == c, c].sum()
            negative = magnitude[gt_classes != c, c].sum()
            torch.testing.assert_close(stage.sums[:, c], torch.stack([positive, negative]))
        assert (stage.sums.sum(dim=1) > 0).all()


def test_off_by_default(tmp_path):
    model = build_model(tiny_config(tmp_path))
    assert class_gradients(model) == []
    assert not any("class_gradients" in key for key in model.state_dict())


def add_steps_on_rank(rank, folder):
    module = torch.nn.ModuleList([ClassGradients(K), ClassGradients(K)])
    for step in range(2):
        # Rank 1 has no sample in the second step, and takes part all the same.
        if rank == 0 or step == 0:
            backward(module[0], (rank + 1) * GRADIENTS)
            backward(module[1], 4 * GRADIENTS)
        add_step(module)
    torch.save(module.state_dict(), folder / f"{rank}.pt")


@pytest.mark.slow
def test_two_ranks(tmp_path):
    run_on_ranks(2, add_steps_on_rank, tmp_path)
    # Halved, as the loss that DDP minimises is the mean over ranks.
    expected = torch.tensor([POSITIVE, NEGATIVE], dtype=torch.float64) / 2
    for rank in range(2):
        sums = torch.load(tmp_path / f"{rank}.pt")
        assert torch.equal(sums["0.sums"], (1 + 2 + 1) * expected)
        assert torch.equal(sums["1.sums"], (4 + 4 + 4) * expected)
