"""Predicting on images and videos that belong to no dataset; see :mod:`eql_seesaw.predict`."""

from .batch_predictor import BatchPredictor
from .images import find_images, predict_images
from .results import PredictionsWriter, results_files
from .video import VIDEO_SUFFIXES, Video, predict_video

__all__ = [
    "VIDEO_SUFFIXES",
    "BatchPredictor",
    "PredictionsWriter",
    "Video",
    "find_images",
    "predict_images",
    "predict_video",
    "results_files",
]
