"""
Every loss and calibration side by side on one trained detector. Its backbone, proposals and box
head stay as they are: the features of sampled proposals are computed once, and each loss trains a
classifier on them, which takes seconds in place of a training. This is decoupled training
(https://arxiv.org/abs/1910.09217). Boxes are evaluated, masks are not.

    python -m benchmarks.all_losses --config-file configs/muscima/softmax_ce.yaml \\
        --output output/all_losses [--seeds 3] [--only ROW] ... [KEY VALUE ...]

MODEL.WEIGHTS is the trained detector; its own classifier is left out. DATASETS and SOLVER are those
of the classifiers. The folder of --output keeps the features, which take 16 bytes x channels x
proposals that the config samples of a training image, and each result; what is there is not
computed again. It gets a picture, all_losses.png, too.
"""

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.structures import Instances
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from matplotlib.figure import Figure
from tabulate import tabulate
from torch import nn
from tqdm import tqdm

from eql_seesaw.atomic_write import atomic_file
from eql_seesaw.calibrate import STRENGTHS
from eql_seesaw.classification.results import mean_and_deviation
from eql_seesaw.config import CALIBRATIONS, load_config
from eql_seesaw.data.class_statistics import ClassStatistics
from eql_seesaw.data.dataset_mapper import NamedImageDatasetMapper
from eql_seesaw.data.register import register_datasets
from eql_seesaw.data.training_set import load_training_set
from eql_seesaw.engine import build_checkpointer, load_start
from eql_seesaw.engine.setup import read_test_set
from eql_seesaw.evaluation import LongTailLVISEvaluator
from eql_seesaw.losses import LOSSES
from eql_seesaw.modeling import LongTailFastRCNNOutputLayers
from eql_seesaw.modeling.calibration import Calibration
from eql_seesaw.prediction.calibration_sweep import COLORS, COLUMNS, read_images

LINEAR_SEESAW = {"CLS_LOSS": "seesaw", "NORMED_CLASSIFIER": False}
# Overrides of each row, keys of MODEL.ROI_BOX_HEAD.
ROWS: dict[str, dict[str, Any]] = {
    **{name: {"CLS_LOSS": name} for name in LOSSES},
    "gol": {"CLS_LOSS": "drop_loss", "DROP_LOSS.LINK": "gumbel"},
    **{
        f"{name}, normalised": {"CLS_LOSS": name, "NORMED_CLASSIFIER": True}
        for name in ("softmax_ce", "sigmoid_ce", "balanced_softmax", "pcb")
    },
    "softmax_ce, objectness": {"CLS_LOSS": "softmax_ce", "SOFTMAX_CE.OBJECTNESS": True},
    "seesaw, no objectness": {"CLS_LOSS": "seesaw", "SEESAW.OBJECTNESS": False},
    "seesaw, mitigation": {"CLS_LOSS": "seesaw", "SEESAW.Q": 0.0},
    "seesaw, compensation": {"CLS_LOSS": "seesaw", "SEESAW.P": 0.0},
    "seesaw, linear": LINEAR_SEESAW,
    "seesaw, linear, mitigation": {**LINEAR_SEESAW, "SEESAW.Q": 0.0},
    "seesaw, linear, compensation": {**LINEAR_SEESAW, "SEESAW.P": 0.0},
    "seesaw, linear, no objectness": {**LINEAR_SEESAW, "SEESAW.OBJECTNESS": False},
}
CALIBRATED = "softmax_ce"
# Each sampling of an image's proposals is another one; trainings take them in turn.
NUM_SAMPLINGS = 4
# Training images that the strength of a calibration is chosen on, with the first seed.
NUM_CHOOSING = 400
CHOSEN = "strengths, chosen on training images: "

# Features (R, D) and classes (R,) of an image's sampled proposals.
Samples = tuple[torch.Tensor, torch.Tensor]
# A test image: its entry for the evaluator, features (R, D), and proposals.
TestImage = tuple[dict[str, Any], torch.Tensor, Instances]


