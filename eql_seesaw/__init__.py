"""
EQL and Seesaw loss for long-tailed detection and segmentation, on top of Detectron2.

:mod:`eql_seesaw.losses` needs torch only. Importing :mod:`eql_seesaw.modeling` registers the ROI
heads and mask head with Detectron2.
"""

import logging
import warnings

# Detectron2 and torch warn about their own code on every import, which would bury our messages.
for message in (
    "pkg_resources is deprecated",
    "`broadcast_buffers` is deprecated",
    r"`?torch\.jit\.",
    r"torch\.meshgrid",
    "The given NumPy array is not writable",
    "__array__ implementation doesn't accept a copy keyword",
    r"Importing from timm\.models\.layers",  # which Detectron2's ViT does
):
    warnings.filterwarnings("ignore", message=message)
for name in (
    "torch.fx._symbolic_trace",  # a function that Detectron2 calls will change its meaning
    "torch.utils.cpp_extension",  # no CUDA, on a machine without a GPU
):
    logging.getLogger(name).setLevel(logging.ERROR)
del logging, message, name, warnings
