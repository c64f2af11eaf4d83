"""Detectron2's dataset mapper, whose errors say which image they are about."""

from typing import Any

from detectron2.data import DatasetMapper


class NamedImageDatasetMapper(DatasetMapper):
    """
    Detectron2's mapper; what it cannot read is named.

    Raises (when called):
        ValueError: the image is missing, unreadable or of another size than the annotation file
            says. One line with image id and file.
    """

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        try:
            return super().__call__(dataset_dict)
        # Pillow raises SyntaxError for some broken files.
        except (OSError, ValueError, SyntaxError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(
                f"image {dataset_dict.get('image_id')}, {dataset_dict['file_name']}: {reason}"
            ) from error
