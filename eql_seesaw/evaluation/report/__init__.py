"""The report of an evaluation: one HTML file that shows what a model gets right and wrong."""

from .write import write_report

__all__ = ["write_report"]
