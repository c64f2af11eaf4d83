"""Predicting without a dataset: the command line and the class behind it."""

import json
import logging
import os
import re
import shutil

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from lvis import LVIS, LVISResults
from PIL import Image
from pycocotools.coco import COCO

from eql_seesaw.engine import LongTailCheckpointer, build_checkpointer, load_config
from eql_seesaw.predict import main
from eql_seesaw.prediction import BatchPredictor, find_images
from tests.modeling.tiny_model import NUM_CLASSES, tiny_config

METADATA = {
    "thing_classes": ["cat", "umbrella", "Ørsted", "кошка", "ψ", "die"],
    "category_ids": [3, 5, 9, 10, 12, 40],
}
# The model has random weights, and so low scores.
THRESHOLD = ["--score-threshold", "0.1"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with config.yaml, model_final.pth, and old.pth, which does not name its classes."""
    folder = tmp_path_factory.mktemp("model")
    sizes = ["INPUT.MIN_SIZE_TEST", 64, "INPUT.MAX_SIZE_TEST", 96, "OUTPUT_DIR", str(folder)]
    cfg = tiny_config(folder, "LongTailROIHeads", "MODEL.ROI_BOX_HEAD.CLS_LOSS", "seesaw", *sizes)
    torch.manual_seed(0)
    network = build_model(cfg)
    classifier = build_checkpointer(cfg, network).classifier
    for name, metadata in (("model_final", METADATA), ("old", None)):
        LongTailCheckpointer(network, str(folder), classifier=classifier, metadata=metadata).save(
            name
        )
    os.remove(cfg.DATASETS.CLASS_STATISTICS)
    (folder / "config.yaml").write_text(cfg.dump())
    return folder


@pytest.fixture
def config(model):
    return load_config(str(model / "config.yaml"), [])


@pytest.fixture
def photos(tmp_path):
    """Four photographs of three sizes; the last is to be turned by a quarter."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, size in {"b.jpg": (80, 60), "a.png": (64, 64), "c.JPG": (80, 60)}.items():
        noise_image(size).save(folder / name)
    exif = Image.Exif()
    exif[0x0112] = 6
    noise_image((80, 40)).save(folder / "d.jpg", exif=exif)
    (folder / "notes.txt").write_text("no image")
    return folder


def noise_image(size, seed=0):
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    return coarse.resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def predict(model, tmp_path):
    """``predict(input, ...)`` as a user would; the exit status, or the line that it ends with."""

    def run(*arguments, weights=model / "model_final.pth", output=tmp_path / "out"):
        files = ["--config-file", model / "config.yaml", "--weights", weights, "--output", output]
        try:
            return main([str(argument) for argument in [*files, *arguments]])
        except SystemExit as error:
            return error.code

    return run


@pytest.fixture
def warnings(caplog, monkeypatch):
    """What is warned of, after other tests may have set up their loggers."""
    monkeypatch.setattr(logging.getLogger("eql_seesaw"), "propagate", True)

    def read():
        return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]

    return read


def read_results(folder):
    return [json.load(open(folder / f"{name}.json")) for name in ("predictions", "images")]


def assert_same(instances, expected, **tolerance):
    assert len(instances) == len(expected) > 0
    torch.testing.assert_close(instances.pred_boxes.tensor, expected.pred_boxes.tensor, **tolerance)
    torch.testing.assert_close(instances.scores, expected.scores, **tolerance)
    assert torch.equal(instances.pred_classes, expected.pred_classes)
    assert torch.equal(instances.pred_masks, expected.pred_masks)


def test_single_images_equal_default_predictor(model, config, photos):
    cfg = config.clone()
    cfg.defrost()
    cfg.INPUT.FORMAT = "RGB"  # in the tests below it is BGR
    cfg.DATASETS.CLASS_STATISTICS = ""
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()
    cfg.MODEL.WEIGHTS = str(model / "model_final.pth")
    default, ours = DefaultPredictor(cfg), BatchPredictor(cfg, cfg.MODEL.WEIGHTS)
    for path in find_images([str(photos)]):
        image = read_image(path, format="BGR")
        (instances,) = ours([image])
        assert_same(instances, default(image)["instances"], rtol=0, atol=0)


