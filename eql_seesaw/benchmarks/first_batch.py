"""
Time and memory from the start of a process to its first batch, beside Detectron2's loader.

Each measurement is a process of its own. Ours does what a training does until then: it registers
the dataset, gets its class statistics (all losses do, at each start) and builds the loader. It
begins once with statistics to be counted and once with those that the run before left.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from .lvis_like_training_set import TrainingSet, lvis_like_training
from .lvis_like_validation_set import NUM_TRAIN_IMAGES
from .row import Row

if TYPE_CHECKING:
    from detectron2.config import CfgNode

NUM_CLASSES = 1203
# Images of the set, and how often each start is measured.
SIZES = {1_000: 5, 10_000: 3, NUM_TRAIN_IMAGES: 2}
NUM_WORKERS = (1, 4)
IMAGES_PER_BATCH = 8
TRAINING_SETS = Path("output/benchmarks/training_sets")
# Detectron2 finds LVIS's categories by the "v1".
DATASET_NAME = "generated_lvis_v1_train"
COLD, WARM = "class statistics counted", "class statistics from their cache"


def rows(device: str, quick: bool) -> Iterator[Row]:
    """The rows of each size; nothing but on CPU."""
    if device != "cpu":
        return
    if quick:
        with tempfile.TemporaryDirectory() as folder:
            training_set = lvis_like_training(Path(folder), 100)
            yield from _rows_of_size(training_set, 100, num_workers=1, repetitions=1)
        return
    for num_images, repetitions in SIZES.items():
        training_set = lvis_like_training(TRAINING_SETS, num_images)
        for num_workers in NUM_WORKERS:
            yield from _rows_of_size(training_set, num_images, num_workers, repetitions)


def _rows_of_size(
    training_set: TrainingSet, num_images: int, num_workers: int, repetitions: int
) -> Iterator[Row]:
    started: dict[str, list[dict[str, Any]]] = {COLD: [], WARM: [], "detectron2": []}
    for _ in range(repetitions):
        for how, measurements in started.items():
            measurements.append(_start(how, training_set, num_workers))
    peer = started.pop("detectron2")
    size = os.path.getsize(training_set.json_file)
    has_aim = num_images == NUM_TRAIN_IMAGES  # imports alone take longer than to load a few
    for how, ours in started.items():
        same_images = all(x["image_ids"] == peer[0]["image_ids"] for x in [*ours, *peer])
        for name, keys in (
            ("start to first batch", ["first_batch"]),
            ("start to first batch, with imports", ["imports", "first_batch"]),
        ):
            is_first = len(keys) == 1
            yield Row(
                benchmark="first_batch",
                work=f"{name}, workers: {num_workers}, {how}",
                against="Detectron2: register_lvis_instances, build_detection_train_loader",
                size=f"{num_images:,} images, {size / 1e6:,.0f} MB of annotations",
                parameters={
                    "num_images": num_images,
                    "num_classes": NUM_CLASSES,
                    "num_workers": num_workers,
                },
                seconds=[sum(x[key] for key in keys) for x in ours],
                peer_seconds=[sum(x[key] for key in keys) for x in peer],
                memory=max(x["memory"] for x in ours) if is_first else None,
                peer_memory=max(x["memory"] for x in peer) if is_first else None,
                time_limit=0.5 if has_aim else None,
                memory_limit=1.0 if has_aim and is_first else None,
                # With several workers Detectron2 takes the images in another order.
                identical=same_images if num_workers == 1 else None,
                note="memory: the larger of the peak resident memory until the workers start, and "
                "the proportional memory of all processes at the first batch"
                if is_first
                else "",
            )


def _start(how: str, training_set: TrainingSet, num_workers: int) -> dict[str, Any]:
    """What a process of its own measures."""
    command = [sys.executable, "-W", "ignore", "-m", __name__, how, *training_set]
    command += [str(num_workers), str(time.time())]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(output.stdout.splitlines()[-1])


def main() -> None:
    """Measure one start, and print seconds, memory (bytes) and the images as the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("how", choices=(COLD, WARM, "detectron2"))
    parser.add_argument("json_file")
    parser.add_argument("image_root")
    parser.add_argument("num_workers", type=int)
    parser.add_argument("started", type=float)
    args = parser.parse_args()
    if args.how == COLD:
        _forget_statistics(args.json_file)
    prepare = _detectron2_loader if args.how == "detectron2" else _our_loader
    build = prepare(args)
    imports = time.time() - args.started
    resident, proportional = _resident("VmRSS"), _proportional(os.getpid())
    start = time.perf_counter()
    batches = iter(build())  # kept, since it ends its workers when it goes
    batch = next(batches)
    first_batch = time.perf_counter() - start
    workers = [cast(int, process.pid) for process in multiprocessing.active_children()]
    if len(workers) != args.num_workers:
        sys.exit(f"error: {len(workers)} workers are there to be measured, not {args.num_workers}")
    processes = [os.getpid(), *workers]
    memory = max(_resident("VmHWM") - resident, sum(map(_proportional, processes)) - proportional)
    measured = {"imports": imports, "first_batch": first_batch, "memory": memory}
    print(json.dumps({**measured, "image_ids": [image["image_id"] for image in batch]}))


