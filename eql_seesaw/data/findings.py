"""Findings about a file of data, in words: errors, which refuse it, and warnings."""

import json
import logging
import re
import unicodedata
from dataclasses import dataclass, field
from typing import Any

# Examples kept of each kind.
NUM_EXAMPLES = 3
# Characters of a value that a line shows.
MAX_LENGTH = 40


@dataclass
class Finding:
    """One kind of finding, in the plural: how many, and the first few in words."""

    severity: str  # "error" or "warning"
    kind: str
    count: int = 0
    examples: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        more = f" (the first of {self.count} {self.kind})" if self.count > 1 else ""
        return self.examples[0] + more


class Findings:
    """
    Findings in the order in which they were found.

    Attributes:
        source: name of the file or dataset.
        found: by severity and kind.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.found: dict[tuple[str, str], Finding] = {}

    def add(self, severity: str, kind: str, example: str) -> None:
        """Count one more of a kind, and keep it as an example if it is among the first."""
        finding = self.found.setdefault((severity, kind), Finding(severity, kind))
        finding.count += 1
        if len(finding.examples) < NUM_EXAMPLES:
            finding.examples.append(example)

    def of(self, severity: str) -> list[Finding]:
        """Findings of one severity."""
        return [finding for finding in self.found.values() if finding.severity == severity]

    def settle(self, logger: logging.Logger) -> None:
        """
        Log each kind of warning as one line.

        Raises:
            ValueError: there are errors. One line with the source, the first, and how many.
        """
        for error in self.of("error"):
            raise ValueError(f"{self.source}: {error}")
        for warning in self.of("warning"):
            logger.warning(f"{self.source}: {warning}")


def one_line(name: str) -> str:
    """A name without line breaks, control characters and halves of surrogate pairs."""
    letters = " ".join(name.split()) if len(name.splitlines()) > 1 else name
    return "".join(
        f"\\u{ord(x):04x}" if unicodedata.category(x) in ("Cc", "Cs") else x for x in letters
    )


def shorten(value: Any) -> str:
    """A value as it stands in JSON, in at most MAX_LENGTH characters; NaN and infinity as such."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    text = re.sub(r'"(NaN|-?Infinity)"', r"\1", text)
    text = text.encode("utf-8", "backslashreplace").decode()  # half of a surrogate pair
    return text if len(text) <= MAX_LENGTH else text[: MAX_LENGTH - 3] + "..."
