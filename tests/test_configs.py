"""The YAML files under configs: what they say, and that their models are built and trained."""

import functools
import re
from collections import defaultdict
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.modeling.roi_heads import CascadeROIHeads, Res5ROIHeads
from detectron2.utils.events import EventStorage

from eql_seesaw.config import merge_config, validate_config
from eql_seesaw.data.class_statistics import ClassStatistics, write_class_statistics
from eql_seesaw.engine import LongTailTrainer, load_config
from eql_seesaw.modeling import LongTailFastRCNNOutputLayers, roi_heads
from eql_seesaw.tables import load_table, table_names
from eql_seesaw.tables.miniature import as_overrides
from tests.modeling.tiny_model import NUM_CLASSES, STATISTICS, training_batch
from tests.tables.test_table import PAPER_ROWS

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "configs").rglob("*.yaml"))
CONFIGS = [path for path in FILES if not path.name.startswith("Base-")]
# Of the papers, whose backbones are ResNets.
LVIS_CONFIGS = [
    path for path in CONFIGS if path.parent.name.startswith("lvis_") and "_R_" in path.name
]
ROWS = [(name, row) for name in table_names() for row in load_table(name).rows if row.config]


def config_id(path):
    return str(path.relative_to(ROOT / "configs").with_suffix(""))


def flat(node, prefix=""):
    """{dotted key: value}"""
    result = {}
    for key, value in node.items():
        if isinstance(value, dict):
            result.update(flat(value, f"{prefix}{key}."))
        else:
            result[f"{prefix}{key}"] = value
    return result


def base_files(path):
    bases = yaml.safe_load(path.read_text()).get("_BASE_", [])
    return [(path.parent / x).resolve() for x in ([bases] if isinstance(bases, str) else bases)]


@functools.cache
def merged(path):
    return merge_config(str(path), [])


# Those of rows of the papers' tables are loaded by tests/tables/test_table.py.
OTHERS = [path for path in CONFIGS if path not in {ROOT / row.config for _, row in PAPER_ROWS}]


@pytest.mark.parametrize("path", OTHERS, ids=config_id)
def test_valid(path):
    if re.search("ConvNeXt|Swin|ViTDet", path.name):
        pytest.importorskip("timm")
    cfg = load_config(str(path), [])
    assert cfg.is_frozen() and cfg.VERSION == 2


@pytest.mark.parametrize("path", LVIS_CONFIGS, ids=config_id)
def test_path_says_what_it_is(path):
    cfg = merged(path)
    assert f"output/{config_id(path)}" == cfg.OUTPUT_DIR
    assert list(cfg.DATASETS.TRAIN) == [f"{path.parent.name}_train"]
    name = path.stem
    kind = "C4" if "C4" in name else "cascade" if name.startswith("cascade") else "FPN"
    assert (
        cfg.MODEL.ROI_HEADS.NAME
        == {
            "C4": "LongTailRes5ROIHeads",
            "cascade": "LongTailCascadeROIHeads",
            "FPN": "LongTailROIHeads",
        }[kind]
    )
    depth = int(re.search(r"_R_(\d+)_", name)[1])
    assert cfg.MODEL.RESNETS.DEPTH == depth
    if cfg.MODEL.ROI_BOX_HEAD.DECOUPLED == "none":
        assert cfg.MODEL.WEIGHTS == f"detectron2://ImageNetPretrained/MSRA/R-{depth}.pkl"
    else:
        assert re.search("_(retrain|scale|align)", name)[1] == cfg.MODEL.ROI_BOX_HEAD.DECOUPLED
    sampler = re.search("x_(rfs|cas)_|e_(rfs|cas)_|k_(rfs|cas)_", name)
    expected = {"rfs": "RepeatFactorTrainingSampler", "cas": "ClassAwareTrainingSampler"}
    assert cfg.DATALOADER.SAMPLER_TRAIN == (
        expected[sampler[0][2:-1]] if sampler else "TrainingSampler"
    )
    assert f"_{cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS}" in name
    # Only the EQL paper's own recipe has one mask for all classes.
    assert cfg.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK == ("_25e_" in name)
    assert ("norm_mask" in name) == cfg.MODEL.ROI_MASK_HEAD.NAME.startswith("Normed")


