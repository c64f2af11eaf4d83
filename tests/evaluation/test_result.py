from eql_seesaw.evaluation import results_table


def tables(text):
    """Both tables as lists of rows of cells."""
    return [
        [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
        for table in text.split("\n\n")
    ]


def test_box_and_mask_rows_with_one_decimal():
    metrics = ["AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"]
    others = ["AR", "ARr", "ARc", "ARf", "ECE", "ECEr", "ECEc", "ECEf"]
    bbox = {metric: 10.0 + i + 0.06 for i, metric in enumerate(metrics + others)}
    segm = dict.fromkeys(metrics + others, 0.0)
    first, second = tables(results_table({"segm": segm, "bbox": bbox}))
    header, _, box_row, mask_row = first
    assert header == ["", *metrics]
    assert box_row == ["box", *(f"{10 + i}.1" for i in range(9))]
    assert mask_row == ["mask", *["0.0"] * 9]
    header, _, box_row, mask_row = second
    assert header == ["", *others]
    assert box_row == ["box", *(f"{19 + i}.1" for i in range(8))]
    assert mask_row == ["mask", *["0.0"] * 8]


def test_absent_metrics_are_na_and_absent_masks_have_no_row():
    first, second = tables(results_table({"bbox": {"AP": 50, "APf": 100.0}}))
    assert first[2] == ["box", "50.0", *["n/a"] * 7, "100.0"]
    assert len(first) == len(second) == 3
    assert tables(results_table({"bbox": {}}))[0][2] == ["box", *["n/a"] * 9]


def test_further_rows_are_in_the_first_table_only():
    row = {"AP": 1.0}
    names = ["boundary", "segm_fixed", "bbox_fixed", "segm", "bbox"]
    first, second = tables(results_table(dict.fromkeys(names, row)))
    assert [cells[0] for cells in first[2:]] == [
        "box",
        "mask",
        "box, Fixed AP",
        "mask, Fixed AP",
        "mask, Boundary AP",
    ]
    assert [cells[0] for cells in second[2:]] == ["box", "mask"]
