"""Set-up, launching, training and evaluation."""

from ..config import load_config
from .checkpoint import LongTailCheckpointer, build_checkpointer
from .evaluation import evaluate
from .launch import launch
from .output_dir import hold_output_dir
from .setup import begin, set_up
from .start_and_resume import load_start, load_trained, resume_run
from .trainer import LongTailTrainer

__all__ = [
    "LongTailCheckpointer",
    "LongTailTrainer",
    "begin",
    "build_checkpointer",
    "evaluate",
    "hold_output_dir",
    "launch",
    "load_config",
    "load_start",
    "load_trained",
    "resume_run",
    "set_up",
]
