"""The tables of both papers: published numbers, and the same rows trained here."""

from .table import InputFile, Row, Table, load_table, table_names

__all__ = ["InputFile", "Row", "Table", "load_table", "table_names"]
