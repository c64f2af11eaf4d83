import functools
import json
import os

import pytest
import torch
import torchvision
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from detectron2.utils import comm
from PIL import Image
from torch import nn

from eql_seesaw.data.register import class_metadata, register_instances
from eql_seesaw.data.training_set import load_training_set
from eql_seesaw.engine import (
    LongTailCheckpointer,
    build_checkpointer,
    load_start,
    load_trained,
    resume_run,
)
from eql_seesaw.engine.checkpoint import training_set_description
from eql_seesaw.engine.checkpoint_files import CheckpointError
from eql_seesaw.predict import main
from tests.modeling.tiny_model import tiny_config
from tests.ranks import run_on_ranks


@pytest.fixture
def dataset(tmp_path):
    """A registered dataset of three classes, whose ids are neither sorted nor contiguous."""
    categories = [{"id": i, "name": f"class {i}"} for i in (7, 2, 40)]
    path = tmp_path / "train.json"
    images = [{"id": 1, "file_name": "1.png", "height": 8, "width": 8}]
    path.write_text(json.dumps({"categories": categories, "images": images, "annotations": []}))
    register_instances("checkpoint_train", str(path), str(tmp_path))
    yield "checkpoint_train"
    MetadataCatalog.remove("checkpoint_train")


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
    classifier, metadata = build_checkpointer(cfg, model).classifier, class_metadata(dataset)
    checkpointer = LongTailCheckpointer(
        model, str(tmp_path), classifier=classifier, metadata=metadata
    )
    assert load_trained(checkpointer, str(tmp_path / "old.pth")) is None
    checkpointer.save("new", iteration=3)
    assert load_trained(checkpointer, str(tmp_path / "new.pth")) == metadata


class TestSameLossOnOtherClasses:
    """Classifier and counts have the same shapes, and would be loaded without a word."""

    @pytest.fixture
    def checkpointer(self, tmp_path):
        cfg = tiny_config(tmp_path, "LongTailROIHeads", "MODEL.ROI_BOX_HEAD.CLS_LOSS", "seesaw")
        model = build_model(cfg)
        described = build_checkpointer(cfg, model).classifier

        def build(names):
            return LongTailCheckpointer(
                model,
                str(tmp_path),
                classifier=described,
                metadata=names and {"thing_classes": list(names), "category_ids": [1, 2, 3]},
            )

        with torch.no_grad():
            model.roi_heads.box_predictor.cls_score.weight.fill_(7.0)
            model.roi_heads.box_predictor.loss.cumulative_counts.fill_(7)
            build("abc").save("model_0000004")
            model.roi_heads.box_predictor.cls_score.weight.fill_(1.0)
            model.roi_heads.box_predictor.loss.cumulative_counts.fill_(1)
            model.roi_heads.box_head.fc1.bias.fill_(1.0)
        return build

    def weights_of(self, checkpointer):
        predictor = checkpointer.model.roi_heads.box_predictor
        return predictor.cls_score.weight.mean(), predictor.loss.cumulative_counts.max()

    def test_new_run_starts_its_classifier_anew(self, checkpointer, tmp_path, caplog):
        other = checkpointer("abd")
        load_start(other, str(tmp_path / "model_0000004.pth"))
        assert self.weights_of(other) == (1, 1)
        assert other.model.roi_heads.box_head.fc1.bias.max() != 1  # the rest is loaded
        assert "was trained on other classes: 'c', where here it is 'd'" in caplog.text

    @pytest.mark.parametrize("names", ["abd", "bac", "abcd"])
    def test_evaluation_on_other_classes_is_refused(self, checkpointer, names):
        load_trained(checkpointer(None), "", newest=True, test_classes={"val": list("abc")})
        with pytest.raises(CheckpointError, match="other classes: .*, where here it is .*'val'"):
            load_trained(checkpointer(None), "", newest=True, test_classes={"val": list(names)})

    def test_evaluation_of_another_model_is_refused(self, checkpointer):
        other = checkpointer(None)
        other.model.roi_heads.box_head.fc1 = nn.Linear(5, 32)
        with pytest.raises(CheckpointError, match="has no roi_heads.box_head.fc1.weight that fits"):
            load_trained(other, "", newest=True)

    def test_evaluation_takes_the_files_classes(self, checkpointer):
        evaluated = checkpointer(None)
        metadata = load_trained(evaluated, "", newest=True)
        assert metadata == {"thing_classes": ["a", "b", "c"], "category_ids": [1, 2, 3]}
        assert self.weights_of(evaluated) == (7, 7)


