"""MODEL.ROI_BOX_HEAD.DECOUPLED, as users type it."""

import pytest
import torch

from tests.engine.conftest import last_metrics
from tests.engine.test_train_net import check_error, quickstart
from tests.ranks import train_net_on_ranks

DECOUPLED = "MODEL.ROI_BOX_HEAD.DECOUPLED"
CASCADE = ["MODEL.ROI_HEADS.NAME", "LongTailCascadeROIHeads"]
NO_EVALUATION = ["DATASETS.TEST", "()"]
NORMED = ["MODEL.ROI_BOX_HEAD.NORMED_CLASSIFIER", "True"]
COUNTS = "roi_heads.box_predictor.loss.cumulative_counts"


@pytest.fixture
def pretrained(train_net, overrides, tmp_path):
    """``pretrained("seesaw", ...)`` trains a run to start from; overrides that name its weights."""

    def train(name, *extra):
        folder = str(tmp_path / f"pretrained_{name}")
        run = [*overrides, *extra, *NO_EVALUATION, "OUTPUT_DIR", folder]
        assert train_net(f"quickstart/{name}.yaml", *run) is None
        return ["MODEL.WEIGHTS", f"{folder}/model_final.pth"]

    return train


def load(path):
    return torch.load(path, weights_only=True)["model"]


def changed_keys(weights, output):
    before, after = load(weights[1]), load(output / "model_final.pth")
    return {key for key in after if key not in before or not after[key].equal(before[key])}


@pytest.mark.parametrize("heads, num_stages", [([], 1), (CASCADE, 3)], ids=["standard", "cascade"])
def test_retrain(train_net, overrides, pretrained, tmp_path, heads, num_stages):
    """The classifier starts anew, though of the same loss; nothing else moves; it evaluates."""
    weights = pretrained("seesaw", *heads)
    run = [*overrides, *heads, *weights, DECOUPLED, "retrain"]
    # With a learning rate of zero the classifier stays as it starts.
    short = ["SOLVER.BASE_LR", "0.0", "SOLVER.MAX_ITER", "1"]
    assert train_net("quickstart/seesaw.yaml", *run, *short) is None
    output = tmp_path / "output"
    changed = changed_keys(weights, output)
    stages = [f"{i}." for i in range(3)] if num_stages == 3 else [""]
    prefixes = [f"roi_heads.box_predictor.{stage}" for stage in stages]
    assert {key for key in changed if ".loss." not in key} == {
        f"{prefix}cls_score.{name}" for prefix in prefixes for name in ("weight", "bias")
    }
    pretrained_model, final = load(weights[1]), load(output / "model_final.pth")
    for prefix in prefixes:
        assert final[f"{prefix}cls_score.bias"].abs().max() == 0
        # Statistics start anew: one step's are fewer than three steps'.
        counts = f"{prefix}loss.cumulative_counts"
        assert final[counts].sum() < pretrained_model[counts].sum()
    log = (output / "log.txt").read_text()
    number = sum(value.numel() for key, value in final.items() if ".cls_score." in key)
    assert f"Decoupled training: {number:,} of " in log and log.count("parameters train: ") == 1
    assert "the classifier, which starts anew" in log
    trained = last_metrics(output)
    assert train_net("quickstart/seesaw.yaml", "--eval-only", "--resume", *run) is None
    assert {"bbox/AP", "segm/APr"} <= set(trained)


def test_retrain_with_another_loss(train_net, overrides, pretrained, tmp_path):
    weights = pretrained("softmax_ce")
    run = [*overrides, *weights, DECOUPLED, "retrain"]
    assert train_net("quickstart/seesaw.yaml", *run, *NO_EVALUATION) is None
    changed = changed_keys(weights, tmp_path / "output")
    assert all(".cls_score." in key or ".loss." in key for key in changed)
    # The result is an ordinary detector.
    other = ["OUTPUT_DIR", str(tmp_path / "evaluated")]
    final = ["MODEL.WEIGHTS", str(tmp_path / "output" / "model_final.pth")]
    assert train_net("quickstart/seesaw.yaml", "--eval-only", *overrides, *final, *other) is None


def test_scale(train_net, overrides, pretrained, tmp_path):
    weights = pretrained("eql", *NORMED)
    run = [*overrides, *NORMED, DECOUPLED, "scale"]
    assert train_net("quickstart/eql.yaml", *run, *weights) is None
    output = tmp_path / "output"
    assert changed_keys(weights, output) == {"roi_heads.box_predictor.cls_score.scale"}
    scale = load(output / "model_final.pth")["roi_heads.box_predictor.cls_score.scale"]
    assert scale.shape == (6,) and (scale != 1).all()
    log = (output / "log.txt").read_text()
    assert "Decoupled training: 6 of " in log and "learnable scale per logit" in log

    inference = output / "inference" / "symbols_val" / "lvis_instances_results.json"
    results = inference.read_bytes()
    final = ["MODEL.WEIGHTS", str(output / "model_final.pth")]
    assert train_net("quickstart/eql.yaml", "--eval-only", *run, *final) is None
    assert inference.read_bytes() == results
    # Without its scales it is another classifier.
    plain = [*overrides, *NORMED, *final]
    error = train_net("quickstart/eql.yaml", "--eval-only", *plain)
    check_error(error, "was trained with .*DECOUPLED scale, but here it is none")


