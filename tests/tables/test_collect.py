import csv
from pathlib import Path

from PIL import Image

from tests.tables.conftest import add_to, finish, finish_inputs, runs_of


def table_lines(text):
    """Cells of each line of the tables in a text."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_full_scale(run_command):
    runs = runs_of("big", seeds=3)
    finish(runs["ce", 1], segm_AP=20.36, segm_APr=6.0, bbox_AP=None)
    finish(runs["ce", 2], segm_AP=25.36, segm_APr=5.0, bbox_AP=None)
    finish(runs["ce", 3], segm_AP=22.36, segm_APr=4.0, bbox_AP=22.0)
    finish(runs["p", 1], changes=("SOLVER.GAMMA", 0.5), segm_AP=99.0, bbox_AP=99.0)
    status, text = run_command("collect", "big")
    assert status == 0
    lines = table_lines(text)
    assert ["CE", "published", "", "20.0", "5.0", "21.0"] in lines
    assert ["", "measured", "3", "22.7 ± 2.5", "5.0 ± 1.0", "22.0"] in lines
    assert ["", "difference", "", "+2.7", "+0.0", "+1.0"] in lines
    assert ["p = 0.2", "published", "", "23.0", "10.0", ""] in lines
    # A run with another config is not shown, and test-dev is not val.
    assert "99" not in text
    assert "- p seed 1: its config differs in SOLVER.GAMMA: 0.5 there, 0.1 expected" in text
    assert "- test_dev: published on test-dev, which only LVIS's server evaluates" in text
    assert sum("measured" in line for line in lines) == 1

    folder = Path("output/tables/full")
    page = (folder / "big.md").read_text()
    assert page.endswith("\n![big.png](big.png)\n")
    assert text.startswith(page.removesuffix("\n![big.png](big.png)\n"))
    Image.open(folder / "big.png").verify()
    rows = {(row["row"], row["metric"]): row for row in csv.DictReader(open(folder / "big.csv"))}
    assert rows["ce", "segm/AP"] == {
        "row": "ce",
        "label": "CE",
        "metric": "segm/AP",
        "measured": "22.693",
        "standard_deviation": "2.517",
        "seeds": "3",
        "batch": "",
        "published": "20.0",
        "difference": "2.693",
    }
    assert rows["p", "segm/AP"]["measured"] == "" and rows["p", "segm/AP"]["seeds"] == "0"


def test_another_batch_is_named_and_stands_alone(run_command):
    runs = runs_of("big", seeds=3)
    finish(runs["ce", 1], segm_AP=20.0, bbox_AP=21.0)
    finish(runs["ce", 2], batch=4, segm_AP=30.0, bbox_AP=31.0)
    finish(runs["ce", 3], batch=4, segm_AP=32.0, bbox_AP=33.0)
    finish(runs["p", 1], batch=2, segm_AP=25.0, bbox_AP=26.0)
    lines = table_lines(run_command("collect", "big")[1])
    measured = {
        label[0]: line[2:4]
        for label, line in zip(lines, lines[1:], strict=False)
        if line[1] == "measured"
    }
    assert measured == {
        "CE": ["1", "20.0"],
        "CE, batch 4": ["2", "31.0 ± 1.4"],
        "p = 0.2, batch 2": ["1", "25.0"],
    }
    rows = csv.DictReader(open("output/tables/full/big.csv"))
    batches = [(row["row"], row["batch"]) for row in rows if row["metric"] == "segm/AP"]
    assert batches == [("ce", ""), ("ce", "4"), ("p", "2"), ("test_dev", "")]


def test_miniature_stands_apart_from_published_numbers(run_command):
    runs = runs_of("big", "mini", seeds=2)
    finish_inputs(runs["ce", 1])
    for seed, gain in ((1, 2.0), (2, 4.0)):
        finish(runs["ce", seed], bbox_AP=50.0 + seed, bbox_APr=10.0)
        finish(runs["p", seed], bbox_AP=50.0 + seed + gain)
    status, text = run_command("collect", "big", "--scale", "mini", "--seeds", 2)
    assert status == 0 and "Box AP in percent" in text and "Not to be compared" in text
    lines = table_lines(text)
    # Boxes only: APbox would be AP once more. Rare classes without ground truth have no AP.
    assert ["", "seeds", "AP", "APr"] in lines
    assert ["CE", "2", "51.5 ± 0.7", "10.0 ± 0.0"] in lines
    assert ["p = 0.2", "2", "54.5 ± 2.1", "n/a"] in lines
    assert ["p = 0.2", "CE", "+3.0 ± 1.4", "n/a"] in lines
    # Published: the gain alone.
    assert ["p = 0.2", "CE", "+3.0", "+5.0"] in lines
    assert "20.0" not in text and "23.0" not in text
    header = (Path("output/tables/mini/big.csv")).read_text().splitlines()[0]
    assert "published" not in header
    Image.open("output/tables/mini/big.png").verify()


def test_nothing_measured_leaves_no_picture(run_command):
    run = runs_of("big")["ce", 1]
    finish(run, segm_AP=20.0, bbox_AP=21.0)
    run_command("collect", "big")
    Path(run.folder, "metrics.json").unlink()
    status, text = run_command("collect", "big")
    assert status == 0 and "- ce seed 1: at iteration 0 of 100" in text
    assert not Path("output/tables/full/big.png").exists()
    assert all("measured" not in line for line in table_lines(text))


def test_some_rows(run_command):
    """What they are compared with need not be among them; the files are of whole tables only."""
    runs = runs_of("big", "mini")
    finish_inputs(runs["ce", 1])
    finish(runs["ce", 1], bbox_AP=50.0, bbox_APr=10.0)
    finish(runs["p", 1], bbox_AP=52.0, bbox_APr=11.0)
    status, text = run_command("collect", "big", "--scale", "mini", "--rows", "p")
    lines = table_lines(text)
    assert status == 0 and ["p = 0.2", "CE", "+2.0", "+1.0"] in lines
    assert [line[0] for line in lines].count("p = 0.2") == 3
    assert "CE" not in [line[0] for line in lines] and "test_dev" not in text
    assert not Path("output/tables/mini/big.md").exists() and "Written" not in text
    status, text = run_command("collect", "big", "--rows", "test_dev,p")
    assert status == 0 and "- p seed 1: not run" in text and "- ce seed 1" not in text
    status, _ = run_command("collect", "big", "--rows", "x")
    assert status == "error: table big has no row 'x'; it has ce, p, test_dev"


def test_gains_are_over_each_rows_baseline(run_command):
    """Published and measured ones, these of the seeds that both have."""
    seesaw = "- {name: seesaw, label: Seesaw, config: configs/big/seesaw.yaml, baseline: p, "
    add_to("tables/big.yaml", seesaw + "published: {AP: 24.5, APr: 9.0}}\n")
    runs = runs_of("big", "mini", seeds=2)
    finish_inputs(runs["p", 1])
    finish(runs["p", 1], bbox_AP=50.0, bbox_APr=10.0)

    def gains():
        lines = table_lines(run_command("collect", "big", "--scale", "mini")[1])
        return [line[2:] for line in lines if line[:2] == ["Seesaw", "p = 0.2"]]

    finish(runs["seesaw", 2], bbox_AP=99.0, bbox_APr=99.0)
    assert gains() == [["+1.5", "-1.0"]]
    finish(runs["seesaw", 1], bbox_AP=51.0, bbox_APr=8.0)
    assert gains() == [["+1.0", "-2.0"], ["+1.5", "-1.0"]]
