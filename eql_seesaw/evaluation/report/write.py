"""Writing the report: numbers, pictures, page and figures."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2

from ...atomic_write import atomic_file
from ...data.frequency_groups import COMMON_MAX_IMAGES, GROUP_NAMES, RARE_MAX_IMAGES
from ..matches import CONFUSION_SCORE, IOU_THRESHOLD
from .contents import METRICS, captions, metric_rows, page_data, points_by_task, run_names
from .examples import draw_examples
from .figures import save_figures
from .overlays import MAX_DRAWN
from .precision_recall import MIN_DETECTIONS
from .run import TASK_NAMES, check_comparable, load_run

# In the order in which they run.
SCRIPTS = ("elements.js", "charts.js", "table.js", "category.js", "page.js")
STYLE = "page.css"


def write_report(
    folder: str | os.PathLike,
    output_dir: str | os.PathLike | None = None,
    compare: str | os.PathLike | None = None,
    score_threshold: float = 0.3,
) -> str:
    """
    Write ``index.html``, one file that needs nothing else, and its figures as PNG.

    Args:
        folder: of one evaluation, with ``evaluation.json``, its detections and their matches, such
            as ``output/<run>/inference/<dataset>``.
        output_dir: where to write; by default ``report`` in ``folder``, or ``comparison`` with
            another run.
        compare: folder of an evaluation of another run on the same dataset.
        score_threshold: detections below it are not drawn, and do not count where precision and
            recall are a single number.

    Returns:
        The path of ``index.html``.

    Raises:
        FileNotFoundError: a file of an evaluation, or the annotation file, is not there. Pictures
            that are not there are left out.
        ValueError: a file is broken, the two runs are of different datasets, or the threshold is
            not between 0 and 1.
    """
    if not 0 <= score_threshold <= 1:
        raise ValueError(f"score threshold is {score_threshold}, expected 0 to 1.")
    run = load_run(folder)
    other = None
    if compare is not None:
        other = load_run(compare)
        check_comparable(run, other)
    if output_dir is None:
        output_dir = Path(folder, "report" if compare is None else "comparison")
    output_dir = Path(output_dir)
    pictures, examples = draw_examples(run, score_threshold)
    num_missing = sum(picture["url"] is None for picture in pictures)

    page = _render(
        run=run,
        names=run_names(run, other),
        evaluation=run.evaluation,
        threshold=score_threshold,
        metrics=METRICS,
        rows=metric_rows(run, other),
        points=points_by_task(run, score_threshold),
        data=page_data(run, other, score_threshold),
        examples=examples,
        pictures=pictures,
        num_missing_pictures=num_missing,
        **captions(run),
    )
    output_dir.mkdir(parents=True, exist_ok=True)
    save_figures(run, output_dir)
    path = output_dir / "index.html"
    with atomic_file(path) as f:
        f.writelines(page)
    return str(path)


def _render(**values: Any) -> Iterator[str]:
    """The page, piece by piece."""
    loader = jinja2.PackageLoader(__package__, "page")
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["script_json"] = _script_json
    environment.filters["decimal"] = _decimal
    environment.filters["signed"] = _signed
    environment.filters["percent"] = _percent
    read = loader.get_source
    return environment.get_template("index.html.jinja").generate(
        style=read(environment, STYLE)[0],
        scripts=[read(environment, script)[0] for script in SCRIPTS],
        task_names=TASK_NAMES,
        group_names=GROUP_NAMES,
        rare_max=RARE_MAX_IMAGES,
        common_max=COMMON_MAX_IMAGES,
        iou_threshold=IOU_THRESHOLD,
        confusion_score=CONFUSION_SCORE,
        max_drawn=MAX_DRAWN,
        min_detections=MIN_DETECTIONS,
        **values,
    )


def _script_json(value):
    """JSON for a script element, which nothing in it can end."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")


def _decimal(value):
    return "n/a" if value is None else f"{value:.1f}"


def _signed(value):
    # A true minus sign is as wide as the plus.
    if value is None:
        return "n/a"
    text = f"{value:+.1f}".replace("-", "−")
    return "0.0" if text[1:] == "0.0" else text


def _percent(value):
    return "n/a" if value is None else f"{100 * value:.1f}"
