"""docs/faults.md: a row for each test marked ``fault``."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pytest

HEADER = "| What was done | What you get | Test |\n|---|---|---|\n"


class Row(NamedTuple):
    """A row of the table; ``test`` is a test's path and name, as pytest takes them."""

    done: str
    gives: str
    test: str


def rows_of_tests(items: Iterable[pytest.Item]) -> list[Row]:
    """
    The rows that tests give, by file and line: one for each marker, also where a marker stands
    above a test with many parameters. What is expected to fail gives none.
    """
    items = [item for item in items if not item.get_closest_marker("xfail")]
    items.sort(key=lambda item: item.location[:2])
    rows = [
        Row(*marker.args, item.nodeid.partition("[")[0])
        for item in items
        for marker in item.iter_markers("fault")
    ]
    return list(dict.fromkeys(rows))


def format_row(row: Row) -> str:
    """A row in Markdown, for a file in docs/."""
    path, _, name = row.test.partition("::")
    done, gives = (
        text[:1].upper() + text[1:].replace("|", "\\|") for text in (row.done, row.gives)
    )
    return f"| {done} | {gives} | [`{name}`](../{path}) |\n"


class FaultTableWriter:
    """Pytest plugin that ends a document with the table of the marked tests that passed."""

    def __init__(self, document: Path) -> None:
        self.document = document
        self.not_passed: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.outcome != "passed":
            self.not_passed.add(report.nodeid)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        # A row of several tests needs them all.
        excluded = rows_of_tests(item for item in session.items if item.nodeid in self.not_passed)
        rows = [row for row in rows_of_tests(session.items) if row not in excluded]
        text = self.document.read_text().partition(HEADER)[0]
        self.document.write_text(text + HEADER + "".join(map(format_row, rows)))