class TestBackbone:
    def test_torchvision(self, tmp_path, caplog):
        """Each tensor of a ResNet-50 but its classifier of ImageNet, at its place."""
        settings = ["MODEL.RESNETS.DEPTH", 50, "MODEL.BACKBONE.FREEZE_AT", 2]
        settings += ["MODEL.RESNETS.STEM_OUT_CHANNELS", 64, "MODEL.RESNETS.RES2_OUT_CHANNELS", 256]
        settings += ["MODEL.RESNETS.WIDTH_PER_GROUP", 64, "MODEL.RESNETS.NORM", "FrozenBN"]
        cfg = tiny_config(tmp_path, "LongTailROIHeads", *settings)
        network = build_model(cfg)
        theirs = torchvision.models.resnet50(weights=None)
        torch.save(theirs.state_dict(), tmp_path / "resnet50.pth")
        load_start(build_checkpointer(cfg, network), str(tmp_path / "resnet50.pth"))
        ours = network.backbone.bottom_up
        num_loaded = 0
        for tensor in ours.state_dict().values():
            num_loaded += any(torch.equal(tensor, t) for t in theirs.state_dict().values())
        assert num_loaded == len(ours.state_dict())
        assert torch.equal(ours.res3[0].shortcut.weight, theirs.layer2[0].downsample[0].weight)
        assert torch.equal(ours.res5[2].conv3.weight, theirs.layer4[2].conv3.weight)
        assert "set these" in caplog.text

    def test_another_model(self, tmp_path):
        torch.save({"encoder.weight": torch.zeros(3)}, tmp_path / "other.pth")
        cfg = tiny_config(tmp_path)
        network = build_model(cfg)
        with pytest.raises(CheckpointError, match="other.pth gives 0 of [0-9]+ tensors of the bac"):
            load_start(build_checkpointer(cfg, network), str(tmp_path / "other.pth"))


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


class Detector(nn.Module):
    """As much of one as a checkpointer looks at."""

    def __init__(self, value, num_classes=3):
        super().__init__()
        self.backbone = nn.Linear(2, 2)
        self.box_predictor = nn.Module()
        self.box_predictor.cls_score = nn.Linear(2, num_classes)
        self.box_predictor.loss = nn.BatchNorm1d(num_classes, affine=False)
        self.box_predictor.class_gradients = nn.BatchNorm1d(num_classes, affine=False)
        for tensor in self.state_dict().values():
            tensor.fill_(value)

    def values(self):
        state = {key: tensor.flatten()[0].item() for key, tensor in self.state_dict().items()}
        parts = {"backbone": [], "cls_score": [], "loss": [], "class_gradients": []}
        for key, value in state.items():
            parts[next(part for part in parts if f"{part}." in key)].append(value)
        return {part: values[0] for part, values in parts.items() if len(set(values)) == 1}


class Trainer:
    def __init__(self):
        self.loaded = None

    def state_dict(self):
        return {"iteration": 4, "_trainer": {"iteration": 4, "optimizer": {"state": {}}}}

    def load_state_dict(self, state):
        self.loaded = state


COUNTED = {
    "dataset_names": ["symbols"],
    "is_counted": True,
    "num_images": 7,
    "image_counts": [1, 2, 4],
    "instance_counts": [1, 5, 4],
}


LINK = "MODEL.ROI_BOX_HEAD.DROP_LOSS.LINK"


