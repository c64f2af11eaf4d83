"""What the README shows works as it stands."""

import re
from pathlib import Path

import pytest
import yaml

from eql_seesaw.engine import load_config

ROOT = Path(__file__).parents[1]
DOCUMENTS = (
    "README.md",
    "datasets/README.md",
    "docs/classification.md",
    "docs/evaluation.md",
    "docs/faults.md",
    "docs/miniature.md",
    "docs/tables.md",
    "docs/training.md",
)


def blocks(language):
    for document in DOCUMENTS:
        text = (ROOT / document).read_text()
        for block in re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL):
            yield pytest.param(block, id=f"{document}-{block.splitlines()[0]}")


@pytest.mark.parametrize("block", list(blocks("yaml")))
def test_configs(tmp_path, block):
    base = str(ROOT / "configs" / "Base-mask_rcnn_FPN.yaml")
    text = re.sub("_BASE_: .*", f"_BASE_: {base}", block)
    if "_BASE_" not in text:
        text = f"_BASE_: {base}\n{text}"
    (tmp_path / "config.yaml").write_text(text)
    cfg = load_config(str(tmp_path / "config.yaml"), [])
    values = yaml.safe_load(block)
    assert list(cfg.DATASETS.REGISTER) == list(values["DATASETS"]["REGISTER"])
    if "SOLVER" in values:
        assert cfg.SOLVER.STEPS == tuple(values["SOLVER"]["STEPS"])


@pytest.mark.parametrize("block", list(blocks("bash")))
def test_commands_name_what_exists(block):
    for word in re.findall(r"\S+", block):
        if re.fullmatch(r"configs/\S+\.yaml", word):
            assert (ROOT / word).exists(), word
    for module in re.findall(r"python -m (eql_seesaw[\w.]*)", block):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


def test_files_that_are_linked_exist():
    for document in DOCUMENTS:
        folder = (ROOT / document).parent
        for link in re.findall(r"\]\(([^)#]+)\)", (ROOT / document).read_text()):
            if not link.startswith("http"):
                assert (folder / link).exists(), (document, link)
