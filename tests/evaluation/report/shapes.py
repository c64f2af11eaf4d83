"""A small dataset of squares, and evaluations of it."""

import json

import numpy as np
import pycocotools.mask as mask_util
from PIL import Image

from eql_seesaw.evaluation.calibration import calibration_errors
from eql_seesaw.evaluation.detections import Detections
from eql_seesaw.evaluation.ground_truth import load_ground_truth
from eql_seesaw.evaluation.hotcoco_engine import HotcocoEngine
from eql_seesaw.evaluation.lvis_evaluation import LVISEvaluation
from eql_seesaw.evaluation.matches import Matcher
from eql_seesaw.evaluation.result import Result, category_records

SIZE = 64


def write_evaluation(folder, annotation_file, results, picture_dir, iou_types):
    """Evaluate results, and write the files that an evaluation leaves in its folder."""
    ground_truth = load_ground_truth(str(annotation_file))
    accumulators = {
        iou_type: {
            "numbers": HotcocoEngine(ground_truth, iou_type, 300),
            "matches": Matcher(ground_truth, iou_type, 300),
        }
        for iou_type in iou_types
    }
    images = ground_truth["images"]
    evaluation = LVISEvaluation(ground_truth, 300, accumulators)
    for image in images:
        of_this = of_image(results, image["id"])
        evaluation.add(Detections.from_results(image["id"], of_this, iou_types))
    finished = evaluation.finish()
    numbers = {iou_type: parts["numbers"] for iou_type, parts in finished.items()}
    matches = {iou_type: parts["matches"] for iou_type, parts in finished.items()}
    groups = [category["frequency"] for category in ground_truth["categories"]]
    metrics = {
        iou_type: without_none({**result.metrics, **calibration_errors(matches[iou_type], groups)})
        for iou_type, result in numbers.items()
    }
    folder.mkdir(parents=True)
    Result(
        dataset="shapes_val",
        annotation_file=str(annotation_file),
        engine="hotcoco 1.3.0",
        max_detections=300,
        num_images=len(images),
        num_processed_images=len(images),
        date="2026-01-02 03:04",
        metrics=metrics,
        categories=category_records(ground_truth, None, numbers),
        file_names={str(image["id"]): str(picture_dir / image["file_name"]) for image in images},
        matches=matches,
    ).save(folder)
    (folder / "lvis_instances_results.json").write_text(json.dumps(results))
    return folder


def of_image(entries, image_id):
    return [entry for entry in entries if entry["image_id"] == image_id]


def without_none(numbers):
    return {name: value for name, value in numbers.items() if value is not None}


class Shapes:
    """
    Four images of squares of six classes.

    Image 1: "cat" found, "dog" detected as "cat". Image 2: two "cat", one missed; a wrong "cat".
    Image 3: "猫" found. Image 4: "cat" found. The classes "<script>alert(1)</script>" (annotated,
    never detected), 'a "quoted" & name' and "$x$" (neither annotated nor detected) are for
    escaping.
    """

    names = ("cat", "dog", "猫", "<script>alert(1)</script>", 'a "quoted" & name', "$x$")
    frequencies = ("f", "c", "r", "r", "c", "r")
    train_images = (500, 40, 3, 0, 11, None)

    def __init__(self, folder):
        self.picture_dir = folder / "pictures"
        self.picture_dir.mkdir()
        self.annotation_file = folder / "val.json"
        objects = [
            (1, 1, (4, 4, 20, 20)),
            (1, 2, (34, 34, 20, 20)),
            (2, 1, (4, 4, 20, 20)),
            (2, 1, (34, 4, 20, 20)),
            (3, 3, (10, 10, 30, 30)),
            (4, 1, (20, 20, 30, 30)),
            (4, 4, (2, 2, 10, 10)),
        ]
        images = [
            {
                "id": i,
                "file_name": f"{i}.png",
                "height": SIZE,
                "width": SIZE,
                "neg_category_ids": [],
                "not_exhaustive_category_ids": [],
            }
            for i in range(1, 5)
        ]
        images[0]["neg_category_ids"] = [3]
        for image in images:
            pixels = np.full((SIZE, SIZE, 3), 40 * image["id"], np.uint8)
            Image.fromarray(pixels).save(self.picture_dir / image["file_name"])
        annotations = [
            {"id": i + 1, "image_id": image, "category_id": k, **shape(box, polygon=True)}
            for i, (image, k, box) in enumerate(objects)
        ]
        categories = [
            {"id": k + 1, "name": name, "frequency": frequency, "image_count": count}
            for k, (name, frequency, count) in enumerate(
                zip(self.names, self.frequencies, self.train_images, strict=True)
            )
        ]
        content = {"images": images, "annotations": annotations, "categories": categories}
        self.annotation_file.write_text(json.dumps(content))
        detections = [
            (1, 1, 0.9, (4, 4, 20, 20)),
            (1, 1, 0.8, (34, 34, 20, 20)),
            (1, 3, 0.05, (34, 34, 20, 20)),
            (2, 1, 0.7, (4, 4, 20, 20)),
            (2, 1, 0.6, (40, 40, 20, 20)),
            (3, 3, 0.95, (10, 10, 30, 30)),
            (4, 1, 0.85, (20, 20, 30, 30)),
        ]
        self.results = [
            {"image_id": image, "category_id": k, "score": score, **shape(box)}
            for image, k, score, box in detections
        ]

    def write(self, folder, results=None, iou_types=("bbox", "segm")):
        """Evaluate into a folder, by default what the class says."""
        return write_evaluation(
            folder,
            self.annotation_file,
            self.results if results is None else results,
            self.picture_dir,
            iou_types,
        )


def shape(box, polygon=False):
    x, y, w, h = box
    points = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    if polygon:
        return {"bbox": list(box), "area": w * h, "segmentation": points}
    rle = mask_util.frPyObjects(points, SIZE, SIZE)[0]
    return {
        "bbox": list(box),
        "segmentation": {"size": [SIZE, SIZE], "counts": rle["counts"].decode()},
    }
