"""
LVIS evaluation beside the official package: 300 detections an image, in CPU seconds of processes
of their own on one core, with the loading of both files and without. The same arrays, to the bit.

    python -m benchmarks.lvis_evaluation
"""

import dataclasses
import json
import os
import sys
import tempfile
import time
from typing import Any

import numpy as np

from eql_seesaw.evaluation.ground_truth import load_ground_truth
from eql_seesaw.evaluation.lvis_evaluation import LVISEvaluation
from eql_seesaw.evaluation.official_engine import official_package
from eql_seesaw.evaluation.results_file import ResultsFile

from .lvis_like_validation_set import lvis_like_detections, lvis_like_ground_truth, write_results
from .measure import arguments, in_own_process, kilobytes, print_table, row


def ours(ground_truth_file: str, results_file: str, iou_type: str) -> tuple[list, dict]:
    """Precision and recall arrays as ``python -m eql_seesaw.evaluation`` makes them; seconds."""
    start = time.process_time()
    ground_truth, results = load_ground_truth(ground_truth_file), ResultsFile(results_file)
    loaded = time.process_time()
    evaluation = LVISEvaluation(ground_truth)
    unused: dict[str, Any] = {"masks": None} if iou_type == "bbox" else {"boxes": None}
    for image in ground_truth["images"]:
        evaluation.add(dataclasses.replace(results.detections(image["id"]), **unused))
    result = evaluation.result(iou_type)
    end = time.process_time()
    return [result.precision, result.recall], {"load": loaded - start, "evaluate": end - loaded}


def theirs(ground_truth_file: str, results_file: str, iou_type: str) -> tuple[list, dict]:
    """The official package as its README has it."""
    lvis = official_package()
    start = time.process_time()
    ground_truth = lvis.LVIS(ground_truth_file)
    with open(results_file) as f:
        results = json.load(f)
    loaded = time.process_time()
    if iou_type == "segm":
        for result in results:  # beside a box, it takes the box's area for the mask's
            del result["bbox"]
    evaluation = lvis.LVISEval(ground_truth, lvis.LVISResults(ground_truth, results), iou_type)
    evaluation.run()
    end = time.process_time()
    arrays = [evaluation.eval["precision"], evaluation.eval["recall"]]
    return arrays, {"load": loaded - start, "evaluate": end - loaded}


def measure(which: str, folder: str, iou_type: str) -> None:
    """Evaluate in this process, save the arrays, and print what it cost."""
    official_package()  # imported before anything is measured
    before = kilobytes("/proc/self/status", "VmHWM")
    files = [os.path.join(folder, name) for name in ("ground_truth.json", "results.json")]
    arrays, seconds = (ours if which == "ours" else theirs)(*files, iou_type)
    np.savez(os.path.join(folder, f"{which}.npz"), *arrays)
    memory = kilobytes("/proc/self/status", "VmHWM") - before
    print(json.dumps({**seconds, "memory": memory}))


def main() -> None:
    if sys.argv[1:2] in (["ours"], ["theirs"]):
        measure(*sys.argv[1:])
        return
    args = arguments(__doc__)
    rows = []
    for num_images in (20,) if args.quick else (1000, 5000):
        with tempfile.TemporaryDirectory() as folder:
            ground_truth = lvis_like_ground_truth(num_images)
            with open(os.path.join(folder, "ground_truth.json"), "w") as f:
                json.dump(ground_truth, f)
            write_results(lvis_like_detections(ground_truth), os.path.join(folder, "results.json"))
            regions = {"bbox": "boxes"} if args.quick else {"bbox": "boxes", "segm": "masks"}
            for iou_type, name in regions.items():
                own, peer = (
                    in_own_process("lvis_evaluation", which, folder, iou_type)
                    for which in ("ours", "theirs")
                )
                arrays = [np.load(os.path.join(folder, f"{w}.npz")) for w in ("ours", "theirs")]
                for key in arrays[0]:
                    np.testing.assert_array_equal(*(of_one[key] for of_one in arrays))
                size = f"{num_images:,} images, 300 detections each"
                for steps, files in ((("evaluate",), ""), (("load", "evaluate"), ", files loaded")):
                    seconds = [[sum(x[step] for step in steps)] for x in (own, peer)]
                    memory = [1e3 * x["memory"] for x in (own, peer)]
                    work = f"LVIS evaluation of {name}{files}"
                    rows.append(row(work, "lvis", size, *seconds, *memory))
    print_table("LVIS evaluation", rows)


if __name__ == "__main__":
    main()
