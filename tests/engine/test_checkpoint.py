import json

import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from PIL import Image

from eql_seesaw.data.register import register_instances
from eql_seesaw.engine import LongTailCheckpointer, build_checkpointer
from eql_seesaw.engine.checkpoint import CheckpointError, class_metadata
from eql_seesaw.predict import main
from tests.modeling.tiny_model import tiny_config


@pytest.fixture
def dataset(tmp_path):
    """A registered dataset of three classes, whose ids are neither sorted nor contiguous."""
    categories = [{"id": i, "name": f"class {i}"} for i in (7, 2, 40)]
    path = tmp_path / "train.json"
    path.write_text(json.dumps({"categories": categories, "images": [], "annotations": []}))
    register_instances("checkpoint_train", str(path), str(tmp_path))
    yield "checkpoint_train"
    MetadataCatalog.remove("checkpoint_train")


class TestClassMetadata:
    expected = {"thing_classes": ["class 2", "class 7", "class 40"], "category_ids": [2, 7, 40]}

    def test_before_loading_it_comes_from_the_file(self, dataset):
        assert class_metadata(dataset) == self.expected

    def test_after_loading_it_comes_from_the_metadata(self, dataset, tmp_path):
        MetadataCatalog.get(dataset).set(
            thing_classes=self.expected["thing_classes"],
            thing_dataset_id_to_contiguous_id={40: 2, 2: 0, 7: 1},
        )
        (tmp_path / "train.json").unlink()
        assert class_metadata(dataset) == self.expected

    @pytest.mark.parametrize(
        "name, num_classes, last_id", [("coco_2017_train", 80, 90), ("lvis_v1_train", 1203, 1203)]
    )
    def test_detectron2s_own_datasets(self, name, num_classes, last_id):
        metadata = class_metadata(name)
        assert len(metadata["thing_classes"]) == len(metadata["category_ids"]) == num_classes
        assert metadata["category_ids"][0] == 1 and metadata["category_ids"][-1] == last_id

    def test_nothing_is_known(self, dataset, tmp_path):
        (tmp_path / "train.json").unlink()
        assert class_metadata(dataset) is None


def test_training_saves_the_classes_and_predicting_needs_no_dataset(
    train_net, overrides, symbols, tmp_path
):
    """The run's own config.yaml is all that it takes besides the checkpoint."""
    assert train_net("quickstart/eql.yaml", *overrides) is None
    output = tmp_path / "output"
    categories = json.load(open(symbols / "symbols_train.json"))["categories"]
    for name in ("model_final.pth", "model_best.pth"):
        metadata = torch.load(output / name, weights_only=True)["metadata"]
        assert metadata == {
            "thing_classes": [category["name"] for category in categories],
            "category_ids": [category["id"] for category in categories],
        }

    Image.new("RGB", (64, 64)).save(tmp_path / "photo.png")
    files = ["--config-file", output / "config.yaml", "--weights", output / "model_final.pth"]
    inputs = [tmp_path / "photo.png", "--output", tmp_path / "predictions"]
    gone = ["DATASETS.REGISTER.symbols_train.JSON", "gone.json"]
    assert main([str(argument) for argument in [*files, *inputs, *gone]]) == 0
    images = json.load(open(tmp_path / "predictions" / "images.json"))
    assert images["categories"] == [{"id": c["id"], "name": c["name"]} for c in categories]


def test_run_that_an_older_version_began_goes_on_with_names(tmp_path, dataset):
    cfg = tiny_config(tmp_path, "LongTailROIHeads", "OUTPUT_DIR", str(tmp_path))
    model = build_model(cfg)
    build_checkpointer(cfg, model).save("old")
    assert "metadata" not in torch.load(tmp_path / "old.pth", weights_only=True)
    arguments = {"classifier": build_checkpointer(cfg, model).classifier, "is_training": True}
    metadata = class_metadata(dataset)
    checkpointer = LongTailCheckpointer(model, str(tmp_path), metadata=metadata, **arguments)
    assert "metadata" not in checkpointer.load(str(tmp_path / "old.pth"))
    checkpointer.save("new", iteration=3)
    assert checkpointer.load(str(tmp_path / "new.pth")) == {"metadata": metadata, "iteration": 3}


