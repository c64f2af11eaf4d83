"""Config loading, launching and training."""

from .checkpoint import LongTailCheckpointer, build_checkpointer
from .launch import argument_parser, launch, one_line_errors
from .next_steps import log_next_steps
from .output_dir import check_output_dir, hold_output_dir
from .setup import load_config, set_up, set_up_data
from .trainer import LongTailTrainer

__all__ = [
    "LongTailCheckpointer",
    "LongTailTrainer",
    "argument_parser",
    "build_checkpointer",
    "check_output_dir",
    "hold_output_dir",
    "launch",
    "load_config",
    "log_next_steps",
    "one_line_errors",
    "set_up",
    "set_up_data",
]
