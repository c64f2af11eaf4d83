"""Tables whose rows the classification program trains, from list to collect."""

import json

import pytest

from tests.classification.folders import write_lists

CLASSIFICATION = """
title: Small images
dataset: cifar100_lt
columns: [top1, top5, few]
seeds: 2
rows:
- name: ce
  label: CE
  classification: >-
    --data cifar100-lt --root images --loss softmax_ce --iterations 1 --batch-size 2 --workers 0
  published: {top1: 41.33, top5: 67.75, few: null}
- name: seesaw
  label: Seesaw
  classification: >-
    --data cifar100-lt --root images --loss seesaw,p=0.5 --iterations 1 --batch-size 2 --workers 0
  published: {top1: 50.0, top5: null, few: null}
- {name: other, label: Of another paper, published: {top1: 40.0, top5: null, few: null}}
"""
PUBLISHED = """
title: Challenge
dataset: open_images
columns: [AP]
notes: Training takes much.
rows:
- {name: first, label: First, published: {AP: 57.83}}
"""
FOLDER = "output/tables/full/classification/cifar100-lt"


@pytest.fixture
def tables(project):
    """In a folder of their own; images as CIFAR-100-LT."""
    (project / "tables/images.yaml").write_text(CLASSIFICATION)
    (project / "tables/challenge.yaml").write_text(PUBLISHED)
    write_lists(project / "images", {0: 3, 1: 1}, ("train.txt", "test.txt"), (32, 32))
    return project


def test_from_plan_to_collect(tables, run_command):
    _, text = run_command("plan", "images", "--rows", "seesaw,other")
    command = "python -m eql_seesaw.classification --data cifar100-lt --root images --loss "
    assert f"# images/seesaw\n{command}seesaw,p=0.5 " in text
    assert f"--seed 1 2 --output {FOLDER}\n" in text
    assert "# images/other: no recipe here" in text
    _, text = run_command("collect", "images", "--rows", "ce")
    assert "- ce seed 1, ce seed 2: not run" in text

    # A row that fails does not stop the others.
    content = (tables / "tables/images.yaml").read_text()
    (tables / "tables/images.yaml").write_text(content.replace("root images", "root none", 1))
    status, text = run_command("run", "images", "--seeds", 1)
    assert status == 1 and "failed: images/ce, status 1; see above" in text
    _, text = run_command("plan", "images", "--seeds", 1)
    assert "# images/seesaw: finished" in text and "# images/ce\npython -m eql" in text

    # Two seeds of the other row, and one of other settings, which is not taken for the recipe's.
    result = json.loads((tables / FOLDER / "seesaw,p=0.5/seed_1.json").read_text())
    result["loss"] = "softmax_ce"
    (tables / FOLDER / "softmax_ce").mkdir()
    for seed, top1, iterations in ((1, 42.0, 1), (2, 44.0, 1), (3, 90.0, 7)):
        accuracy = {"overall": top1, "top5": 80.0, "few": None}
        changes = {"seed": seed, "accuracy": accuracy, "iterations": iterations}
        path = tables / FOLDER / f"softmax_ce/seed_{seed}.json"
        path.write_text(json.dumps(result | changes))
    status, text = run_command("collect", "images")
    assert status == 0 and "Accuracy in percent on cifar100_lt" in text
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert ["CE", "published", "", "41.33", "67.75", ""] in rows
    assert ["", "measured", "2", "43.0 ± 1.4", "80.0 ± 0.0", "n/a"] in rows
    assert ["", "difference", "", "+1.7", "+12.2", ""] in rows
    assert "has iterations 7, not 1" in text and "- other: no recipe here" in text
    assert (tables / "output/tables/full/images.png").exists()
    listed = [line.split() for line in run_command("list")[1].splitlines()]
    assert ["images", "Small", "images", "cifar100_lt", "3", "2"] in listed
    assert ["challenge", "Challenge", "open_images", "1"] in listed


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["plan", "challenge"], "table challenge has no recipe here. Training takes much."),
        (["run", "images", "--scale", "mini"], "table images has no --scale mini; leave it out"),
    ],
)
def test_what_cannot_be_trained(tables, run_command, arguments, message):
    assert run_command(*arguments)[0].startswith(f"error: {message}")
    assert "57.83" in run_command("show", "challenge")[1]
