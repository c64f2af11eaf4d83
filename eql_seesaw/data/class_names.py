"""Old names, until other rooms have moved."""

from .annotated_images import category_names as _names
from .annotation_file import AnnotationFile
from .register import class_metadata  # noqa: F401


def category_names(json_file):
    return _names(AnnotationFile(json_file))


def class_names(name):
    metadata = class_metadata(name)
    return metadata and metadata["thing_classes"]
