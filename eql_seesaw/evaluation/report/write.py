"""Writing the report: numbers, pictures, page and PNG files."""

import functools
import os
from pathlib import Path

import jinja2

from ...atomic_write import atomic_file
from ...data.frequency_groups import COMMON_MAX_IMAGES, GROUP_NAMES, RARE_MAX_IMAGES
from ..matches import CONFUSION_SCORE, IOU_THRESHOLD
from ..result import Result
from . import charts, contents
from .examples import draw_examples
from .numbers import GROUPS, IOU_TYPES, Numbers
from .overlays import LONGEST_SIDE, MAX_DRAWN

# Most frequent confusions in the page.
NUM_CONFUSIONS = 20


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
        ValueError: there are neither boxes nor masks, a file is broken, the two runs are of
            different datasets, or the threshold is not between 0 and 1.
    """
    if not 0 <= score_threshold <= 1:
        raise ValueError(f"score threshold is {score_threshold}, expected 0 to 1.")
    iou_types = [iou_type for iou_type in IOU_TYPES if iou_type in result.matches]
    if not iou_types:
        raise ValueError("the evaluation is of neither boxes nor masks, so nothing to report.")
    if other is not None:
        check_comparable(result, other)
    results = [result] if other is None else [result, other]
    if not all(each.results_file for each in results):
        raise FileNotFoundError("no lvis_instances_results.json in its folder; evaluate again.")
    names = contents.run_names([Path(each.results_file).parent for each in results])
    numbers = [Numbers.of(result, other, iou_type, score_threshold) for iou_type in iou_types]
    pictures, examples = draw_examples(result, iou_types[0], score_threshold)
    draw_comparison = functools.partial(charts.draw_comparison, names=names)

    page = (
        _environment()
        .get_template("index.html.jinja")
        .generate(
            result=result,
            other=other,
            names=names,
            threshold=score_threshold,
            numbers=numbers,
            metrics=contents.METRICS,
            rows=contents.metric_rows(results),
            columns=contents.category_columns(result, numbers, names[-1]),
            # The worst first; those without ground truth last.
            order=sorted(
                range(len(result.categories)),
                key=lambda k: (numbers[0].ap[k] is None, numbers[0].ap[k], k),
            ),
            num_confusions=NUM_CONFUSIONS,
            examples=list(zip(result.categories, examples, strict=True)),
            pictures=pictures,
            num_missing_pictures=sum(picture["url"] is None for picture in pictures),
            draw_comparison=draw_comparison,
            **contents.group_facts(result, numbers[0]),
        )
    )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    charts.save_png_files(numbers, folder)
    with atomic_file(folder / "index.html") as f:
        f.writelines(page)
    return str(folder / "index.html")


def check_comparable(result: Result, other: Result) -> None:
    """
    Raises:
        ValueError: the two are of different datasets, or one has no masks.
    """
    where = "these evaluations cannot be compared"
    if result.dataset != other.dataset:
        raise ValueError(f"{where}: they are of the datasets {result.dataset} and {other.dataset}.")
    one, another = ([(c["id"], c["name"]) for c in r.categories] for r in (result, other))
    if len(one) != len(another):
        raise ValueError(f"{where}: they have {len(one)} and {len(another)} categories.")
    for (id_a, name_a), (id_b, name_b) in zip(one, another, strict=True):
        if (id_a, name_a) != (id_b, name_b):
            raise ValueError(f"{where}: category {id_a} {name_a!r} is {id_b} {name_b!r} there.")
    this, that = (" and ".join(IOU_TYPES[t] for t in sorted(r.matches)) for r in (result, other))
    if this != that:
        raise ValueError(f"{where}: they are of {this}, and of {that}.")


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, "page"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    for function in (contents.decimal, contents.signed, contents.whole):
        environment.filters[function.__name__] = function
    environment.globals.update(
        charts=charts,
        colors=charts.COLORS,
        operating_point=contents.operating_point,
        changed_classes=contents.changed_classes,
        group_names=GROUP_NAMES,
        all_groups=GROUPS,
        rare_max=RARE_MAX_IMAGES,
        common_max=COMMON_MAX_IMAGES,
        iou_threshold=IOU_THRESHOLD,
        confusion_score=CONFUSION_SCORE,
        max_drawn=MAX_DRAWN,
        longest_side=LONGEST_SIDE,
    )
    return environment
