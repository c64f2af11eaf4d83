from eql_seesaw.benchmarks import class_statistics


def test_rows():
    rows = list(class_statistics.rows("cpu", quick=True))
    assert len({(row.work, row.against) for row in rows}) == len(rows) == 4
    for row in rows:
        assert row.identical is True
        assert row.parameters == {"num_images": 50, "num_classes": 80}
        assert len(row.seconds) == len(row.peer_seconds) == 1
        assert row.reached is None  # the aim is about the full size
    assert not list(class_statistics.rows("cuda", quick=True))


def test_counts_in_loops():
    dataset_dicts = [
        {"annotations": [{"category_id": 1}, {"category_id": 1}, {"category_id": 0, "iscrowd": 1}]},
        {"annotations": [{"category_id": 1}, {"category_id": 2}]},
    ]
    assert class_statistics.count_in_loops(dataset_dicts, 4) == ([0, 2, 1, 0], [0, 3, 1, 0])
