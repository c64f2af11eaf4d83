"""
Trains a miniature twice, once in peace and once being killed at random moments and resumed each
time, and compares what the two leave behind, bit for bit.

    python -m tests.crash_test
    python -m tests.crash_test --kills 5 --seed 1 --ranks 2 --signal TERM
"""

import argparse
import json
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tabulate import tabulate

from eql_seesaw.engine.stop_signals import STOPPED
from tests.engine.conftest import as_arguments, small_dataset, small_run
from tests.ranks import ROOT, Script

CHECKPOINT_PERIOD = 4
NUM_EVALUATIONS = 3
# A run that takes longer hangs.
TIMEOUT_SECONDS = 300
# What a kill may wait for: a checkpoint that is being written more often than anything else.
MOMENTS = ("start-up", "step", "step", "checkpoint", "checkpoint", "checkpoint", "evaluation")
TIMES = ("eta_seconds", "time", "data_time", "rank_data_time")


class Kill(NamedTuple):
    """A moment to kill a training: that of its kind that comes first once ``step`` is done."""

    step: int
    moment: str


class Pace(NamedTuple):
    """How long things take here, in seconds."""

    start_up: float
    step: float
    evaluation: float


def plan_kills(num_kills: int, num_steps: int, rng: random.Random) -> list[Kill]:
    """Moments of all kinds over the whole training, in the order of its steps."""
    moments = rng.sample(list(MOMENTS) * (num_kills // len(MOMENTS) + 1), num_kills)
    period = num_steps // NUM_EVALUATIONS
    kills = []
    for moment in moments:
        step = rng.randrange(num_steps)
        # Not long before it, or all the steps between would be free of kills.
        if moment == "evaluation":
            step += period - 1 - step % period
        kills.append(Kill(step, moment))
    return sorted(kills)


class Training:
    """A training in a process group of its own, in ``folder``/output."""

    def __init__(self, folder: Path, num_steps: int, num_ranks: int, resume: bool):
        self.output = folder / "output"
        self.log_file = folder / "terminal.txt"
        self.leftovers = self.partial_checkpoints
        self.started = time.monotonic()
        self.log_file.unlink(missing_ok=True)
        self.process = Script(
            "train_net.py",
            *("--num-gpus", num_ranks),
            *("--config-file", ROOT / "configs" / "quickstart" / "seesaw.yaml"),
            *(["--resume"] if resume else []),
            *overrides(folder.parent / "symbols", num_steps),
            log=self.log_file,
            folder=folder,
        )

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    @property
    def resumed_step(self) -> int | None:
        """How many steps were done when it started; None before that is known."""
        found = re.search(r"Starting training from iteration (\d+)", self.log)
        return int(found[1]) if found else None

    @property
    def saved_step(self) -> int:
        """How many steps the newest of its checkpoints has."""
        checkpoints = self.output.glob("model_[0-9]*.pth")
        return max((int(path.stem.removeprefix("model_")) + 1 for path in checkpoints), default=0)

    @property
    def partial_checkpoints(self) -> set[str]:
        """Names of the files that are to become checkpoints, also of runs before."""
        if not self.output.is_dir():
            return set()
        return {name for name in os.listdir(self.output) if re.search(r"\.pth.", name)}

    def wait_until(self, is_reached) -> bool:
        """Wait; False if the training ends before."""
        while not is_reached():
            if self.process.poll() is not None:
                return False
            if time.monotonic() > self.started + TIMEOUT_SECONDS:
                self.process.end(signal.SIGKILL)
                raise TimeoutError(f"a run hangs; its last words:\n{self.last_words()}")
            time.sleep(0.002)
        return True

    def wait_for_moment(self, kill: Kill, pace: Pace, rng: random.Random) -> bool:
        """Wait for a moment that ``kill`` describes; False if the training ends before."""
        if kill.moment == "start-up":
            return self.sleep(rng.uniform(0, pace.start_up))
        if not self.wait_until(lambda: self.resumed_step is not None):
            return False
        saved = kill.step // CHECKPOINT_PERIOD * CHECKPOINT_PERIOD
        if not self.wait_until(lambda: max(self.resumed_step, self.saved_step) >= saved):
            return False
        if kill.moment == "checkpoint":
            before = self.partial_checkpoints
            is_reached = self.wait_until(lambda: self.partial_checkpoints - before)
            return is_reached and self.sleep(rng.choice([0, 0.01, 0.05]))
        if kill.moment == "evaluation":
            # The step's log line is from before its evaluation.
            evaluations = self.log.count("Start inference")
            is_reached = self.wait_until(lambda: self.log.count("Start inference") > evaluations)
            return is_reached and self.sleep(rng.uniform(0, pace.evaluation))
        steps = max(kill.step - max(self.resumed_step, saved), 0) + rng.random()
        return self.sleep(steps * pace.step)

    def sleep(self, seconds: float) -> bool:
        """Wait; False if the training ends before."""
        end = time.monotonic() + seconds
        return self.wait_until(lambda: time.monotonic() >= end)

    def last_words(self) -> str:
        return "\n".join(self.log.splitlines()[-30:])

    def doing(self) -> str:
        """What a training that was killed was doing, by what it left."""
        if self.resumed_step is None:
            return "starting"
        for name in self.partial_checkpoints - self.leftovers:
            return f"writing {name.partition('.pth')[0]}.pth"
        is_evaluating = self.log.rfind("Start inference") > self.log.rfind("copypaste")
        return "evaluating" if is_evaluating else "training"


def overrides(symbols: Path, num_steps: int) -> list[str]:
    """KEY VALUE ... of the training."""
    settings = {
        **small_run(symbols, Path("output")),
        "MODEL.ROI_BOX_HEAD.FC_DIM": 1024,  # so that writing a checkpoint takes a while
        "INPUT.MIN_SIZE_TRAIN": "(48, 64)",
        "SOLVER.WARMUP_ITERS": num_steps // 4,
        "SOLVER.MAX_ITER": num_steps,
        "SOLVER.STEPS": f"({num_steps * 2 // 3},)",
        "SOLVER.CHECKPOINT_PERIOD": CHECKPOINT_PERIOD,
        "SOLVER.MAX_CHECKPOINTS": 3,
        "TEST.EVAL_PERIOD": num_steps // NUM_EVALUATIONS,
        "DATALOADER.NUM_WORKERS": 1,
        "SEED": 1,
    }
    return as_arguments(settings)


def train_undisturbed(folder: Path, num_steps: int, num_ranks: int) -> Pace:
    """Train in ``folder``, and note how long things take."""
    training = Training(folder, num_steps, num_ranks, resume=False)
    training.wait_until(lambda: training.resumed_step is not None)
    start_up = time.monotonic() - training.started
    training.wait_until(lambda: training.saved_step >= CHECKPOINT_PERIOD)
    first = time.monotonic()
    training.wait_until(lambda: "Start inference" in training.log)
    num_first = training.saved_step - CHECKPOINT_PERIOD
    inference = time.monotonic()
    training.wait_until(lambda: training.log.count("copypaste") > 0)
    evaluation = time.monotonic() - inference
    check_finished(training)
    return Pace(start_up, (inference - first) / max(num_first, 1), evaluation)


def train_disturbed(
    folder: Path,
    num_steps: int,
    num_ranks: int,
    kills: list[Kill],
    signals: list[signal.Signals],
    pace: Pace,
    rng: random.Random,
) -> Iterator[dict[str, Any]]:
    """Train in ``folder`` with ``kills``, and yield a row for each."""
    for index, kill in enumerate(kills):
        signal_number = signals[index % len(signals)]
        training = Training(folder, num_steps, num_ranks, resume=index > 0)
        is_reached = training.wait_for_moment(kill, pace, rng)
        seconds = time.monotonic() - training.started
        status = training.process.end(signal_number) if is_reached else training.process.wait()
        if is_reached and signal_number != signal.SIGKILL and training.resumed_step is not None:
            is_expected = status in (STOPPED, 0)
        else:
            is_expected = status == (-signal_number if is_reached else 0)
        if not is_expected:
            raise RuntimeError(f"{kill}: exit status {status}:\n{training.last_words()}")
        yield {
            "kill": index + 1,
            "signal": signal_number.name if is_reached else "none, it was done",
            "after (s)": f"{seconds:.1f}",
            "resumed from step": training.resumed_step,
            "killed while": training.doing() if is_reached else "",
            "newest checkpoint": training.saved_step,
            "exit status": status,
        }
    check_finished(Training(folder, num_steps, num_ranks, resume=bool(kills)))


def check_finished(training: Training) -> None:
    """Wait for the end of a training, which must be a good one."""
    training.wait_until(lambda: False)
    if training.process.poll() != 0:
        raise RuntimeError(f"exit status {training.process.poll()}:\n{training.last_words()}")


def differences(expected: Path, found: Path, is_stopped: bool = False) -> Iterator[str]:
    """
    A line for each file in which two output folders differ, in what is not a time. A training that
    ``is_stopped`` by signals saves then, so that its numbered checkpoints may be of other steps.
    """
    files = [
        {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
        for folder in (expected, found)
    ]
    for name in sorted(files[0] | files[1]):
        if name.name.startswith(("log.txt", "events.out")):
            continue
        is_in_both = name in files[0] & files[1]
        if is_stopped and not is_in_both and re.fullmatch(r"model_\d+\.pth", name.name):
            continue
        if name.parts[0] == "inference" and name.suffix == ".partial":
            continue  # of an evaluation that was killed
        if name not in files[1]:
            yield f"{name} is missing"
        elif name not in files[0]:
            yield f"{name} should not be there"
        else:
            contents = [read(folder / name) for folder in (expected, found)]
            if difference := first_difference(*contents):
                yield f"{name}{difference}"


def read(path: Path) -> Any:
    """A file's content, without the date in evaluation.json."""
    if path.suffix == ".pth":
        return torch.load(path, weights_only=True)
    if path.name == "metrics.json":
        return [json.loads(line) for line in path.read_text().splitlines()]
    if path.suffix in (".json", ".csv", ".yaml"):
        return [line for line in path.read_text().splitlines() if '"date": ' not in line]
    return path.read_bytes()


def first_difference(expected: Any, found: Any) -> str:
    """
    Where two nested values differ first, and how; "" if nowhere. Tensors are compared bit for bit,
    times not at all.
    """
    if type(expected) is not type(found):
        return f": {type(found).__name__} instead of {type(expected).__name__}"
    if isinstance(expected, dict):
        if others := (set(expected) ^ set(found)) - set(TIMES):
            return f": keys {sorted(map(str, others))} are in one of them only"
        pairs = [(key, expected[key], found[key]) for key in expected if key not in TIMES]
    elif isinstance(expected, (list, tuple)):
        pairs = [(index, *pair) for index, pair in enumerate(zip(expected, found))]
        if len(expected) != len(found):
            pairs.append(("length", len(expected), len(found)))
    elif isinstance(expected, torch.Tensor):
        if expected.dtype == found.dtype and expected.shape == found.shape:
            same_bits = expected.numpy().tobytes() == found.numpy().tobytes()
            return "" if same_bits else f": up to {(expected - found).abs().max()} apart"
        return f": {found.dtype} {tuple(found.shape)} instead of {expected.dtype} {expected.shape}"
    else:
        # NaN is itself here.
        same = expected == found or repr(expected) == repr(found)
        return "" if same else f": {found!r} instead of {expected!r}"[:300]
    for key, *values in pairs:
        if difference := first_difference(*values):
            return f"[{key!r}]{difference}"
    return ""


def crash_test(
    folder: Path,
    kills: list[Kill],
    num_steps: int,
    num_ranks: int = 1,
    signals: tuple[signal.Signals, ...] = (signal.SIGKILL,),
    seed: int = 0,
) -> tuple[list[dict[str, Any]], list[str]]:
    """
    Args:
        folder: an empty folder.
        kills: when to kill the training.
        num_steps, num_ranks: of the training, and how many processes it has.
        signals: taken in turns.
        seed: decides what ``kills`` leave open.

    Returns:
        A row for each kill, and the differences in the end.
    """
    rng = random.Random(seed)
    small_dataset(folder / "symbols")
    folders = folder / "undisturbed", folder / "killed"
    for path in folders:
        path.mkdir()
    pace = train_undisturbed(folders[0], num_steps, num_ranks)
    rows = []
    try:
        for row in train_disturbed(folders[1], num_steps, num_ranks, kills, signals, pace, rng):
            rows.append(row)
            print("  ".join(f"{key}: {value}" for key, value in row.items()), flush=True)
    except (RuntimeError, TimeoutError) as error:
        return rows, [str(error)]
    is_stopped = signals != (signal.SIGKILL,)
    return rows, list(differences(*(path / "output" for path in folders), is_stopped))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.crash_test",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=60, help="of the training")
    parser.add_argument("--ranks", type=int, default=1, help="processes that train together")
    parser.add_argument("--seed", type=int, default=0, help="decides the moments")
    parser.add_argument("--signal", choices=["KILL", "TERM", "USR1"], default="KILL")
    args = parser.parse_args()
    kills = plan_kills(args.kills, args.steps, random.Random(args.seed))
    signals = (signal.Signals[f"SIG{args.signal}"],)
    with tempfile.TemporaryDirectory() as folder:
        rows, differing = crash_test(
            Path(folder), kills, args.steps, args.ranks, signals, args.seed
        )
    print(tabulate(rows, headers="keys"))
    if differing:
        sys.exit("error: " + "\n".join(differing))
    print(f"{len(rows)} kills, and not a bit of difference in the end")


if __name__ == "__main__":
    main()