@pytest.mark.parametrize(
    "base, images, batch, learning_rate, epochs",
    [
        ("lvis_v0.5/Base-mask_rcnn_R_50_FPN_25e.yaml", 56_740, 32, 0.04, (25, 16, 22)),
        ("lvis_v1/Base-mask_rcnn_R_50_FPN_1x.yaml", 99_388, 16, 0.02, (12, 8, 11)),
        ("lvis_v1/Base-mask_rcnn_R_50_FPN_2x.yaml", 99_388, 16, 0.02, (24, 16, 22)),
    ],
)
def test_schedules(base, images, batch, learning_rate, epochs):
    """Iterations are whole epochs of the images with annotations at the papers' batch sizes."""
    solver = merged(ROOT / "configs" / base).SOLVER
    assert (solver.IMS_PER_BATCH, solver.BASE_LR) == (batch, learning_rate)
    iterations = round(images / batch)
    assert (solver.MAX_ITER, *solver.STEPS) == tuple(n * iterations for n in epochs)


def test_thresholds_of_repeat_factor_sampling():
    thresholds = defaultdict(set)
    for path in LVIS_CONFIGS:
        if "_rfs_" in path.stem:
            recipe = re.search("25e|22k|90k|1x|2x", path.stem)[0]
            thresholds[recipe].add(merged(path).DATALOADER.REPEAT_THRESHOLD)
    assert thresholds.pop("90k") == {0.0005}
    assert thresholds == {"25e": {0.001}, "22k": {0.001}, "1x": {0.001}, "2x": {0.001}}


def test_no_two_are_the_same():
    contents = defaultdict(list)
    for path in LVIS_CONFIGS:
        cfg = merged(path).clone()
        cfg.OUTPUT_DIR = ""
        contents[cfg.dump()].append(path.stem)
    assert [names for names in contents.values() if len(names) > 1] == []


def test_no_file_repeats_what_it_inherits(tmp_path):
    repeated = {}
    for path in FILES:
        own = yaml.safe_load(path.read_text())
        bases = base_files(path)
        own.pop("_BASE_", None)
        (tmp_path / "bases.yaml").write_text(yaml.dump({"_BASE_": [str(base) for base in bases]}))
        inherited = flat(CfgNode.load_yaml_with_base(str(tmp_path / "bases.yaml"))) if bases else {}
        for key, value in flat(own).items():
            if inherited.get(key) == value:
                repeated[config_id(path)] = key
    assert not repeated


def test_every_file_is_used():
    """By a row of a table, by the documents, or as the base of another file."""
    used = {ROOT / row.config for _, row in ROWS}
    documents = "".join((ROOT / name).read_text() for name in ("README.md", "configs/README.md"))
    for word in re.findall(r"configs/[\w./{},*-]+\.yaml", documents):
        parts = [part.split(",") for part in re.split("[{}]", word)]
        used.update(path for names in product(*parts) for path in ROOT.glob("".join(names)))
    for path in FILES:
        used.update(base_files(path))
    assert [config_id(path) for path in FILES if path not in used] == []


# The rest of this file builds models, each that differs from the others only once.


def kind_of_model(cfg):
    """What decides the shapes of a model's heads."""
    heads, box_head = cfg.MODEL.ROI_HEADS, cfg.MODEL.ROI_BOX_HEAD
    mask_head = cfg.MODEL.ROI_MASK_HEAD
    return (
        *(heads.NAME, heads.NUM_CLASSES, box_head.CLS_LOSS, box_head.NORMED_CLASSIFIER),
        *(mask_head.NAME, mask_head.CLS_AGNOSTIC_MASK),
    )


def kinds_of_training(row):
    """What decides, but for numbers, how a step trains the classifier; and how the mask head."""
    cfg = merged(ROOT / row.config).clone()
    cfg.merge_from_list(as_overrides(row.overrides))
    heads, box_head, mask_head = (
        cfg.MODEL[name] for name in ("ROI_HEADS", "ROI_BOX_HEAD", "ROI_MASK_HEAD")
    )
    loss = getattr(box_head, box_head.CLS_LOSS.upper(), {})
    yield (
        *(heads.NAME, box_head.CLS_LOSS, box_head.NORMED_CLASSIFIER, box_head.DECOUPLED),
        *(cfg.MODEL.BACKBONE.NAME, *(x for x in loss.values() if isinstance(x, str | bool))),
    )
    yield heads.NAME, mask_head.NAME, mask_head.CLS_AGNOSTIC_MASK


def distinct_models(paths):
    return list({kind_of_model(merged(path)): path for path in paths}.values())


@pytest.fixture(scope="module")
def write_statistics(tmp_path_factory):
    """A file of class statistics for a number of classes, as DATASETS.CLASS_STATISTICS."""

    @functools.cache
    def write(num_classes):
        counts = [STATISTICS[key] for key in ("image_counts", "instance_counts")]
        counts = [np.resize(count, num_classes) for count in counts]
        path = tmp_path_factory.mktemp("statistics") / "class_statistics.json"
        write_class_statistics(ClassStatistics(*counts, STATISTICS["num_images"]), str(path))
        return str(path)

    return write


