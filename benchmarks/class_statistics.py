"""
Class statistics and repeat factors of a training set, from the columns that loading leaves, beside
plain loops for the counts and Detectron2's loops for the factors: the same numbers.

    python -m benchmarks.class_statistics
"""

from typing import Any

import numpy as np
import torch
from detectron2.data.samplers import RepeatFactorTrainingSampler
from detectron2.structures import BoxMode

from eql_seesaw.data.class_statistics import annotation_columns, count_classes
from eql_seesaw.data.train_sampler import repeat_factors

from .losses import image_counts
from .lvis_like_validation_set import NUM_TRAIN_ANNOTATIONS, NUM_TRAIN_IMAGES
from .measure import arguments, print_table, row, seconds_of

THRESHOLD = 0.001
# Images, classes.
SIZES = ((1_000, 1203), *((NUM_TRAIN_IMAGES, k) for k in (80, 1203, 13_000)))


class Loaded(list):
    """Dataset dicts with ``columns``, as a read annotation file has them."""

    def __init__(self, dataset_dicts: list[dict[str, Any]]):
        super().__init__(dataset_dicts)
        self.columns = annotation_columns(dataset_dicts)


def lvis_like_dicts(num_images: int, num_classes: int) -> list[dict[str, Any]]:
    """Dataset dicts as ``load_lvis_json`` returns them; all have the same box and mask."""
    rng = np.random.default_rng(0)
    shared = {
        "bbox": [10.0, 10.0, 20.0, 20.0],
        "bbox_mode": BoxMode.XYWH_ABS,
        "segmentation": [[10.0, 10.0, 30.0, 10.0, 30.0, 30.0]],
    }
    counts = image_counts(num_classes).numpy()
    numbers = rng.poisson(NUM_TRAIN_ANNOTATIONS / NUM_TRAIN_IMAGES, num_images)
    classes = rng.choice(num_classes, numbers.sum(), p=counts / counts.sum())
    return [
        {"image_id": i, "annotations": [{**shared, "category_id": k} for k in of_image.tolist()]}
        for i, of_image in enumerate(np.split(classes, np.cumsum(numbers)[:-1]))
    ]


def main() -> None:
    args = arguments(__doc__)
    rows = []
    for num_images, num_classes in [(50, 80)] if args.quick else SIZES:
        dicts = lvis_like_dicts(num_images, num_classes)
        loaded = Loaded(dicts)

        def ours(dataset=loaded, num_classes=num_classes):
            factors = repeat_factors(annotation_columns(dataset), THRESHOLD)
            return count_classes(dataset, num_classes), factors

        def theirs(dicts=dicts, num_classes=num_classes):
            image_counts, instance_counts = [0] * num_classes, [0] * num_classes
            for image in dicts:
                classes = [x["category_id"] for x in image["annotations"]]
                for k in classes:
                    instance_counts[k] += 1
                for k in set(classes):
                    image_counts[k] += 1
            factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
                dicts, THRESHOLD
            )
            return image_counts, instance_counts, factors

        statistics, factors = ours()
        image_counts_found, instance_counts, expected = theirs()
        assert statistics.image_counts.tolist() == image_counts_found
        assert statistics.instance_counts.tolist() == instance_counts
        assert torch.equal(factors, expected)
        work, against = "class statistics and repeat factors", "plain loops, Detectron2's loops"
        size = (
            f"{num_images:,} images, {sum(instance_counts):,} annotations, {num_classes:,} classes"
        )
        rows.append(row(work, against, size, *seconds_of([ours, theirs], args)))
    print_table("Class statistics", rows)


if __name__ == "__main__":
    main()
