"""``train_net.py``, ended at the moment that its first argument names."""

import os
import runpy
import signal
import sys

import torch
from detectron2.utils import comm

from eql_seesaw.engine import LongTailTrainer
from eql_seesaw.evaluation import LongTailLVISEvaluator
from tests.ranks import ROOT

run_step = LongTailTrainer.run_step


def send(signum):
    os.kill(os.getpid(), signum)


def killed_in_a_step():
    def run_or_die(self):
        if self.iter == 4:
            send(signal.SIGKILL)
        run_step(self)

    LongTailTrainer.run_step = run_or_die


def killed_in_a_checkpoint():
    def save_half(content, file):
        file.write(bytes(1000))
        file.flush()
        send(signal.SIGKILL)

    torch.save = save_half


def stopped_in_an_evaluation():
    LongTailLVISEvaluator.evaluate = lambda _: send(signal.SIGTERM)


def stopped_in_a_step():
    """By Slurm's warning, to the last rank alone."""

    def run_to_the_end(self):
        if self.iter == 7 and comm.get_rank() == comm.get_world_size() - 1:
            send(signal.SIGUSR1)
        run_step(self)

    LongTailTrainer.run_step = run_to_the_end


def left_alone():
    pass


if __name__ == "__main__":
    globals()[sys.argv.pop(1)]()
    runpy.run_path(str(ROOT / "train_net.py"), run_name="__main__")
