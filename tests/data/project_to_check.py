"""Two small datasets and a config for them, in which tests break one thing or another."""

import copy
import json

from detectron2.config import CfgNode, get_cfg
from PIL import Image

from eql_seesaw.config import add_long_tail_config
from eql_seesaw.data.check_datasets import check_datasets

CONTENT = {
    "images": [
        {"id": 1, "file_name": "1.png", "height": 20, "width": 30, "neg_category_ids": [2]},
        {"id": 2, "file_name": "2.png", "height": 20, "width": 30},
    ],
    "annotations": [
        {
            "id": 11,
            "image_id": 1,
            "category_id": 1,
            "bbox": [1, 2, 3, 4],
            "segmentation": [[1, 2, 4, 2, 4, 6]],
        },
        {
            "id": 12,
            "image_id": 2,
            "category_id": 2,
            "bbox": [0, 0, 30, 20],
            "segmentation": [[0, 0, 30, 0, 30, 20]],
        },
    ],
    "categories": [{"id": 1, "name": "tit"}, {"id": 2, "name": "owl"}],
}


class Project:
    """A folder with the datasets "train" and "val", two images each, and a config for them."""

    def __init__(self, folder):
        self.folder = folder
        self.train, self.val = copy.deepcopy(CONTENT), copy.deepcopy(CONTENT)
        self.cfg = get_cfg()
        add_long_tail_config(self.cfg)
        self.cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
        self.cfg.MODEL.MASK_ON = True
        for name in ("train", "val"):
            images = folder / name
            images.mkdir()
            for i in (1, 2):
                Image.new("RGB", (30, 20)).save(images / f"{i}.png")
            entry = {"JSON": str(folder / f"{name}.json"), "IMAGES": str(images)}
            self.cfg.DATASETS.REGISTER[name] = CfgNode(entry)
        self.cfg.DATASETS.TRAIN, self.cfg.DATASETS.TEST = ("train",), ("val",)

    def write(self):
        for name in ("train", "val"):
            (self.folder / f"{name}.json").write_text(json.dumps(getattr(self, name)))

    def check(self):
        self.write()
        return check_datasets(self.cfg)


def found(report):
    """{(dataset, severity, kind): how many}"""
    return {
        (source, *key): finding.count
        for source, findings in report.findings.items()
        for key, finding in findings.found.items()
    }
