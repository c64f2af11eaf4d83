"""A small dataset of squares, and evaluations of it."""

import json

import numpy as np
import pycocotools.mask as mask_util
from PIL import Image

from eql_seesaw.data.register import register_instances
from eql_seesaw.evaluation import LongTailLVISEvaluator
from eql_seesaw.evaluation.detections import Detections
from eql_seesaw.evaluation.result import Result

SIZE = 64


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

    def evaluate(self, folder, results=None, iou_types=("bbox", "segm")):
        """Evaluate into a folder, by default what the class says."""
        results = self.results if results is None else results
        register_instances("shapes_val", str(self.annotation_file), str(self.picture_dir))
        evaluator = LongTailLVISEvaluator("shapes_val", str(folder), distributed=False)
        evaluator.reset()
        for i in range(1, 5):
            of_image = [result for result in results if result["image_id"] == i]
            detections = Detections.from_results(i, of_image, iou_types)
            evaluator.add(detections, str(self.picture_dir / f"{i}.png"))
        evaluator.evaluate()
        return Result.load(str(folder))


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