def test_batch_equals_single_images_and_the_threshold_only_leaves_out(model, config):
    weights = str(model / "model_final.pth")
    predictor = BatchPredictor(config, weights)
    images = [np.asarray(noise_image((64, 64), seed)) for seed in range(3)]
    for image, instances in zip(images, predictor(images), strict=True):
        (everything,) = predictor([image])
        assert_same(instances, everything, rtol=1e-4, atol=1e-4)
    assert predictor([]) == []
    threshold = everything.scores.median().item()
    (some,) = BatchPredictor(config, weights, threshold)([image])
    assert len(some) < len(everything)
    assert_same(some, everything[everything.scores > threshold], rtol=0, atol=0)


def test_files(predict, photos, tmp_path, capsys):
    assert predict(photos, *THRESHOLD, "--batch-size", "3") == 0
    output = tmp_path / "out"
    results, content = read_results(output)
    assert sorted(os.listdir(output)) == sorted(
        ["a.png", "b.jpg", "c.JPG", "d.jpg", "images.json", "predictions.json"]
    )
    assert [(image["id"], os.path.basename(image["file_name"])) for image in content["images"]] == [
        *((1, "a.png"), (2, "b.jpg"), (3, "c.JPG"), (4, "d.jpg"))
    ]
    assert content["images"][3]["file_name"] == str(photos / "d.jpg")
    # The last photograph as it is seen, upright.
    sizes = [(image["width"], image["height"]) for image in content["images"]]
    assert sizes == [(64, 64), (80, 60), (80, 60), (40, 80)]
    for image, size in zip(content["images"], sizes, strict=True):
        with Image.open(output / image["picture"]) as picture:
            assert picture.size == size and not picture.getexif()
            original = read_image(image["file_name"], format="RGB")
            assert np.abs(np.asarray(picture, dtype=int) - original).max() > 40
    assert content["categories"] == [
        {"id": category_id, "name": name}
        for name, category_id in zip(*METADATA.values(), strict=True)
    ]
    assert {result["image_id"] for result in results} == {1, 2, 3, 4}
    assert {result["category_id"] for result in results} <= set(METADATA["category_ids"])
    assert all(result["score"] > 0.1 for result in results)
    for result in results:
        width, height = sizes[result["image_id"] - 1]
        x, y, w, h = result["bbox"]
        assert 0 <= x <= x + w <= width + 1e-3 and 0 <= y <= y + h <= height + 1e-3
        assert result["segmentation"]["size"] == [height, width]
    assert f"{len(results)} detections in 4 images" in capsys.readouterr().out
    # They open in the tools of COCO and LVIS.
    images, predictions = (str(output / f) for f in ("images.json", "predictions.json"))
    assert len(COCO(images).loadRes(predictions).getAnnIds()) == len(results) > 0
    assert len(LVISResults(LVIS(images), predictions).get_ann_ids()) == len(results)


def test_pictures_show_what_the_results_say(predict, photos, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "eql_seesaw.prediction.batch_predictor.draw_objects",
        lambda pixels, objects, names: drawn.append((objects, names)) or Image.fromarray(pixels),
    )
    assert predict(photos / "a.png", *THRESHOLD) == 0
    (objects, names), results = drawn[0], read_results(tmp_path / "out")[0]
    assert names == METADATA["thing_classes"]
    scores = [obj["score"] for obj in objects]
    assert scores == sorted(scores) == sorted(result["score"] for result in results)
    ids = {METADATA["category_ids"][obj["category_id"]] for obj in objects}
    assert ids == {result["category_id"] for result in results}
    # In the right colours.
    with Image.open(tmp_path / "out" / "a.png") as picture:
        assert picture.tobytes() == Image.open(photos / "a.png").tobytes()


def test_high_threshold_leaves_pictures_plain(predict, photos, tmp_path):
    """That of the config holds where it is higher."""
    override = ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.9"]
    assert predict(photos / "a.png", *THRESHOLD, *override) == 0
    assert read_results(tmp_path / "out")[0] == []
    with Image.open(tmp_path / "out" / "a.png") as picture:
        assert picture.tobytes() == Image.open(photos / "a.png").tobytes()


