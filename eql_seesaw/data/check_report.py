"""Findings of a check of datasets, for a person to read."""

from dataclasses import dataclass, field

from .annotation_problems import Problem

# Examples kept, and shown, of each kind of problem.
NUM_EXAMPLES = 3


@dataclass
class Finding:
    """One kind of problem in one dataset: how many, and the first few in words."""

    dataset: str
    severity: str  # "error" or "warning"
    kind: str
    count: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass
class Report:
    """Findings of a check, in the order in which they were found."""

    findings: dict[tuple[str, str, str], Finding] = field(default_factory=dict)
    # Per dataset, what it holds and needs.
    notes: dict[str, list[str]] = field(default_factory=dict)

    def add(self, dataset: str, severity: str, problem: Problem | None, where: str = "") -> None:
        """Count a problem of a dataset, and keep it as an example if it is among the first."""
        if problem is None:
            return
        key = (dataset, severity, problem.kind)
        finding = self.findings.setdefault(key, Finding(*key))
        finding.count += 1
        if len(finding.examples) < NUM_EXAMPLES:
            finding.examples.append(f"{where}: {problem.detail}" if where else problem.detail)

    def note(self, dataset: str, text: str) -> None:
        """Say something about a dataset that is not a problem."""
        self.notes.setdefault(dataset, []).append(text)

    @property
    def num_errors(self) -> int:
        return sum(f.count for f in self.findings.values() if f.severity == "error")

    def __str__(self) -> str:
        lines = []
        for dataset in dict.fromkeys([*self.notes, *(f.dataset for f in self.findings.values())]):
            lines.append(dataset)
            lines += [f"  {text}" for text in self.notes.get(dataset, [])]
            for finding in self.findings.values():
                if finding.dataset == dataset:
                    lines.append(f"  {finding.severity}: {finding.kind}: {finding.count}")
                    lines += [f"    {example}" for example in finding.examples]
                    if finding.count > len(finding.examples):
                        lines.append("    ...")
        count = self.num_errors
        lines.append("ok" if count == 0 else "1 problem" if count == 1 else f"{count} problems")
        return "\n".join(lines)
