"""The papers' tables as data: published numbers, and the config that trains each row."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from tabulate import tabulate

DATA = Path(__file__).resolve().parent / "data"
SCALES = ("full", "mini")
# The folder of all runs.
DEFAULT_OUTPUT = "output/tables"
# Datasets of tables that are miniatures themselves; the first is generated.
MINIATURE_DATASETS = ("symbols", "muscima")
CLASSIFICATION_DATASETS = ("cifar100_lt", "imagenet_lt")
# Open Images' five groups of classes, the one with most images first.
OpenImagesColumn = Literal["AP1", "AP2", "AP3", "AP4", "AP5"]
# Accuracy in percent; many, medium and few are top-1, of groups of classes.
AccuracyColumn = Literal["top1", "top5", "many", "medium", "few"]
# Mask AP, but for the last two.
Column = (
    Literal["AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf", "APbox"]
    | OpenImagesColumn
    | AccuracyColumn
)
Positive = Annotated[int, msgspec.Meta(ge=1)]


class InputFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """
    A file that the run of another row leaves behind.

    Attributes:
        row: "table/row".
        file: relative to that run's folder.
        seed: of that run; None for the seed of the run that takes the file.
    """

    row: str
    file: str
    seed: Positive | None = None


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """
    A row of a table: what was published, and what trains it.

    Attributes:
        name, label: for commands, unique in the table, and for readers.
        config: YAML file, ``configs/...``; empty in tables without training, and
            of image classification.
        classification: arguments of ``python -m eql_seesaw.classification``, with one loss; empty
            where that does not train the row.
        split: "test-dev" cannot be evaluated without LVIS's server.
        overrides: config keys and their values.
        inputs: config keys and the files of other rows' runs that they take.
        baseline: the row of the same table that gains are measured against; empty where none is.
        published: percent by column; empty for a row that only serves others.
        seeds: how many times to train it; 0 until the table has given its own number.
    """

    name: str
    label: str
    config: str = ""
    classification: str = ""
    split: Literal["val", "test-dev"] = "val"
    overrides: dict[str, Any] = {}
    inputs: dict[str, InputFile] = {}
    baseline: str = ""
    published: dict[Column, float | None] = {}
    notes: str = ""
    seeds: Positive = 0

    def published_cells(self, columns: Sequence[Column]) -> list[str]:
        """The published numbers as they were printed, "" where there is none."""
        values = [self.published.get(column) for column in columns]
        decimals = max((len(str(x).partition(".")[2]) for x in values if x is not None), default=1)
        return ["" if value is None else f"{value:.{decimals}f}" for value in values]


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """
    Attributes:
        columns, rows: in print order.
        name: its data file, without the ending.
        source: the publication, with its address; empty for a table of our own.
        notes: on the recipe; may be empty.
        seeds: of rows that have no number of their own.
        inputs: those that all rows have, but for the ones that they come from.
    """

    title: str
    dataset: Literal[
        "lvis_v0.5", "lvis_v1", "open_images", "symbols", "muscima", "cifar100_lt", "imagenet_lt"
    ]
    columns: Annotated[list[Column], msgspec.Meta(min_length=1)]
    rows: Annotated[list[Row], msgspec.Meta(min_length=1)]
    name: str = ""
    source: str = ""
    notes: str = ""
    seeds: Positive = 1
    inputs: dict[str, InputFile] = {}

    @property
    def is_miniature(self) -> bool:
        """True for a table whose rows train on a CPU as they stand: its only scale is "mini"."""
        return self.dataset in MINIATURE_DATASETS

    @property
    def is_classification(self) -> bool:
        """True for a table that :mod:`eql_seesaw.classification` trains, on images."""
        return self.dataset in CLASSIFICATION_DATASETS

    @property
    def scales(self) -> tuple[str, ...]:
        """
        Those that its rows can be trained at, the usual one first; none for a table of published
        numbers alone, whose notes say what training would take.
        """
        if not any(row.config or row.classification for row in self.rows):
            return ()
        if self.is_miniature:
            return ("mini",)
        return ("full",) if self.is_classification else SCALES

    def row(self, name: str) -> Row:
        """Raises ValueError where there is no row of that name."""
        for row in self.rows:
            if row.name == name:
                return row
        raise ValueError(
            f"table {self.name} has no row {name!r}; it has {', '.join(r.name for r in self.rows)}"
        )

    def select(self, names: list[str] | None) -> list[Row]:
        """Rows by name, in the table's order; all without names. Raises as :meth:`row`."""
        chosen = [self.row(name) for name in names or ()]
        return [row for row in self.rows if not names or row in chosen]

    def with_seeds(self, number: int) -> "Table":
        """With seeds 1 to this number for all rows."""
        rows = [msgspec.structs.replace(row, seeds=number) for row in self.rows]
        return msgspec.structs.replace(self, rows=rows)


def table_names() -> list[str]:
    """Names of all tables, sorted, 9 before 10."""

    def key(name: str) -> list[str | int]:
        return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]

    return sorted((path.stem for path in DATA.glob("*.yaml")), key=key)


def load_table(name: str) -> Table:
    """Raises ValueError where there is no such table, or its file is wrong, in one line."""
    if name not in table_names():
        raise ValueError(f"no table {name!r}; there are {', '.join(table_names())}")
    path = DATA / f"{name}.yaml"
    try:
        table = msgspec.yaml.decode(path.read_bytes(), type=Table)
    except msgspec.DecodeError as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}; see docs/tables.md") from None
    names = [row.name for row in table.rows]
    for row in table.rows:
        if names.count(row.name) > 1:
            raise ValueError(f"{path}: two rows are named {row.name!r}")
        if row.baseline and row.baseline not in names:
            raise ValueError(f"{path}: row {row.name}: its baseline {row.baseline!r} is no row")
        if table.scales and not (row.config or table.is_classification):
            raise ValueError(f"{path}: row {row.name} has no config")
    sources = {source.row for source in table.inputs.values()}
    rows = []
    for row in table.rows:
        common = {} if f"{name}/{row.name}" in sources else table.inputs
        seeds = row.seeds or table.seeds
        rows.append(msgspec.structs.replace(row, inputs={**common, **row.inputs}, seeds=seeds))
    return msgspec.structs.replace(table, name=name, rows=rows)


def pipe_table(
    headers: Sequence[str], lines: Sequence[Sequence[object]], num_texts: int = 1
) -> str:
    """A table in Markdown, its first ``num_texts`` columns aligned to the left."""
    alignment = ["left"] * num_texts + ["right"] * (len(headers) - num_texts)
    return tabulate(lines, headers, "pipe", disable_numparse=True, colalign=alignment)