def proposals_of(
    model: nn.Module, images: Sequence[dict], mapper: NamedImageDatasetMapper
) -> Iterator[tuple[dict[str, Any], dict[str, torch.Tensor], list[Instances]]]:
    """Each image's inputs, feature maps and proposals."""
    loader = build_detection_test_loader(images, mapper=mapper)
    for inputs in tqdm(loader, "Features", disable=None, unit="image"):
        batch = model.preprocess_image(inputs)
        maps = model.backbone(batch.tensor)
        targets = [x["instances"].to(model.device) for x in inputs if mapper.is_train]
        proposals, _ = model.proposal_generator(batch, maps, targets or None)
        yield inputs[0], maps, proposals


def box_features(model: nn.Module, maps: dict, proposals: list[Instances]) -> torch.Tensor:
    heads = model.roi_heads
    boxes = [x.proposal_boxes for x in proposals]
    pooled = heads.box_pooler([maps[name] for name in heads.box_in_features], boxes)
    return heads.box_head(pooled).flatten(1).cpu()


@torch.no_grad()
def training_features(
    cfg: CfgNode, model: nn.Module, images: Sequence[dict]
) -> list[list[Samples]]:
    """The samplings of each image."""
    model.proposal_generator.train()
    samples = []
    with EventStorage():
        mapper = NamedImageDatasetMapper(cfg, is_train=True)
        for inputs, maps, proposals in proposals_of(model, images, mapper):
            targets = [inputs["instances"].to(model.device)]
            samplings = []
            for _ in range(NUM_SAMPLINGS):
                sampled = model.roi_heads.label_and_sample_proposals(proposals, targets)
                features = box_features(model, maps, sampled)
                samplings.append((features, sampled[0].gt_classes.cpu()))
            samples.append(samplings)
    model.proposal_generator.eval()
    return samples


@torch.no_grad()
def test_features(cfg: CfgNode, model: nn.Module, images: Sequence[dict]) -> list[TestImage]:
    mapper = NamedImageDatasetMapper(cfg, is_train=False)
    entries = []
    for inputs, maps, proposals in proposals_of(model, images, mapper):
        entry = {key: inputs[key] for key in ("image_id", "height", "width")}
        entries.append((entry, box_features(model, maps, proposals), proposals[0].to("cpu")))
    return entries


def row_config(cfg: CfgNode, row: str) -> CfgNode:
    cfg = cfg.clone()
    cfg.defrost()
    overrides = {"NORMED_CLASSIFIER": None, **ROWS[row]}
    cfg.MODEL.ROI_BOX_HEAD.merge_from_list([x for item in overrides.items() for x in item])
    cfg.freeze()
    return cfg


def train_classifier(
    cfg: CfgNode, trained: LongTailFastRCNNOutputLayers, samples: list[list[Samples]], seed: int
) -> tuple[LongTailFastRCNNOutputLayers, float]:
    """A box predictor of the config, with the trained one's boxes, and milliseconds of a step."""
    torch.manual_seed(seed)
    channels = trained.cls_score.in_features
    predictor = LongTailFastRCNNOutputLayers(cfg, ShapeSpec(channels=channels))
    predictor.bbox_pred.load_state_dict(trained.bbox_pred.state_dict())
    predictor.bbox_pred.requires_grad_(False)
    optimizer = build_optimizer(cfg, predictor)
    scheduler = build_lr_scheduler(cfg, optimizer)
    order: list[int] = []
    num_passes = 0
    start = time.process_time()
    for _ in range(cfg.SOLVER.MAX_ITER):
        if len(order) < cfg.SOLVER.IMS_PER_BATCH:
            order += torch.randperm(len(samples)).tolist()
            num_passes += 1
        batch, order = order[: cfg.SOLVER.IMS_PER_BATCH], order[cfg.SOLVER.IMS_PER_BATCH :]
        drawn = [samples[index][num_passes % NUM_SAMPLINGS] for index in batch]
        features, gt_classes = (torch.cat(tensors) for tensors in zip(*drawn))
        losses = predictor.loss(predictor.cls_score(features), gt_classes)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        scheduler.step()
    milliseconds = 1000 * (time.process_time() - start) / cfg.SOLVER.MAX_ITER
    return predictor.eval(), milliseconds


