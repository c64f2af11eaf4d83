import pytest

from eql_seesaw.benchmarks import first_batch


@pytest.mark.slow  # three processes that import everything
def test_rows():
    rows = list(first_batch.rows("cpu", quick=True))
    assert len({row.work for row in rows}) == len(rows) == 4
    for row in rows:
        assert row.identical is True  # the same images in the first batch
        assert row.parameters == {"num_images": 100, "num_classes": 1203, "num_workers": 1}
        assert len(row.seconds) == len(row.peer_seconds) == 1
        assert (row.memory is None) == ("with imports" in row.work)


def test_nothing_on_gpus():
    assert not list(first_batch.rows("cuda", quick=True))
