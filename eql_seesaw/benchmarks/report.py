"""The report of the benchmarks: a JSON file, a Markdown file, and plots of how costs grow."""

import dataclasses
import json
import operator
import statistics
from collections.abc import Collection, Sequence
from datetime import datetime
from pathlib import Path

from tabulate import tabulate

from ..atomic_write import atomic_file
from .growth_plot import draw_growth
from .row import Row

JSON_FILE, MARKDOWN_FILE = "benchmarks.json", "benchmarks.md"
COLUMNS = (
    "work",
    "size",
    "against",
    "ours",
    "theirs",
    "rounds",
    "time ratio",
    "quartiles",
    "aim",
    "our memory",
    "their memory",
    "memory ratio",
    "aim",
    "identical",
    "reached",
    "note",
)
YES_OR_NO: dict[bool | None, str] = {True: "yes", False: "no"}


@dataclasses.dataclass
class Section:
    """
    The rows of one benchmark on one device, measured in one go.

    Attributes:
        benchmark: its name.
        device: "cpu" or "cuda".
        date: when it was started, as text.
        commit: of the code; "" if unknown.
        problem: why rows are missing; "" if all are there.
        rows: what was measured.
    """

    benchmark: str
    device: str
    date: str
    commit: str
    problem: str = ""
    rows: list[Row] = dataclasses.field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.benchmark}_{self.device}"


def read_sections(folder: Path, machine: dict[str, str]) -> list[Section]:
    """
    What earlier runs have left in a folder, to be kept beside new measurements.

    Args:
        folder: of the report; may be absent.
        machine: what `describe_machine` says now.

    Raises:
        ValueError: there is a report, of another machine or other versions, or it is unreadable.
    """
    path = folder / JSON_FILE
    if not path.exists():
        return []
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        sections = [
            Section(**{**section, "rows": [Row(**row) for row in section["rows"]]})
            for section in content["benchmarks"]
        ]
        before = content["machine"]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is not a report of this version") from error
    changed = [key for key in {**before, **machine} if before.get(key) != machine.get(key)]
    if changed:
        key = changed[0]
        raise ValueError(
            f"{path} was measured with {key} {before.get(key)}, now it is {machine.get(key)}"
        )
    return sections


def set_aside(folder: Path) -> Path:
    """Rename the files of an old report, all but its plots; returns the JSON file's new name."""
    written = datetime.fromtimestamp((folder / JSON_FILE).stat().st_mtime)
    for name in (MARKDOWN_FILE, JSON_FILE):
        path = folder / name
        new = path.with_stem(f"{path.stem}_{written:%Y-%m-%d_%H%M%S}")
        if path.exists():
            path.rename(new)
    return new


def with_section(sections: Sequence[Section], new: Section) -> list[Section]:
    """
    The sections, with a new one in place of that of the same name; but one that did not finish
    takes the place of no finished one.
    """
    if all(section.name != new.name for section in sections):
        return [*sections, new] if new.rows or new.problem else list(sections)
    return [
        new
        if section.name == new.name and new.rows and (section.problem or not new.problem)
        else section
        for section in sections
    ]


