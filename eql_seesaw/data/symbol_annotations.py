"""LVIS v1 annotations of the generated dataset."""

import numpy as np
import pycocotools.mask as mask_util

from .frequency_groups import frequency_groups

NUM_NEGATIVES = 8  # classes verified as absent, per federated image (LVIS has about 9)

# The LVIS image, and its annotations without ids.
AnnotatedImage = tuple[dict, list[dict]]


def object_annotations(classes: list[int], owner: np.ndarray, image_id: int) -> list[dict]:
    """
    Args:
        classes: class of each object, from 0; the category id is one more.
        owner: int (H, W), the index of the object that each pixel shows, -1 for none.
        image_id: of the image that holds them.

    Returns:
        An LVIS annotation of each object, without its id. Masks are RLE.
    """
    masks = owner[:, :, None] == np.arange(len(classes))
    rles = mask_util.encode(np.asfortranarray(masks, dtype=np.uint8))
    return [
        {
            "image_id": image_id,
            "category_id": class_index + 1,
            "bbox": mask_util.toBbox(rle).tolist(),
            "area": int(mask_util.area(rle)),
            "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
            "iscrowd": 0,
        }
        for class_index, rle in zip(classes, rles, strict=True)
    ]


def lvis_categories(symbols: list[tuple[str, str]], train: list[AnnotatedImage]) -> list[dict]:
    """
    Args:
        symbols: character and name of each class.
        train: the training split, in which images and instances are counted.

    Returns:
        The "categories" of an LVIS file, with ids from 1 in the order of ``symbols``.
    """
    image_counts = np.zeros(len(symbols), dtype=int)
    instance_counts = np.zeros(len(symbols), dtype=int)
    for _, annotations in train:
        indices = np.array([annotation["category_id"] for annotation in annotations]) - 1
        image_counts[np.unique(indices)] += 1
        np.add.at(instance_counts, indices, 1)
    groups = frequency_groups(image_counts)
    return [
        {
            "id": index + 1,
            "name": name,
            "synonyms": [name],
            "synset": f"u+{ord(char):04x}",
            "def": f"the symbol {char}",
            "frequency": groups[index],
            "image_count": int(image_counts[index]),
            "instance_count": int(instance_counts[index]),
        }
        for index, (char, name) in enumerate(symbols)
    ]


def federated_lvis_json(
    split: list[AnnotatedImage],
    categories: list[dict],
    not_exhaustive_probability: float,
    rng: np.random.Generator,
) -> dict:
    """
    LVIS annotations of a split, each image verified for a few classes.

    Args:
        split: the images with all of their objects.
        categories: as :func:`lvis_categories` gives them.
        not_exhaustive_probability: that an object whose class the image already has is left out,
            and the class listed in "not_exhaustive_category_ids".
        rng: decides what is left out, and the classes in "neg_category_ids".
    """
    images = []
    annotations: list[dict] = []
    for image, objects in split:
        kept: dict[int, list[dict]] = {}
        not_exhaustive = set()
        for annotation in objects:
            category_id = annotation["category_id"]
            if category_id in kept and rng.random() < not_exhaustive_probability:
                not_exhaustive.add(category_id)
            else:
                kept.setdefault(category_id, []).append(annotation)
        absent = [c["id"] for c in categories if c["id"] not in kept]
        negatives = rng.choice(absent, min(NUM_NEGATIVES, len(absent)), replace=False)
        images.append(
            {
                **image,
                "neg_category_ids": sorted(negatives.tolist()),
                "not_exhaustive_category_ids": sorted(not_exhaustive),
            }
        )
        annotations.extend(annotation for group in kept.values() for annotation in group)
    return _lvis_json(images, annotations, categories)


def exhaustive_lvis_json(split: list[AnnotatedImage], categories: list[dict]) -> dict:
    """LVIS annotations of a split, all objects annotated, each image verified for every class."""
    images = []
    for image, objects in split:
        present = {annotation["category_id"] for annotation in objects}
        absent = [c["id"] for c in categories if c["id"] not in present]
        images.append({**image, "neg_category_ids": absent, "not_exhaustive_category_ids": []})
    annotations = [annotation for _, objects in split for annotation in objects]
    return _lvis_json(images, annotations, categories)


def _lvis_json(images: list[dict], annotations: list[dict], categories: list[dict]) -> dict:
    return {
        "info": {"description": "symbols, a generated dataset in LVIS v1 format"},
        "licenses": [],
        "images": images,
        "annotations": [{"id": i, **a} for i, a in enumerate(annotations, start=1)],
        "categories": categories,
    }
