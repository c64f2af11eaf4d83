"""Writing the report: numbers, pictures, page and PNG files."""

import os
from functools import partial
from pathlib import Path

import jinja2

from ...atomic_write import atomic_file
from ...data import frequency_groups
from .. import matches
from ..result import Result, decimal
from . import charts, contents
from .examples import MAX_DRAWN, draw_examples
from .numbers import IOU_TYPES, Numbers


def write_report(
    result: Result,
    folder: str | os.PathLike,
    score_threshold: float = 0.3,
    other: Result | None = None,
) -> str:
    """
    Write ``index.html``, one file that needs nothing else, and its charts as PNG.

    Args:
        result: of an evaluation, with its file of detections.
        folder: where to write.
        score_threshold: detections below it are not drawn, and do not count where precision and
            recall are a single number.
        other: of another run on the same dataset, to compare with.

    Returns:
        The path of ``index.html``.

    Raises:
        FileNotFoundError: the file of detections, or the annotation file, is not there. Pictures
            that are not there are left out.
        ValueError: a file is broken, the two runs are of different datasets, or the threshold is
            not between 0 and 1.
    """
    if not 0 <= score_threshold <= 1:
        raise ValueError(f"score threshold is {score_threshold}, expected 0 to 1.")
    if other is not None:
        check_comparable(result, other)
    results = [result] if other is None else [result, other]
    names = contents.run_names([Path(each.folder) for each in results])
    numbers = [Numbers(result, other, t, score_threshold) for t in IOU_TYPES if t in result.metrics]
    ap = numbers[0].ap
    pictures, examples = draw_examples(result, numbers[0])
    page = _template().render(
        result=result,
        other=other,
        results=results,
        names=names,
        threshold=score_threshold,
        numbers=numbers,
        columns=contents.category_columns(result, numbers, names[-1]),
        # The worst first; those without ground truth last.
        order=sorted(range(len(ap)), key=lambda k: (ap[k] is None, ap[k], k)),
        examples=examples,
        pictures=pictures,
        draw_comparison=partial(charts.draw_comparison, names=names),
    )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    charts.save_png_files(numbers, folder)
    with atomic_file(folder / "index.html") as f:
        f.write(page)
    return str(folder / "index.html")


def check_comparable(result: Result, other: Result) -> None:
    """
    Raises:
        ValueError: the two are of different datasets or images, or one has no masks.
    """
    for what, one, another in (
        ("dataset", result.dataset, other.dataset),
        ("number of images", result.num_images, other.num_images),
        ("IoU types", *([t for t in IOU_TYPES if t in r.metrics] for r in (result, other))),
        ("categories", *([(c["id"], c["name"]) for c in r.categories] for r in (result, other))),
    ):
        if one != another:
            shown = "" if what == "categories" else f", {one} and {another}"
            raise ValueError(f"these evaluations cannot be compared: they differ in {what}{shown}.")


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, "page"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(decimal=decimal, whole=contents.whole)
    environment.globals.update(charts=charts, contents=contents, matches=matches)
    environment.globals.update(frequency_groups=frequency_groups, max_drawn=MAX_DRAWN)
    return environment.get_template("index.html.jinja")
