"""How far a rebuild is, in one line of a terminal."""

from __future__ import annotations

import os
from typing import TextIO

from ..status.progress import Report

WIDTH = 24  # of the bar
COLUMNS = 80  # of a terminal that does not say


class Bar:
    """A line that is written over again and again; on anything but a terminal, nothing."""

    def __init__(self, name: str, stream: TextIO) -> None:
        self._name = name
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._shown = ""

    def show(self, report: Report) -> None:
        """Show where the rebuild is now."""
        if not self._is_terminal:
            return
        # A line that breaks could not be written over: without its bar, or cut, it does not.
        columns = self._columns()
        line = f"{self._name}: {progress_line(report)}"
        if len(line) >= columns:
            line = f"{self._name}: {progress_line(report, bar=False)}"[: columns - 1]
        if line != self._shown:
            self._stream.write("\r" + line.ljust(len(self._shown)))
            self._stream.flush()
            self._shown = line

    def clear(self) -> None:
        """Take the line away, for what is printed next."""
        if self._shown:
            self._stream.write("\r" + " " * len(self._shown) + "\r")
            self._stream.flush()
            self._shown = ""

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or COLUMNS
        except (OSError, ValueError):
            return COLUMNS


def progress_line(report: Report, bar: bool = True) -> str:
    """The phase, and how far in it, as far as its items are counted."""
    parts = [report.phase]
    if report.total and (report.done or report.phase == "enrich"):
        part = min(1.0, report.done / report.total)
        if bar:
            parts.append(f"[{'#' * int(part * WIDTH):-<{WIDTH}}]")
        parts += [f"{int(part * 100):3} %", f"{report.done:,} of {report.total:,}"]
    elif report.done:
        parts.append(f"{report.done:,}")
    return "  ".join([*parts, *pace(report.rate, report.eta)])


def pace(rate: float | None, eta: float | None) -> list[str]:
    """How many items a second, and how long the rest takes, as far as known."""
    words = []
    if rate:
        words.append(f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s")
    if eta is not None:
        words.append(f"{_duration(eta)} left")
    return words


def _duration(seconds: float) -> str:
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
