"""
Time and memory from the start of a process, its imports done, to its first batch, beside
Detectron2's loader on the same LVIS-like training set. Each start is a process of its own; ours
does what a training does until then: it registers and reads the dataset, counts its classes and
builds the loader. Generated files (1.1 GB) stay in output/benchmarks.

    python -m benchmarks.first_batch
"""

import json
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from .lvis_like_training_set import lvis_like_training
from .lvis_like_validation_set import NUM_TRAIN_IMAGES
from .measure import arguments, in_own_process, kilobytes, print_table, row

TRAINING_SETS = Path("output/benchmarks/training_sets")
# Detectron2 finds LVIS's categories by the "v1".
NAME = "generated_lvis_v1_train"
OPTIONS = (
    *("SEED", "1"),
    *("DATASETS.TRAIN", f"('{NAME}',)"),
    *("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"),
    *("DATALOADER.REPEAT_THRESHOLD", "0.001"),
    *("MODEL.MASK_ON", "True"),
    *("MODEL.ROI_HEADS.NUM_CLASSES", "1203"),
    *("SOLVER.IMS_PER_BATCH", "8"),
)


def measure(which: str, json_file: str, image_root: str, num_workers: str) -> dict[str, Any]:
    """One start, in this process: seconds, bytes, and the images of the first batch."""
    import lvis  # noqa: F401, of load_lvis_json
    from detectron2.config import CfgNode
    from detectron2.data import build_detection_train_loader
    from detectron2.data.datasets import register_lvis_instances

    from eql_seesaw.config import merge_config
    from eql_seesaw.data.register import register_datasets
    from eql_seesaw.data.train_loader import build_train_loader
    from eql_seesaw.data.training_set import load_training_set

    cfg = merge_config("", [*OPTIONS, "DATALOADER.NUM_WORKERS", num_workers])
    before, before_shared = kilobytes("/proc/self/status", "VmRSS"), proportional(os.getpid())
    start = time.perf_counter()
    if which == "theirs":
        register_lvis_instances(NAME, {}, json_file, image_root)
        loader = build_detection_train_loader(cfg)
    else:
        cfg.DATASETS.REGISTER[NAME] = CfgNode({"JSON": json_file, "IMAGES": image_root})
        register_datasets(cfg)
        training_set = load_training_set(cfg)
        loader = build_train_loader(cfg, training_set.images)
    batches = iter(loader)  # kept, since it ends its workers when it goes
    batch = next(batches)
    seconds = time.perf_counter() - start
    processes = [os.getpid(), *(p.pid for p in multiprocessing.active_children())]
    assert len(processes) == 1 + int(num_workers), "workers are measured too"
    # The larger of the peak before the workers start, and of all processes at the first batch.
    peak = kilobytes("/proc/self/status", "VmHWM") - before
    memory = max(peak, sum(map(proportional, processes)) - before_shared)
    return {"seconds": seconds, "memory": memory, "images": [image["image_id"] for image in batch]}


def proportional(pid: int) -> int:
    """Kilobytes of a process, where what n processes share counts as an nth."""
    return kilobytes(f"/proc/{pid}/smaps_rollup", "Pss")


def main() -> None:
    if sys.argv[1:2] in (["ours"], ["theirs"]):
        print(json.dumps(measure(*sys.argv[1:])))
        return
    args = arguments(__doc__)
    rows = []
    sizes = {100: 1} if args.quick else {1_000: 3, NUM_TRAIN_IMAGES: 2}
    with tempfile.TemporaryDirectory() as temporary:
        for num_images, rounds in sizes.items():
            folder = Path(temporary) if args.quick else TRAINING_SETS
            training_set = lvis_like_training(folder, num_images)
            size = os.path.getsize(training_set.json_file) / 1e6
            for num_workers in (1,) if args.quick else (1, 4):
                starts = [
                    [
                        in_own_process("first_batch", which, *training_set, str(num_workers))
                        for which in ("ours", "theirs")
                    ]
                    for _ in range(rounds)
                ]
                ours, theirs = zip(*starts, strict=True)
                # With several workers Detectron2 takes the images in another order.
                if num_workers == 1:
                    assert ours[0]["images"] == theirs[0]["images"]
                rows.append(
                    row(
                        f"start to first batch, {num_workers} worker(s)",
                        "register_lvis_instances, build_detection_train_loader",
                        f"{num_images:,} images, {size:,.0f} MB",
                        [x["seconds"] for x in ours],
                        [x["seconds"] for x in theirs],
                        max(x["memory"] for x in ours),
                        max(x["memory"] for x in theirs),
                        "identical" if num_workers == 1 else "",
                    )
                )
    print_table("Start to first batch", rows)


if __name__ == "__main__":
    main()
