"""Old names, until all rooms have moved to :mod:`.result`."""

from .result import MATCHES, PER_CATEGORY, RESULTS, Evaluation, Result, category_records  # noqa: F401
