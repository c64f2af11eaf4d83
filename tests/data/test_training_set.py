import copy
import json
import logging

import detectron2.utils.logger
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.data.datasets import register_lvis_instances

from eql_seesaw.data.annotated_images import AnnotatedImages, JoinedImages
from eql_seesaw.data.class_statistics import ClassStatistics, write_class_statistics
from eql_seesaw.data.register import register_datasets, register_instances
from eql_seesaw.data.training_set import (
    check_same_classes,
    class_statistics,
    load_training_set,
)

from .small_images import annotation, make_cfg, write_annotations

NAMES = ("tit", "owl", "swan")


def image(image_id, *classes, crowds=()):
    annotations = [annotation(k) for k in classes] + [annotation(k, iscrowd=1) for k in crowds]
    size = {"height": 20, "width": 30}
    return {"file_name": "x.jpg", "image_id": image_id, "annotations": annotations, **size}


IMAGES = [image(3, 0, 0, 2), image(4, 2, crowds=(1,)), image(5), image(6, crowds=(0,))]


def register(name, images, tmp_path, names=NAMES):
    """Register a dataset of an annotation file; returns the file."""
    json_file, _ = write_annotations(tmp_path / f"{name}.json", images, names)
    register_instances(name, json_file, str(tmp_path))
    return tmp_path / f"{name}.json"


def config(*names, num_classes=3, statistics_file="", **settings):
    cfg = make_cfg(**settings)
    cfg.DATASETS.TRAIN, cfg.DATASETS.CLASS_STATISTICS = names, statistics_file
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = num_classes
    return cfg


def assert_counts(statistics, image_counts, instance_counts, num_images):
    assert statistics.image_counts.tolist() == image_counts
    assert statistics.instance_counts.tolist() == instance_counts
    assert statistics.num_images == num_images


def test_one_dataset(tmp_path, caplog):
    register("birds", IMAGES, tmp_path)
    with caplog.at_level(logging.INFO):
        training_set = load_training_set(config("birds"))
    assert training_set.names == ("birds",)
    assert isinstance(training_set.images, AnnotatedImages)
    assert [image["image_id"] for image in training_set.images] == [3, 4]
    assert_counts(training_set.statistics, [1, 0, 2], [2, 0, 2], 2)
    assert training_set.metadata == {"thing_classes": list(NAMES), "category_ids": [1, 2, 3]}
    message = "Class statistics of birds: 3 rare, 0 common, 0 frequent classes; 2 images, 4 inst"
    assert message in caplog.text

    everything = load_training_set(config("birds", FILTER_EMPTY_ANNOTATIONS=False))
    assert list(everything.images) == DatasetCatalog.get("birds") and len(everything.images) == 4
    without_images = load_training_set(config("birds"), statistics_only=True)
    assert without_images.images is None and without_images.metadata == training_set.metadata
    assert_counts(without_images.statistics, [1, 0, 2], [2, 0, 2], 2)


def test_no_training_set():
    assert load_training_set(config()) is None and class_statistics(config()) is None


def test_several_datasets_are_one(tmp_path):
    register("a", IMAGES, tmp_path)
    register("b", [image(3, 1, 1), image(1)], tmp_path)
    training_set = load_training_set(config("a", "b"))
    assert isinstance(training_set.images, JoinedImages)
    assert_counts(training_set.statistics, [1, 1, 2], [2, 2, 2], 3)
    expected = list(training_set.images)
    assert expected == get_detection_dataset_dicts(["a", "b"])

    DatasetCatalog.register("by_code", lambda: [image(3, 1, 1), image(1)])
    mixed = load_training_set(config("a", "by_code"))
    assert [x["image_id"] for x in mixed.images] == [x["image_id"] for x in expected] == [3, 4, 3]
    assert_counts(mixed.statistics, [1, 1, 2], [2, 2, 2], 3)

    register("c", [image(1, 1)], tmp_path, names=("tit", "swan", "owl"))
    with pytest.raises(ValueError, match="TRAIN: class 1 is 'swan' in 'c', but 'owl' in 'a'"):
        load_training_set(config("a", "b", "c"))


def test_dataset_by_code():
    DatasetCatalog.register("by_code", lambda: IMAGES)
    training_set = load_training_set(config("by_code"))
    assert training_set.images == IMAGES[:2]
    assert training_set.class_names is training_set.metadata is None
    assert_counts(training_set.statistics, [1, 0, 2], [2, 0, 2], 2)


def test_log_is_detectron2s(tmp_path, caplog):
    register("birds", IMAGES, tmp_path)
    cfg, messages = config("birds"), []
    for load in (load_training_set, lambda cfg: get_detection_dataset_dicts(cfg.DATASETS.TRAIN)):
        caplog.clear()
        detectron2.utils.logger._LOG_COUNTER.clear()  # else the table comes only once
        with caplog.at_level("INFO"):
            load(cfg)
        starts = ("Removed", "Distribution")
        messages.append([m for m in caplog.messages if m.startswith(starts)])
    assert messages[0] == messages[1] and len(messages[0]) == 2


