"""What changes from a snapshot's index to the next: rows, slots that die, and how they show in its sections."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Literal

from ..declaration import Declaration, Item
from ..store import format as fmt
from ..store.snapshot import Snapshot
from ..store.writer import Piece, Section, pieces
from .splice import Cut, Row
from .views import in_order


class MendImpossible(Exception):
    """These changes need the arrays to be computed from all items."""


class Patch:
    """Rows and dead slots of a snapshot, and the sections of its next index as they get written."""

    def __init__(self, base: Snapshot, declaration: Declaration, rows: Sequence[Row], dead: Iterable[int]) -> None:
        """
        :param rows: at most one for each key.
        :param dead: slots whose items go.
        """
        self.base = base
        self.declaration = declaration
        self.rows = rows
        self.dead = sorted(dead)
        self.slots = base.slots
        self._slot: dict[int, int] = {}
        for row in rows:
            self._slot[id(row)] = self.slots if row.slot is None else row.slot
            self.slots += row.slot is None
        # What is cut out of each order: the slots that die, and those whose item is replaced.
        self.leaving = sorted({*self.dead, *(row.slot for row in rows if row.slot is not None)})
        self.new = [row for row in rows if row.slot is None]
        self.sections: dict[str, Section] = {}
        self.errors: Counter[str] = Counter()  # of filters and sorts
        self.place_type = base.place_type
        self.places = {id(row): array(self.place_type, row.place).tobytes() for row in rows}

    def slot_of(self, row: Row) -> int:
        """The row's slot: that of the item which it replaces, or one behind all."""
        return self._slot[id(row)]

    def patched(self, name: str, width: int, contents: Mapping[int, bytes]) -> list[Piece]:
        """A section of one entry per slot, with the rows' entries in place of the old ones or behind them."""
        old = self.base.section_bytes(name)
        pieces: list[Piece] = []
        done = 0
        for row in sorted(self.rows, key=self.slot_of):
            at = self.slot_of(row) * width
            if row.slot is not None:
                pieces += (old[done:at], contents[id(row)])
                done = at + width
        pieces.append(old[done:])
        pieces += (contents[id(row)] for row in self.new)
        return pieces

    def slot_bytes(self, row: Row) -> bytes:
        """The row's entry in an order."""
        return array("I", [self.slot_of(row)]).tobytes()

    def place_bytes(self, row: Row) -> bytes:
        """The row's entry in a view."""
        return self.places[id(row)]

    def cut(self, old: Sequence[int], ranks: Sequence[int], flags: Sequence[int] | None) -> Cut:
        """An old order without the slots that leave it."""
        return Cut(
            [
                bisect_left(old, ranks[slot], key=ranks.__getitem__)
                for slot in self.leaving
                if flags is None or flags[slot]
            ]
        )

    def write(self, filter_name: str, sort_name: str, cut: Cut) -> None:
        """An order and its view, from the old ones."""
        base = self.base
        old_view = base.view(filter_name, sort_name)
        order = base.section(fmt.order_section(filter_name, sort_name), "I")
        self.sections[fmt.order_section(filter_name, sort_name)] = cut.splice(order, 4, self.slot_bytes)
        self.sections[fmt.view_section(filter_name, sort_name)] = cut.splice(
            old_view, 2 * old_view.itemsize, self.place_bytes
        )

    def write_whole(self, filter_name: str, sort_name: str, slots: Sequence[int]) -> None:
        """An order and its view, from nothing."""
        self.sections[fmt.order_section(filter_name, sort_name)] = array("I", slots)
        self.sections[fmt.view_section(filter_name, sort_name)] = in_order(self._all_places, slots)

    def write_passing(self, filter_name: str, sort_name: str, order: Iterable[int]) -> None:
        """A filter's view of a whole order, from nothing."""
        flags = self.gathered(fmt.flags_section(filter_name), "B")
        self.write_whole(filter_name, sort_name, [slot for slot in order if flags[slot]])

    def gathered(self, section: str, typecode: Literal["B", "I", "Q"]) -> array[int]:
        """A section that is written already, in one piece."""
        whole = array(typecode)
        for piece in pieces(self.sections[section]):
            whole.frombytes(piece)
        return whole

    @cached_property
    def _all_places(self) -> array[int]:
        return self.gathered("places", self.place_type)

    def passes(self, name: str, item: Item, errors: Counter[str]) -> bool:
        """Whether the item passes a filter; one that raises lets nothing pass."""
        try:
            return bool(self.declaration.filters[name](item))
        except Exception as error:
            errors[f"filter {name}: {type(error).__name__}"] += 1
            return False
