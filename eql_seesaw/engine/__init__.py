"""Config loading, launching and training."""

from ..command_line import argument_parser, one_line_errors
from .checkpoint import LongTailCheckpointer, build_checkpointer
from .launch import launch
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
