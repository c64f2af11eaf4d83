"""The tables of both papers: published numbers, and the same rows trained here."""

from .table import load_table, table_names

__all__ = ["load_table", "table_names"]
