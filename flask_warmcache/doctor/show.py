"""Print the doctor's findings for people, or write them as JSON for programs."""

from __future__ import annotations

import json
import shutil
import textwrap
from dataclasses import asdict
from typing import Any

import click

from .finding import FAULT, INFO, LEVELS, OK, WARNING, Report

WIDEST = 100
COLOURS = {OK: "green", INFO: "cyan", WARNING: "yellow", FAULT: "red"}


def as_json(report: Report) -> str:
    """Return all findings and figures as one JSON object."""
    answer: dict[str, Any] = {
        "exit_code": report.exit_code,
        "counts": {level: report.count(level) for level in LEVELS},
        "findings": [asdict(finding) for finding in report.findings],
        **report.facts,
    }
    return json.dumps(answer, indent=2, default=str)


def show(report: Report) -> None:
    """Print each finding, with why it matters and what to do unless it is in order; the worst come last."""
    for level in LEVELS:
        for finding in report.findings:
            if finding.level == level:
                click.echo(f"{click.style(f'{level:8}', COLOURS[level])}{_wrapped(finding.what)}")
                if finding.why:
                    click.echo(f"{'':8}{_wrapped(f'Why: {finding.why}')}")
                if finding.do:
                    click.echo(f"{'':8}{_wrapped(f'Do:  {finding.do}')}")
    _show_imports(report.facts.get("imports"))
    warnings, faults = report.count(WARNING), report.count(FAULT)
    click.echo(f"\n{_number(faults, 'fault')}, {_number(warnings, 'warning')}.")


def _show_imports(imports: dict[str, Any] | None) -> None:
    if not imports or not imports["worst"]:
        return
    click.echo(f"\n{'SECONDS':>8}{'WITH ITS IMPORTS':>18}  MODULE OR PACKAGE")
    for unit in imports["worst"]:
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
