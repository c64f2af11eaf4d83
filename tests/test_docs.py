"""What the documents show works as it stands: configs, commands, code, links."""

import argparse
import json
import re
import runpy
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml

from datasets.make_symbols import generate_symbols
from eql_seesaw import programs
from eql_seesaw.data.frequency_groups import COMMON_MAX_IMAGES, RARE_MAX_IMAGES
from eql_seesaw.engine import load_config
from eql_seesaw.tables.table import load_table, table_names
from tests.ranks import Script

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("*.md", "configs/*.md", "datasets/*.md", "docs/*.md")
    for path in ROOT.glob(pattern)
)
# Programs of others; their options are theirs.
OTHERS = ("pip", "pre-commit", "source", "tensorboard")
# What starts train_net.py; the words after it are those of train_net.py.
STARTERS = ("torchrun", "srun", "sbatch")


def blocks(language, documents=DOCUMENTS):
    for document in documents:
        text = (ROOT / document).read_text()
        for block in re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL):
            needs_timm = "_timm_" in block and find_spec("timm") is None
            marks = [pytest.mark.skip(reason="needs timm")] if needs_timm else []
            yield pytest.param(block, marks=marks, id=f"{document}-{block.splitlines()[0]}")


def commands(document):
    """The commands of a document as lists of words, what a page calls CONFIG put in."""
    text = (ROOT / document).read_text()
    config = re.search(r"`CONFIG` stands for\s+`(.*?)`", text)
    for block in re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if "CONFIG" in words:
                at = words.index("CONFIG")
                words[at : at + 1] = config.group(1).split()
            if words:
                yield words


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_that_are_linked_exist(document):
    for link in re.findall(r"\]\(([^)#]+)\)", (ROOT / document).read_text()):
        if not link.startswith("http"):
            assert ((ROOT / document).parent / link).exists(), link


def test_all_pages_can_be_reached():
    reached, todo = set(), {"README.md"}
    while todo:
        document = todo.pop()
        reached.add(document)
        for link in re.findall(r"\]\(([^)#]+\.md)\)", (ROOT / document).read_text()):
            path = ((ROOT / document).parent / link).resolve()
            if not link.startswith("http"):
                todo |= {str(path.relative_to(ROOT))} - reached
    assert set(DOCUMENTS) - reached <= {"CHANGELOG.md"}


@pytest.mark.parametrize("block", list(blocks("yaml")))
def test_configs(tmp_path, block):
    base = str(ROOT / "configs" / "Base-mask_rcnn_FPN.yaml")
    text = block.replace("configs/", f"{ROOT}/configs/")
    if "_BASE_" not in text:
        text = f"_BASE_: {base}\n{text}"
    (tmp_path / "config.yaml").write_text(text)
    cfg = load_config(str(tmp_path / "config.yaml"), [])
    values = yaml.safe_load(block)
    assert list(cfg.DATASETS.REGISTER) == list(values["DATASETS"]["REGISTER"])
    if "SOLVER" in values:
        assert cfg.SOLVER.STEPS == tuple(values["SOLVER"]["STEPS"])


@pytest.mark.parametrize("block", list(blocks("json")))
def test_json(block):
    assert json.loads(block)


def test_frequency_groups():
    """One place decides them; this page says them."""
    text = (ROOT / "docs" / "datasets.md").read_text()
    assert f"with at most {RARE_MAX_IMAGES} training images" in text
    assert f"**common** with at most {COMMON_MAX_IMAGES}," in text


class Parsed(BaseException):
    """Raised with the arguments of a command instead of running it."""


