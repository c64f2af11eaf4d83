"""What a run was trained on, as its checkpoints tell it and a resumed run compares it."""

from typing import Any

from detectron2.config import CfgNode

from ..data.class_statistics import get_class_statistics

COUNTS = ("num_images", "image_counts", "instance_counts")


def training_set_description(cfg: CfgNode) -> dict[str, Any]:
    """
    What tells one training set from another, in plain values, so that a resumed run can compare.

    Returns:
        {"dataset_names": DATASETS.TRAIN, "is_counted": whether the numbers are of these datasets
        and not of the file DATASETS.CLASS_STATISTICS, "num_images": int, "image_counts": K ints,
        "instance_counts": K ints}; see :class:`~eql_seesaw.data.class_statistics.ClassStatistics`.
    """
    statistics = get_class_statistics(
        cfg.DATASETS.TRAIN, cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.DATASETS.CLASS_STATISTICS
    )
    return {
        "dataset_names": list(cfg.DATASETS.TRAIN),
        "is_counted": not cfg.DATASETS.CLASS_STATISTICS,
        "num_images": int(statistics.num_images),
        "image_counts": statistics.image_counts.tolist(),
        "instance_counts": statistics.instance_counts.tolist(),
    }


def training_set_difference(found: dict[str, Any], expected: dict[str, Any]) -> str:
    """How the training set of a file differs from this config's, or ""."""
    # The same images may have another name, or lie elsewhere. A file of statistics cannot tell.
    is_counted = found["is_counted"] and expected["is_counted"]
    compared = COUNTS if is_counted else (*COUNTS, "dataset_names")
    if all(found[key] == expected[key] for key in compared):
        return ""
    theirs, ours = map(_describe, (found, expected))
    if theirs == ours:
        pairs = zip(found["instance_counts"], expected["instance_counts"], strict=False)
        index = next((i for i, (before, now) in enumerate(pairs) if before != now), 0)
        theirs, ours = (
            f"{name} with {description['instance_counts'][index]} instances of class {index}"
            for name, description in ((theirs, found), (ours, expected))
        )
    return f"was trained on {theirs}, but here it is {ours}"


def _describe(training_set: dict[str, Any]) -> str:
    names = ", ".join(training_set["dataset_names"])
    num_instances = sum(training_set["instance_counts"])
    return f"{names} ({training_set['num_images']} images, {num_instances} instances)"
