"""
Where the time goes in a training step, and in an evaluation, on a CPU.

    python -m eql_seesaw.benchmarks.profiles step
    python -m eql_seesaw.benchmarks.profiles evaluation --loss eql

Mask R-CNN R-50-FPN with 1203 classes and random weights, on images of noise with objects like
LVIS's, longest side 320, by the trainer and the evaluator that everybody uses. In an evaluation,
AP, pictures and report come once, however many images there are.
"""

import argparse
import contextlib
import dataclasses
import functools
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import yaml
from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN
from detectron2.utils.events import EventStorage
from PIL import Image
from tabulate import tabulate
from torch.profiler import ProfilerActivity, profile, record_function

from ..config import load_config
from ..data.register import register_datasets
from ..engine import LongTailTrainer
from ..engine import trainer as trainer_module
from ..evaluation import rle_postprocessing
from ..evaluation.lvis_evaluation import LVISEvaluation
from ..evaluation.lvis_evaluator import LongTailLVISEvaluator
from ..evaluation.results_file import ResultsWriter
from ..losses import LOSSES
from ..modeling import LongTailFastRCNNOutputLayers
from ..modeling.classification_accuracy import ClassificationAccuracy
from .lvis_like_validation_set import lvis_like_ground_truth
from .train_step import CONFIG_FILE, LEARNING_RATE, TINY_MODEL

IMAGE_SIZE = 320
TINY_IMAGE_SIZE = 64
NUM_STEPS = 5
NUM_IMAGES = 10
DATASET = "profiled"
# What is profiled, and what of it has no name.
WHOLE = "all"
OTHERS = "others"
# Parts that PyTorch names itself, by how its names begin.
NAMED_PARTS = {
    "enumerate(DataLoader)": "data loading",
    "Optimizer.step": "optimizer",
    "Optimizer.zero_grad": "optimizer",
}
BACKWARD = "autograd::engine::evaluate_function: "


@dataclasses.dataclass(frozen=True)
class Part:
    """
    Attributes:
        name: of what is done.
        is_ours: whether it is this project's, and not Detectron2's or PyTorch's.
        forward, backward: seconds for one step or one image.
    """

    name: str
    is_ours: bool
    forward: float
    backward: float

    @property
    def seconds(self) -> float:
        return self.forward + self.backward


def profile_step(loss: str, quick: bool = False) -> list[Part]:
    """
    Args:
        loss: MODEL.ROI_BOX_HEAD.CLS_LOSS.
        quick: a tiny model and one step, for tests.

    Returns:
        The parts of a training step of one image, means over some steps.
    """
    num_steps = 1 if quick else NUM_STEPS
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        trainer = LongTailTrainer(_config(Path(folder), loss, num_images=4, quick=quick))
        passes = trainer._trainer
        predictor = trainer.model.roi_heads.box_predictor
        recorder = _Recorder(stack)
        _record_model(recorder, trainer.model)
        recorder.record(predictor, "losses", "box regression loss")
        recorder.record(predictor.loss, "forward", "classification loss", is_ours=True)
        recorder.record(ClassificationAccuracy, "update", "accuracy", is_ours=True)
        recorder.record(passes, "_exchange", "losses: check and log", is_ours=True)
        recorder.record(torch.Tensor, "backward", "autograd engine")
        recorder.record(trainer, "run_step", "step, the rest", is_ours=True)
        recorder.record(trainer, "before_step", "hooks", is_ours=True)
        recorder.record(trainer, "after_step", "hooks", is_ours=True)
        with EventStorage() as trainer.storage:
            trainer.before_train()
            _run_steps(trainer, 0, 1)
            with profile(activities=[ProfilerActivity.CPU]) as profiler, record_function(WHOLE):
                _run_steps(trainer, 1, 1 + num_steps)
        for writer in trainer.writers:
            writer.close()
        return recorder.parts(profiler.events(), num_steps)


