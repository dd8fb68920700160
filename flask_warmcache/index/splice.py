"""Rows and cuts: an old sequence of an index becomes the new one, in pieces copied and pieces made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..declaration import Item
from ..store.writer import Piece, Section


@dataclass
class Row:
    """One item that is new, or that replaces the one in its slot."""

    key: str | int
    fingerprint: bytes
    item: Item  # as JSON gives it back
    place: tuple[int, int]  # in the data file of the index in the making
    slot: int | None  # None: a new item


@dataclass
class Mended:
    """The next index, but for what its maker writes into the header."""

    sections: dict[str, Section]
    header: dict[str, Any]
    errors: Counter[str]  # of filters and sorts, and how often


@dataclass
class Cut:
    """Where a sequence of the old index is cut: entries to leave out, and rows to put in, by old place."""

    out: list[int] = field(default_factory=list)
    rows: list[tuple[int, Row]] = field(default_factory=list)  # in their new order

    def splice(self, old: memoryview[int], width: int, content: Callable[[Row], bytes]) -> list[Piece]:
        """The old entries of so many bytes each, without and with them."""
        whole = old.cast("B")
        pieces: list[Piece] = []
        done = 0
        # At one place, rows come before the entry that is left out or stays.
        events = sorted([*((at, 0, row) for at, row in self.rows), *((at, 1, None) for at in self.out)], key=_when)
        for at, leaves_out, row in events:
            pieces.append(whole[done * width : at * width])
            done = max(done, at)
            if row is not None:
                pieces.append(content(row))
            elif leaves_out:
                done = at + 1
        pieces.append(whole[done * width :])
        return pieces


def _when(event: tuple[int, int, Row | None]) -> tuple[int, int]:
    return event[0], event[1]