def test_statistics_are_counted_once(tmp_path, monkeypatch):
    json_file = register("birds", IMAGES, tmp_path)
    cfg = config("birds")
    training_set = load_training_set(cfg)
    json_file.unlink()
    assert class_statistics(cfg) is training_set.statistics


def test_fractal_dimensions_only_where_they_are_asked_for(tmp_path):
    register("a", [image(3, 0, 0), image(4, 2)], tmp_path)
    register("b", [image(3, 0, 0)], tmp_path)
    cfg = config("a", "b")
    assert load_training_set(cfg).statistics.fractal_dimensions is None
    cfg.TEST.CALIBRATION.METHOD = "fracal"
    counted = class_statistics(cfg)
    # Only both sets together have the four objects that it takes, all at one place.
    assert counted.fractal_dimensions.tolist() == [1.0, 1.0, 1.0]
    assert load_training_set(cfg).statistics.fractal_dimensions.tolist() == [1.0, 1.0, 1.0]
    cfg.TEST.CALIBRATION.METHOD = "none"
    assert class_statistics(cfg).fractal_dimensions is not None  # kept, as they are there
    json_file = str(tmp_path / "statistics.json")
    write_class_statistics(counted, json_file)
    cfg = config("a", statistics_file=json_file)
    cfg.TEST.CALIBRATION.METHOD = "fracal"
    assert class_statistics(cfg).fractal_dimensions.tolist() == [1.0, 1.0, 1.0]


def test_statistics_of_a_config_alone_are_counted(tmp_path):
    register("birds", IMAGES, tmp_path)
    cfg = config("birds")
    assert_counts(class_statistics(cfg), [1, 0, 2], [2, 0, 2], 2)
    assert class_statistics(cfg) is class_statistics(cfg)
    register("birds", [image(1, 1)], tmp_path)  # registered anew, it is counted anew
    assert_counts(class_statistics(cfg), [0, 1, 0], [0, 1, 0], 1)
    assert_counts(load_training_set(cfg).statistics, [0, 1, 0], [0, 1, 0], 1)


@pytest.mark.parametrize("statistics_only", [False, True])
def test_wrong_number_of_classes(tmp_path, statistics_only):
    register("birds", IMAGES, tmp_path)
    with pytest.raises(ValueError, match="is 2, but dataset 'birds' has 3 .*NUM_CLASSES to 3"):
        load_training_set(config("birds", num_classes=2), statistics_only)


@pytest.mark.parametrize("statistics_only", [False, True])
def test_nothing_to_train_on(tmp_path, statistics_only):
    crowds = [image(1, crowds=(0,)), image(2)]
    register("crowds", crowds, tmp_path)
    with pytest.raises(ValueError, match="^DATASETS.TRAIN: crowds: no annotations to train on"):
        load_training_set(config("crowds"), statistics_only)
    if not statistics_only:
        register("birds", IMAGES, tmp_path)
        with pytest.raises(ValueError, match="^DATASETS.TRAIN: crowds: no annotations to train on"):
            load_training_set(config("birds", "crowds"))
    for name, images in (("crowds_by_code", crowds), ("empty_by_code", [])):
        DatasetCatalog.register(name, lambda images=images: images)
        with pytest.raises(ValueError, match=f"^DATASETS.TRAIN: .*{name}"):
            load_training_set(config(name), statistics_only)
    DatasetCatalog.register("nameless", lambda: [image(5, 3)])
    with pytest.raises(ValueError, match="image 5 has class id 3"):
        load_training_set(config("nameless"), statistics_only)


def test_given_statistics_win(tmp_path):
    counts = np.array([5, 0, 200])
    given = str(tmp_path / "given.json")
    write_class_statistics(ClassStatistics(counts, counts * 2, 205), given, NAMES)
    json_file = register("birds", IMAGES, tmp_path)
    cfg = config("birds", statistics_file=given)
    training_set = load_training_set(cfg)
    assert_counts(training_set.statistics, [5, 0, 200], [10, 0, 400], 205)
    assert len(training_set.images) == 2
    assert_counts(class_statistics(cfg), [5, 0, 200], [10, 0, 400], 205)
    assert load_training_set(config(statistics_file=given)).class_names is None
    register("crowds", [image(1, crowds=(0,))], tmp_path)
    with pytest.raises(ValueError, match="^DATASETS.TRAIN: crowds: no annotations to train on"):
        load_training_set(config("crowds", statistics_file=given))
    with pytest.raises(ValueError, match="CLASS_STATISTICS: .* 3 classes, .*NUM_CLASSES is 4"):
        load_training_set(config(num_classes=4, statistics_file=given))
    with pytest.raises(FileNotFoundError, match="CLASS_STATISTICS: .*No such file or directory"):
        load_training_set(config(statistics_file="no.json"))

    # The checks of the datasets stay, for an evaluation too.
    for statistics_only in (False, True):
        with pytest.raises(ValueError, match="NUM_CLASSES is 4, but dataset 'birds' has 3"):
            load_training_set(
                config("birds", num_classes=4, statistics_file=given), statistics_only
            )
    register("other_birds", IMAGES, tmp_path, names=("tit", "swan", "owl"))
    with pytest.raises(
        ValueError, match="class 1 is 'swan' in 'other_birds', but 'owl' in 'birds'"
    ):
        load_training_set(config("birds", "other_birds", statistics_file=given))
    with pytest.raises(ValueError, match="class 1 is 'owl' in '.*given.json', but 'swan' in"):
        load_training_set(config("other_birds", statistics_file=given))
    json_file.write_text("{")
    with pytest.raises(ValueError, match="birds.json: not JSON"):
        load_training_set(cfg)


