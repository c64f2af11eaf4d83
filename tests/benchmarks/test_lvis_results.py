import torch

from eql_seesaw.benchmarks.lvis_results import copied, our_results, raw_detections, rows


def test_rows():
    measured = list(rows("cpu", quick=True))
    assert [row.parameters["num_detections"] for row in measured] == [0, 5, 5]
    for row in measured:
        assert row.benchmark == "lvis_results"
        assert row.identical
        assert len(row.seconds) == len(row.peer_seconds) == 2
        assert row.time_limit == 0.5
    assert measured[1].memory < measured[1].peer_memory
    assert measured[2].memory is None


def test_results_are_those_of_an_image():
    raw = raw_detections(20, (48, 64), "cpu")
    results = our_results(raw, (48, 64))
    assert len(results) == 20
    assert all(result["segmentation"]["size"] == [48, 64] for result in results)
    assert [result["category_id"] - 1 for result in results] == raw.pred_classes.tolist()
    assert len({result["segmentation"]["counts"] for result in results}) == 20
    # Can be measured again: the detections are left alone.
    assert our_results(raw, (48, 64)) == results


def test_same_detections_each_time():
    one, other = (raw_detections(20, (48, 64), "cpu") for _ in range(2))
    assert torch.equal(one.pred_boxes.tensor, copied(other).pred_boxes.tensor)
    assert torch.equal(one.pred_masks, other.pred_masks)
