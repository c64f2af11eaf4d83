"""Who may import whom, as CONTRIBUTING.md has it; in functions too."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "eql_seesaw"
# What stands above the rooms, and imports none of them.
COMMON = {"atomic_write", "command_line", "config_files", "normed_layers", "rank_barrier"}
LAYERS = {
    **{name: set() for name in COMMON},
    "command_line": {"config_files"},
    "losses": set(),
    "schedule": set(),
    "config": {"config_files", "losses", "schedule"},
    "data": COMMON | {"config"},
    "modeling": COMMON | {"losses", "config", "data"},
    "evaluation": COMMON | {"config", "data"},
    "engine": COMMON | {"losses", "schedule", "config", "data", "modeling", "evaluation"},
    "prediction": COMMON | {"config", "data", "modeling", "evaluation", "engine"},
    "train": {"command_line", "engine"},
    "predict": {"command_line", "config", "engine", "prediction"},
    "calibrate": {"command_line", "data", "engine", "prediction"},
    "export": {"command_line", "config", "engine", "prediction"},
    "programs": {"command_line"},
    "tables": COMMON
    | {"schedule", "config", "losses", "data", "evaluation", "engine", "classification"},
    "classification": COMMON | {"losses"},
}


def imported(path):
    """The rooms and files of the package that a file imports."""
    package = ["eql_seesaw", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            module = base + (node.module.split(".") if node.module else [])
            names = [[*module, alias.name] for alias in node.names]
        else:
            continue
        yield from (name[1] for name in names if name[0] == "eql_seesaw" and len(name) > 1)


@pytest.mark.parametrize("room", sorted(LAYERS))
def test_layers(room):
    paths = sorted((PACKAGE / room).rglob("*.py")) or [PACKAGE / f"{room}.py"]
    for path in paths:
        name = str(path.relative_to(PACKAGE))
        assert set(imported(path)) <= LAYERS[room] | {room}, name


def test_every_room_has_its_place():
    names = {path.stem for path in PACKAGE.iterdir() if not path.name.startswith("__")}
    rooms = names - {"configs"}  # a link: the wheel holds them too
    assert rooms == LAYERS.keys()