def test_align(train_net, overrides, pretrained, tmp_path):
    """DisAlign: the alignment alone learns; it resumes, and is a classifier of its own."""
    weights = pretrained("softmax_ce")
    disalign = [DECOUPLED, "align", "MODEL.ROI_BOX_HEAD.SOFTMAX_CE.REWEIGHTING", "0.8"]
    run = [*overrides, *disalign]
    assert train_net("quickstart/softmax_ce.yaml", *run, *weights) is None
    output = tmp_path / "output"
    prefix = "roi_heads.box_predictor.cls_score.alignment."
    aligned = {f"{prefix}{x}" for x in ("scale", "shift", "confidence.weight", "confidence.bias")}
    assert changed_keys(weights, output) == aligned
    first = load(output / "model_final.pth")
    assert first[f"{prefix}scale"].shape == (6,) and (first[f"{prefix}shift"] != 0).all()
    assert "learnable alignment of the classes" in (output / "log.txt").read_text()

    resumed = [*run, *weights, *NO_EVALUATION, "SOLVER.MAX_ITER", "5"]
    assert train_net("quickstart/softmax_ce.yaml", "--resume", *resumed) is None
    second = load(output / "model_final.pth")
    assert {key for key in second if not second[key].equal(first[key])} == aligned
    # Neither plain nor scaled: nothing of it is left out in silence.
    final = [*overrides, "MODEL.WEIGHTS", str(output / "model_final.pth")]
    error = train_net("quickstart/softmax_ce.yaml", "--eval-only", *final)
    check_error(error, "was trained with .*DECOUPLED align, but here it is none")
    scaled = [DECOUPLED, "scale", "OUTPUT_DIR", str(tmp_path / "scaled")]
    error = train_net("quickstart/softmax_ce.yaml", *final, *scaled)
    check_error(error, "was trained with .*DECOUPLED align, but here it is scale")


def test_scale_goes_on_from_scales(train_net, overrides, pretrained, tmp_path):
    run = [*overrides, *NO_EVALUATION, DECOUPLED, "scale"]
    assert train_net("quickstart/eql.yaml", *run, *pretrained("eql")) is None
    final = ["MODEL.WEIGHTS", str(tmp_path / "output" / "model_final.pth")]
    second = ["OUTPUT_DIR", str(tmp_path / "second"), "SOLVER.BASE_LR", "0.0"]
    assert train_net("quickstart/eql.yaml", *run, *final, *second) is None
    assert not changed_keys(final, tmp_path / "second")


@pytest.mark.parametrize("mode", ["retrain", "scale"])
def test_resume(train_net, overrides, pretrained, tmp_path, mode):
    """A resumed run goes on from its own classifier, not from MODEL.WEIGHTS."""
    run = ["quickstart/seesaw.yaml", *overrides, *pretrained("seesaw"), DECOUPLED, mode]
    run += NO_EVALUATION
    assert train_net(*run) is None
    first = load(tmp_path / "output" / "model_final.pth")
    assert train_net(*run[:1], "--resume", *run[1:], "SOLVER.MAX_ITER", "5") is None
    second = load(tmp_path / "output" / "model_final.pth")
    learned = "cls_score.scale" if mode == "scale" else "cls_score.weight"
    changed = {key for key in second if not second[key].equal(first[key])}
    assert COUNTS in changed and any(key.endswith(learned) for key in changed)
    assert all(".cls_score." in key or ".loss." in key for key in changed)
    assert second[COUNTS].sum() > first[COUNTS].sum()


def test_needs_weights(train_net, overrides, tmp_path):
    error = train_net("quickstart/eql.yaml", *overrides, DECOUPLED, "retrain")
    check_error(error, "DECOUPLED retrain .* MODEL.WEIGHTS")
    assert not (tmp_path / "output").exists()


def test_unknown_mode(train_net, overrides):
    error = train_net("quickstart/eql.yaml", *overrides, DECOUPLED, "lws")
    check_error(error, "DECOUPLED is 'lws'; it must be one of none, retrain, scale")


@pytest.mark.parametrize("mode", ["retrain", "scale"])
def test_weights_of_a_backbone_are_not_enough(train_net, overrides, pretrained, tmp_path, mode):
    path = pretrained("eql")[1]
    model = {key: value for key, value in load(path).items() if key.startswith("backbone.")}
    torch.save({"model": model, "__author__": "someone"}, tmp_path / "backbone.pth")
    weights = ["MODEL.WEIGHTS", str(tmp_path / "backbone.pth")]
    error = train_net("quickstart/eql.yaml", *overrides, *weights, DECOUPLED, mode)
    expected = {
        "retrain": "backbone.pth has no proposal_generator.* that fits",
        "scale": "backbone.pth was trained with .*CLS_LOSS softmax_ce, but here it is eql",
    }
    check_error(error, expected[mode])


def test_weights_with_other_boxes(train_net, overrides, pretrained):
    weights = pretrained("eql")
    specific = ["MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "False"]
    run = [*overrides, *specific, *weights, DECOUPLED, "retrain"]
    check_error(train_net("quickstart/eql.yaml", *run), "has no .*bbox_pred.* that fits")


@pytest.mark.skipif(torch.cuda.is_available(), reason="these are processes without a GPU")
def test_two_processes(overrides, pretrained, tmp_path):
    run = ["--config-file", quickstart("seesaw.yaml"), *overrides, *pretrained("seesaw")]
    run += [DECOUPLED, "retrain", "MODEL.ROI_BOX_HEAD.GRADIENT_STATISTICS", "True"]
    run += ["DATALOADER.SAMPLER_TRAIN", "ClassAwareTrainingSampler"]
    train_net_on_ranks(tmp_path, *run)
    assert {"bbox/APr", "segm/APf"} <= set(last_metrics(tmp_path / "output"))
    assert (tmp_path / "output" / "gradient_statistics.json").exists()
