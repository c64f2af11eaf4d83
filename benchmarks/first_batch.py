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


def measure(which: str, json_file: str, image_root: str, num_workers: str) -> None:
    """One start, in this process: prints seconds, kilobytes, and the images of the first batch."""
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
    images = [image["image_id"] for image in next(batches)]
    seconds = time.perf_counter() - start
    processes = [os.getpid(), *(p.pid for p in multiprocessing.active_children())]
    assert len(processes) == 1 + int(num_workers), "workers are measured too"
    # The larger of the peak before the workers start, and of all processes at the first batch.
    peak = kilobytes("/proc/self/status", "VmHWM") - before
    memory = max(peak, sum(map(proportional, processes)) - before_shared)
    print(json.dumps({"seconds": seconds, "memory": memory, "images": images}))


def proportional(pid: int) -> int:
    """Kilobytes of a process, where what n processes share counts as an nth."""
    return kilobytes(f"/proc/{pid}/smaps_rollup", "Pss")


def main() -> None:
    if sys.argv[1:2] in (["ours"], ["theirs"]):
        measure(*sys.argv[1:])
        return
    args = arguments(__doc__)
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for num_images in (100,) if args.quick else (1_000, NUM_TRAIN_IMAGES):
            training_set = lvis_like_training(
                Path(temporary) if args.quick else TRAINING_SETS, num_images
            )
            size = f"{num_images:,} images, {os.path.getsize(training_set.json_file) / 1e6:,.0f} MB"
            for num_workers in ("1",) if args.quick else ("1", "4"):
                starts: dict[str, list] = {"ours": [], "theirs": []}
                for _ in range(1 if args.quick else 2):
                    for which, measured in starts.items():
                        words = (which, *training_set, num_workers)
                        measured.append(in_own_process("first_batch", *words))
                # With several workers Detectron2 takes the images in another order.
                if num_workers == "1":
                    assert starts["ours"][0]["images"] == starts["theirs"][0]["images"]
                seconds = [[x["seconds"] for x in measured] for measured in starts.values()]
                memory = [max(1e3 * x["memory"] for x in y) for y in starts.values()]
                work = f"start to first batch, {num_workers} worker(s)"
                against = "register_lvis_instances, build_detection_train_loader"
                rows.append(row(work, against, size, *seconds, *memory))
    print_table("Start to first batch", rows)


if __name__ == "__main__":
    main()
