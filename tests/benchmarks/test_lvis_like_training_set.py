import json
from collections import defaultdict

import numpy as np
from detectron2.data.datasets.lvis_v1_category_image_count import LVIS_CATEGORY_IMAGE_COUNT
from PIL import Image

from eql_seesaw.benchmarks.lvis_like_training_set import (
    draw_annotations,
    long_tail,
    lvis_like_training,
)
from eql_seesaw.data.annotated_images import read_annotated_images


def test_long_tail():
    expected = {c["id"] - 1: c["image_count"] for c in LVIS_CATEGORY_IMAGE_COUNT}
    assert dict(enumerate(long_tail(100_170))) == expected
    for num_classes in (80, 13_000):
        image_counts = long_tail(100_170, num_classes)
        assert len(image_counts) == num_classes and image_counts.min() >= 1
        # As many pairs of image and class as LVIS v1.
        assert abs(image_counts.sum() / sum(expected.values()) - 1) < 0.1
    assert long_tail(10).max() <= 10


def test_each_class_is_in_as_many_images_as_asked_for():
    image_counts = np.array([40, 1, 7])
    images, classes = draw_annotations(image_counts, 50, np.random.default_rng(0))
    assert len(images) == round(50 * 1_270_141 / 100_170)
    assert (np.diff(images) >= 0).all()
    found = [len(np.unique(images[classes == k])) for k in range(3)]
    assert found == image_counts.tolist()


def test_files(tmp_path):
    training_set = lvis_like_training(tmp_path, 60)
    with open(training_set.json_file) as f:
        content = json.load(f)
    assert len(content["categories"]) == 1203
    dataset = read_annotated_images(training_set.json_file, training_set.image_root)
    # Each class once.
    assert len(dataset) == 60 and len(content["annotations"]) == 1203
    first = dataset[0]
    assert Image.open(first["file_name"]).size == (first["width"], first["height"])
    classes = defaultdict(set)
    for annotation in content["annotations"]:
        classes[annotation["image_id"]].add(annotation["category_id"])
        x, y, w, h = annotation["bbox"]
        points = np.reshape(annotation["segmentation"][0], (-1, 2))
        assert (points >= [x - 0.01, y - 0.01]).all() and (points <= [x + w, y + h]).all()
    for image in content["images"]:
        assert not classes[image["id"]] & set(image["neg_category_ids"])
        assert classes[image["id"]] >= set(image["not_exhaustive_category_ids"])
    changed = lvis_like_training(tmp_path, 60)  # is there already
    assert changed == training_set