def box_evaluator(cfg: CfgNode, name: str, ground_truth: dict[str, Any]) -> LongTailLVISEvaluator:
    max_detections = cfg.TEST.LVIS_MAX_DETECTIONS
    return LongTailLVISEvaluator(name, ground_truth=ground_truth, max_detections=max_detections)


@torch.no_grad()
def evaluate(
    predictor: LongTailFastRCNNOutputLayers,
    images: list[TestImage],
    evaluator: LongTailLVISEvaluator,
) -> dict[str, float]:
    evaluator.reset()
    for entry, features, proposals in images:
        detections, _ = predictor.inference(predictor(features), [proposals])
        instances = detector_postprocess(detections[0], entry["height"], entry["width"])
        evaluator.process([entry], [{"instances": instances}])
    metrics = evaluator.evaluate()["bbox"]
    return {column: metrics.get(column) for column in COLUMNS}


class Results:
    """A line of each result in a file, {"row", "seed", COLUMNS ...}."""

    def __init__(self, path: Path):
        self._path = path
        lines = path.read_text().splitlines() if path.exists() else []
        found = [json.loads(line) for line in lines]
        self.found = {(x["row"], x["seed"]): x for x in found}

    def add(self, row: str, seed: int, **values: float | None) -> None:
        self.found[row, seed] = {"row": row, "seed": seed, **values}
        with open(self._path, "a") as f:
            f.write(json.dumps(self.found[row, seed]) + "\n")

    def by_row(self) -> dict[str, list[dict[str, Any]]]:
        runs = defaultdict(list)
        for (row, _), values in self.found.items():
            if not row.startswith(CHOSEN):
                runs[row].append(values)
        return runs

    def table(self) -> str:
        columns = (*COLUMNS, "ms a step")
        rows = [
            [row, *(mean_and_deviation([x.get(c) for x in of_row]) for c in columns)]
            for row, of_row in self.by_row().items()
        ]
        chosen = [
            f"{row.removeprefix(CHOSEN)} {values['strength']:g}"
            for (row, _), values in self.found.items()
            if row.startswith(CHOSEN)
        ]
        table = tabulate(rows, ("", *columns), "pipe", disable_numparse=True)
        return f"{table}\n\n{CHOSEN}{', '.join(chosen)}" if chosen else table

    def draw(self, path: Path) -> None:
        """A line of each row, from the lowest mean AP to the highest; dots are means, of seeds."""
        runs = {
            row: {c: [x[c] for x in of_row if x[c] is not None] for c in COLUMNS}
            for row, of_row in self.by_row().items()
        }
        rows = sorted(runs, key=lambda row: statistics.mean(runs[row]["AP"]))
        figure = Figure(figsize=(6.4, 1 + 0.22 * len(rows)), layout="constrained")
        axes = figure.subplots()
        for column, color in zip(COLUMNS, COLORS, strict=True):
            places = [place for place, row in enumerate(rows) if runs[row][column]]
            known = [runs[rows[place]][column] for place in places]
            means = [statistics.mean(values) for values in known]
            deviations = [statistics.pstdev(values) for values in known]
            axes.errorbar(means, places, xerr=deviations, fmt="o", color=color, label=column, ms=4)
        axes.set_yticks(range(len(rows)), rows, fontsize=8)
        axes.grid(axis="y", alpha=0.3)
        axes.set_xlabel("box AP in percent")
        axes.margins(y=0.01)
        figure.legend(frameon=False, loc="outside upper center", ncols=len(COLUMNS))
        figure.savefig(path, dpi=110)


