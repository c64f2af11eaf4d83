"""MODEL.ROI_BOX_HEAD.GRADIENT_STATISTICS, as users type it."""

import json

import torch

NO_EVALUATION = ["DATASETS.TEST", "()"]
KEY = ["MODEL.ROI_BOX_HEAD.GRADIENT_STATISTICS", "True"]
SUMS = "roi_heads.box_predictor.class_gradients.sums"


def read(path):
    statistics = json.loads(path.read_text())
    assert list(statistics) == ["positive", "negative"]
    return torch.tensor([statistics["positive"], statistics["negative"]], dtype=torch.float64)


def test_file(train_net, overrides, tmp_path):
    assert train_net("quickstart/softmax_ce.yaml", *overrides, *KEY) is None
    output = tmp_path / "output"
    sums = read(output / "gradient_statistics.json")
    assert sums.shape == (2, 6) and (sums >= 0).all() and (sums.sum(dim=1) > 0).all()
    model = torch.load(output / "model_final.pth", weights_only=True)["model"]
    assert model[SUMS].equal(sums)
    # Evaluation adds nothing, and needs no statistics in the checkpoint.
    assert train_net("quickstart/softmax_ce.yaml", "--eval-only", "--resume", *overrides) is None
    assert read(output / "gradient_statistics.json").equal(sums)


def test_training_itself_is_the_same(train_net, overrides, tmp_path):
    lines = []
    for name, extra in (("off", []), ("on", KEY)):
        folder = ["OUTPUT_DIR", str(tmp_path / name), "SEED", "1", *NO_EVALUATION]
        assert train_net("quickstart/eql.yaml", *overrides, *folder, *extra) is None
        line = json.loads(open(tmp_path / name / "metrics.json").readline())
        lines.append({key: value for key, value in line.items() if "loss" in key})
    assert lines[0] == lines[1]
    assert not list((tmp_path / "off").glob("gradient_statistics*"))


def test_resume(train_net, overrides, tmp_path):
    run = [*overrides, *KEY, *NO_EVALUATION]
    assert train_net("quickstart/seesaw.yaml", *run) is None
    output = tmp_path / "output"
    first = read(output / "gradient_statistics.json")
    longer = ["SOLVER.MAX_ITER", "5"]
    assert train_net("quickstart/seesaw.yaml", "--resume", *run, *longer) is None
    second = read(output / "gradient_statistics.json")
    assert (second >= first).all() and (second[1] > first[1]).all()
    # Another run that starts with these weights counts its own steps only.
    weights = ["MODEL.WEIGHTS", str(output / "model_final.pth")]
    start = [*weights, "OUTPUT_DIR", str(tmp_path / "second"), "SOLVER.MAX_ITER", "1"]
    assert train_net("quickstart/seesaw.yaml", *run, *start, "SOLVER.STEPS", "()") is None
    third = read(tmp_path / "second" / "gradient_statistics.json")
    assert (third[1] < second[1]).all()


def test_cascade_has_a_file_for_each_stage(train_net, overrides, tmp_path):
    cascade = ["MODEL.ROI_HEADS.NAME", "LongTailCascadeROIHeads"]
    assert train_net("quickstart/seesaw.yaml", *overrides, *cascade, *KEY, *NO_EVALUATION) is None
    output = tmp_path / "output"
    files = sorted(path.name for path in output.glob("gradient_statistics*"))
    assert files == [f"gradient_statistics_stage{i}.json" for i in range(3)]
    model = torch.load(output / "model_final.pth", weights_only=True)["model"]
    for stage, name in enumerate(files):
        key = f"roi_heads.box_predictor.{stage}.class_gradients.sums"
        assert model[key].equal(read(output / name)) and (model[key][1] > 0).all()
