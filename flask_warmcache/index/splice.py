"""Rows and cuts: how an old sequence of an index becomes the new one, in copied and new pieces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..declaration import Item
from ..store.writer import Piece, Section


@dataclass
class Row:
    """One item that is new, or that replaces the item in its slot."""

    key: str | int
    fingerprint: bytes
    item: Item  # as JSON gives it back
    place: tuple[int, int]  # in the data file of the new index
    slot: int | None  # of the item that it replaces


@dataclass
class IndexContent:
    """What an index consists of, except for what its header says about the rebuild or write that makes it."""

    sections: dict[str, Section]
    header: dict[str, Any]
    errors: Counter[str]  # of filters and sorts, and how often each occurred


@dataclass
class Cut:
    """Where a sequence of the old index changes: positions to leave out, and rows to put in before positions."""

    out: list[int] = field(default_factory=list)
    rows: list[tuple[int, Row]] = field(default_factory=list)  # in their new order

    def splice(self, old: memoryview[int], width: int, content: Callable[[Row], bytes]) -> list[Piece]:
        """Return the new sequence in pieces.

        :param width: the size of one entry in bytes.
        :param content: gives a row's entry.
        """
        old_bytes = old.cast("B")
        pieces: list[Piece] = []
        done = 0
        # A row comes before the entry at its position, whether that entry stays or is left out.
        changes = sorted(
            [*((at, 0, row) for at, row in self.rows), *((at, 1, None) for at in self.out)], key=_when
        )
        for at, is_left_out, row in changes:
            pieces.append(old_bytes[done * width : at * width])
            done = max(done, at)
            if row is not None:
                pieces.append(content(row))
            elif is_left_out:
                done = at + 1
        pieces.append(old_bytes[done * width :])
        return pieces


def _when(change: tuple[int, int, Row | None]) -> tuple[int, int]:
    return change[0], change[1]