def test_lvis_of_detectron2(tmp_path):
    """File names of "coco_url", and negatives that are classes, whoever reads the file."""
    box = {"bbox": [1, 2, 3, 4.5], "segmentation": [[1, 1, 5, 1.5, 5, 5, 1, 5]]}
    url = "http://x/train2017/{}.jpg"
    content = {
        "images": [
            {"id": i, "height": 9, "width": 8, "file_name": "other.jpg", "coco_url": url.format(i)}
            | {"neg_category_ids": [3], "not_exhaustive_category_ids": []}
            for i in (7, 3, 5)
        ],
        "annotations": [
            {**box, "id": i, "image_id": image_id, "category_id": category_id}
            for i, (image_id, category_id) in enumerate([(3, 1), (7, 2), (3, 2)])
        ],
        "categories": [{"id": i, "name": f"c{i}"} for i in (3, 1, 2)],
    }
    name, json_file = "generated_lvis_v1_of_a_test", tmp_path / "lvis.json"
    json_file.write_text(json.dumps(content))
    register_lvis_instances(name, {}, str(json_file), f"{tmp_path}/")
    expected = DatasetCatalog.get(name)  # by Detectron2's loader, with the ids of the file
    by_code = copy.deepcopy(expected)
    for x in expected:
        x["neg_category_ids"] = [k - 1 for k in x["neg_category_ids"]]
    DatasetCatalog.register("lvis_by_code", lambda: by_code)
    MetadataCatalog.get("lvis_by_code").set(evaluator_type="lvis")
    MetadataCatalog.remove(name)
    MetadataCatalog.get(name).set(
        json_file=str(json_file), image_root=f"{tmp_path}/", evaluator_type="lvis"
    )

    cfg = config(name)
    register_datasets(cfg)
    training_set = load_training_set(cfg)
    assert isinstance(training_set.images, AnnotatedImages)
    assert list(training_set.images) == [x for x in expected if x["annotations"]]
    assert load_training_set(config("lvis_by_code")).images == list(training_set.images)

    MetadataCatalog.remove(name)
    MetadataCatalog.get(name).set(
        json_file=str(json_file),
        image_root=f"{tmp_path}/",
        evaluator_type="lvis",
        thing_classes=[f"class {k}" for k in range(1203)],
    )
    with pytest.raises(
        ValueError, match="lvis.json: 3 categories, but dataset .* has 1203 classes"
    ):
        load_training_set(config(name, num_classes=1203))


def test_same_classes():
    training_set = ("train", NAMES)
    check_same_classes("DATASETS.TEST", "val", list(NAMES), *training_set)
    message = "class 1 is 'swan' in 'swapped', but 'owl' in 'train' of DATASETS.TRAIN"
    with pytest.raises(ValueError, match=f"^DATASETS.TEST: {message}$"):
        check_same_classes("DATASETS.TEST", "swapped", ("tit", "swan", "owl"), *training_set)
    message = "'fewer' has 2 classes, but 'train' in DATASETS.TRAIN has 3"
    with pytest.raises(ValueError, match=f"^DATASETS.TEST: {message}$"):
        check_same_classes("DATASETS.TEST", "fewer", ("tit", "owl"), *training_set)


def test_a_renamed_class_among_many_is_a_warning(caplog):
    names = [f"bird_{i:03}" for i in range(200)]
    training_set = ("many", names)
    check_same_classes("KEY", "two_renamed", ["tit", "owl", *names[2:]], *training_set)
    assert "KEY: class 0 is 'tit' in 'two_renamed'" in caplog.text
    with pytest.raises(ValueError, match="'three_renamed'"):
        check_same_classes(
            "KEY", "three_renamed", ["tit", "owl", "swan", *names[3:]], *training_set
        )
    for moved in (names[1::-1], ["tit", names[0]], [names[9], names[1]]):
        with pytest.raises(ValueError, match="KEY: class 0 is '.*' in 'moved'"):
            check_same_classes("KEY", "moved", [*moved, *names[2:]], *training_set)