def calibrate(
    predictor: LongTailFastRCNNOutputLayers,
    counts: ClassStatistics,
    choosing: tuple[list[TestImage], LongTailLVISEvaluator],
    test: tuple[list[TestImage], LongTailLVISEvaluator],
    results: Results,
    seed: int,
) -> None:
    """Results of the calibrations, their strengths chosen on training images with seed 1."""
    for method in CALIBRATIONS:

        def calibrated(strength: float, where: tuple) -> dict[str, float]:
            predictor.calibration = Calibration(method, predictor.loss, strength, counts)
            return evaluate(predictor, *where)

        key = CHOSEN + method
        if (key, 1) not in results.found:
            sweep = {strength: calibrated(strength, choosing) for strength in STRENGTHS[method]}
            best = max(sweep, key=lambda strength: sweep[strength]["AP"])
            results.add(key, 1, strength=best, **sweep[best])
        strength = results.found[key, 1]["strength"]
        row = f"{CALIBRATED}, then {method}"
        if (row, seed) not in results.found:
            results.add(row, seed, **calibrated(strength, test))


def read_arguments(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, CfgNode]:
    """The command line, and its config, which is kept in the folder for its results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", action="append", choices=ROWS, metavar="ROW")
    parser.add_argument("opts", nargs=argparse.REMAINDER)
    args = parser.parse_args(arguments)
    cfg = load_config(args.config_file, args.opts)
    if cfg.MODEL.ROI_BOX_HEAD.EQL.KEEP_ANNOTATED:
        raise SystemExit("error: EQL.KEEP_ANNOTATED must be False: features lack annotations")
    args.output.mkdir(parents=True, exist_ok=True)
    config = args.output / "config.yaml"
    if config.exists() and config.read_text() != cfg.dump():
        raise SystemExit(f"error: {config} is of other settings; choose another --output")
    config.write_text(cfg.dump())
    return args, cfg


def main(arguments: Sequence[str] | None = None) -> None:
    args, cfg = read_arguments(arguments)
    register_datasets(cfg)
    # FRACAL's dimensions are counted where the config asks for it.
    fracal = ["TEST.CALIBRATION.METHOD", "fracal"]
    training_set = load_training_set(load_config(args.config_file, [*args.opts, *fracal]))
    groups = training_set.statistics.groups
    train, test = cfg.DATASETS.TRAIN[0], cfg.DATASETS.TEST[0]
    ground_truths = {
        train: read_images(cfg, train, groups, NUM_CHOOSING),
        test: read_test_set(cfg, "DATASETS.TEST", test, groups),
    }
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED)  # augmentations draw from NumPy
    model = build_model(cfg).eval()
    load_start(build_checkpointer(cfg, model), cfg.MODEL.WEIGHTS, "retrain")
    file = args.output / "features.pth"
    if not file.exists():
        features = {"samples": training_features(cfg, model, training_set.images)}
        for name, (_, images) in ground_truths.items():
            features[name] = test_features(cfg, model, images)
        with atomic_file(file, "wb") as f:
            torch.save(features, f)
    features = torch.load(file, weights_only=False)
    choosing, testing = (
        (features[name], box_evaluator(cfg, name, ground_truth))
        for name, (ground_truth, _) in ground_truths.items()
    )
    results = Results(args.output / "results.jsonl")
    for seed, row in product(range(1, args.seeds + 1), args.only or ROWS):
        calibrated = [f"{row}, then {x}" for x in CALIBRATIONS if row == CALIBRATED]
        if all((each, seed) in results.found for each in (row, *calibrated)):
            continue
        predictor, milliseconds = train_classifier(
            row_config(cfg, row), model.roi_heads.box_predictor, features["samples"], seed
        )
        metrics = evaluate(predictor, *testing)
        results.add(row, seed, **metrics, **{"ms a step": milliseconds})
        if calibrated:
            calibrate(predictor, training_set.statistics, choosing, testing, results, seed)
        print(results.found[row, seed], flush=True)
    results.draw(args.output / "all_losses.png")
    print(results.table())


if __name__ == "__main__":
    main()
