"""What the doctor finds, and how bad it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

OK, INFO, WARNING, FAULT = "ok", "info", "warning", "fault"
LEVELS = (OK, INFO, WARNING, FAULT)


@dataclass(frozen=True)
class Finding:
    """One fact about how the app is run."""

    check: str  # a stable name, such as "gunicorn.variable_ignored"
    level: str
    what: str
    why: str = ""  # why it matters; empty when nothing is wrong
    do: str = ""


@dataclass
class Report:
    """All findings, and the figures behind them by topic."""

    findings: list[Finding] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def add(self, check: str, level: str, what: str, why: str = "", do: str = "") -> None:
        """Add a finding."""
        self.findings.append(Finding(check, level, what, why, do))

    def count(self, level: str) -> int:
        """Return how many findings have this level."""
        return sum(finding.level == level for finding in self.findings)

    @property
    def exit_code(self) -> int:
        """0: nothing to do; 1: warnings; 2: faults."""
        return 2 if self.count(FAULT) else 1 if self.count(WARNING) else 0
