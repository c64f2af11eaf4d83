"""Pictures and report of an evaluation, as the config asks for them."""

import contextlib
import logging
import os
from collections.abc import Iterator

from detectron2.config import CfgNode

from .pictures import draw_pictures
from .result import Result

logger = logging.getLogger(__name__)


def show_evaluation(cfg: CfgNode, result: Result, folder: str) -> None:
    """
    Draw TEST.NUM_PICTURES images and write the report (TEST.REPORT) of an evaluation, into its
    folder. What goes wrong is logged and not raised: pictures are no reason to lose an evaluation,
    or to stop a training.
    """
    picture = os.path.join(folder, "predictions.png")
    if cfg.TEST.NUM_PICTURES > 0:
        with _logged_failure(picture):
            draw_pictures(result, picture, cfg.TEST.NUM_PICTURES, cfg.TEST.PICTURE_SCORE_THRESH)
    if cfg.TEST.REPORT:
        # A training need not wait for Matplotlib before it begins.
        from .report import write_report

        with _logged_failure(f"the report of {folder}"):
            report = os.path.join(folder, "report")
            report = write_report(result, report, cfg.TEST.PICTURE_SCORE_THRESH)
            logger.info(f"Report: {report}")


@contextlib.contextmanager
def _logged_failure(what: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        reason = f"no such file: {error.filename}" if error.filename else error
        logger.warning(f"Could not draw {what}: {reason}")
    except Exception:
        logger.warning(f"Could not draw {what}:", exc_info=True)