@pytest.mark.parametrize("path", distinct_models(LVIS_CONFIGS), ids=config_id)
def test_full_model(path, write_statistics, monkeypatch):
    """Without memory for the weights, but in box predictors, whose losses calculate."""

    def box_predictor(*args, **kwargs):
        with torch.device("cpu"):
            return LongTailFastRCNNOutputLayers(*args, **kwargs)

    monkeypatch.setattr(roi_heads, "LongTailFastRCNNOutputLayers", box_predictor)
    cfg = merged(path).clone()
    num_classes = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    cfg.DATASETS.CLASS_STATISTICS = write_statistics(num_classes)
    cfg.DATASETS.TRAIN = ()
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg)
    res4 = (model.backbone if "C4" in path.stem else model.backbone.bottom_up).res4
    assert len(res4) == {50: 6, 101: 23}[cfg.MODEL.RESNETS.DEPTH]
    assert isinstance(model.roi_heads, CascadeROIHeads) == path.stem.startswith("cascade")
    assert isinstance(model.roi_heads, Res5ROIHeads) == ("C4" in path.stem)
    for module in model.modules():
        if isinstance(module, LongTailFastRCNNOutputLayers):
            features = 2048 if "C4" in path.stem else 1024
            assert module.cls_score.weight.shape == (module.loss.num_logits, features)
            assert module.loss.num_logits in range(num_classes, num_classes + 10)
    masks = model.roi_heads.mask_head.predictor.out_channels
    assert masks == (1 if cfg.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK else num_classes)


# ResNets of fewer than 50 layers have one width only.
NARROW_RESNET = [
    *("MODEL.RESNETS.NORM", "BN"),
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", 8),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", 16),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", 4),
]
SMALL = [
    *("MODEL.DEVICE", "cpu"),
    *("MODEL.BACKBONE.FREEZE_AT", 0),
    *("MODEL.FPN.OUT_CHANNELS", 16),
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 50),
    *("MODEL.ROI_HEADS.NUM_CLASSES", NUM_CLASSES),
    *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 16),
    *("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 4),
    *("MODEL.ROI_BOX_HEAD.FC_DIM", 32),
    *("MODEL.ROI_MASK_HEAD.CONV_DIM", 8),
    *("MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", 4),
    *("DATASETS.TRAIN", ()),
]


def train_step(settings):
    """
    One iteration of the small model with these settings.

    Returns:
        The losses, and for each parameter that has moved its name and whether it is finite.
    """
    cfg = CfgNode(CfgNode.load_cfg(settings))
    torch.manual_seed(0)
    model = LongTailTrainer.build_model(cfg).train()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    optimizer = LongTailTrainer.build_optimizer(cfg, model)
    with EventStorage():
        losses = model(training_batch())
    sum(losses.values()).backward()
    optimizer.step()
    moved = {
        name: bool(torch.isfinite(parameter).all())
        for name, parameter in model.named_parameters()
        if not torch.equal(parameter, before[name])
    }
    return {name: loss.item() for name, loss in losses.items()}, moved


DISTINCT_ROWS = {
    (name, row.name): (name, row)
    for name, row in {kind: case for case in ROWS for kind in kinds_of_training(case[1])}.values()
}


@pytest.mark.parametrize("name, row", DISTINCT_ROWS.values(), ids=lambda x: getattr(x, "name", x))
def test_training_step_of_a_row(name, row, write_statistics):
    """With the row's heads, loss and settings, in a narrow network with few classes."""
    overrides = [str(part) for item in row.overrides.items() for part in item]
    cfg = merge_config(str(ROOT / row.config), overrides)
    cfg.merge_from_list(SMALL + NARROW_RESNET * (cfg.MODEL.RESNETS.DEPTH >= 50))
    cfg.merge_from_list(["DATASETS.CLASS_STATISTICS", write_statistics(NUM_CLASSES)])
    validate_config(cfg)
    # The sampler, the data and the schedule have no part in a single step on a given batch.
    for key in ("DATALOADER", "INPUT", "TEST", "SOLVER"):
        cfg[key] = merged(LVIS_CONFIGS[0])[key]
    cfg.MODEL.WEIGHTS = cfg.OUTPUT_DIR = ""
    losses, moved = train_step(cfg.dump())
    assert all(np.isfinite(loss) for loss in losses.values())
    assert all(moved.values())
    trained = {parameter.split(".")[0] for parameter in moved}
    if cfg.MODEL.ROI_BOX_HEAD.DECOUPLED == "none":
        assert trained == {"backbone", "proposal_generator", "roi_heads"}
    else:
        assert trained == {"roi_heads"}
        assert all(".cls_score." in parameter for parameter in moved)
    assert any(".cls_score." in parameter for parameter in moved)