class TestResume:
    @pytest.fixture
    def run(self, tmp_path):
        """``run(loss=..., training_set=..., ...)``: a checkpointer of a run with these."""

        def build(
            loss="seesaw", training_set=COUNTED, value=1, num_classes=3, classifier=(), **settings
        ):
            return LongTailCheckpointer(
                Detector(value, num_classes),
                str(tmp_path),
                classifier={
                    "MODEL.ROI_BOX_HEAD.CLS_LOSS": loss,
                    "MODEL.ROI_HEADS.NUM_CLASSES": num_classes,
                    **dict(classifier),
                },
                training_set=training_set,
                trainer=Trainer(),
                **settings,
            )

        build(value=7).save("model_0000004", iteration=4)
        return build

    def resume(self, checkpointer, may_have_changed=False):
        resume_run(checkpointer, may_have_changed)
        return checkpointer.model.values(), checkpointer.checkpointables["trainer"].loaded

    all_loaded = dict.fromkeys(("backbone", "cls_score", "loss", "class_gradients"), 7)

    def test_same(self, run, caplog):
        assert self.resume(run()) == (self.all_loaded, Trainer().state_dict())
        assert not warnings(caplog)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"loss": "eql"}, "CLS_LOSS seesaw, but here it is eql; set SOLVER.RESUME_CHANGED"),
            ({"num_classes": 4}, "NUM_CLASSES 3, but here it is 4; set SOLVER.RESUME_CHANGED"),
        ],
    )
    def test_changed_classifier(self, run, tmp_path, changes, message):
        """It is not a reason to take an older file."""
        run("eql", value=8).save("model_0000003", iteration=3)
        run(value=7).save("model_0000004", iteration=4)
        with pytest.raises(CheckpointError, match=f"04.pth .*{message} True") as error:
            self.resume(run(**changes))
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("changes", [{"loss": "eql"}, {"num_classes": 4}])
    def test_changed_classifier_as_asked(self, run, caplog, changes):
        values, state = self.resume(run(**changes), may_have_changed=True)
        assert values == {"backbone": 7, "cls_score": 1, "loss": 1, "class_gradients": 1}
        assert state == {"iteration": 4, "_trainer": {"iteration": 4}}
        (message,) = [line for line in warnings(caplog) if "RESUME_CHANGED" in line]
        assert "but here it is" in message and "optimizer start anew" in message

    def test_changed_link(self, run, tmp_path, caplog):
        """A file that does not tell was trained with the sigmoid."""
        links = [{}, {LINK: "sigmoid"}, {LINK: "gumbel"}]
        old, sigmoid, gumbel = (
            functools.partial(run, "drop_loss", classifier=link) for link in links
        )
        old(value=7).save("model_0000004", iteration=4)
        assert self.resume(sigmoid())[0] == self.all_loaded
        with pytest.raises(CheckpointError, match="DROP_LOSS.LINK sigmoid, but here it is gumbel"):
            self.resume(gumbel())
        gumbel(value=7).save("model_0000004", iteration=4)
        assert self.resume(gumbel())[0] == self.all_loaded
        with pytest.raises(CheckpointError, match="DROP_LOSS.LINK gumbel, but here it is sigmoid"):
            self.resume(sigmoid())
        new = sigmoid()
        load_start(new, str(tmp_path / "model_0000004.pth"))
        assert (new.model.values()["backbone"], new.model.values()["cls_score"]) == (7, 1)
        assert "LINK gumbel, but here it is sigmoid; the classifier starts anew" in caplog.text

    def test_other_classes_as_asked(self, run):
        metadata = {"thing_classes": ["a", "b", "c"], "category_ids": [1, 2, 3]}
        run(value=7, metadata=metadata).save("model_0000004", iteration=4)
        other = {**metadata, "thing_classes": ["a", "c", "b"]}
        with pytest.raises(CheckpointError, match="other classes: 'b', .* is 'c'; set SOLVER"):
            self.resume(run(metadata=other))
        values, _ = self.resume(run(metadata=other), may_have_changed=True)
        assert (values["backbone"], values["cls_score"]) == (7, 1)

    def test_same_loss_with_another_number_of_logits(self, run):
        """As Seesaw's with and without objectness."""
        refused, other = run(), run()
        for checkpointer in (refused, other):
            checkpointer.model.box_predictor.cls_score = nn.Linear(2, 5)
        with pytest.raises(CheckpointError, match="no .*cls_score.weight that fits .*; set SOLVER"):
            self.resume(refused)
        _, state = self.resume(other, may_have_changed=True)
        assert "optimizer" not in state["_trainer"] and other.model.values()["loss"] == 1

    def test_asked_but_nothing_changed(self, run, caplog):
        values, state = self.resume(run(), may_have_changed=True)
        assert values == self.all_loaded and "optimizer" in state["_trainer"]
        assert not warnings(caplog)

    other = {**COUNTED, "dataset_names": ["lvis"], "num_images": 8, "instance_counts": [1, 6, 4]}

    def test_changed_training_set(self, run, caplog):
        with pytest.raises(CheckpointError) as error:
            self.resume(run(training_set=self.other))
        assert str(error.value).endswith(
            "04.pth was trained on symbols (7 images, 10 instances), but here it is lvis "
            "(8 images, 11 instances); set SOLVER.RESUME_CHANGED True to go on all the same"
        )
        values, state = self.resume(run(training_set=self.other), may_have_changed=True)
        assert values == self.all_loaded and "optimizer" in state["_trainer"]
        assert "but here it is lvis (8 images, 11 instances); as SOLVER" in caplog.text

    @pytest.mark.parametrize("counts", ["instance_counts", "image_counts"])
    def test_training_sets_of_the_same_size(self, run, counts):
        other = {**COUNTED, counts: COUNTED[counts][::-1]}
        with pytest.raises(CheckpointError, match="with other numbers of some classes"):
            self.resume(run(training_set=other))

    def test_another_model(self, run):
        other = run()
        other.model.backbone = nn.Linear(5, 2)
        with pytest.raises(CheckpointError, match="has no backbone.weight that fits .*another mod"):
            self.resume(other)

    def test_only_the_name_changed(self, run):
        renamed = {**COUNTED, "dataset_names": ["symbols_on_another_disk"]}
        assert self.resume(run(training_set=renamed))[0] == self.all_loaded
        # Statistics of a file say nothing of the images.
        with pytest.raises(CheckpointError, match="symbols .* here it is symbols_on_another_disk"):
            self.resume(run(training_set={**renamed, "is_counted": False}))

    def test_checkpoint_of_an_older_version(self, run):
        run(training_set=None, value=7).save("model_0000004", iteration=4)
        assert self.resume(run(training_set=self.other))[0] == self.all_loaded

    def test_training_set_is_no_matter_for_a_new_run(self, run, tmp_path):
        checkpointer = run(training_set=self.other)
        load_start(checkpointer, str(tmp_path / "model_0000004.pth"))
        assert checkpointer.model.values()["backbone"] == 7
        assert checkpointer.checkpointables["trainer"].loaded is None


