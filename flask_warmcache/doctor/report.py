"""What the doctor finds, how bad that is, and how it is shown to people and to programs."""

from __future__ import annotations

import json
import shutil
import textwrap
from dataclasses import asdict, dataclass, field
from typing import Any

import click

OK, INFO, WARNING, FAULT = "ok", "info", "warning", "fault"
COLOURS = {OK: "green", INFO: "cyan", WARNING: "yellow", FAULT: "red"}
LEVELS = list(COLOURS)  # the worst comes last
WIDEST = 100


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
        # A path in it may contain surrogates, which no terminal can show.
        texts = (text.encode(errors="backslashreplace").decode() for text in (what, why, do))
        self.findings.append(Finding(check, level, *texts))

    def ok(self, check: str, what: str) -> None:
        self.add(check, OK, what)

    def info(self, check: str, what: str, why: str, do: str) -> None:
        self.add(check, INFO, what, why, do)

    def warning(self, check: str, what: str, why: str, do: str) -> None:
        self.add(check, WARNING, what, why, do)

    def fault(self, check: str, what: str, why: str, do: str) -> None:
        self.add(check, FAULT, what, why, do)

    def count(self, level: str) -> int:
        return sum(finding.level == level for finding in self.findings)

    @property
    def exit_code(self) -> int:
        """0: nothing to do; 1: warnings; 2: faults."""
        return 2 if self.count(FAULT) else 1 if self.count(WARNING) else 0


def encoded(report: Report) -> str:
    """Return all findings and figures as one JSON object."""
    counts = {level: report.count(level) for level in LEVELS}
    findings = [asdict(finding) for finding in report.findings]
    answer = {"exit_code": report.exit_code, "counts": counts, "findings": findings, **report.facts}
    return json.dumps(answer, indent=2, default=str)


def show(report: Report) -> None:
    """Print each finding, with why it matters and what to do unless it is in order; the worst come last."""
    for finding in sorted(report.findings, key=lambda finding: LEVELS.index(finding.level)):
        click.echo(f"{click.style(f'{finding.level:8}', COLOURS[finding.level])}{_wrapped(finding.what)}")
        if finding.why:
            click.echo(f"{'':8}{_wrapped(f'Why: {finding.why}')}")
        if finding.do:
            click.echo(f"{'':8}{_wrapped(f'Do:  {finding.do}')}")
    if imports := report.facts.get("imports"):
        _show_imports(imports["worst"])
    warnings, faults = report.count(WARNING), report.count(FAULT)
    click.echo(f"\n{_number(faults, 'fault')}, {_number(warnings, 'warning')}.")


def _show_imports(worst: list[dict[str, Any]]) -> None:
    if worst:
        click.echo(f"\n{'SECONDS':>8}{'WITH ITS IMPORTS':>18}  MODULE OR PACKAGE")
    for unit in worst:
        total = unit["with_imports_seconds"]
        click.echo(f"{unit['seconds']:>8.2f}{'' if total is None else f'{total:.2f}':>18}  {unit['name']}")
        if unit["advice"]:
            click.echo(f"{'':8}{_wrapped(unit['advice'])}")


def _wrapped(text: str) -> str:
    width = min(WIDEST, shutil.get_terminal_size().columns) - 8
    return textwrap.fill(
        text, max(20, width), subsequent_indent=" " * 8, break_long_words=False, break_on_hyphens=False
    )


def _number(count: int, word: str) -> str:
    return f"{count} {word if count == 1 else word + 's'}"
