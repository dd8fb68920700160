"""The line that shows a rebuild: readable in each phase, and gone in the end."""

from __future__ import annotations

import io
import os

import pytest

from flask_warmcache.cli.bar import Bar, pace, progress_line
from flask_warmcache.status.progress import Report


class Terminal(io.StringIO):
    """A terminal that keeps what was written to it."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("report", "line"),
    [
        (Report("source"), "source"),
        (Report("source", done=1200), "source  1,200"),
        (Report("enrich", total=0), "enrich"),
        (Report("enrich", total=8), "enrich  [------------------------]    0 %  0 of 8"),
        (
            Report("enrich", done=4120, total=10300, rate=812.3),
            "enrich  [#########---------------]   40 %  4,120 of 10,300  812/s  8 s left",
        ),
        (Report("enrich", done=9, total=8), "enrich  [########################]  100 %  9 of 8"),
        (Report("views", total=10300), "views"),
        (Report("publish", total=10300), "publish"),
    ],
    ids=str,
)
def test_what_a_phase_looks_like(report: Report, line: str) -> None:
    assert progress_line(report) == line


@pytest.mark.parametrize(
    ("rate", "eta", "words"),
    [
        (None, None, []),
        (0.0, None, []),
        (12345.6, 0.2, ["12,346/s", "0 s left"]),
        (9.96, 59.4, ["10/s", "59 s left"]),
        (2.5, 59.5, ["2.5/s", "1 min 0 s left"]),
        (0.0123, 3599.4, ["0.012/s", "59 min 59 s left"]),
        (1.0, 7320, ["1/s", "2 h 2 min left"]),
    ],
    ids=str,
)
def test_how_a_pace_is_written(rate: float | None, eta: float | None, words: list[str]) -> None:
    assert pace(rate, eta) == words


def test_a_shorter_line_covers_the_longer_one() -> None:
    terminal = Terminal()
    bar = Bar("files", terminal)
    bar.show(Report("source", done=1200))
    bar.show(Report("source", done=1200))  # nothing new, nothing written
    bar.show(Report("views"))
    assert terminal.getvalue() == "\rfiles: source  1,200\rfiles: views        "
    bar.clear()
    bar.clear()
    assert terminal.getvalue().endswith("\r            \r")


WITHOUT_BAR = "files: enrich    0 %  1 of 10,300  1/s  2 h 51 min left"
WITH_BAR = f"files: enrich  [{'-' * 24}]    0 %  1 of 10,300  1/s  2 h 51 min left"


@pytest.mark.parametrize(
    ("columns", "shown"),
    [(20, WITHOUT_BAR[:19]), (80, WITHOUT_BAR), (0, WITHOUT_BAR), (len(WITH_BAR) + 1, WITH_BAR)],
)
def test_a_line_never_breaks(monkeypatch: pytest.MonkeyPatch, columns: int, shown: str) -> None:
    monkeypatch.setattr(os, "get_terminal_size", lambda fd: os.terminal_size((columns, 24)))
    terminal = Terminal()
    monkeypatch.setattr(terminal, "fileno", lambda: 2)
    Bar("files", terminal).show(Report("enrich", done=1, total=10300, rate=1.0))
    assert terminal.getvalue() == "\r" + shown


def test_anything_but_a_terminal_stays_empty() -> None:
    stream = io.StringIO()
    bar = Bar("files", stream)
    bar.show(Report("enrich", done=1, total=2))
    bar.clear()
    assert stream.getvalue() == ""