def test_steps_count_on_in_the_same_run_only(tmp_path):
    """PCB starts after a share of a training; what is mistaken for what is known before."""
    settings = ["MODEL.ROI_BOX_HEAD.CLS_LOSS", "pcb", "OUTPUT_DIR", str(tmp_path)]
    cfg = tiny_config(tmp_path, "LongTailROIHeads", *settings)
    trained, started, resumed = (build_model(cfg) for _ in range(3))
    statistics = [model.roi_heads.box_predictor.loss for model in (trained, started, resumed)]
    statistics[0].steps.fill_(7)
    statistics[0].samples.fill_(7)
    build_checkpointer(cfg, trained).save("model_0000004")
    load_start(build_checkpointer(cfg, started), str(tmp_path / "model_0000004.pth"))
    resume_run(build_checkpointer(cfg, resumed))
    assert [loss.steps.item() for loss in statistics] == [7, 0, 7]
    assert [loss.samples[0].item() for loss in statistics] == [7, 7, 7]


def test_link_is_part_of_the_classifier(tmp_path):
    losses = ["MODEL.ROI_BOX_HEAD.CLS_LOSS", "sigmoid_ce"]
    links = ["MODEL.ROI_BOX_HEAD.SIGMOID_CE.LINK", "gumbel"]
    cfg = tiny_config(tmp_path, "LongTailROIHeads", *losses, *links)
    assert links[1] == build_checkpointer(cfg, build_model(cfg)).classifier[links[0]]


