"""python -m eql_seesaw.classification, as users type it."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch

from eql_seesaw.classification.__main__ import main, parse_args, recipe_for
from eql_seesaw.classification.training import train

from .folders import write_cifar100, write_features, write_imagenet_lt


def rows_of_table(output):
    """The table of accuracies: loss to its cells."""
    lines = output.split("\n\n")[1].splitlines()[3:]
    return {cells[0]: cells[1:] for cells in (re.split(r"\s{2,}", x.strip()) for x in lines)}


@pytest.fixture(autouse=True)
def restore_cudnn(monkeypatch):
    """The command line makes cuDNN deterministic for the rest of the process."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)


def test_digits_as_typed_where_detectron2_is_missing():
    command = (
        "import runpy, sys; sys.modules['detectron2'] = None;"
        "runpy.run_module('eql_seesaw.classification', run_name='__main__', alter_sys=True)"
    )
    done = subprocess.run(
        [sys.executable, "-c", command, "--seed", "0", "1"]
        + ["--iterations", "25", "--loss", "softmax_ce", "seesaw"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "342 training images of 10 classes, 124 to 2 each; 500 test images" in done.stdout
    assert "many: 3 classes with more than 50 images; medium: 3; few: 4" in done.stdout
    rows = rows_of_table(done.stdout)
    assert list(rows) == ["softmax_ce", "seesaw"]
    for cells in rows.values():
        overall, many, medium, few = (float(cell.split(" ± ")[0]) for cell in cells)
        assert many > 75 and overall > 30  # chance is 10


def test_same_seed_same_numbers(capsys):
    arguments = ["--loss", "softmax_eql", "--iterations", "10", "--seed", "3"]
    main(arguments)
    first = capsys.readouterr().out
    main(arguments)
    assert capsys.readouterr().out == first
    assert "±" not in rows_of_table(first)["softmax_eql"][0]  # one seed has no spread
    main([*arguments, "3"])  # the same seed once more
    assert capsys.readouterr().out == first


def test_cifar100_lt_takes_a_step(tmp_path, monkeypatch, capsys):
    write_cifar100(tmp_path, monkeypatch, images_per_class=2)
    main(
        ["--data", "cifar100-lt", "--root", str(tmp_path), "--loss", "seesaw", "--imbalance", "2"]
        + ["--iterations", "1", "--batch-size", "8", "--workers", "0"]
    )
    output = capsys.readouterr().out
    assert "of 100 classes, 2 to 1 each; 200 test images" in output
    assert "seesaw" in rows_of_table(output)


def test_imagenet_lt_takes_a_step(tmp_path, capsys):
    write_imagenet_lt(tmp_path, {0: 3, 1: 1})
    main(
        ["--data", "imagenet-lt", "--root", str(tmp_path), "--loss", "softmax_eql"]
        + ["--iterations", "1", "--batch-size", "2", "--workers", "0"]
    )
    output = capsys.readouterr().out
    assert "4 training images of 2 classes, 3 to 1 each; 2 test images" in output
    assert rows_of_table(output)["softmax_eql"][1:3] == ["n/a", "n/a"]


def test_features(tmp_path, capsys):
    files = write_features(tmp_path, [150, 60, 12], dimension=8)
    losses = ["softmax_ce", "seesaw", "seesaw,p=0,classifier=linear"]
    arguments = ["--features", *files, "--seed", "0", "1", "--iterations", "30", "--loss", *losses]
    main(arguments)
    output = capsys.readouterr().out
    assert "222 training images of 3 classes, 150 to 12 each; 60 test images" in output
    accuracies, differences = output.split("\n\n")[1:]
    rows = rows_of_table(output)
    assert list(rows) == losses
    assert float(rows["softmax_ce"][0].split(" ± ")[0]) > 50
    # The means that are printed and their difference, each rounded.
    assert "Difference from softmax_ce of the same seed, and in how many of the 2 s" in differences
    (cells,) = [line.split("  ") for line in differences.splitlines() if "seesaw   " in line]
    overall = next(cell for cell in cells[1:] if cell)
    expected = float(rows["seesaw"][0].split(" ± ")[0]) - float(rows["softmax_ce"][0].split(" ")[0])
    assert float(overall.split(" ± ")[0]) == pytest.approx(expected, abs=0.11)


def test_results_that_are_there_are_not_trained_again(tmp_path, monkeypatch, capsys):
    files = write_features(tmp_path, [6, 3], dimension=4)
    folder = tmp_path / "results"
    arguments = ["--features", *files, "--iterations", "2", "--output", str(folder)]
    main([*arguments, "--loss", "softmax_ce", "seesaw,p=0", "--seed", "0", "1"])
    first = capsys.readouterr().out
    result = json.loads((folder / "seesaw,p=0" / "seed_1.json").read_text())
    assert (result["loss"], result["seed"], result["iterations"]) == ("seesaw,p=0", 1, 2)
    assert result["accuracy"]["top5"] == 100  # of two classes
    (folder / "softmax_ce" / "seed_0.json").unlink()
    trained = []
    monkeypatch.setattr(
        "eql_seesaw.classification.__main__.train",
        lambda data, loss, recipe, seed: (
            trained.append((loss, seed)) or train(data, loss, recipe, seed)
        ),
    )
    main([*arguments, "--loss", "softmax_ce", "seesaw,p=0", "--seed", "0", "1"])
    assert trained == [("softmax_ce", 0)]
    assert capsys.readouterr().out == first
    with pytest.raises(SystemExit, match=r"seed_1.json has iterations 2, not 3; choose another"):
        main([*arguments, "--iterations", "3", "--loss", "softmax_ce", "--seed", "1"])
    for damaged in ('{"loss": "softm', '{"loss": "softmax_ce"}', "[]"):
        (folder / "softmax_ce" / "seed_1.json").write_text(damaged)
        with pytest.raises(SystemExit, match=r"softmax_ce.seed_1.json is damaged; remove it"):
            main([*arguments, "--loss", "softmax_ce", "--seed", "1"])


def test_learning_rate_and_iterations_follow_the_batch_size():
    recipe = recipe_for(parse_args(["--data", "cifar100-lt", "--batch-size", "128"]))
    assert (recipe.batch_size, recipe.learning_rate, recipe.iterations) == (128, 0.1, 25600)
    recipe = recipe_for(parse_args(["--batch-size", "128", "--iterations", "7"]))
    assert (recipe.batch_size, recipe.learning_rate, recipe.iterations) == (128, 0.1, 7)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--data", "cifar100-lt"], "needs --root, the folder that holds cifar-100-python/"),
        (["--data", "cifar100-lt", "--root", "nowhere"], "--root nowhere: no whole cifar-100-pyt"),
        (["--iterations", "0"], "--iterations must be above 0, got 0"),
        (["--imbalance", "1000"], "--imbalance must be from 1 to 124"),
        (["--data", "imagenet-lt", "--root", "x", "--imbalance", "2"], "--imbalance is for digits"),
        (["--features", "a", "b", "--imbalance", "2"], "--imbalance is for digits"),
        (["--features", "a", "b"], "No such file or directory: 'a'"),
        (["--loss", "sigmoid_ce"], "no loss 'sigmoid_ce'; there are softmax_ce, softmax_eql"),
        (["--loss", "softmax_ce", "seesaw,r=1"], "--loss seesaw,r=1: loss 'seesaw' takes no argu"),
        (["--loss", "seesaw,p=much"], "--loss seesaw,p=much: "),
        (["--loss", "seesaw,classifier=big"], "classifier must be linear or normed"),
        (["--loss", "seesaw,p"], "'p' must be ARGUMENT=VALUE, such as p=0.5"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code.startswith("error: ") and message in stop.value.code
    assert "\n" not in stop.value.code
    assert capsys.readouterr().out == ""


def test_broken_image_is_one_line(tmp_path):
    write_imagenet_lt(tmp_path, {0: 1, 1: 1})
    (tmp_path / "train" / "0" / "0.png").write_bytes(b"not an image")
    with pytest.raises(SystemExit, match=r"^error: .*cannot identify image file .*0\.png"):
        main(
            ["--data", "imagenet-lt", "--root", str(tmp_path), "--loss", "softmax_ce"]
            + ["--iterations", "1", "--batch-size", "2", "--workers", "1"]
        )


def test_damaged_cifar_is_not_taken(tmp_path):
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for name in ("train", "test", "meta"):
        (folder / name).write_bytes(b"half a download")
    with pytest.raises(SystemExit, match="error: --root .* no whole cifar-100-python/"):
        main(["--data", "cifar100-lt", "--root", str(tmp_path)])
