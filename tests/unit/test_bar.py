"""What a command shows while it works: a bar on a terminal, and nothing elsewhere."""

from __future__ import annotations

import io
import sys

import pytest

from flask_warmcache.cli.common import pace, show_while


class Terminal(io.StringIO):
    """A terminal that keeps what was written to it."""

    def isatty(self) -> bool:
        return True


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
def test_pace_is_rounded(rate: float | None, eta: float | None, words: list[str]) -> None:
    assert pace(rate, eta) == words


def shown(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO) -> list[str]:
    """Show four steps on this stream; return the lines that were written over one another."""
    steps = iter([None, ("source", 7, None), ("enrich, 2/s", 2, 8), ("enrich, 2/s", 9, 8)])
    running = iter([True] * 4 + [False])
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("COLUMNS", "47")
    show_while("files", lambda: next(running), lambda: next(steps))
    lines = [line.removeprefix("\x1b[?25l").rstrip() for line in stream.getvalue().split("\r")]
    return [line for line in lines if line]


def test_terminal_shows_label_bar_and_position(monkeypatch: pytest.MonkeyPatch) -> None:
    _, source, enrich, last = shown(monkeypatch, Terminal())
    assert source.startswith("files: source  [---") and source.endswith("---]  7")
    assert enrich == "files: enrich, 2/s  [#####---------------]  2/8"
    assert last.startswith("files: enrich, 2/s  [####################]  9/8")


def test_nothing_is_drawn_without_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, io.StringIO()) == []