@pytest.fixture
def parse(monkeypatch, tmp_path):
    """
    Parses the arguments of a program as it does itself, and goes no further. Done where a reader
    is: in the repository's folder, with the birds.yaml that README.md shows.
    """
    for name in ("configs", "datasets", "train_net.py"):
        (tmp_path / name).symlink_to(ROOT / name)
    write_birds(tmp_path)
    monkeypatch.chdir(tmp_path)

    def parse(run, program, arguments):
        def stopping(method):
            def parse(*args, **kwargs):
                raise Parsed(method(*args, **kwargs))

            return parse

        with monkeypatch.context() as patch:
            for name in ("parse_args", "parse_intermixed_args"):
                method = getattr(argparse.ArgumentParser, name)
                patch.setattr(argparse.ArgumentParser, name, stopping(method))
            patch.setattr(sys, "argv", [program, *arguments])
            with pytest.raises(Parsed) as parsed:
                run(program, run_name="__main__")
        return parsed.value.args[0]

    return parse


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_are_those_of_the_programs(document, parse):
    targets = re.findall(r"^([a-z_]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    tables = table_names()
    if document == "docs/backbones.md":
        pytest.importorskip("timm")
    for words in commands(document):
        words = [word for word in words if not word.startswith("OMP_NUM_THREADS=")]
        name = Path(words[0]).name
        if name == "make":
            assert {word for word in words[1:] if "=" not in word} <= set(targets), words
        elif name in STARTERS or words[:2] == ["python", "train_net.py"]:
            script = "docs/train.slurm" if name == "sbatch" else "train_net.py"
            args = parse(runpy.run_path, "train_net.py", words[words.index(script) + 1 :])
            load_config(args.config_file, args.opts)
        elif name.startswith("eql-seesaw-"):
            (module,) = getattr(programs, name.removeprefix("eql-seesaw-")).args
            parse(runpy.run_module, f"eql_seesaw.{module}", words[1:])
        elif words[:2] == ["python", "-m"] and words[2].startswith("eql_seesaw"):
            args = parse(runpy.run_module, words[2], words[3:])
            table = getattr(args, "table", None)
            if table is not None:
                assert table in tables, words
                rows = {row.name for row in load_table(table).rows}
                assert set(getattr(args, "rows", None) or []) <= rows, words
        elif name == "python" and words[1].endswith(".py"):
            parse(runpy.run_path, words[1], words[2:])
        elif words[:2] == ["python", "-m"]:
            is_script = (ROOT / f"{words[2].replace('.', '/')}.py").is_file()
            assert words[2] in ("pip", "pytest") or is_script, words
            for path in words[3:] if words[2] == "pytest" else []:
                assert not path.startswith("tests") or (ROOT / path).exists(), words
        else:
            assert name in OTHERS, words


def write_birds(folder):
    (block,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    (folder / "birds.yaml").write_text(block)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The repository with its programs, and small stand-ins for the datasets of the documents."""
    folder = tmp_path_factory.mktemp("repository")
    for name in ("configs", "eql_seesaw", "train_net.py"):
        (folder / name).symlink_to(ROOT / name)
    symbols = {"image_size": 64, "val_images_per_class": 1, "classes_per_image": 6}
    generate_symbols(
        str(folder / "datasets" / "symbols_30"),
        num_classes=30,
        image_counts=[12] * 10 + [2] * 20,
        **symbols,
    )
    write_birds_data(folder / "birds", **symbols)
    write_birds(folder)
    return folder


def write_birds_data(folder, **symbols):
    """Data in COCO format as in README.md, with polygons and all images in one folder."""
    generate_symbols(str(folder / "images"), num_classes=69, image_counts=[2] * 69, **symbols)
    for split in ("train", "val"):
        data = json.loads((folder / "images" / f"symbols_{split}.json").read_text())
        for image in data["images"]:
            image["file_name"] = f"{split}/{image['file_name']}"
        for annotation in data["annotations"]:
            x, y, w, h = annotation["bbox"]
            annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        (folder / f"{split}.json").write_text(json.dumps(data))


# What `make quickstart` does, in two iterations.
QUICKSTART = """
    train_net.py --config-file configs/quickstart/seesaw.yaml
    SOLVER.MAX_ITER 2 SOLVER.STEPS (1,) SOLVER.IMS_PER_BATCH 1 DATALOADER.NUM_WORKERS 0
    TEST.DETECTIONS_PER_IMAGE 5 TEST.NUM_PICTURES 1 TEST.REPORT False
"""
# Programs one after the other.
RUN = """
import runpy, sys
for sys.argv in {programs}:
    run = runpy.run_path if sys.argv[0].endswith(".py") else runpy.run_module
    try:
        run(sys.argv[0], run_name="__main__")
    except SystemExit as error:
        assert error.code in (0, None), (sys.argv, error.code)
"""


def python(folder, text):
    """Run a text as a script in a folder."""
    (folder / "script.py").write_text(text)
    script = Script(str(folder / "script.py"), log=folder / "log.txt", folder=folder)
    assert script.wait(300) == 0, (folder / "log.txt").read_text()[-3000:]


@pytest.mark.slow
def test_commands_that_need_no_more_than_the_quickstart(folder):
    """Each command as it is written, in a folder as a new user has it."""
    chosen = [QUICKSTART.split()]
    for document in DOCUMENTS:
        for words in commands(document):
            here = any("quickstart/" in word or word == "birds.yaml" for word in words[3:])
            if (
                words[:2] == ["python", "-m"]
                and words[2] in ("eql_seesaw.predict", "eql_seesaw.export", "eql_seesaw.data.check")
                and here
                and words[2:] not in chosen
                and not any(word.startswith("output/birds") for word in words)
            ):
                chosen.append(words[2:])
    programs = {words[0] for words in chosen[1:]}
    assert programs == {"eql_seesaw.predict", "eql_seesaw.export", "eql_seesaw.data.check"}
    python(folder, RUN.format(programs=chosen))
    assert (folder / "predictions" / "predictions.json").exists()
    # The code that loads the exported file.
    for block in blocks("python", ["docs/prediction.md"]):
        python(folder, f"{block.values[0]}\nassert len(names) == len(scores)")


@pytest.mark.parametrize(
    "block", list(blocks("python", ["README.md", "docs/losses.md", "docs/classification.md"]))
)
def test_code(block):
    width = re.search(r"Linear\((\d+), ", block)
    names = {"gt_classes": torch.arange(8)}
    if width:
        names["features"] = torch.randn(8, int(width.group(1)))
    exec(block, names)


def test_loss_of_the_example():
    (block,) = blocks("python", ["docs/adding_a_loss.md"])
    names = {"__name__": "eql_seesaw.losses.smoothed_ce"}
    exec(block.values[0], names)
    loss = names["SmoothedCrossEntropy"](5, smoothing=0.1)
    logits = torch.randn(3, loss.num_logits, requires_grad=True)
    ((name, value),) = loss(logits, torch.tensor([0, 4, 5])).items()
    assert name == "loss_cls" and value.isfinite()
    assert loss(logits[:0], torch.zeros(0, dtype=torch.long))["loss_cls"] == 0
    assert loss.probabilities(logits).shape == (3, 6)
