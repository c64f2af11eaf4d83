"""docs/faults.md."""

from pathlib import Path

import pytest

from tests.faults.table import HEADER, FaultTableWriter, format_row, rows_of_tests

ROOT = Path(__file__).parents[2]
pytest_plugins = ["pytester"]

TESTS = """
import pytest

@pytest.mark.parametrize("x", [
    pytest.param(1, marks=pytest.mark.fault("b | one", "fine")),
    pytest.param(2, marks=pytest.mark.fault("b two", "fine")),
])
def test_b(x):
    assert x == 1

@pytest.mark.fault("a", "fine")
@pytest.mark.parametrize("x", [1, 2])
def test_a(x):
    pass

@pytest.mark.fault("c", "fine")
@pytest.mark.parametrize("x", [1, 2])
def test_c(x):
    assert x == 1

@pytest.mark.fault("d", "fine")
def test_d():
    pytest.skip()

def test_e():
    pass

@pytest.mark.xfail
@pytest.mark.fault("f", "fine")
def test_f():
    assert False
"""


def test_document_has_the_rows_of_the_marked_tests(collected, request):
    if any("::" in argument for argument in request.config.args):
        pytest.skip("needs whole files")
    table = (ROOT / "docs" / "faults.md").read_text().partition(HEADER)[2].splitlines(True)
    assert len(table) >= 25 and len(table) == len(set(table))
    files = {item.location[0] for item in collected}
    written = [line for line in table if file_of(line) in files]
    assert written == list(map(format_row, rows_of_tests(collected))), "write it: make faults"
    assert all((ROOT / file_of(line)).exists() for line in table)


def file_of(line):
    return line.rpartition("](../")[2].partition(")")[0]


def test_rows_are_of_tests_that_passed(pytester):
    pytester.makeini("[pytest]\nmarkers = fault(done, gives)")
    pytester.makepyfile(test_x=TESTS)
    document = pytester.path / "faults.md"
    document.write_text("Introduction\n\n" + HEADER + "| old | row | [`test_f`](../test_x.py) |\n")
    pytester.runpytest_inprocess("-m", "fault", plugins=[FaultTableWriter(document)])
    assert document.read_text() == (
        "Introduction\n\n" + HEADER + "| B \\| one | Fine | [`test_b`](../test_x.py) |\n"
        "| A | Fine | [`test_a`](../test_x.py) |\n"
    )
