"""Predicting on the frames of a video."""

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..atomic_write import partial_name
from .batch_predictor import BatchPredictor
from .results import PredictionsWriter

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")
# Frames per second, of videos that do not say.
DEFAULT_RATE = 25.0


class Video:
    """
    The frames of a video, (H, W, 3) uint8 in BGR, to be iterated over once.

    Attributes:
        path: the file.
        rate: frames per second.
        width, height: pixels.
        num_frames: as the file says, which may be wrong; None if it does not.
    """

    def __init__(self, path: str):
        """
        Raises:
            FileNotFoundError: there is no such file.
            ValueError: OpenCV cannot read it.
            ImportError: OpenCV is missing.
        """
        import cv2

        if not os.path.isfile(path):
            raise FileNotFoundError(f"no such file: {path}")
        self.path = path
        self._capture = cv2.VideoCapture(path)
        has_frame, self._first = self._capture.read()
        if not has_frame:
            raise ValueError(f"{path} is not a video that OpenCV can read")
        self.height, self.width = self._first.shape[:2]
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if rate > 0 else DEFAULT_RATE
        num_frames = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.num_frames = num_frames if num_frames > 0 else None

    def __iter__(self) -> Iterator[np.ndarray]:
        frame = self._first
        has_frame = True
        while has_frame:
            yield frame
            has_frame, frame = self._capture.read()
        self._capture.release()


def predict_video(
    predictor: BatchPredictor,
    video: Video,
    output_file: Path,
    results: PredictionsWriter,
    batch_size: int = 1,
) -> None:
    """
    Predict on each frame, numbered from 1, and write an annotated video.

    Args:
        predictor: model with class names.
        video: the frames.
        output_file: MP4 to write, whole or not at all.
        results: gets the detections, and of each image also its "frame_index", from 0.
        batch_size: frames that the model sees at a time.

    Raises:
        ValueError: OpenCV cannot write such a video.
    """
    frames = enumerate(video)
    with (
        tqdm(total=video.num_frames, unit="frame", disable=None) as progress,
        _video_writer(output_file, video) as write,
    ):
        while batch := list(itertools.islice(frames, batch_size)):
            detections = predictor([frame for _, frame in batch])
            for (index, frame), instances in zip(batch, detections, strict=True):
                frame_results = predictor.lvis_results(instances, index + 1)
                write(np.asarray(predictor.draw(frame, frame_results))[:, :, ::-1])
                results.add(
                    {
                        "id": index + 1,
                        "file_name": video.path,
                        "height": video.height,
                        "width": video.width,
                        "frame_index": index,
                    },
                    frame_results,
                )
            progress.update(len(batch))


@contextlib.contextmanager
def _video_writer(output_file: Path, video: Video) -> Iterator[Callable[[np.ndarray], object]]:
    import cv2

    # OpenCV chooses the container by the suffix.
    partial = output_file.with_name(f"{partial_name(output_file.stem)}.mp4")
    codec = cv2.VideoWriter_fourcc(*"mp4v")  # type: ignore[attr-defined]  # not in OpenCV's hints
    size = video.width, video.height
    writer = cv2.VideoWriter(str(partial), codec, video.rate, size)
    try:
        if not writer.isOpened():
            raise ValueError(
                f"OpenCV cannot write {output_file}: {video.width} x {video.height} pixels at "
                f"{video.rate:g} frames per second"
            )
        yield lambda frame: writer.write(np.ascontiguousarray(frame))
        writer.release()
        os.replace(partial, output_file)
    finally:
        writer.release()
        with contextlib.suppress(OSError):
            os.remove(partial)
