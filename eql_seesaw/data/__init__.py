"""Datasets: registration, checking, class statistics, and the stream of training images."""