def profile_evaluation(loss: str, quick: bool = False) -> list[Part]:
    """As :func:`profile_step`: the parts of the evaluation of some images, means over images."""
    num_images = 2 if quick else NUM_IMAGES
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        cfg = _config(Path(folder), loss, num_images, quick)
        model = LongTailTrainer.build_model(cfg).eval()
        recorder = _Recorder(stack)
        _record_model(recorder, model)
        predictor = LongTailFastRCNNOutputLayers
        recorder.record(predictor, "inference", "box post-processing", is_ours=True)
        recorder.record(rle_postprocessing, "rle_postprocess", "masks to RLE", is_ours=True)
        recorder.record(LVISEvaluation, "add", "matching", is_ours=True)
        recorder.record(LVISEvaluation, "flush", "matching", is_ours=True)
        recorder.record(LVISEvaluation, "finish", "AP", is_ours=True)
        recorder.record(ResultsWriter, "write", "writing results", is_ours=True)
        recorder.record(LongTailLVISEvaluator, "process", "evaluator, the rest", is_ours=True)
        recorder.record(LongTailLVISEvaluator, "evaluate", "evaluator, the rest", is_ours=True)
        recorder.record(trainer_module, "show_evaluation", "pictures and report", is_ours=True)
        with profile(activities=[ProfilerActivity.CPU]) as profiler, record_function(WHOLE):
            LongTailTrainer.test(cfg, model)
        return recorder.parts(profiler.events(), num_images)


def describe(parts: Sequence[Part]) -> str:
    """A table in Markdown, the most expensive part first."""
    total = sum(part.seconds for part in parts)
    ours = [part for part in parts if part.is_ours]
    ordered = sorted(parts, key=lambda part: part.seconds, reverse=True)
    lines = [[x.name, "ours" * x.is_ours, *_cells([x], total)] for x in ordered if x.seconds]
    lines += [["all of ours", "", *_cells(ours, total)], [WHOLE, "", *_cells(parts, total)]]
    headers = ["part", "", "forward, ms", "backward, ms", "share, %"]
    alignment = ["left", "left", "right", "right", "right"]
    return tabulate(lines, headers, "pipe", disable_numparse=True, colalign=alignment)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m eql_seesaw.benchmarks.profiles",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    profiles = {"step": profile_step, "evaluation": profile_evaluation}
    parser.add_argument("work", choices=profiles)
    parser.add_argument("--loss", choices=LOSSES, default="seesaw", help="default: seesaw")
    args = parser.parse_args(arguments)
    print(describe(profiles[args.work](args.loss)))
    return 0


class _Recorder:
    """
    Names calls of functions for the profiler, until ``stack`` is closed, and sorts what it saw by
    these names. Within a nested call, time belongs to the innermost.
    """

    def __init__(self, stack: contextlib.ExitStack):
        self._stack = stack
        self._is_ours = dict.fromkeys([OTHERS, *NAMED_PARTS.values()], False)

    def record(self, owner: Any, function: str, part: str, is_ours: bool = False) -> None:
        """
        Args:
            owner: object, class or module that has the function.
            function: its name.
            part: what its time is to be counted as.
            is_ours: as in :class:`Part`.
        """
        self._is_ours[part] = is_ours
        recorded = _recorded(getattr(owner, function), part)
        self._stack.enter_context(mock.patch.object(owner, function, recorded))

    def parts(self, events: Iterable[Any], count: int) -> list[Part]:
        """
        Args:
            events: of the profiler.
            count: of steps, or images.
        """
        # Of each event: its part, and whether it is in the backward pass.
        labels: dict[int, tuple[str, bool]] = {}
        part_of_node: dict[int, str] = {}
        seconds = {part: [0.0, 0.0] for part in self._is_ours}
        by_start = lambda event: (event.time_range.start, -event.time_range.end)  # noqa: E731
        for event in sorted(events, key=by_start):
            parent = labels.get(event.cpu_parent and event.cpu_parent.id)
            if parent is None and event.name != WHOLE:
                continue  # in another thread, or before or after
            part, is_backward = parent or (OTHERS, False)
            if event.name.startswith(BACKWARD):
                # A node of the graph has the number that its operation had in the forward pass.
                part, is_backward = part_of_node.get(event.sequence_nr, OTHERS), True
            elif not is_backward:
                part = self._part(event.name, part)
                part_of_node[event.sequence_nr] = part
            labels[event.id] = part, is_backward
            seconds[part][is_backward] += event.self_cpu_time_total / 1e6 / count
        return [Part(name, self._is_ours[name], *both) for name, both in seconds.items()]

    def _part(self, event_name: str, part_of_parent: str) -> str:
        if event_name in self._is_ours:
            return event_name
        for beginning, part in NAMED_PARTS.items():
            if event_name.startswith(beginning):
                return part
        return part_of_parent


