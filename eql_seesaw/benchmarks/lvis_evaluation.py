"""
Time, memory and numbers of LVIS evaluation, beside the official package's, in one run.

    python -m eql_seesaw.benchmarks.lvis_evaluation                   # 5,000 images
    python -m eql_seesaw.benchmarks.lvis_evaluation --images 19809 --without-official

Ground truth and detections are generated (``lvis_like_validation_set``), 300 detections an image.
Each measurement is a process of its own on one core: two JSON files are loaded and evaluated. The
last one is the evaluator as training uses it: detections come image by image, and what counts is
the time from the last image to the printed table, with all files but the report written.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from ..atomic_write import atomic_file
from ..data.register import register_instances
from ..evaluation.ground_truth import load_ground_truth
from ..evaluation.lvis_evaluation import ENGINES, LVISEvaluation
from ..evaluation.lvis_evaluator import LongTailLVISEvaluator
from ..evaluation.official_engine import official_package
from ..evaluation.results_file import ResultsFile
from .lvis_like_validation_set import (
    NUM_VAL_IMAGES,
    lvis_like_detections,
    lvis_like_ground_truth,
    write_results,
)
from .row import Row

GROUND_TRUTH, RESULTS = "ground_truth.json", "results.json"
IOU_TYPES = ("bbox", "segm")


def main() -> None:
    args = parse_arguments()
    if args.measure:
        measure(args.measure, args.folder)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or temporary
        os.makedirs(folder, exist_ok=True)
        generate(folder, args.images)
        engines = ["hotcoco"] if args.without_official else ["lvis", "hotcoco"]
        rows = []
        for iou_type in IOU_TYPES:
            measured = {engine: run(f"{engine} {iou_type}", folder) for engine in engines}
            rows += [row(engine, measured, iou_type, folder) for engine in engines]
        print_table(rows, args.images)
        finish = run("evaluator", folder)
        print(
            f"\nEvaluator, boxes and masks: {finish['load']:.1f} s for the ground truth, "
            f"{1000 * finish['add'] / args.images:.1f} ms for each image as it comes, "
            f"{finish['finish']:.1f} s from the last image to the table; "
            f"peak memory {finish['memory']:.2f} GB"
        )


def rows(device: str, quick: bool) -> Iterator[Row]:
    """See `eql_seesaw.benchmarks`. The work is done on CPU only."""
    if device != "cpu":
        return
    for num_images, num_rounds in ((50, 1),) if quick else ((1000, 3), (5000, 1)):
        with tempfile.TemporaryDirectory() as folder:
            generate(folder, num_images)
            for iou_type in IOU_TYPES:
                yield from compare(iou_type, folder, num_images, num_rounds)


def compare(iou_type: str, folder: str, num_images: int, num_rounds: int) -> Iterator[Row]:
    """The rows of one IoU type: evaluation alone, and with the loading of both files."""
    rounds = [
        {engine: run(f"{engine} {iou_type}", folder) for engine in ("hotcoco", "lvis")}
        for _ in range(num_rounds)
    ]
    seconds = {
        (engine, steps): [sum(measured[engine][step] for step in steps) for measured in rounds]
        for engine in ("hotcoco", "lvis")
        for steps in (("evaluate",), ("load", "evaluate"))
    }
    memory, peer_memory = (memory_of_data(rounds[0][engine]) for engine in ("hotcoco", "lvis"))
    name = "boxes" if iou_type == "bbox" else "masks"
    for work, steps, limit in (
        (f"LVIS evaluation of {name}", ("evaluate",), 0.02),
        (f"LVIS evaluation of {name}, files loaded", ("load", "evaluate"), 0.05),
    ):
        yield Row(
            benchmark="lvis_evaluation",
            work=work,
            against="lvis",
            size=f"{num_images:,} images, 300 detections each, one core",
            parameters={"num_images": num_images, "num_classes": 1203},
            seconds=seconds["hotcoco", steps],
            peer_seconds=seconds["lvis", steps],
            memory=memory,
            peer_memory=peer_memory,
            time_limit=limit,
            identical=largest_difference("hotcoco", "lvis", iou_type, folder) == 0,
            note="CPU seconds, each in a process of its own; resident memory with the files loaded",
        )


def memory_of_data(measured: dict[str, float]) -> int:
    """Peak memory in bytes beyond that of the imported packages."""
    return int((measured["memory"] - measured["memory_before"]) * 2**30)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=5000, help=f"LVIS v1 has {NUM_VAL_IMAGES}")
    parser.add_argument("--folder", help="keep the generated files here, or use those that are")
    parser.add_argument(
        "--without-official",
        action="store_true",
        help="for more images than the official package has memory for: a gigabyte for 1,000",
    )
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    return parser.parse_args()


def generate(folder: str, num_images: int) -> None:
    """Write both files, unless they are there with as many images."""
    ground_truth_file = os.path.join(folder, GROUND_TRUTH)
    if os.path.exists(ground_truth_file) and os.path.exists(os.path.join(folder, RESULTS)):
        with open(ground_truth_file) as f:
            found = len(json.load(f)["images"])
        if found != num_images:
            sys.exit(f"error: {folder} has files of {found} images, not {num_images}")
        return
    ground_truth = lvis_like_ground_truth(num_images)
    detections = lvis_like_detections(ground_truth)
    progress = tqdm(detections, "Generating", num_images, unit="image", disable=None)
    write_results(progress, os.path.join(folder, RESULTS))
    with atomic_file(ground_truth_file) as f:
        json.dump(ground_truth, f)


def run(what: str, folder: str) -> dict[str, float]:
    """One measurement, in a process of its own on one core."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-m", __spec__.name]
    command += ["--measure", what, "--folder", folder]
    output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(output.stdout.splitlines()[-1])