def test_same_names_do_not_overwrite_each_other(predict, photos, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(photos, other)
    shutil.copy(photos / "a.png", photos / "a.bmp")
    shutil.copy(photos / "a.png", photos / "A_2.png")
    assert predict(photos, other, other / "a.png", tmp_path / "photos" / ".." / "photos") == 0
    images = read_results(tmp_path / "out")[1]["images"]
    assert len(images) == 4 + 4 + 2
    pictures = [image["picture"] for image in images]
    assert len({picture.lower() for picture in pictures}) == len(pictures)
    assert (
        {"a.png", "b.jpg", "b_2.jpg", "A_2.png"}
        <= set(pictures)
        <= set(os.listdir(tmp_path / "out"))
    )


def test_folders_give_their_visible_images(photos):
    (photos / ".hidden.png").write_bytes(b"")
    (photos / "sub.png").mkdir()
    names = [os.path.basename(path) for path in find_images([str(photos)])]
    assert names == ["a.png", "b.jpg", "c.JPG", "d.jpg"]
    # A file that is named is taken whatever it is called.
    assert find_images([str(photos / "notes.txt")]) == [str(photos / "notes.txt")]


def test_broken_file_among_others(predict, photos, tmp_path, warnings):
    (photos / "aa.jpg").write_text("no image")
    whole = (photos / "b.jpg").read_bytes()
    (photos / "b.jpg").write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (1, 5000)).save(photos / "line.png")
    assert predict(photos, *THRESHOLD, "--batch-size", "3") == 1
    images = read_results(tmp_path / "out")[1]["images"]
    assert [(image["id"], image["picture"]) for image in images] == [
        *((1, "a.png"), (4, "c.JPG"), (5, "d.jpg"))
    ]
    for name, warning in zip(("aa.jpg", "b.jpg", "line.png"), warnings(), strict=True):
        assert "\n" not in warning
        assert f"left out {photos / name}: " in warning


def test_only_broken_files(predict, photos, tmp_path):
    assert predict(photos / "notes.txt") == 1
    results, content = read_results(tmp_path / "out")
    assert results == [] and content["images"] == []


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nowhere.jpg"], "no such file or folder: nowhere.jpg"),
        (["empty"], "no image in empty"),
        (["photo.png", "--weights", "nowhere.pth"], "nowhere.pth not found"),
        (["photo.png", "MODEL.DEVICE"], "overrides"),
        (["photo.png", "INPUT.FORMAT", "L"], "INPUT.FORMAT is 'L'"),
        (["photo.png", "MODEL.ROI_BOX_HEAD.CLS_LOSS", "eql"], "trained with .*CLS_LOSS seesaw"),
        (["photo.png", "--output", "full"], "--output full is there already"),
        (["photo.png", "--output", "photo.png"], "--output photo.png is there already"),
        (["photo.png", "--output", "photo.png/out"], "Not a directory: 'photo.png/out'"),
        (["clip.mp4"], "clip.mp4 is not a video"),
        (["nowhere.avi"], "no such file: nowhere.avi"),
        (["clip.mp4", "photo.png"], "clip.mp4 is a video, which must be the only input"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_written(
    predict, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    noise_image((64, 64)).save("photo.png")
    for folder in ("empty", "full"):
        os.mkdir(folder)
    (tmp_path / "full" / "photo.png").write_bytes(b"")
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    before = sorted(tmp_path.rglob("*"))
    error = predict(*arguments)
    assert isinstance(error, str) and error.startswith("error: ") and "\n" not in error
    assert re.search(message, error), error
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["photo.png", "--score-threshold", "50"],
        ["photo.png", "--batch-size", "0"],
    ],
)
def test_wrong_arguments(predict, arguments):
    assert predict(*arguments) == 2


