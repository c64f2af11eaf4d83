"""Test-time calibration: each formula by hand, and who sees it."""

import math

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.modeling.roi_heads import FastRCNNOutputLayers

from eql_seesaw.config import CALIBRATIONS
from eql_seesaw.data.class_statistics import ClassStatistics, write_class_statistics
from eql_seesaw.losses import LOSSES, build_loss
from eql_seesaw.modeling import Calibration, LongTailFastRCNNOutputLayers, model_summary

from .test_fast_rcnn import SHAPE, TRANSFORM, sampled_proposals
from .tiny_model import NUM_CLASSES as K
from .tiny_model import STATISTICS, tiny_config

# Of three classes in 40 annotated images.
THREE = ClassStatistics(np.array([1, 4, 0]), np.array([1, 9, 0]), 40, np.array([1.0, 1.5, 2.0]))
LOGITS = [0.3, -1.0, 0.5, 2.0]
BIAS = torch.tensor([0.1, -0.2, 0.0, 0.4], dtype=torch.float64)


def calibrated(method, strength, loss="softmax_ce", logits=LOGITS, weight=None):
    classifier = torch.nn.Linear(2, len(logits)).double()
    with torch.no_grad():
        classifier.bias.copy_(BIAS[: len(logits)])
        if weight is not None:
            classifier.weight.copy_(torch.tensor(weight, dtype=torch.float64))
    counts = {"image_counts": [1, 4, 0], "instance_counts": [1, 9, 0], "num_images": 40}
    calibration = Calibration(method, build_loss(loss, 3, **counts), strength, THREE)
    row = torch.tensor([logits], dtype=torch.float64)
    return calibration(row, classifier)[0].tolist()


def normalised(weights):
    return pytest.approx([w / sum(weights) for w in weights], rel=1e-12)


def test_norcal():
    """Exponentials of the classes over n^gamma; a class without images counts as one with one."""
    e = [math.exp(z) for z in LOGITS]
    assert calibrated("norcal", 0.5) == normalised([e[0], e[1] / 2, e[2], e[3]])


def test_logit_adjustment():
    """As NorCal, but over shares of all images with a class, here 1, 4 and 1 of 6."""
    e = [math.exp(z) for z in LOGITS]
    assert calibrated("logit_adjustment", 1.0) == normalised([6 * e[0], 1.5 * e[1], 6 * e[2], e[3]])
    assert calibrated("logit_adjustment", None) == calibrated("logit_adjustment", 1.0)


def test_fracal_with_a_softmax():
    frequencies, dimensions = [1 / 40, 4 / 40, 1 / 40], [1.0, 1.5, 2.0]
    weights = [
        math.exp(z - math.log10(f) - math.log10(3)) / d**2
        for z, f, d in zip(LOGITS, frequencies, dimensions)
    ]
    assert calibrated("fracal", None) == normalised([*weights, math.exp(LOGITS[3])])


def test_fracal_with_sigmoids():
    def sigmoid(z):
        return 1 / (1 + math.exp(-z))

    scores = [
        sigmoid(z) * sigmoid(z - math.log10(3 * f) - math.log10(3 * d / 4.5))
        for z, f, d in zip(LOGITS[:3], [1 / 40, 4 / 40, 1 / 40], [1.0, 1.5, 2.0])
    ]
    found = calibrated("fracal", 1.0, loss="eql", logits=LOGITS[:3])
    assert found == pytest.approx([*scores, 0.0], rel=1e-12)


def test_tau_norm():
    """Norms 5, 1 and 0.2, whose geometric mean is 1; the bias of a class stays as it is."""
    weight = [[3.0, 4.0], [0.0, 1.0], [0.2, 0.0], [7.0, 7.0]]
    z = [0.1 + 0.2 / 5, -1.0, 0.5 * 5, 2.0]
    found = calibrated("tau_norm", 1.0, weight=weight)
    assert found == normalised([math.exp(x) for x in z])
    z = [0.1 + 0.2 / 5**0.5, -1.0, 0.5 * 5**0.5, 2.0]
    found = calibrated("tau_norm", 0.5, weight=weight)
    assert found == normalised([math.exp(x) for x in z])


@pytest.mark.parametrize("method", ["norcal", "logit_adjustment", "tau_norm"])
def test_strength_zero_changes_nothing(method):
    expected = normalised([math.exp(z) for z in LOGITS])
    assert calibrated(method, 0.0) == expected


def test_huge_and_half_precision_logits():
    loss = build_loss("softmax_ce", 3)
    for method in CALIBRATIONS:
        calibration = Calibration(method, loss, 1.0, THREE)
        for dtype, scale in ((torch.float32, 1e30), (torch.float16, 100.0)):
            logits = scale * torch.eye(4, dtype=dtype)
            probabilities = calibration(logits, torch.nn.Linear(2, 4))
            assert probabilities.dtype == torch.float32
            assert probabilities.argmax(dim=1).tolist() == [0, 1, 2, 3]
        assert calibration(logits[:0], torch.nn.Linear(2, 4)).shape == (0, 4)
        assert not calibration.state_dict()


@pytest.mark.parametrize("name", LOSSES)
def test_only_losses_that_a_method_is_defined_for(name):
    loss = build_loss(name, K, **STATISTICS)
    statistics = ClassStatistics(np.ones(K), np.ones(K), K, np.ones(K))
    # Its link is what it says it is.
    if loss.link in ("softmax", "sigmoid"):
        logits = torch.randn(5, loss.num_logits)
        uncalibrated = logits.softmax(dim=1) if loss.link == "softmax" else logits.sigmoid()
        probabilities = loss.probabilities(logits)[:, : loss.num_logits]
        torch.testing.assert_close(probabilities, uncalibrated)
    for method, (links, *_) in CALIBRATIONS.items():
        if loss.link not in links:
            with pytest.raises(ValueError, match=f"{method}', which is not defined for"):
                Calibration(method, loss, 1.0, statistics)