def measure(what: str, folder: str) -> None:
    """Measure, save the arrays, and print times and peak memory (GB) as the last line."""
    os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])
    with official_package():
        pass  # imported before anything is measured, as hotcoco is
    memory_before = peak_memory()
    if what == "evaluator":
        measured = measure_evaluator(folder)
    else:
        engine, iou_type = what.split()
        load, evaluate = OFFICIAL if engine == "lvis" else HOTCOCO
        start = time.process_time()
        loaded = load(folder)
        middle = time.process_time()
        precision, recall = evaluate(*loaded, iou_type)
        measured = {"load": middle - start, "evaluate": time.process_time() - middle}
        np.savez(arrays_file(folder, engine, iou_type), precision=precision, recall=recall)
    measured["memory_before"], measured["memory"] = memory_before, peak_memory()
    print(json.dumps(measured))


def peak_memory() -> float:
    """Of this process, in GB. What the resource module says may be that of the parent."""
    with open("/proc/self/status") as f:
        (line,) = (line for line in f if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 2**20


def load_official(folder: str) -> tuple[Any, list[dict[str, Any]]]:
    """As the package's README says, from files."""
    with official_package() as lvis:
        ground_truth = lvis.LVIS(os.path.join(folder, GROUND_TRUTH))
    with open(os.path.join(folder, RESULTS)) as f:
        return ground_truth, json.load(f)


def evaluate_official(
    ground_truth: Any, results: list[dict[str, Any]], iou_type: str
) -> tuple[np.ndarray, np.ndarray]:
    if iou_type == "segm":
        for result in results:  # beside a box, it takes the box's area for the mask's
            del result["bbox"]
    with official_package() as lvis:
        detections = lvis.LVISResults(ground_truth, results)
        evaluation = lvis.LVISEval(ground_truth, detections, iou_type)
        evaluation.run()
    return evaluation.eval["precision"], evaluation.eval["recall"]


def load_hotcoco(folder: str) -> tuple[dict, ResultsFile]:
    """As ``python -m eql_seesaw.evaluation`` does."""
    ground_truth = load_ground_truth(os.path.join(folder, GROUND_TRUTH))
    results = ResultsFile(os.path.join(folder, RESULTS))
    gc.collect()
    gc.freeze()
    return ground_truth, results


def evaluate_hotcoco(
    ground_truth: dict, results: ResultsFile, iou_type: str
) -> tuple[np.ndarray, np.ndarray]:
    engine = ENGINES["hotcoco"](ground_truth, iou_type, 300)
    evaluation = LVISEvaluation(ground_truth, 300, {iou_type: {"result": engine}})
    for image in ground_truth["images"]:
        evaluation.add(results.detections(image["id"]))
    result = evaluation.finish()[iou_type]["result"]
    return result.precision, result.recall


# What loads ground truth and detections from a folder, and what evaluates them.
Package = tuple[
    Callable[[str], tuple[Any, Any]], Callable[[Any, Any, str], tuple[np.ndarray, np.ndarray]]
]
OFFICIAL: Package = load_official, evaluate_official
HOTCOCO: Package = load_hotcoco, evaluate_hotcoco


def measure_evaluator(folder: str) -> dict[str, float]:
    """The evaluator, fed with detections as they come from a model."""
    register_instances("lvis_like", os.path.join(folder, GROUND_TRUTH), "")
    start = time.perf_counter()
    evaluator = LongTailLVISEvaluator("lvis_like", os.path.join(folder, "evaluation"))
    evaluator.reset()
    ground_truth = evaluator.ground_truth
    load = time.perf_counter() - start
    results = ResultsFile(os.path.join(folder, RESULTS))
    add = 0.0
    for image in ground_truth["images"]:
        detections = results.detections(image["id"])
        detections = detections.select(np.arange(len(detections.scores)))  # decodes the masks
        start = time.perf_counter()
        evaluator.add(detections, image["file_name"])
        add += time.perf_counter() - start
    start = time.perf_counter()
    evaluator.evaluate()
    return {"load": load, "add": add, "finish": time.perf_counter() - start}


def arrays_file(folder: str, engine: str, iou_type: str) -> str:
    return os.path.join(folder, f"{engine}_{iou_type}.npz")


def row(engine: str, measured: dict[str, dict[str, float]], iou_type: str, folder: str) -> list:
    ours, official = measured[engine], measured.get("lvis")
    cells = [iou_type, engine, *(f"{ours[key]:.2f}" for key in ("load", "evaluate", "memory"))]
    if engine == "lvis" or official is None:
        return [*cells, "", "", ""]
    difference = largest_difference(engine, "lvis", iou_type, folder)
    ratios = (
        official["evaluate"] / ours["evaluate"],
        (official["load"] + official["evaluate"]) / (ours["load"] + ours["evaluate"]),
    )
    return [*cells, *(f"{ratio:.1f}" for ratio in ratios), f"{difference:g}"]


def largest_difference(engine: str, other: str, iou_type: str, folder: str) -> float:
    """Of all precisions and recalls that two engines have measured."""
    arrays = [np.load(arrays_file(folder, name, iou_type)) for name in (engine, other)]
    differences = [arrays[0][key] - arrays[1][key] for key in ("precision", "recall")]
    return float(max(np.abs(difference).max() for difference in differences))


def print_table(rows: list, num_images: int) -> None:
    headers = (
        "",
        "engine",
        "load (s)",
        "evaluate (s)",
        "peak memory (GB)",
        "evaluation, times faster",
        "in all, times faster",
        "largest difference",
    )
    print(f"{num_images:,} images, CPU seconds on one core")
    print(tabulate(rows, headers, "pipe", disable_numparse=True))


if __name__ == "__main__":
    main()
