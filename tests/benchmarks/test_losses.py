import pytest
import torch

from eql_seesaw.benchmarks import losses, peers
from eql_seesaw.benchmarks.plain_losses import PLAIN_LOSSES

LVIS_V1_IMAGES_OF_CLASS_0 = 64  # aerosol can


@pytest.fixture(scope="module")
def quick_rows():
    return list(losses.rows("cpu", quick=True))


def test_every_loss_with_a_peer_is_measured_at_every_size(quick_rows):
    for size in losses.QUICK_SIZES:
        at_size = [
            row
            for row in quick_rows
            if row.parameters["num_classes"] == size.num_classes
            and row.parameters["num_images"] == size.num_samples // 512
        ]
        works = {row.work.split(",")[0].split()[0] for row in at_size}
        assert works == {*PLAIN_LOSSES, "seesaw", "eql"}
        assert all(str(size.dtype).endswith(row.parameters["dtype"]) for row in at_size)


def test_time_and_memory_of_both(quick_rows):
    for row in quick_rows:
        assert row.benchmark == "losses"
        if row.against in (losses.MMDET, losses.MMDET_BFLOAT16):
            assert row.seconds == [] and row.memory is None and row.note == "not in a quick run"
        else:
            assert len(row.seconds) == len(row.peer_seconds) == 1
            assert row.memory > 0 and row.peer_memory > 0
            # PyTorch keeps at least the gradient.
            size = row.parameters["num_classes"] * 512 * row.parameters["num_images"]
            assert row.peer_memory >= 2 * size


def test_aims():
    aims = {
        (c.loss, c.against): (c.time_limit, c.memory_limit) for c in losses.BFLOAT16_COMPARISONS
    }
    assert aims["seesaw", losses.CROSS_ENTROPY] == (1.10, 1.25)
    assert aims["seesaw", losses.MMDET] == (1 / 3, 0.5)
    assert aims["eql", losses.BINARY_CROSS_ENTROPY] == (1.10, 1.10)
    assert aims["focal", losses.PLAIN] == (1.0, None)


def test_sizes():
    sizes = {(s.num_classes, s.num_samples, s.dtype) for s in losses.SIZES}
    for dtype in (torch.float32, torch.bfloat16):
        assert {(1203, 2048, dtype), (1203, 8192, dtype)} <= sizes
    assert {(80, 2048, torch.float32), (13_000, 2048, torch.float32)} <= sizes


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without GPU")
def test_without_a_gpu_rows_are_empty():
    rows = list(losses.rows("cuda", quick=False))
    assert len(rows) > len(losses.SIZES) * len(losses.COMPARISONS)
    assert {row.note for row in rows} == {"no GPU on this machine"}
    assert not any(row.seconds or row.peer_seconds for row in rows)
    assert {row.reached for row in rows} == {None}
    assert any("autocast to float16" in row.size for row in rows)


def test_without_the_package_index_its_rows_are_empty(monkeypatch):
    def fail(num_classes):
        raise peers.PeerMissing("mmdet==3.3.0 is not installed, as pip failed: no network")

    monkeypatch.setattr(peers, "mmdet_seesaw_loss", fail)
    missing = losses.missing_peers("cpu", quick=False)
    message = "mmdet==3.3.0 is not installed, as pip failed: no network"
    assert missing == {losses.MMDET: message, losses.MMDET_BFLOAT16: message}


@pytest.mark.parametrize("all_foreground", [False, True])
def test_labels(all_foreground):
    counts = losses.image_counts(1203)
    labels = losses.sample_labels(counts, 8192, all_foreground)
    assert labels.shape == (8192,) and labels.dtype == torch.int64
    foreground = labels[labels < 1203]
    assert len(foreground) == (8192 if all_foreground else 2048)
    assert int(labels.min()) >= 0 and int(labels.max()) <= 1203
    # Frequent classes more often, and in no order.
    frequent = torch.tensor(counts)[foreground] > 100
    assert frequent.float().mean() > 0.9
    assert abs(int((labels[:4096] < 1203).sum()) - len(foreground) / 2) < 200
    assert torch.equal(labels, losses.sample_labels(counts, 8192, all_foreground))


def test_image_counts():
    lvis = losses.image_counts(1203)
    assert lvis[0] == LVIS_V1_IMAGES_OF_CLASS_0
    assert [sum(low <= n <= high for n in lvis) for low, high in ((1, 10), (11, 100))] == [337, 461]
    for num_classes in (20, 80, 13_000):
        counts = losses.image_counts(num_classes)
        assert len(counts) == num_classes
        assert min(counts) == min(lvis) and max(counts) == max(lvis)
        share_rare = sum(n <= 10 for n in counts) / num_classes
        assert share_rare == pytest.approx(337 / 1203, abs=0.03)


@pytest.mark.parametrize("autocast", [False, True])
def test_steps_from_a_classifier(autocast):
    dtypes = []

    def loss(logits, gt_classes):
        dtypes.append(logits.dtype)
        return {"loss_cls": logits.float().sum()}

    size = losses.Size(5, 16, torch.float32, autocast)
    losses.forward_and_backward(loss, 6, torch.zeros(16, dtype=torch.int64), size)()
    assert dtypes == [torch.float16 if autocast else torch.float32]
