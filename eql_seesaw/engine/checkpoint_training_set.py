"""Description of a training set in checkpoints, for a resumed run to compare."""

from typing import Any

from ..data.training_set import TrainingSet

COUNTS = ("num_images", "image_counts", "instance_counts")


def training_set_description(training_set: TrainingSet, is_counted: bool) -> dict[str, Any]:
    """
    Plain values that tell one training set from another, so that a resumed run can compare.

    Args:
        training_set: of the run.
        is_counted: False where its numbers are of the file DATASETS.CLASS_STATISTICS.

    Returns:
        {"dataset_names": DATASETS.TRAIN, "is_counted": bool, "num_images": int, "image_counts": K
        ints, "instance_counts": K ints}; see
        :class:`~eql_seesaw.data.class_statistics.ClassStatistics`.
    """
    statistics = training_set.statistics
    return {
        "dataset_names": list(training_set.names),
        "is_counted": is_counted,
        "num_images": int(statistics.num_images),
        "image_counts": statistics.image_counts.tolist(),
        "instance_counts": statistics.instance_counts.tolist(),
    }


def training_set_difference(found: dict[str, Any], expected: dict[str, Any]) -> str:
    """Difference of a file's training set from this config's, or ""."""
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
