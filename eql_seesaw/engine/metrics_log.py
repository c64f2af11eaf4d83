"""Metrics that go on after a resume as if nothing had happened."""

import itertools
import json
import os

from detectron2.engine import HookBase
from detectron2.utils.events import JSONWriter
from torch import nn

from ..atomic_write import atomic_file
from ..modeling import LongTailFastRCNNOutputLayers
from ..modeling.classification_accuracy import PERIOD

# Of the process and the machine, not of the training.
TIMES = ("data_time", "eta_seconds", "time")


class ResumableJSONWriter(JSONWriter):
    """Detectron2's writer of metrics.json, which can go back to an earlier iteration."""

    def __init__(self, json_file: str):
        super().__init__(json_file, window_size=PERIOD)
        self.json_file = json_file

    def go_back(self, iteration: int) -> dict[str, float]:
        """
        Drop the lines of iterations after this one, and lines that are not whole.

        Returns:
            Metrics of the iteration; {} where its line is not there.
        """
        self.close()
        with open(self.json_file, "rb") as f:
            lines = [(line, _iteration(line)) for line in f]
        kept = [(line, i) for line, i in lines if i is not None and i <= iteration]
        if kept != lines:
            with atomic_file(self.json_file, "wb") as f:
                f.writelines(line for line, _ in kept)
        super().__init__(self.json_file, window_size=PERIOD)
        self._last_write = max((i for _, i in kept), default=-1)
        found: dict[str, float] = {}
        for line, i in kept:
            if i == iteration:
                found |= json.loads(line)
        return found

    def start_anew(self) -> None:
        """Keep the lines of an earlier run, if there are any, in a file of their own."""
        self.close()
        if os.path.getsize(self.json_file):
            names = (f"{self.json_file}.{number}" for number in itertools.count(1))
            os.replace(self.json_file, next(name for name in names if not os.path.exists(name)))
        super().__init__(self.json_file, window_size=PERIOD)


class MetricsWindow(HookBase):
    """
    Keeps in the checkpoint what the next lines of metrics.json will be made of too: the metrics of
    the last ``PERIOD`` steps, and accuracies not logged yet.
    """

    def __init__(self, model: nn.Module):
        predictors = [m for m in model.modules() if isinstance(m, LongTailFastRCNNOutputLayers)]
        self.accuracies = [predictor.accuracy for predictor in predictors]
        self._loaded: dict = {}

    def state_dict(self) -> dict:
        storage = self.trainer.storage
        metrics = {}
        for name, history in storage.histories().items():
            if name in TIMES:
                continue
            newest_first = itertools.takewhile(
                lambda entry: entry[1] > self.trainer.iter - PERIOD, reversed(history.values())
            )
            metrics[name] = {
                "values": [list(entry) for entry in newest_first][::-1],
                "smoothing_hint": storage.smoothing_hints()[name],
            }
        return {"metrics": metrics, "accuracies": [a.sums.tolist() for a in self.accuracies]}

    def load_state_dict(self, state_dict: dict) -> None:
        self._loaded = state_dict

    def before_train(self) -> None:
        for name, metric in self._loaded.get("metrics", {}).items():
            for value, iteration in metric["values"]:
                self.trainer.storage.put_scalar(
                    name, value, smoothing_hint=metric["smoothing_hint"], cur_iter=iteration
                )
        for accuracy, sums in zip(self.accuracies, self._loaded.get("accuracies", [])):
            sums = accuracy.sums.new_tensor(sums)
            if sums.shape == accuracy.sums.shape:  # or the classes have changed, as was asked for
                accuracy.sums.copy_(sums)
        self._loaded = {}


def _iteration(line: bytes) -> int | None:
    """Of a line of metrics.json; None where it is not complete."""
    try:
        return json.loads(line)["iteration"] if line.endswith(b"\n") else None
    except (ValueError, KeyError, TypeError):
        return None
