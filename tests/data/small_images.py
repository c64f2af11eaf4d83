"""Small photographs of noise with annotations, as Detectron2 wants them."""

import json
from pathlib import Path

import numpy as np
from detectron2.config import get_cfg
from detectron2.structures import BoxMode
from PIL import Image

from eql_seesaw.config import add_long_tail_config

# Width and height: of every three images two are wide; a square counts as not wide.
SIZES = [(24, 16), (16, 24), (24, 16), (16, 16), (20, 16), (24, 16)]


def write_images(folder, number):
    """``number`` JPEG files, and their dicts in Detectron2's standard format."""
    dataset_dicts = []
    for index in range(number):
        width, height = SIZES[index % len(SIZES)]
        file_name = folder / f"{index}.jpg"
        pixels = np.random.default_rng(index).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(file_name)
        dataset_dicts.append(
            {
                "file_name": str(file_name),
                "height": height,
                "width": width,
                "image_id": 100 + index,
                "annotations": [annotation(index % 3)],
            }
        )
    return dataset_dicts


def write_annotations(json_file, dataset_dicts, names=("bird 0", "bird 1", "bird 2")):
    """The same in an annotation file; returns its path and that of the folder of images."""
    annotations = [
        {"image_id": image["image_id"], **instance, "category_id": instance["category_id"] + 1}
        for image in dataset_dicts
        for instance in image["annotations"]
    ]
    images = [
        {
            "id": image["image_id"],
            "file_name": Path(image["file_name"]).name,
            "height": image["height"],
            "width": image["width"],
        }
        for image in dataset_dicts
    ]
    content = {
        "images": images,
        "annotations": [{**a, "id": i} for i, a in enumerate(annotations)],
        "categories": [{"id": k, "name": name} for k, name in enumerate(names, start=1)],
    }
    json_file.write_text(json.dumps(content))
    return str(json_file), str(Path(dataset_dicts[0]["file_name"]).parent)


def annotation(category_id, **fields):
    return {
        "bbox": [2, 3, 8, 10],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": category_id,
        "segmentation": [[2, 3, 10, 3, 10, 13]],
        **fields,
    }


def make_cfg(**settings):
    """Config of a seeded loader of two images a pass; ``settings`` are of DATALOADER."""
    cfg = get_cfg()
    add_long_tail_config(cfg)
    cfg.SEED = 7
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.MODEL.MASK_ON = True
    cfg.INPUT.MIN_SIZE_TRAIN = tuple(range(12, 40))
    cfg.DATALOADER.NUM_WORKERS = 0
    for key, value in settings.items():
        cfg.DATALOADER[key] = value
    return cfg
