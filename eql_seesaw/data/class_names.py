"""Class names of registered datasets, found without loading the annotations where possible."""

import functools
from collections.abc import Sequence

from detectron2.data import MetadataCatalog

from .annotation_file import Problems, name_problem, read_annotation_file
from .class_statistics_cache import file_stamp, read_cache


def class_names(dataset_name: str) -> list[str] | None:
    """
    Class names of a dataset, in the order of its contiguous class ids.

    They come from its metadata, where they are after loading and for Detectron2's built-in
    datasets, otherwise from the cache of its class statistics or the "categories" of its
    annotation file. None if there is no such file.

    Raises:
        ValueError: the annotation file is malformed.
    """
    metadata = MetadataCatalog.get(dataset_name)
    if metadata.get("thing_classes"):
        return list(metadata.thing_classes)
    json_file = metadata.get("json_file", "")
    if file_stamp(json_file) is None:
        return None
    cache = read_cache(json_file)
    return list(category_names(json_file).values()) if cache is None else cache["thing_classes"]


def category_names(json_file: str) -> dict[int, str]:
    """
    The name of each category id of an annotation file, in ascending order of id.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file or its "categories" are malformed.
    """
    return dict(_read_category_names(json_file, file_stamp(json_file)))


@functools.lru_cache(maxsize=32)
def _read_category_names(json_file: str, stamp: tuple[int, int] | None) -> dict[int, str]:
    """Once per process and ``stamp``: the file may take many seconds to read."""
    problems = Problems(json_file)
    categories = problems.entries(read_annotation_file(json_file), "categories")
    for category_id, category in categories.items():
        problems.add(f"category {category_id}", name_problem(category))
    problems.raise_first()
    return {category_id: categories[category_id]["name"] for category_id in sorted(categories)}


def first_difference(names: Sequence[str], other_names: Sequence[str]) -> int | None:
    """The first class that two lists of as many names call differently, None if they are equal."""
    for index, (name, other_name) in enumerate(zip(names, other_names, strict=True)):
        if name != other_name:
            return index
    return None


def class_metadata(dataset_name: str) -> dict[str, list] | None:
    """
    What the classes of a registered dataset are called.

    Returns:
        {"thing_classes": K names, "category_ids": K ids in the annotation file}, in order of
        contiguous class; None where neither the dataset's metadata nor its annotation file is
        there to say.

    Raises:
        ValueError: the annotation file is malformed.
    """
    metadata = MetadataCatalog.get(dataset_name)
    names = metadata.get("thing_classes")
    if not names:
        json_file = metadata.get("json_file", "")
        if file_stamp(json_file) is None:
            return None
        categories = category_names(json_file)
        return {"thing_classes": list(categories.values()), "category_ids": list(categories)}
    to_contiguous = metadata.get("thing_dataset_id_to_contiguous_id")
    if to_contiguous is None:  # Detectron2's LVIS datasets, whose ids are 1 to K
        category_ids = list(range(1, len(names) + 1))
    else:
        category_ids = sorted(to_contiguous, key=to_contiguous.get)
    # Plain types, which torch.load takes for safe.
    return {"thing_classes": list(map(str, names)), "category_ids": list(map(int, category_ids))}