def _recorded(function: Callable, part: str) -> Callable:
    @functools.wraps(function)
    def call(*args, **kwargs):
        with record_function(part):
            return function(*args, **kwargs)

    return call


def _record_model(recorder: _Recorder, model: GeneralizedRCNN) -> None:
    """What training and evaluation have in common."""
    heads = model.roi_heads
    recorder.record(model, "forward", "model, the rest")
    recorder.record(model, "inference", "model, the rest")
    recorder.record(model, "preprocess_image", "preparing images")
    recorder.record(model.backbone, "forward", "backbone and FPN")
    recorder.record(model.proposal_generator, "forward", "RPN")
    recorder.record(heads, "forward", "proposals: match and sample")
    recorder.record(heads.box_pooler, "forward", "box pooling")
    recorder.record(heads.box_head, "forward", "box head")
    recorder.record(heads.box_predictor, "forward", "classifier and box layer")
    recorder.record(heads.mask_pooler, "forward", "mask pooling")
    recorder.record(heads.mask_head, "forward", "mask head")


def _run_steps(trainer: LongTailTrainer, start: int, end: int) -> None:
    for trainer.iter in range(start, end):
        trainer.before_step()
        trainer.run_step()
        trainer.after_step()


def _config(folder: Path, loss: str, num_images: int, quick: bool) -> CfgNode:
    """A config whose dataset is generated in a folder, and registered."""
    ground_truth = lvis_like_ground_truth(num_images)
    rng = np.random.default_rng(0)
    for image in ground_truth["images"]:
        pixels = rng.integers(256, size=(image["height"], image["width"], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / image["file_name"])
    annotations = folder / "annotations.json"
    annotations.write_text(json.dumps(ground_truth))
    size = TINY_IMAGE_SIZE if quick else IMAGE_SIZE
    sizes = {"MIN_SIZE_TRAIN": [size], "MAX_SIZE_TRAIN": size}
    sizes |= {"MIN_SIZE_TEST": size, "MAX_SIZE_TEST": size}
    settings = {
        "_BASE_": str(CONFIG_FILE),
        "DATASETS": {
            "REGISTER": {DATASET: {"JSON": str(annotations), "IMAGES": str(folder)}},
            "TRAIN": [DATASET],
            "TEST": [DATASET],
        },
        "DATALOADER": {"NUM_WORKERS": 0},
        "INPUT": sizes,
        "MODEL": {
            "DEVICE": "cpu",
            "WEIGHTS": "",
            # As in the benchmark of the training step.
            "RESNETS": {"NORM": "BN"},
            "ROI_HEADS": {"NUM_CLASSES": len(ground_truth["categories"])},
            "ROI_BOX_HEAD": {"CLS_LOSS": loss},
        },
        "SOLVER": {"IMS_PER_BATCH": 1, "BASE_LR": float(LEARNING_RATE)},
        "OUTPUT_DIR": str(folder),
    }
    config_file = folder / "config.yaml"
    config_file.write_text(yaml.safe_dump(settings))
    cfg = load_config(str(config_file), list(TINY_MODEL) if quick else [])
    register_datasets(cfg)
    return cfg


def _cells(parts: Sequence[Part], total: float) -> list[str]:
    forward, backward = (sum(x) for x in ([p.forward for p in parts], [p.backward for p in parts]))
    return [
        f"{1000 * forward:.1f}",
        f"{1000 * backward:.1f}",
        f"{100 * (forward + backward) / total:.1f}",
    ]


if __name__ == "__main__":
    sys.exit(main())
