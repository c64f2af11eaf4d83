"""
Two ranks with an image each do what one process does with both: statistics, losses, gradients.

Each rank divides its losses by its own number of samples, and DDP averages over ranks. So that this
is the same as one process, images have equally many proposals here: all anchors are proposals, all
are sampled, and no ground-truth boxes are added to them. There is no mask head, whose loss
is divided by the rank's foreground.
"""

import pytest
import torch
import torch.distributed as dist
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch.nn.parallel import DistributedDataParallel

from eql_seesaw.modeling import freeze_all_but_classifiers
from eql_seesaw.modeling.class_gradients import add_step
from tests.modeling.tiny_model import tiny_config, training_batch
from tests.ranks import run_on_ranks

pytestmark = pytest.mark.slow

WORLD_SIZE = 2
STEPS = range(2)
EVERYTHING_SAMPLED = [
    *("MODEL.RPN.PRE_NMS_TOPK_TRAIN", 2000),
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 2000),
    *("MODEL.RPN.NMS_THRESH", 1.0),
    *("MODEL.RPN.BATCH_SIZE_PER_IMAGE", 2000),
    *("MODEL.RPN.POSITIVE_FRACTION", 1.0),
    *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 2000),
    *("MODEL.ROI_HEADS.POSITIVE_FRACTION", 1.0),
    *("MODEL.ROI_HEADS.PROPOSAL_APPEND_GT", False),
    # About as large as the objects, so that some are foreground.
    *("MODEL.ANCHOR_GENERATOR.SIZES", [[32], [32], [32], [48], [64]]),
    *("MODEL.ROI_HEADS.IOU_THRESHOLDS", [0.4]),
    *("MODEL.ROI_BOX_CASCADE_HEAD.IOUS", (0.4, 0.45, 0.5)),
    # Batch normalisation would be over a rank's own images. Without it features are large, and
    # these settings keep proposals where the anchors are, none pushed out of the image.
    *("MODEL.RESNETS.NORM", "FrozenBN"),
    *("MODEL.PIXEL_STD", [500.0, 500.0, 500.0]),
    *("MODEL.RPN.BBOX_REG_WEIGHTS", (100.0, 100.0, 100.0, 100.0)),
    *("MODEL.MASK_ON", False),
    *("MODEL.ROI_BOX_HEAD.GRADIENT_STATISTICS", True),
]
# Classes of the two images.
BATCHES = {"foreground on both ranks": ((0, 2), (4, 5)), "one image is empty": ((), (0, 5))}
CASES = [
    ("LongTailROIHeads", "seesaw", "foreground on both ranks"),
    ("LongTailROIHeads", "eql_v2", "one image is empty"),
    ("LongTailCascadeROIHeads", "eql_v2", "foreground on both ranks"),
    ("LongTailCascadeROIHeads", "seesaw", "one image is empty"),
    ("LongTailCascadeROIHeads", "disalign", "one image is empty"),
]
STATISTICS = ("cumulative_counts", "positive_gradients", "negative_gradients", "sums")


def train(folder, case, ranks):
    """What each step gives: statistics, losses, gradients; of the images of ``ranks``."""
    roi_heads, loss, batch = case
    torch.manual_seed(0)
    is_aligned = loss == "disalign"
    settings = [
        *("MODEL.ROI_BOX_HEAD.CLS_LOSS", "softmax_ce" if is_aligned else loss),
        *("MODEL.ROI_BOX_HEAD.DECOUPLED", "align" if is_aligned else "none"),
        *EVERYTHING_SAMPLED,
    ]
    model = detector = build_model(tiny_config(folder, roi_heads, *settings)).train()
    if is_aligned:
        freeze_all_but_classifiers(detector)
        for parameter in (x for x in detector.parameters() if x.requires_grad):
            torch.nn.init.normal_(parameter)  # nothing of it is 0, as after some steps
    if dist.is_initialized():
        model = DistributedDataParallel(detector, broadcast_buffers=False)
    images = training_batch(BATCHES[batch])
    steps = []
    # No update of the weights, and no mkldnn, whose results for an image depend on the others in
    # the batch: one ReLU that changes sides makes a difference of percents. The second step is
    # another one by its statistics.
    for step in STEPS:
        model.zero_grad()
        torch.manual_seed(100 * step + ranks[0])  # of the order of the samples
        with EventStorage(), torch.backends.mkldnn.flags(enabled=False):
            losses = model([images[rank] for rank in ranks])
            sum(losses.values()).backward()
        add_step(detector)
        steps.append(
            {
                "statistics": {
                    key: tensor.clone()
                    for key, tensor in detector.state_dict().items()
                    if key.endswith(STATISTICS)
                },
                "losses": {key: value.detach() for key, value in losses.items()},
                "gradients": {
                    key: x.grad.clone() for key, x in detector.named_parameters() if x.requires_grad
                },
            }
        )
    return steps


def run_rank(rank, folder):
    (folder / str(rank)).mkdir()
    torch.save([train(folder / str(rank), case, [rank]) for case in CASES], folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """Record of each rank's training, by case."""
    folder = tmp_path_factory.mktemp("ranks")
    run_on_ranks(WORLD_SIZE, run_rank, folder)
    records = [torch.load(folder / f"{rank}.pt") for rank in range(WORLD_SIZE)]
    return dict(zip(CASES, zip(*records, strict=True), strict=True))


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_two_ranks_are_as_one_process(ranks, tmp_path, case):
    one_process = train(tmp_path, case, range(WORLD_SIZE))
    for expected, *records in zip(one_process, *ranks[case], strict=True):
        for key, tensor in expected["statistics"].items():
            assert tensor.any()
            assert tensor.dtype in (torch.int64, torch.float64)
            first, second = (record["statistics"][key] for record in records)
            assert torch.equal(first, second)
            if tensor.dtype == torch.int64:
                assert torch.equal(first, tensor)
            # Sums in float64 of numbers that the model computes in float32.
            torch.testing.assert_close(first, tensor, rtol=1e-5, atol=1e-7)
        for record in records:
            assert record["losses"].keys() == expected["losses"].keys()
        for key, value in expected["losses"].items():
            mean = sum(record["losses"][key] for record in records) / WORLD_SIZE
            torch.testing.assert_close(mean, value, rtol=1e-5, atol=1e-7)
        for key, gradient in expected["gradients"].items():
            first, second = (record["gradients"][key] for record in records)
            assert torch.equal(first, second) and torch.isfinite(first).all()
            assert (first - gradient).norm() <= 1e-5 * gradient.norm()


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_who_has_foreground(ranks, case):
    """The test above is about what it says, in every stage."""
    steps = ranks[case][0]
    if "seesaw" in case:
        counts = {k: v for k, v in steps[0]["statistics"].items() if k.endswith("counts")}
        absent = set(range(6)) - {c for classes in BATCHES[case[2]] for c in classes}
        assert len(counts) == (3 if "Cascade" in case[0] else 1)
        for tensor in counts.values():
            assert {c for c in range(6) if tensor[c] == 0} == absent
    box_regression = {
        key: [rank[0]["losses"][key].item() for rank in ranks[case]]
        for key in steps[0]["losses"]
        if key.startswith("loss_box_reg")
    }
    for first, second in box_regression.values():
        assert second > 0 and (first > 0) == (case[2] != "one image is empty")
