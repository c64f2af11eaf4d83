"""
Time, memory and numbers of LVIS evaluation, beside the official package's, in one run.

    python -m eql_seesaw.benchmarks.lvis_evaluation                   # 5,000 images
    python -m eql_seesaw.benchmarks.lvis_evaluation --images 19809 --without-official

Ground truth and detections are generated (``lvis_like``), 300 detections an image. Each
measurement is a process of its own on one core: two JSON files in, all numbers out. The last one
is the evaluator as training uses it: detections come image by image, and what counts is the time
from the last image to the printed table, with all files but the report written.
"""

import argparse
import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from ..data.register import register_instances
from ..evaluation.ground_truth import load_ground_truth
from ..evaluation.lvis_evaluation import LVISEvaluation, build_engine
from ..evaluation.lvis_evaluator import LongTailLVISEvaluator
from ..evaluation.official_engine import official_package
from ..evaluation.results import ResultsFile
from .lvis_like import (
    NUM_VAL_IMAGES,
    lvis_like_detections,
    lvis_like_ground_truth,
    write_results,
)

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
            rows += [row(name, measured, iou_type, folder) for name in engines]
        print_table(rows, f"{args.images:,} images, files to numbers, one core")
        finish = run("evaluator", folder)
        print(
            f"\nEvaluator, boxes and masks: {finish['load']:.1f} s for the ground truth, "
            f"{1000 * finish['add'] / args.images:.1f} ms for each image as it comes, "
            f"{finish['finish']:.1f} s from the last image to the table; "
            f"peak memory {finish['memory']:.2f} GB"
        )


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
    with open(ground_truth_file, "w") as f:
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
    if what == "evaluator":
        measured = measure_evaluator(folder)
    else:
        engine, iou_type = what.split()
        evaluate = evaluate_official if engine == "lvis" else evaluate_hotcoco
        start = time.perf_counter(), time.process_time()
        precision, recall = evaluate(folder, iou_type)
        measured = {"wall": time.perf_counter() - start[0], "cpu": time.process_time() - start[1]}
        np.savez(arrays_file(folder, engine, iou_type), precision=precision, recall=recall)
    measured["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps(measured))


def evaluate_official(folder: str, iou_type: str) -> tuple[np.ndarray, np.ndarray]:
    """As its README says, on files."""
    with official_package() as lvis:
        ground_truth = lvis.LVIS(os.path.join(folder, GROUND_TRUTH))
        with open(os.path.join(folder, RESULTS)) as f:
            results = json.load(f)
        if iou_type == "segm":
            for result in results:  # beside a box, it takes the box's area for the mask's
                del result["bbox"]
        detections = lvis.LVISResults(ground_truth, results)
        evaluation = lvis.LVISEval(ground_truth, detections, iou_type)
        evaluation.run()
    return evaluation.eval["precision"], evaluation.eval["recall"]


def evaluate_hotcoco(folder: str, iou_type: str) -> tuple[np.ndarray, np.ndarray]:
    """As ``python -m eql_seesaw.evaluation`` does."""
    ground_truth = load_ground_truth(os.path.join(folder, GROUND_TRUTH))
    results = ResultsFile(os.path.join(folder, RESULTS))
    gc.collect()
    gc.freeze()
    engine = build_engine("hotcoco", ground_truth, iou_type, 300)
    evaluation = LVISEvaluation(ground_truth, [iou_type], {"result": engine})
    for image in ground_truth["images"]:
        evaluation.add(results.detections(image["id"]))
    result = evaluation.finish()["result"]
    return result.precision, result.recall


def measure_evaluator(folder: str) -> dict[str, float]:
    """The evaluator, fed with detections as they come from a model."""
    register_instances("lvis_like", os.path.join(folder, GROUND_TRUTH), "")
    start = time.perf_counter()
    evaluator = LongTailLVISEvaluator("lvis_like", os.path.join(folder, "evaluation"))
    evaluator.reset()
    ground_truth = evaluator.ground_truth
    load = time.perf_counter() - start
    results = ResultsFile(os.path.join(folder, RESULTS))
    add = 0
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
    numbers, official = measured[engine], measured.get("lvis")
    cells = [iou_type, engine, *(f"{numbers[key]:.2f}" for key in ("wall", "cpu", "memory"))]
    if engine == "lvis" or official is None:
        return [*cells, "", ""]
    ours, theirs = (np.load(arrays_file(folder, name, iou_type)) for name in (engine, "lvis"))
    difference = max(np.abs(ours[key] - theirs[key]).max() for key in ("precision", "recall"))
    return [*cells, f"{official['cpu'] / numbers['cpu']:.1f}", f"{difference:g}"]


def print_table(rows: list, title: str) -> None:
    headers = (
        "",
        "engine",
        "wall s",
        "CPU s",
        "peak memory GB",
        "times faster (CPU)",
        "largest difference",
    )
    print(f"{title}\n{tabulate(rows, headers, 'pipe', disable_numparse=True)}")


if __name__ == "__main__":
    main()