def test_inputs_called_like_a_config_key(predict, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkdir("INPUT")
    noise_image((64, 64)).save("INPUT/photo.png")
    assert predict("INPUT", "--score-threshold", "1", "TEST.DETECTIONS_PER_IMAGE", "2") == 0
    assert (tmp_path / "out" / "photo.png").exists()


def test_no_dataset_and_no_gpu_are_needed(model, predict, photos, tmp_path):
    """Neither datasets of the config, nor the statistics that training read, nor a GPU for AMP."""
    text = (model / "config.yaml").read_text()
    amp = tmp_path / "amp.yaml"
    amp.write_text(text.replace("AMP:\n    ENABLED: false", "AMP:\n    ENABLED: true"))
    assert amp.read_text() != text
    names = ["DATASETS.TRAIN", "('gone_train',)", "DATASETS.TEST", "('gone_val',)"]
    statistics = ["DATASETS.CLASS_STATISTICS", "gone.json"]
    assert predict("--config-file", amp, photos / "a.png", *THRESHOLD, *names, *statistics) == 0
    assert read_results(tmp_path / "out")[1]["categories"][0] == {"id": 3, "name": "cat"}


class TestCheckpointWithoutNames:
    @pytest.fixture
    def old(self, model):
        return model / "old.pth"

    def test_classes_are_numbered(self, predict, old, photos, tmp_path, warnings):
        assert predict(photos / "a.png", *THRESHOLD, weights=old) == 0
        results, content = read_results(tmp_path / "out")
        names = [f"category {i}" for i in range(1, NUM_CLASSES + 1)]
        assert [category["name"] for category in content["categories"]] == names
        assert [category["id"] for category in content["categories"]] == [1, 2, 3, 4, 5, 6]
        assert results
        (warning,) = warnings()
        assert "names the classes" in warning

    def test_names_of_a_dataset_of_the_config(self, old, config, tmp_path, warnings):
        categories = [
            {"id": category_id, "name": name}
            for name, category_id in zip(*METADATA.values(), strict=True)
        ]
        json_file = tmp_path / "val.json"
        images = [{"id": 1, "file_name": "1.jpg", "height": 8, "width": 8}]
        json_file.write_text(json.dumps({"categories": categories, "images": images}))
        cfg = config.clone()
        cfg.defrost()
        for name, path in {"gone_train": "gone.json", "named_val": str(json_file)}.items():
            cfg.DATASETS.REGISTER[name] = CfgNode({"JSON": path, "IMAGES": "gone"})
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("unknown", "gone_train"), ("named_val",)
        predictor = BatchPredictor(cfg, str(old))
        assert predictor.thing_classes == METADATA["thing_classes"]
        assert predictor.category_ids == METADATA["category_ids"]
        assert warnings() == []

    def test_dataset_with_other_classes_is_not_asked(self, old, config):
        assert len(MetadataCatalog.get("coco_2017_val").thing_classes) != NUM_CLASSES
        cfg = config.clone()
        cfg.defrost()
        cfg.DATASETS.TEST = ("coco_2017_val",)
        assert BatchPredictor(cfg, str(old)).thing_classes[0] == "category 1"


def test_nothing_half_written(predict, photos, tmp_path, monkeypatch):
    def fail(self, f, **kwargs):
        f.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    assert predict(photos, *THRESHOLD) == "error: disk full"
    assert os.listdir(tmp_path / "out") == []


class TestVideo:
    SIZE = (70, 50)

    @pytest.fixture
    def clip(self, tmp_path):
        """Five different frames."""
        import cv2

        path = tmp_path / "clip.avi"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 8.0, self.SIZE)
        for seed in range(5):
            writer.write(np.asarray(noise_image(self.SIZE, seed)))
        writer.release()
        return path

    def frames(self, path):
        import cv2

        capture = cv2.VideoCapture(str(path))
        assert capture.get(cv2.CAP_PROP_FPS) == 8.0
        frames = []
        while (frame := capture.read()[1]) is not None:
            frames.append(frame)
        return frames

    def test_annotated_video_and_results(self, predict, clip, tmp_path, capsys):
        assert predict(clip, *THRESHOLD, "--batch-size", "2") == 0
        output = tmp_path / "out"
        assert sorted(os.listdir(output)) == ["clip.mp4", "images.json", "predictions.json"]
        before, after = self.frames(clip), self.frames(output / "clip.mp4")
        assert len(before) == len(after) == 5
        assert after[0].shape == (50, 70, 3)
        results, content = read_results(output)
        assert content["images"] == [
            {"id": i + 1, "file_name": str(clip), "height": 50, "width": 70, "frame_index": i}
            for i in range(5)
        ]
        assert {result["image_id"] for result in results} == {1, 2, 3, 4, 5}
        for a, b in zip(before, after, strict=True):
            assert np.abs(a.astype(int) - b).mean() > 10
        assert "in 5 frames" in capsys.readouterr().out

    def test_without_detections_the_video_looks_the_same(self, predict, clip, tmp_path):
        assert predict(clip, "--score-threshold", "1") == 0
        before, after = self.frames(clip), self.frames(tmp_path / "out" / "clip.mp4")
        for a, b in zip(before, after, strict=True):
            assert np.abs(a.astype(int) - b).mean() < 10

    def test_nothing_half_written(self, predict, clip, tmp_path, monkeypatch):
        def fail(*args):
            raise MemoryError

        monkeypatch.setattr(BatchPredictor, "draw", fail)
        with pytest.raises(MemoryError):
            predict(clip, *THRESHOLD)
        assert os.listdir(tmp_path / "out") == []


def test_photographs(predict, coco200, tmp_path):
    photographs = sorted((coco200 / "val2017").iterdir())[:3]
    assert predict(*photographs, *THRESHOLD) == 0
    images = read_results(tmp_path / "out")[1]["images"]
    assert [image["picture"] for image in images] == [path.name for path in photographs]
