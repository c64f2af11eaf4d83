from eql_seesaw.evaluation import results_table


def tables(text):
    """Both tables as lists of rows of cells."""
    return [
        [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
        for table in text.split("\n\n")
    ]


def test_rows_columns_and_what_is_absent():
    metrics = ["AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"]
    others = ["AR", "ARr", "ARc", "ARf", "ECE", "ECEr", "ECEc", "ECEf"]
    bbox = {metric: 10.0 + i + 0.06 for i, metric in enumerate(metrics + others)}
    segm = dict.fromkeys(others, 0.0)
    numbers = {"boundary": {"APf": 100.0}, "segm": segm, "bbox_fixed": {"AP": 1}, "bbox": bbox}
    first, second = tables(results_table(numbers))
    assert (first[0], second[0]) == (["", *metrics], ["", *others])
    assert first[2:] == [
        ["box", *(f"{10 + i}.1" for i in range(9))],
        ["mask", *["n/a"] * 9],
        ["box, Fixed AP", "1.0", *["n/a"] * 8],
        ["mask, Boundary AP", *["n/a"] * 8, "100.0"],
    ]
    assert second[2:] == [["box", *(f"{19 + i}.1" for i in range(8))], ["mask", *["0.0"] * 8]]
    assert tables(results_table({"bbox": {}}))[0][2:] == [["box", *["n/a"] * 9]]
