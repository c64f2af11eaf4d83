import copy
import logging
from types import SimpleNamespace

import detectron2.utils.logger
import numpy as np
import pytest
import torch
from PIL import Image

from eql_seesaw.data.dataset_mapper import AnnotatedClassesMapper

from . import small_images
from .small_images import make_cfg


@pytest.fixture
def cfg():
    detectron2.utils.logger._LOG_COUNTER.clear()  # else a warning comes only once in a process
    cfg = make_cfg()
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 6
    cfg.INPUT.MIN_SIZE_TRAIN = (40,)
    return cfg


@pytest.fixture
def dataset_dict(tmp_path):
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "1.png")
    return {
        "file_name": str(tmp_path / "1.png"),
        "height": 20,
        "width": 30,
        "image_id": 1,
        "neg_category_ids": [1, 4],
        "annotations": [annotation(3, 2), annotation(0, 20), annotation(3, 12)],
    }


def annotation(category_id, x, **fields):
    place = {"bbox": [x, 2, 8, 10], "segmentation": [[x, 2, x + 8, 2, x + 8, 12]]}
    return small_images.annotation(category_id, **place, **fields)


def rows(mapper, dataset_dict):
    annotated = mapper(dataset_dict)["instances"].gt_annotated_classes
    assert annotated.dtype == torch.bool
    return annotated.int().tolist()


def test_positives_and_negatives_are_annotated(cfg, dataset_dict):
    before = copy.deepcopy(dataset_dict)
    assert rows(AnnotatedClassesMapper(cfg), dataset_dict) == [[1, 1, 0, 1, 1, 0]] * 3
    assert dataset_dict == before


def test_crowds_are_not_positives(cfg, dataset_dict):
    dataset_dict["annotations"].append(annotation(5, 2, iscrowd=1))
    assert rows(AnnotatedClassesMapper(cfg), dataset_dict) == [[1, 1, 0, 1, 1, 0]] * 3


def test_exhaustive_images_are_annotated_for_all(cfg, dataset_dict):
    del dataset_dict["neg_category_ids"]
    assert rows(AnnotatedClassesMapper(cfg), dataset_dict) == [[1] * 6] * 3


def test_image_without_instances(cfg, dataset_dict):
    dataset_dict["annotations"] = []
    instances = AnnotatedClassesMapper(cfg)(dataset_dict)["instances"]
    assert instances.gt_annotated_classes.shape == (0, 6)


def test_instances_that_cropping_removes_stay_annotated(cfg, dataset_dict):
    cfg.MODEL.MASK_ON = False  # cropping polygons needs shapely
    cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.CROP.TYPE = "absolute"
    cfg.INPUT.CROP.SIZE = [6, 6]
    mapper = AnnotatedClassesMapper(cfg)
    np.random.seed(0)
    counts = set()
    for _ in range(20):
        found = rows(mapper, dataset_dict)
        counts.add(len(found))
        assert found == [[1, 1, 0, 1, 1, 0]] * len(found)
    assert counts != {3}


def test_images_that_switch_the_loss_off_are_named_once(cfg, dataset_dict, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("eql_seesaw"), "propagate", True)
    mapper = AnnotatedClassesMapper(cfg)
    caplog.clear()  # what Detectron2's mapper says of itself
    mapper(dataset_dict)
    assert not caplog.records
    del dataset_dict["neg_category_ids"]
    for image_id in (7, 8):
        mapper({**dataset_dict, "image_id": image_id})
    (record,) = caplog.records
    assert "MODEL.ROI_BOX_HEAD.EQL.KEEP_ANNOTATED: image 7 has no neg_category_ids" in caplog.text
    assert record.levelname == "WARNING" and "\n" not in record.getMessage()


def test_one_worker_warns_for_all(cfg, dataset_dict, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("eql_seesaw"), "propagate", True)
    del dataset_dict["neg_category_ids"]
    for worker_id in (1, 0):
        worker = SimpleNamespace(id=worker_id)
        monkeypatch.setattr(torch.utils.data, "get_worker_info", lambda worker=worker: worker)
        mapper = AnnotatedClassesMapper(cfg)
        caplog.clear()
        mapper(dataset_dict)
        assert len(caplog.records) == 1 - worker_id
