"""The papers' tables as data: published numbers, and the config that trains each row."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml

# Configs are named relative to the folder of this repository.
ROOT = Path(__file__).resolve().parents[2]
DATA = Path(__file__).resolve().parent / "data"
DATASETS = ("lvis_v0.5", "lvis_v1", "symbols")
# Mask AP, but for the last.
COLUMNS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf", "APbox")
SPLITS = ("val", "test-dev")

TABLE_KEYS = ("title", "source", "dataset", "columns", "notes", "seeds", "inputs", "rows")
ROW_KEYS = (
    "name",
    "label",
    "config",
    "split",
    "overrides",
    "inputs",
    "baseline",
    "published",
    "notes",
    "seeds",
)


class InputFile(NamedTuple):
    """
    A file that the run of another row leaves behind.

    Attributes:
        row: "table/row".
        file: relative to that run's folder.
        seed: of that run; None for the seed of the run that takes the file.
    """

    row: str
    file: str
    seed: int | None = None


@dataclass(frozen=True)
class Row:
    """
    A row of a table: what was published, and what trains it.

    Attributes:
        name: unique in the table.
        label: for readers.
        config: YAML file, relative to the repository root.
        split: "val", or "test-dev", which cannot be evaluated without LVIS's server.
        overrides: config keys and their values.
        inputs: config keys and the files of other rows' runs that they take.
        baseline: the row of the same table that gains are measured against; empty where none is.
        published: percent by column; empty for a row that only serves others.
        notes: may be empty.
        seeds: how many times to train it.
    """

    name: str
    label: str
    config: str
    split: str
    overrides: Mapping[str, Any]
    inputs: Mapping[str, InputFile]
    baseline: str
    published: Mapping[str, float]
    notes: str
    seeds: int


@dataclass(frozen=True)
class Table:
    """
    Attributes:
        name: its data file, without the ending.
        title: in a few words.
        source: the publication, with its address; empty for a table of our own.
        dataset: one of :data:`DATASETS`, for all rows.
        columns: of :data:`COLUMNS`, in print order; percent.
        notes: on the recipe; may be empty.
        inputs: those that all rows have, but for the ones that they come from.
        rows: in print order.
    """

    name: str
    title: str
    source: str
    dataset: str
    columns: tuple[str, ...]
    notes: str
    inputs: Mapping[str, InputFile]
    rows: tuple[Row, ...]

    def row(self, name: str) -> Row:
        """
        Raises:
            ValueError: no row of that name.
        """
        for row in self.rows:
            if row.name == name:
                return row
        raise ValueError(
            f"table {self.name} has no row {name!r}; it has {', '.join(r.name for r in self.rows)}"
        )


def table_names(folder: str | Path = DATA) -> list[str]:
    """Names of all tables, sorted."""
    return sorted(path.stem for path in Path(folder).glob("*.yaml"))


def load_table(name: str, folder: str | Path = DATA) -> Table:
    """
    Args:
        name: one of :func:`table_names`.
        folder: where the tables' files are.

    Raises:
        ValueError: no such table, or its file is wrong, in one line.
    """
    values = _read(name, folder)
    where = f"table {name}"
    _check_keys(where, values, TABLE_KEYS, required=("title", "dataset", "columns", "rows"))
    if values["dataset"] not in DATASETS:
        raise ValueError(
            f"{where}: dataset is {values['dataset']!r}; it must be one of {', '.join(DATASETS)}"
        )
    columns = _columns(where, values["columns"])
    default_seeds = _positive(where, "seeds", values.get("seeds", 1))
    if not isinstance(values["rows"], list) or not values["rows"]:
        raise ValueError(f"{where}: rows must be a list of at least one row")
    inputs = _inputs(where, values)
    _check_inputs(where, inputs, folder)
    rows = tuple(_row(where, row, columns, default_seeds) for row in values["rows"])
    names = [row.name for row in rows]
    for row_name in names:
        if names.count(row_name) > 1:
            raise ValueError(f"{where}: two rows are named {row_name!r}")
    for row in rows:
        if row.baseline and row.baseline not in names:
            raise ValueError(f"{where}, row {row.name}: its baseline {row.baseline!r} is no row")
        _check_inputs(f"{where}, row {row.name}", row.inputs, folder)
    sources = {source.row for source in inputs.values()}
    rows = tuple(
        row if f"{name}/{row.name}" in sources else replace(row, inputs={**inputs, **row.inputs})
        for row in rows
    )
    return Table(
        name=name,
        title=values["title"],
        source=values.get("source", ""),
        dataset=values["dataset"],
        columns=columns,
        notes=values.get("notes", ""),
        inputs=inputs,
        rows=rows,
    )


def _read(name: str, folder: str | Path) -> dict[str, Any]:
    if name not in table_names(folder):
        raise ValueError(f"no table {name!r}; there are {', '.join(table_names(folder))}")
    path = Path(folder) / f"{name}.yaml"
    try:
        values = _parsed(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: it must hold keys and values")
    return values


@functools.cache
def _parsed(text: str) -> Any:
    """Tables are read again for every row that has inputs; parsing is what takes time."""
    return yaml.safe_load(text)


def _row(where: str, values: Any, columns: tuple[str, ...], default_seeds: int) -> Row:
    if not isinstance(values, dict) or "name" not in values:
        raise ValueError(f"{where}: every row needs a name, this one has none: {values}")
    where = f"{where}, row {values['name']}"
    _check_keys(where, values, ROW_KEYS, required=("label", "config"))
    if not (ROOT / values["config"]).is_file():
        raise ValueError(f"{where}: no config {values['config']} in {ROOT}")
    split = values.get("split", SPLITS[0])
    if split not in SPLITS:
        raise ValueError(f"{where}: split is {split!r}; it must be one of {', '.join(SPLITS)}")
    return Row(
        name=values["name"],
        label=values["label"],
        config=values["config"],
        split=split,
        overrides=_mapping(where, "overrides", values),
        inputs=_inputs(where, values),
        baseline=values.get("baseline", ""),
        published=_published(where, values, columns),
        notes=values.get("notes", ""),
        seeds=_positive(where, "seeds", values.get("seeds", default_seeds)),
    )


def _check_keys(
    where: str, values: dict, known: tuple[str, ...], required: tuple[str, ...]
) -> None:
    for key in values:
        if key not in known:
            raise ValueError(f"{where}: unknown key {key!r}; known keys: {', '.join(known)}")
    for key in required:
        if key not in values:
            raise ValueError(f"{where}: {key!r} is missing")


def _mapping(where: str, key: str, values: dict) -> dict[str, Any]:
    mapping = values.get(key, {})
    if not isinstance(mapping, dict):
        raise ValueError(f"{where}: {key} must hold keys and values, got {mapping!r}")
    return mapping


def _columns(where: str, columns: Any) -> tuple[str, ...]:
    if not isinstance(columns, list) or not columns:
        raise ValueError(f"{where}: columns must be a list of {', '.join(COLUMNS)}")
    for column in columns:
        if column not in COLUMNS:
            raise ValueError(
                f"{where}: unknown column {column!r}; known columns: {', '.join(COLUMNS)}"
            )
    return tuple(columns)


def _positive(where: str, key: str, value: Any) -> int:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{where}: {key} is {value!r}; it must be at least 1")
    return value


def _published(where: str, values: dict, columns: tuple[str, ...]) -> dict[str, float]:
    published = _mapping(where, "published", values)
    for column, value in published.items():
        if column not in columns:
            raise ValueError(f"{where}: published {column!r} is not among the table's columns")
        if value is not None and not isinstance(value, (int, float)):
            raise ValueError(f"{where}: published {column} is {value!r}, not a number")
    return {column: float(x) for column, x in published.items() if x is not None}


def _inputs(where: str, values: dict) -> dict[str, InputFile]:
    inputs = {}
    for key, value in _mapping(where, "inputs", values).items():
        if not isinstance(value, dict):
            raise ValueError(f"{where}: input {key} must name a row and a file, got {value!r}")
        where_input = f"{where}, input {key}"
        _check_keys(where_input, value, InputFile._fields, required=("row", "file"))
        if "seed" in value:
            _positive(where_input, "seed", value["seed"])
        inputs[key] = InputFile(**value)
    return inputs


def _check_inputs(where: str, inputs: Mapping[str, InputFile], folder: str | Path) -> None:
    """Each input is of an existing row, without following that row's own inputs."""
    for key, source in inputs.items():
        table_name, _, row_name = source.row.partition("/")
        if table_name not in table_names(folder):
            raise ValueError(f"{where}, input {key}: no table {table_name!r}")
        others = [other.get("name") for other in _read(table_name, folder).get("rows", [])]
        if row_name not in others:
            raise ValueError(f"{where}, input {key}: table {table_name} has no row {row_name!r}")
