"""A program that is launched as ``train_net.py`` is, and then does what its test names."""

import json
import os
import signal
import sys
import time

import numpy as np
import torch
import torch.distributed as dist
from detectron2.utils import comm
from hotcoco import mask

from eql_seesaw.command_line import argument_parser, one_line_errors
from eql_seesaw.engine import launch
from eql_seesaw.engine.stop_signals import StopSignals, TrainingStopped
from eql_seesaw.rank_barrier import wait_for_all

# The process group of a machine with GPUs, but for NCCL.
IS_AS_WITH_GPUS = "AS_WITH_GPUS" in os.environ
if IS_AS_WITH_GPUS:
    backends = sys.modules[launch.__module__]._BACKENDS
    backends["gloo"] = backends["nccl"].replace("nccl", "gloo")


def say(text):
    """One write, so that lines of several processes do not mix."""
    os.write(1, f"{text}\n".encode())


def report(args):
    """What the process knows of itself, and that collectives work."""
    ranks = torch.tensor([float(comm.get_rank() + 1)])
    dist.all_reduce(ranks)
    local = [comm.get_local_rank(), comm.get_local_size()]
    result = {"rank": comm.get_rank(), "size": comm.get_world_size(), "local": local}
    say(json.dumps({**result, "sum": ranks.item(), "launcher": args.placement.launcher}))


def fail(args):
    """Rank 1 fails as the first override says, the others go on to a collective."""
    say("ready")
    # Nobody is ended before it has said so.
    dist.barrier()
    if comm.get_rank() == 1:
        FAILURES[args.opts[1]]()
    if IS_AS_WITH_GPUS:
        comm.all_gather("an object")
    dist.all_reduce(torch.zeros(1))


def threads(args):
    """Threads that a rank has started, by comparing masks."""
    masks = mask.encode(np.zeros((64, 64, 40), dtype=np.uint8, order="F"))
    before = len(os.listdir("/proc/self/task"))
    mask.iou(masks, masks, [False] * len(masks))
    say(len(os.listdir("/proc/self/task")) - before)


def report_and_fail(args):
    report(args)
    fail(args)


def _raise_expected():
    raise ValueError("dataset 'x' is empty")


def _raise_unexpected():
    raise KeyError("a mistake of ours")


FAILURES = {
    "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "exit": lambda: os._exit(7),
    "ValueError": _raise_expected,
    "KeyError": _raise_unexpected,
    "silence": signal.pause,
}


def train(args):
    """Steps of 10 ms until a signal comes to any rank; rank 0 says how it was told."""
    with StopSignals() as signals:
        say("ready")
        while True:
            time.sleep(0.01)
            asked = torch.tensor([float(bool(signals.requested))])
            dist.all_reduce(asked)
            if asked.item():
                say(f"saved after {signals.requested}")
                raise TrainingStopped


def evaluate(args):
    """Ranks other than 0 wait, where signals are handled, for what rank 0 never ends."""
    with StopSignals() as signals, signals.at_once():
        say("ready")
        if comm.get_rank() == 0:
            while True:
                time.sleep(0.01)
        wait_for_all()


def stuck(args):
    """A step that does not end."""
    with StopSignals():
        unprepared(args)


def unprepared(args):
    """No signal is handled."""
    say("ready")
    while True:
        time.sleep(0.01)


def main(args):
    globals()[args.opts[0]](args)


if __name__ == "__main__":
    arguments = argument_parser(__doc__).parse_args(sys.argv[1:])
    with one_line_errors():
        launch(main, arguments)