def write_report(folder: Path, machine: dict[str, str], sections: Sequence[Section]) -> None:
    """
    Write all files of the report, each whole or not at all.

    Args:
        folder: made if it is absent.
        machine: what `describe_machine` says.
        sections: in the order of the report.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = {"machine": machine, "benchmarks": [dataclasses.asdict(s) for s in sections]}
    with atomic_file(folder / JSON_FILE) as f:
        json.dump(content, f, indent=1, default=operator.methodcaller("item"))  # numpy's numbers
        f.write("\n")
    plots = {s.name for s in sections if draw_growth(s.rows, folder / f"{s.name}.png")}
    with atomic_file(folder / MARKDOWN_FILE) as f:
        f.write(markdown(machine, sections, plots))


def markdown(machine: dict[str, str], sections: Sequence[Section], plots: Collection[str]) -> str:
    """
    Args:
        machine, sections: as for `write_report`.
        plots: names of the sections that have one.

    Returns:
        The report as one page.
    """
    lines = [
        "# Benchmarks",
        "",
        "Ours beside others': medians over rounds in which both take turns. Ratios are ours / "
        "theirs; the quartiles are of the rounds' own ratios.",
        "Memory is the peak beyond what was there before: of PyTorch's tensors, or as a note says.",
        "",
    ]
    lines += [tabulate(machine.items(), ("machine", ""), "pipe", disable_numparse=True), ""]
    lines += [outcome([row for section in sections for row in section.rows]), ""]
    for section in sections:
        device = " on GPU" if section.device == "cuda" else ""
        commit = f" at {section.commit}" if section.commit else ""
        lines += [f"## {section.benchmark}{device}", "", f"Measured {section.date}{commit}.", ""]
        if section.problem:
            lines += [f"**Rows are missing: {section.problem}.**", ""]
        cells = [[_escaped(cell) for cell in row_cells(row)] for row in section.rows]
        lines += [tabulate(cells, COLUMNS, "pipe", disable_numparse=True), ""]
        if section.name in plots:
            lines += [f"![growth]({section.name}.png)", ""]
    return "\n".join(lines)


def outcome(rows: Sequence[Row]) -> str:
    """How many rows reach their aims, as a sentence."""
    states = [row_cells(row)[COLUMNS.index("reached")] for row in rows]
    reached, short, unknown = map(states.count, ("yes", "no", "not measured"))
    return (
        f"Of {len(rows)} rows, {reached} reach their aims, {short} fall short, {unknown} could not "
        f"be measured and {len(rows) - reached - short - unknown} have no aim."
    )


def row_cells(row: Row) -> list[str]:
    """A row's cells under `COLUMNS`; "" where there is nothing to say."""
    has_aim = row.time_limit is not None or row.memory_limit is not None
    unknown = "not measured" if has_aim else ""
    return [
        row.work,
        row.size,
        row.against,
        median_seconds(row.seconds),
        median_seconds(row.peer_seconds),
        str(len(row.seconds)),
        _number(row.time_ratio),
        " to ".join(map(_number, row.time_ratio_quartiles or ())),
        _number(row.time_limit),
        mebibytes(row.memory),
        mebibytes(row.peer_memory),
        _number(row.memory_ratio),
        _number(row.memory_limit),
        YES_OR_NO.get(row.identical, ""),
        YES_OR_NO.get(row.reached, unknown),
        row.note,
    ]


def row_line(row: Row) -> str:
    """A row as one line, for the terminal."""
    cells = row_cells(row)
    work, size, against, seconds, peer_seconds, _, time_ratio, _, time_limit = cells[:9]
    memory, peer_memory, memory_ratio, memory_limit, identical, reached, note = cells[9:]
    parts = [f"{work}; {size}; against {against}"]
    if time_ratio:
        parts.append(f"{seconds} / {peer_seconds} = {time_ratio}{_in_brackets(time_limit)}")
    if memory_ratio:
        parts.append(f"{memory} / {peer_memory} = {memory_ratio}{_in_brackets(memory_limit)}")
    parts.append({"no": "RESULTS DIFFER"}.get(identical, ""))
    parts.append({"yes": "reached", "no": "FALLS SHORT"}.get(reached, reached))
    return "; ".join(part for part in (*parts, note) if part)


def median_seconds(seconds: Sequence[float]) -> str:
    """Three digits in a unit that suits; "" for none."""
    if not seconds:
        return ""
    median = statistics.median(seconds)
    if median >= 1:
        return f"{_number(median)} s"
    if median >= 1e-3:
        return f"{_number(median * 1e3)} ms"
    return f"{_number(median * 1e6)} µs"


def mebibytes(num_bytes: int | None) -> str:
    """Three digits; "" for None."""
    return "" if num_bytes is None else f"{_number(num_bytes / 2**20)} MiB"


def _number(value):
    """Three digits, or all before the point; "" for None."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _in_brackets(limit):
    return f" (aim {limit})" if limit else ""


def _escaped(cell):
    return cell.replace("|", "\\|").replace("\n", " ")