class TestSameLossOnOtherClasses:
    """Classifier and counts have the same shapes, and would be loaded without a word."""

    @pytest.fixture
    def checkpointer(self, tmp_path):
        cfg = tiny_config(tmp_path, "LongTailROIHeads", "MODEL.ROI_BOX_HEAD.CLS_LOSS", "seesaw")
        model = build_model(cfg)
        described = build_checkpointer(cfg, model).classifier

        def build(names, is_training=True):
            return LongTailCheckpointer(
                model,
                str(tmp_path),
                classifier=described,
                is_training=is_training,
                metadata=names and {"thing_classes": list(names), "category_ids": [1, 2, 3]},
            )

        with torch.no_grad():
            model.roi_heads.box_predictor.cls_score.weight.fill_(7.0)
            model.roi_heads.box_predictor.loss.cumulative_counts.fill_(7)
            build("abc").save("model")
            model.roi_heads.box_predictor.cls_score.weight.fill_(1.0)
            model.roi_heads.box_predictor.loss.cumulative_counts.fill_(1)
            model.roi_heads.box_head.fc1.bias.fill_(1.0)
        return build

    def weights_of(self, checkpointer):
        predictor = checkpointer.model.roi_heads.box_predictor
        return predictor.cls_score.weight.mean(), predictor.loss.cumulative_counts.max()

    def test_new_run_starts_its_classifier_anew(self, checkpointer, tmp_path, caplog):
        other = checkpointer("abd")
        other.load(str(tmp_path / "model.pth"), checkpointables=[])
        assert self.weights_of(other) == (1, 1)
        assert other.model.roi_heads.box_head.fc1.bias.max() != 1  # the rest is loaded
        assert "was trained on other classes: 'c', where here it is 'd'" in caplog.text

    def test_same_classes_are_loaded(self, checkpointer, tmp_path):
        same = checkpointer("abc")
        same.load(str(tmp_path / "model.pth"), checkpointables=[])
        assert self.weights_of(same) == (7, 7)

    def test_resuming_is_refused(self, checkpointer, tmp_path):
        with pytest.raises(CheckpointError, match="other classes: 'a', where here it is 'b'"):
            checkpointer("bac").load(str(tmp_path / "model.pth"))

    def test_evaluation_takes_the_files_classes(self, checkpointer, tmp_path):
        evaluated = checkpointer(None, is_training=False)
        evaluated.load(str(tmp_path / "model.pth"), checkpointables=[])
        assert self.weights_of(evaluated) == (7, 7)


@pytest.mark.parametrize(
    "name, content",
    [
        ("empty.pth", b""),
        ("text.pth", b"version https://git-lfs\n"),
        ("cut.pth", None),
        ("empty.pkl", b""),
        ("text.pkl", b"hello"),
    ],
)
def test_unreadable_weights_are_one_line(tmp_path, name, content):
    cfg = tiny_config(tmp_path, "LongTailROIHeads", "OUTPUT_DIR", str(tmp_path))
    checkpointer = build_checkpointer(cfg, build_model(cfg))
    path = tmp_path / name
    if content is None:
        checkpointer.save("cut")
        content = path.read_bytes()[:-1000]
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"MODEL.WEIGHTS: cannot read .*{name}") as error:
        checkpointer.load(str(path), checkpointables=[])
    assert "\n" not in str(error.value)


def test_file_that_holds_something_else(tmp_path):
    cfg = tiny_config(tmp_path)
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="list.pth holds no weights"):
        build_checkpointer(cfg, build_model(cfg)).load(str(tmp_path / "list.pth"))