def _our_loader(args: argparse.Namespace) -> Callable[[], Iterable[list[dict[str, Any]]]]:
    """Imports what training with this project needs; the function that it returns loads."""
    from detectron2.config import CfgNode

    from ..data.class_statistics import get_class_statistics
    from ..data.register import register_datasets
    from ..data.train_loader import build_train_loader

    def build():
        cfg = _config(args.num_workers)
        entry = CfgNode({"JSON": args.json_file, "IMAGES": args.image_root})
        cfg.DATASETS.REGISTER[DATASET_NAME] = entry
        register_datasets(cfg)
        get_class_statistics(cfg.DATASETS.TRAIN, NUM_CLASSES)
        return build_train_loader(cfg)

    return build


def _detectron2_loader(args: argparse.Namespace) -> Callable[[], Iterable[list[dict[str, Any]]]]:
    """Imports what Detectron2 needs; the function that it returns loads."""
    import lvis  # noqa: F401, by load_lvis_json
    from detectron2.data import build_detection_train_loader
    from detectron2.data.datasets import register_lvis_instances

    def build():
        cfg = _config(args.num_workers)
        register_lvis_instances(DATASET_NAME, {}, args.json_file, args.image_root)
        return build_detection_train_loader(cfg)

    return build


def _config(num_workers: int) -> "CfgNode":
    from detectron2.config import get_cfg

    from ..config import add_long_tail_config

    cfg = get_cfg()
    add_long_tail_config(cfg)
    cfg.SEED = 1
    cfg.DATASETS.TRAIN = (DATASET_NAME,)
    cfg.DATALOADER.NUM_WORKERS = num_workers
    cfg.DATALOADER.SAMPLER_TRAIN = "RepeatFactorTrainingSampler"
    cfg.DATALOADER.REPEAT_THRESHOLD = 0.001
    cfg.MODEL.MASK_ON = True
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = NUM_CLASSES
    cfg.SOLVER.IMS_PER_BATCH = IMAGES_PER_BATCH
    return cfg


def _forget_statistics(json_file: str) -> None:
    Path(json_file + ".class_statistics.json").unlink(missing_ok=True)


def _resident(key: str) -> int:
    """Bytes of this process in memory, now ("VmRSS") or at the worst moment ("VmHWM")."""
    return _kilobytes("/proc/self/status", key) * 1024


def _proportional(pid: int) -> int:
    """Bytes of a process in memory, where what n processes share counts as an nth."""
    return _kilobytes(f"/proc/{pid}/smaps_rollup", "Pss") * 1024


def _kilobytes(path: str, key: str) -> int:
    with open(path) as f:
        (line,) = (line for line in f if line.startswith(f"{key}:"))
    return int(line.split()[1])


if __name__ == "__main__":
    main()