def test_description_of_a_training_set(tmp_path, dataset):
    """The same wherever the files are and whatever the dataset is called."""
    categories = [{"id": i, "name": f"class {i}"} for i in (7, 2, 40)]
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 9, "width": 9} for i in range(3)]
    annotations = [
        {"id": i, "image_id": i // 2, "category_id": 7, "bbox": [1, 1, 3, 3], "area": 9}
        for i in range(3)
    ]
    content = {"categories": categories, "images": images, "annotations": annotations}
    found = []
    try:
        for name in ("here", "there"):
            path = tmp_path / f"{name}.json"
            path.write_text(json.dumps(content))
            register_instances(f"checkpoint_{name}", str(path), str(tmp_path / name))
            settings = ("DATASETS.TRAIN", (f"checkpoint_{name}",), "MODEL.ROI_HEADS.NUM_CLASSES", 3)
            cfg = tiny_config(tmp_path, "LongTailROIHeads", *settings).clone()
            cfg.defrost()
            cfg.DATASETS.CLASS_STATISTICS = ""
            found.append(training_set_description(load_training_set(cfg, True), True))
    finally:
        for name in ("here", "there"):
            DatasetCatalog.data.pop(f"checkpoint_{name}", None)
            MetadataCatalog.pop(f"checkpoint_{name}", None)
    assert found[0] == {
        "dataset_names": ["checkpoint_here"],
        "is_counted": True,
        "num_images": 2,
        "image_counts": [0, 2, 0],
        "instance_counts": [0, 3, 0],
    }
    assert found[1] == {**found[0], "dataset_names": ["checkpoint_there"]}


class TestRanks:
    """Two processes resume."""

    @pytest.fixture
    def folder(self, tmp_path):
        for iteration in (4, 9):
            checkpointer = LongTailCheckpointer(Detector(iteration), str(tmp_path), classifier={})
            checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
        return tmp_path

    def test_all_take_the_same_file(self, folder):
        (folder / "model_0000009.pth").write_bytes(b"")
        run_on_ranks(2, _rank, folder, _resume_iteration_4)

    def test_all_end_where_none_can_be_read(self, folder):
        for number in (4, 9):
            (folder / f"model_{number:07d}.pth").write_bytes(b"")
        run_on_ranks(2, _rank, folder, _find_none_readable)

    def test_folder_that_one_does_not_see(self, folder):
        (folder / "elsewhere").mkdir()
        run_on_ranks(2, _rank, folder, _look_elsewhere)

    def test_only_the_first_writes(self, tmp_path):
        run_on_ranks(2, _rank, tmp_path, _save_own_value)
        weights = torch.load(tmp_path / "model_final.pth", weights_only=True)["model"]
        assert weights["backbone.bias"].tolist() == [0, 0]


def _rank(rank, folder, work):
    comm.create_local_process_group(2)
    work(str(folder))
    comm.synchronize()


def _resume(folder):
    model = Detector(comm.get_rank())
    checkpointer = LongTailCheckpointer(model, folder, classifier={})
    resume_run(checkpointer)
    return model.values()


def _resume_iteration_4(folder):
    assert _resume(folder)["backbone"] == 4


def _find_none_readable(folder):
    with pytest.raises(CheckpointError, match="no checkpoint in .* can be read"):
        _resume(folder)


def _look_elsewhere(folder):
    os.chdir(os.path.join(folder, "elsewhere") if comm.get_rank() else folder)
    with pytest.raises(CheckpointError, match="model_0000009.pth is not there for all processes"):
        _resume(".")


def _save_own_value(folder):
    model = Detector(comm.get_rank())
    LongTailCheckpointer(model, folder, classifier={}).save("model_final")
