"""Weights & Biases and MLflow beside Detectron2's event writers: one run there for a training."""

import importlib
import logging
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils.events import EventWriter, get_event_storage

from ..config import config_items
from ..modeling.classification_accuracy import PERIOD

logger = logging.getLogger(__name__)


class TrackedRun(EventWriter, HookBase):
    """
    A run of a tracking service, which gets the config and the scalars that TensorBoard gets. Its id
    is in the checkpoints, so that a resumed training goes on in the same run. Server, project and
    name of the run are those of the service's own environment variables.

    A subclass has the ``name`` of the service's package, which is imported as ``service``.

    Args:
        output_dir: OUTPUT_DIR, for what the service keeps on this machine.
    """

    name: str

    def __init__(self, output_dir: str):
        self.service = importlib.import_module(self.name)
        self.output_dir = output_dir
        self.run_id: str | None = None
        self._last_write = -1

    def state_dict(self) -> dict:
        return {"run_id": self.run_id}

    def load_state_dict(self, state_dict: dict) -> None:
        self.run_id = state_dict["run_id"]

    def before_train(self) -> None:
        items = config_items(self.trainer.cfg)
        settings = {key: value for key, value in items if not isinstance(value, CfgNode)}
        try:
            self.run_id = self.start(settings)
        except Exception as error:  # of the service: a login or a server is missing
            raise ValueError(f"EVENT_WRITERS {self.name} cannot start a run: {error}") from error

    def write(self) -> None:
        scalars: dict[int, dict[str, float]] = defaultdict(dict)
        latest = get_event_storage().latest_with_smoothing_hint(PERIOD)
        for name, (value, iteration) in latest.items():
            if iteration > self._last_write:
                scalars[iteration][name] = value
        for iteration in sorted(scalars):
            self._attempt(self.log, scalars[iteration], iteration)
            self._last_write = iteration

    def close(self) -> None:
        self._attempt(self.end)

    def _attempt(self, call: Callable[..., None], *arguments: Any) -> None:
        """A service that is away does not end the training."""
        try:
            call(*arguments)
        except Exception as error:
            logger.warning(f"EVENT_WRITERS {self.name} lost metrics or the run's end: {error}")

    @property
    def is_finished(self) -> bool:
        """False where the training was stopped or failed."""
        return self.trainer.iter >= self.trainer.max_iter

    def start(self, settings: dict[str, Any]) -> str:
        """Begin a run, or go on with that of ``run_id``; its id."""
        raise NotImplementedError

    def log(self, scalars: dict[str, float], iteration: int) -> None:
        raise NotImplementedError

    def end(self) -> None:
        raise NotImplementedError


class WandbRun(TrackedRun):
    """Of Weights & Biases."""

    name = "wandb"

    def start(self, settings: dict[str, Any]) -> str:
        run = self.service.init(
            dir=self.output_dir, id=self.run_id, resume="allow", config=settings
        )
        # Its own steps cannot go back, as a resumed training does.
        run.define_metric("*", step_metric="iteration")
        return run.id

    def log(self, scalars: dict[str, float], iteration: int) -> None:
        self.service.log({**scalars, "iteration": iteration})

    def end(self) -> None:
        self.service.finish(exit_code=0 if self.is_finished else 1)


class MLflowRun(TrackedRun):
    """Of MLflow."""

    name = "mlflow"

    def start(self, settings: dict[str, Any]) -> str:
        is_new = self.run_id is None
        run = self.service.start_run(run_id=self.run_id)
        if is_new:  # parameters of a run cannot change
            self.service.log_params(settings)
        return run.info.run_id

    def log(self, scalars: dict[str, float], iteration: int) -> None:
        self.service.log_metrics(scalars, step=iteration)

    def end(self) -> None:
        self.service.end_run("FINISHED" if self.is_finished else "FAILED")
