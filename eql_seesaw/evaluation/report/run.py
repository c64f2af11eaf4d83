"""What the evaluation of one run left in its folder."""

import dataclasses
import os
from pathlib import Path
from typing import Any

from ..matches import Matches
from ..result import RESULTS, Result

# In the order in which they are shown.
TASK_NAMES = {"segm": "masks", "bbox": "boxes"}


@dataclasses.dataclass(frozen=True)
class Run:
    """
    One evaluated run.

    Attributes:
        folder: where its files are.
        evaluation: what was evaluated, and its numbers.
        matches: {"segm": Matches, "bbox": Matches}, or one of them; masks first.
    """

    folder: Path
    evaluation: Result
    matches: dict[str, Matches]

    @property
    def run_folder(self) -> Path:
        """``<run>`` of ``<run>/inference/<dataset>``; or else the folder itself."""
        folder = self.folder.resolve()
        return folder.parents[1] if folder.parent.name == "inference" else folder

    @property
    def tasks(self) -> list[str]:
        return list(self.matches)

    @property
    def categories(self) -> list[dict[str, Any]]:
        return self.evaluation.categories

    @property
    def groups(self) -> list[str]:
        """ "r", "c" or "f" of each class."""
        return [category["group"] for category in self.categories]

    @property
    def results_file(self) -> str:
        return str(self.folder / RESULTS)


def load_run(folder: str | os.PathLike) -> Run:
    """
    Args:
        folder: of one evaluation, such as ``output/<run>/inference/<dataset>``.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a file is not what an evaluation writes.
    """
    folder = Path(folder)
    evaluation = Result.load(folder)
    tasks = [task for task in TASK_NAMES if task in evaluation.matches]
    if not tasks:
        raise ValueError(f"{folder}: metrics of neither boxes nor masks, so nothing to report.")
    if not evaluation.results_file:
        raise FileNotFoundError(f"{folder}: no {RESULTS}; evaluate again.")
    return Run(folder, evaluation, {task: evaluation.matches[task] for task in tasks})


def check_comparable(run: Run, other: Run) -> None:
    """
    Raises:
        ValueError: the two are of different datasets, or one has no masks.
    """
    where = f"{run.folder} and {other.folder} cannot be compared"
    names = [r.evaluation.dataset for r in (run, other)]
    if names[0] != names[1]:
        raise ValueError(f"{where}: they are of the datasets {names[0]} and {names[1]}.")
    one, another = ([(c["id"], c["name"]) for c in r.categories] for r in (run, other))
    if len(one) != len(another):
        raise ValueError(f"{where}: they have {len(one)} and {len(another)} categories.")
    for (id_a, name_a), (id_b, name_b) in zip(one, another, strict=True):
        if (id_a, name_a) != (id_b, name_b):
            raise ValueError(f"{where}: category {id_a} {name_a!r} is {id_b} {name_b!r} there.")
    if run.tasks != other.tasks:
        names = [" and ".join(TASK_NAMES[task] for task in r.tasks) for r in (run, other)]
        raise ValueError(f"{where}: they are of {names[0]}, and of {names[1]}.")
