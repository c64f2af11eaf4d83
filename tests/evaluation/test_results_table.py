from eql_seesaw.evaluation import results_table


def cells(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_box_and_mask_rows_with_one_decimal():
    metrics = ["AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"]
    bbox = {metric: 10.0 + i + 0.06 for i, metric in enumerate(metrics)}
    segm = {metric: 0.0 for metric in metrics}
    header, _, box_row, mask_row = cells(results_table({"segm": segm, "bbox": bbox}))
    assert header == ["", *metrics]
    assert box_row == ["box", *(f"{10 + i}.1" for i in range(9))]
    assert mask_row == ["mask", *["0.0"] * 9]


def test_absent_metrics_are_na_and_absent_masks_have_no_row():
    rows = cells(results_table({"bbox": {"AP": 50, "APf": 100.0}}))
    assert rows[2] == ["box", "50.0", *["n/a"] * 7, "100.0"]
    assert len(rows) == 3


def test_no_ground_truth_at_all():
    assert cells(results_table({"bbox": {}}))[2] == ["box", *["n/a"] * 9]
