"""Exporting a detector: the file gives what the model gives, to the bit, and explains itself."""

import contextlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.layers import batched_nms
from detectron2.modeling import build_model
from PIL import Image
from torchvision.ops import boxes as box_ops

from eql_seesaw.engine import LongTailCheckpointer, build_checkpointer, load_config
from eql_seesaw.export import main
from eql_seesaw.modeling import LongTailFastRCNNOutputLayers
from eql_seesaw.prediction import BatchPredictor
from eql_seesaw.prediction.torchscript import exact_tracing, export_torchscript
from tests.modeling.tiny_model import NUM_CLASSES, tiny_config

METADATA = {
    "thing_classes": ["cat", "umbrella", "Ørsted", "кошка", "ψ", "die"],
    "category_ids": [3, 5, 9, 10, 12, 40],
}
LOSS = "MODEL.ROI_BOX_HEAD.CLS_LOSS"
NORMED = "MODEL.ROI_BOX_HEAD.NORMED_CLASSIFIER"
# So that the number of proposals and of detections depends on the image.
LIMITS = ["MODEL.RPN.POST_NMS_TOPK_TEST", 100, "TEST.DETECTIONS_PER_IMAGE", 400]
SIZES = ["INPUT.MIN_SIZE_TEST", 64, "INPUT.MAX_SIZE_TEST", 96]


def trained(folder, roi_heads="LongTailROIHeads", *overrides):
    """A config without class statistics on disk, and a checkpoint of a model with random heads."""
    cfg = tiny_config(folder, roi_heads, *LIMITS, *SIZES, *overrides)
    torch.manual_seed(0)
    model = build_model(cfg)
    for name, parameter in model.named_parameters():
        if name.endswith(("cls_score.weight", "bbox_pred.weight")):
            torch.nn.init.normal_(parameter, std=0.1)
    classifier = build_checkpointer(cfg, model).classifier
    LongTailCheckpointer(model, str(folder), classifier=classifier, metadata=METADATA).save(
        "model_final"
    )
    os.remove(cfg.DATASETS.CLASS_STATISTICS)
    return cfg, str(folder / "model_final.pth")


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def detect(model, image):
    """What Detectron2 has before its post-processing, in the order of the exported model."""
    with torch.no_grad():
        instances = model.inference([{"image": image}], do_postprocess=False)[0]
    masks = [instances.pred_masks] if instances.has("pred_masks") else []
    size = torch.tensor(instances.image_size)
    boxes = instances.pred_boxes.tensor
    return [boxes, instances.pred_classes, *masks, instances.scores, size]


def assert_equal(found, expected):
    assert len(found) == len(expected)
    for a, b in zip(found, expected):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "roi_heads, overrides",
    [
        ("LongTailROIHeads", [LOSS, "eql", NORMED, True]),
        ("LongTailROIHeads", [LOSS, "seesaw", NORMED, False, "MODEL.MASK_ON", False]),
        ("LongTailCascadeROIHeads", [LOSS, "seesaw"]),
        ("LongTailRes5ROIHeads", [LOSS, "eql"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value[1::2])),
)
def test_exported_model_equals_the_model(tmp_path, roi_heads, overrides):
    cfg, weights = trained(tmp_path, roi_heads, *overrides)
    output = str(tmp_path / "model.ts")
    assert export_torchscript(cfg, weights, output, noise(64, 80)) > 0
    exported, model = torch.jit.load(output), BatchPredictor(cfg, weights).model
    numbers = []
    for seed, size in enumerate([(97, 50), (33, 130), (8, 8)]):
        image = torch.as_tensor(noise(*size, seed)).permute(2, 0, 1)
        expected = detect(model, image)
        numbers.append(len(expected[0]))
        assert_equal(exported(image), expected)
    # Otherwise a number that became a constant would not be noticed.
    assert len(set(numbers)) > 1


def test_calibration_is_exported_and_predicted_with(tmp_path):
    settings = ["TEST.CALIBRATION.METHOD", "norcal", "TEST.CALIBRATION.STRENGTH", 0.8]
    cfg, weights = trained(tmp_path, "LongTailROIHeads", LOSS, "softmax_ce", *settings)
    output = str(tmp_path / "model.ts")
    with pytest.raises(FileNotFoundError, match="DATASETS.CLASS_STATISTICS: .*No such file"):
        export_torchscript(cfg, weights, output, noise(64, 80))
    cfg = tiny_config(tmp_path, "LongTailROIHeads", *LIMITS, *SIZES, *settings)
    export_torchscript(cfg, weights, output, noise(64, 80))
    exported, calibrated = torch.jit.load(output), BatchPredictor(cfg, weights).model
    image = torch.as_tensor(noise(97, 50)).permute(2, 0, 1)
    outputs = exported(image)
    assert_equal(outputs, detect(calibrated, image))
    calibrated.roi_heads.box_predictor.calibration = None
    assert not torch.equal(outputs[3], detect(calibrated, image)[3])


