"""
EQL and Seesaw loss for long-tailed detection and segmentation, on top of Detectron2.

:mod:`eql_seesaw.losses` needs torch only. Importing :mod:`eql_seesaw.modeling` registers the ROI
heads and mask head with Detectron2.
"""

import warnings

# Detectron2 and torch warn about their own code on every import, which would bury our messages.
for message in (
    "pkg_resources is deprecated",
    r"`?torch\.jit\.",
    r"torch\.meshgrid",
    "The given NumPy array is not writable",
    "__array__ implementation doesn't accept a copy keyword",
):
    warnings.filterwarnings("ignore", message=message)
del message, warnings