REFUSED = [
    (["METHOD", "platt"], "METHOD is 'platt'; it must be one of none, norcal, "),
    (["METHOD", "norcal"], "norcal', which has no strength that suits all models: set TEST.CAL"),
    (["METHOD", "tau_norm"], "tau_norm', which has no strength"),
    (["METHOD", "norcal", "STRENGTH", -1], "STRENGTH is -1; it must be a number from 0"),
    (["METHOD", "norcal", "STRENGTH", "a"], "STRENGTH is 'a'; it must be a number"),
    (["METHOD", "norcal", "STRENGTH", True], "STRENGTH is True; it must be a number"),
    (["METHOD", "norcal", "CLS_LOSS", "seesaw"], "not defined for SeesawLoss as it is set"),
    (["METHOD", "norcal", "CLS_LOSS", "eql"], "not defined for EqualizationLoss"),
    (["METHOD", "fracal", "CLS_LOSS", "eql_v2"], "not defined for EqualizationLossV2"),
    (["METHOD", "fracal", "CLS_LOSS", "eql", "EQL.LINK", "gumbel"], "not defined for Equal"),
    (["METHOD", "tau_norm", "STRENGTH", 1, "NORMED_CLASSIFIER", True], "NORMED_CLASSIFIER"),
    (["METHOD", "tau_norm", "STRENGTH", 1, "DECOUPLED", "scale"], "DECOUPLED scale has learnt"),
    (["METHOD", "tau_norm", "STRENGTH", 1, "DECOUPLED", "align"], "DECOUPLED align has learnt"),
]


def keys(settings):
    """KEY VALUE ... of keys without their sections."""
    sections = {"METHOD": "TEST.CALIBRATION", "STRENGTH": "TEST.CALIBRATION"}
    return [
        f"{sections.get(x, 'MODEL.ROI_BOX_HEAD')}.{x}" if i % 2 == 0 else x
        for i, x in enumerate(settings)
    ]


@pytest.mark.parametrize("settings, message", REFUSED, ids=lambda x: str(x)[:50])
def test_refused_in_one_line(tmp_path, settings, message):
    with pytest.raises(ValueError) as error:
        tiny_config(tmp_path, "LongTailROIHeads", *keys(settings))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_statistics_are_needed(tmp_path):
    settings = keys(["METHOD", "norcal", "STRENGTH", 0.5])
    nothing = ["DATASETS.CLASS_STATISTICS", ""]
    cfg = tiny_config(tmp_path, "LongTailROIHeads", *settings, *nothing)
    with pytest.raises(ValueError, match="norcal needs the statistics of the training set: name"):
        LongTailFastRCNNOutputLayers(cfg, SHAPE)
    cfg = tiny_config(tmp_path, "LongTailROIHeads", *keys(["METHOD", "fracal"]))
    with pytest.raises(ValueError, match="class_statistics.json has no fractal_dimensions"):
        LongTailFastRCNNOutputLayers(cfg, SHAPE)
    cfg = tiny_config(tmp_path, "LongTailROIHeads", *keys(["METHOD", "tau_norm", "STRENGTH", 0.5]))
    assert LongTailFastRCNNOutputLayers(cfg, SHAPE).calibration.method == "tau_norm"


@pytest.mark.parametrize("method", CALIBRATIONS)
def test_detectron2s_own_model_is_calibrated_in_inference_and_not_in_training(tmp_path, method):
    settings = keys(["METHOD", method, "STRENGTH", 1.0])
    cfg = tiny_config(tmp_path, "LongTailROIHeads", *settings)
    counts = np.array(STATISTICS["image_counts"])
    statistics = ClassStatistics(counts, 2 * counts, 500, np.linspace(1, 2, K))
    write_class_statistics(statistics, cfg.DATASETS.CLASS_STATISTICS)
    ours = LongTailFastRCNNOutputLayers(cfg, SHAPE)
    theirs = FastRCNNOutputLayers(SHAPE, box2box_transform=TRANSFORM, num_classes=K)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    ours.load_state_dict(theirs.state_dict())
    proposals = sampled_proposals([0, 1, K], [2])
    x = torch.randn(4, SHAPE.channels)
    probabilities = torch.cat(ours.eval().predict_probs(ours(x), proposals))
    plain = torch.cat(theirs.predict_probs(theirs(x), proposals))
    calibration = Calibration(method, ours.loss, 1.0, statistics)
    torch.testing.assert_close(probabilities, calibration(theirs(x)[0], theirs.cls_score))
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(4))
    assert not torch.allclose(probabilities, plain, atol=0.01)
    detections, _ = ours.inference(ours(x), proposals)
    scores = torch.cat([d.scores for d in detections])
    assert set(scores.tolist()) <= set(probabilities[:, :K].flatten().tolist())
    assert f"calibrated at test time by {method}, strength=1" in model_summary(ours)


@pytest.mark.parametrize("roi_heads", ["LongTailCascadeROIHeads", "LongTailRes5ROIHeads"])
def test_other_heads(tmp_path, roi_heads):
    settings = keys(["METHOD", "norcal", "STRENGTH", 0.6])
    model = build_model(tiny_config(tmp_path, roi_heads, *settings))
    predictors = [m for m in model.modules() if isinstance(m, LongTailFastRCNNOutputLayers)]
    assert {p.calibration.method for p in predictors} == {"norcal"}
    assert not any("calibration" in key for key in model.state_dict())
