"""Datasets: registration, checking, class statistics, and the generated "symbols" dataset."""