def test_statistics_for_a_calibration_that_are_not_here(tmp_path):
    settings = ["TEST.CALIBRATION.METHOD", "norcal", "TEST.CALIBRATION.STRENGTH", 0.8]
    elsewhere = ["DATASETS.CLASS_STATISTICS", "", "DATASETS.TRAIN", ("of_another_machine",)]
    cfg = tiny_config(tmp_path, "LongTailROIHeads", *settings, *elsewhere)
    with pytest.raises(ValueError, match="of_another_machine'; .*; TEST.CALIBRATION.METHOD norcal"):
        BatchPredictor(cfg, "model.pth")


@pytest.mark.parametrize("traced_on_none", [False, True])
def test_images_without_detections(tmp_path, traced_on_none):
    cfg, weights = trained(tmp_path, "LongTailROIHeads", LOSS, "eql")
    predictor = BatchPredictor(cfg, weights)
    images = [noise(64, 64), np.full((64, 64, 3), 128, dtype=np.uint8)]
    inputs = [predictor.preprocess(image)["image"] for image in images]
    # A threshold that only one of the two images reaches.
    best = [detect(predictor.model, image)[3].max().item() for image in inputs]
    assert best[0] != best[1]
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = sum(best) / 2
    model = BatchPredictor(cfg, weights).model
    expected = [detect(model, image) for image in inputs]
    none, some = sorted((0, 1), key=lambda k: len(expected[k][0]))
    assert len(expected[none][0]) == 0 < len(expected[some][0])

    output = str(tmp_path / "model.ts")
    export_torchscript(cfg, weights, output, images[none if traced_on_none else some])
    exported = torch.jit.load(output)
    for image, outputs in zip(inputs, expected):
        assert_equal(exported(image), outputs)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_feature_levels_are_kept_apart_exactly():
    """Of proposals; offsets between the levels would round their boxes."""

    def nms(boxes, scores, levels):
        return batched_nms(boxes, scores, levels, 0.5)

    # Pairs of boxes of a level, with an IoU that differs little from 0.5.
    corners = (torch.rand(1500, 2) * 900).repeat_interleave(2, dim=0)
    boxes = torch.cat([corners, corners + 60], dim=1)
    boxes[1::2, ::2] += 20
    boxes[1::2, 2] += torch.rand(1500) * 0.002 - 0.001
    inputs = (boxes, torch.rand(3000), torch.arange(3000) // 2 % 5)
    few = tuple(x[:10] for x in inputs)
    is_equal = {}
    for tracing in (contextlib.nullcontext, exact_tracing):
        with tracing():
            traced = torch.jit.trace(nms, few, check_trace=False)
        assert torch.equal(traced(*few), nms(*few))
        is_equal[tracing] = torch.equal(traced(*inputs), nms(*inputs))
    assert is_equal == {contextlib.nullcontext: False, exact_tracing: True}


def test_exact_tracing_leaves_torchvision_as_it_was():
    before = box_ops.batched_nms
    with pytest.raises(KeyboardInterrupt), exact_tracing():
        assert box_ops.batched_nms is not before
        raise KeyboardInterrupt
    assert box_ops.batched_nms is before


@pytest.mark.slow
def test_lvis_model(tmp_path):
    """ResNet-50 FPN with 1,203 classes and random weights: about a hundred thousand candidates."""
    root = Path(__file__).parents[1]
    cfg = load_config(
        str(root / "configs/lvis_v1/mask_rcnn_R_50_FPN_2x_seesaw.yaml"),
        ["MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "True"],
    ).clone()
    cfg.defrost()
    cfg.merge_from_list(["DATASETS.TRAIN", (), "MODEL.DEVICE", "cpu", "INPUT.MIN_SIZE_TEST", 160])
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 100
    # Masks of 300 detections would take ten seconds each time.
    cfg.merge_from_list(["MODEL.ROI_MASK_HEAD.NUM_CONV", 1, "MODEL.ROI_MASK_HEAD.CONV_DIM", 16])
    cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION = 4
    model = build_model(cfg).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("cls_score.weight"):
            torch.nn.init.normal_(parameter, std=0.5)
    weights = str(tmp_path / "model.pth")
    torch.save({"model": model.state_dict()}, weights)
    output = str(tmp_path / "model.ts")
    assert export_torchscript(cfg, weights, output, noise(160, 224)) > 300
    image = torch.as_tensor(noise(192, 128, seed=1)).permute(2, 0, 1)
    assert_equal(torch.jit.load(output)(image), detect(model, image))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with config.yaml and model_final.pth, and no datasets."""
    folder = tmp_path_factory.mktemp("model")
    cfg, _ = trained(folder, "LongTailROIHeads", LOSS, "seesaw")
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASETS.CLASS_STATISTICS = ""
    cfg.DATASETS.TRAIN = ("a_dataset_of_another_machine",)
    (folder / "config.yaml").write_text(cfg.dump())
    return folder


@pytest.fixture
def export(model, tmp_path):
    """``export("--image", ...)`` to model.ts as a user would; the line that it fails with."""

    def run(*arguments, config="config.yaml", weights="model_final.pth", output="model.ts"):
        files = {
            "--config-file": model / config,
            "--weights": model / weights,
            "--output": tmp_path / output,
        }
        files = [str(part) for item in files.items() for part in item]
        try:
            assert main([*files, *map(str, arguments)]) == 0
        except SystemExit as error:
            return error.code
        return None

    return run


# Without the paths of this project and of its environment's variables.
FRESH_PROCESS = """
import json, sys
import torch, torchvision

extra_files = {"metadata.json": ""}
model = torch.jit.load("model.ts", _extra_files=extra_files).eval()
print(json.dumps(json.loads(extra_files["metadata.json"])))
torch.save(model(torch.load("image.pt")), "outputs.pt")
assert not {"detectron2", "eql_seesaw"} & set(sys.modules)
"""


@pytest.mark.slow
def test_file_needs_torch_and_torchvision_alone(model, export, tmp_path, capsys, recwarn):
    picture = tmp_path / "sample.png"
    Image.fromarray(noise(50, 70)).save(picture)
    assert export("--image", picture, "MODEL.ROI_HEADS.NMS_THRESH_TEST", "0.4") is None
    assert not any(issubclass(w.category, torch.jit.TracerWarning) for w in recwarn)
    assert "model.ts: " in capsys.readouterr().out
    image = torch.as_tensor(noise(64, 90, seed=1)).permute(2, 0, 1)
    torch.save(image, tmp_path / "image.pt")
    process = subprocess.run(
        [sys.executable, "-I", "-c", FRESH_PROCESS],
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    metadata = json.loads(process.stdout)
    assert metadata == {
        **METADATA,
        "input_format": "BGR",
        "min_size_test": 64,
        "max_size_test": 96,
        "outputs": ["pred_boxes", "pred_classes", "pred_masks", "scores", "image_size"],
        "score_thresh_test": 0.0,
        "nms_thresh_test": 0.4,
        "detections_per_image": 400,
        "cls_loss": "seesaw",
        "calibration": "none",
        "calibration_strength": None,
    }

    settings = [*LIMITS, LOSS, "seesaw", "MODEL.ROI_HEADS.NMS_THRESH_TEST", 0.4]
    cfg = tiny_config(tmp_path, "LongTailROIHeads", *settings)
    network = BatchPredictor(cfg, str(model / "model_final.pth")).model
    outputs = torch.load(tmp_path / "outputs.pt")
    assert_equal(outputs, detect(network, image))
    assert not any(x.requires_grad for x in outputs)
    assert outputs[1].max() < NUM_CLASSES


def test_different_outputs_are_not_written(export, tmp_path, monkeypatch):
    (tmp_path / "model.ts").write_text("the one before")
    load = torch.jit.load

    def load_another(path):
        exported = load(path)
        return lambda image: [x + (i == 3) for i, x in enumerate(exported(image))]

    monkeypatch.setattr(torch.jit, "load", load_another)
    error = export()
    assert error.startswith("error: the exported model's scores differ from the model's own on")
    assert os.listdir(tmp_path) == ["model.ts"]
    assert (tmp_path / "model.ts").read_text() == "the one before"


def test_model_that_depends_on_the_image_is_not_written(export, tmp_path, monkeypatch):
    def predict_probs(self, predictions, proposals):
        """As the method, but tracing makes constants of the numbers of proposals."""
        return self.loss.probabilities(predictions[0]).split([len(x) for x in proposals])

    monkeypatch.setattr(LongTailFastRCNNOutputLayers, "predict_probs", predict_probs)
    # Enough that two images do not have the same number of proposals.
    error = export("MODEL.RPN.POST_NMS_TOPK_TEST", "1000")
    assert error.startswith("error: the exported model fails with")
    assert "\n" not in error
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "arguments, files, expected",
    [
        ([], {"weights": "none.pth"}, "cannot read .*none.pth"),
        ([], {"output": "none/model.ts"}, "--output .*there is no folder"),
        ([], {"output": "."}, "--output .* is a folder"),
        (["--image", "none.png"], {}, "--image: cannot read none.png"),
        (["--image", __file__], {}, "--image: cannot read .*test_export.py"),
        ([LOSS, "eql"], {}, "was trained with MODEL.ROI_BOX_HEAD.CLS_LOSS seesaw"),
    ],
)
def test_wrong_input_is_one_line(export, tmp_path, arguments, files, expected):
    error = export(*arguments, **files)
    assert error.startswith("error: ") and re.search(expected, error)
    assert "\n" not in error
    assert os.listdir(tmp_path) == []
