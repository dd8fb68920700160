"""What changes from a snapshot's index to the next: rows and dead slots, and how they show in its sections."""

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
from .item_views import passes, sort_key
from .sort_order import Key
from .splice import Cut, Row
from .views import in_order


class MendImpossible(Exception):
    """These changes need the arrays to be computed from all items."""


class Patch:
    """The rows and dead slots that change a snapshot, and the sections of the new index that are written."""

    def __init__(self, base: Snapshot, declaration: Declaration, rows: Sequence[Row], dead: Iterable[int]) -> None:
        """
        :param rows: at most one for each key.
        :param dead: the slots of items that go.
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
        # These slots are cut out of each order: those that die, and those whose item is replaced.
        self.leaving = sorted({*self.dead, *(row.slot for row in rows if row.slot is not None)})
        self.new = [row for row in rows if row.slot is None]
        self.sections: dict[str, Section] = {}
        self.errors: Counter[str] = Counter()  # of filters and sorts on the rows
        self.place_type = base.place_type
        self.places = {id(row): array(self.place_type, row.place).tobytes() for row in rows}

    def slot_of(self, row: Row) -> int:
        """Return the row's slot: that of the item it replaces, or a new one after all others."""
        return self._slot[id(row)]

    def patched(self, name: str, width: int, contents: Mapping[int, bytes]) -> list[Piece]:
        """Return a section that has one entry per slot, with the entries of the rows."""
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
        """Return the row's entry in an order."""
        return array("I", [self.slot_of(row)]).tobytes()

    def place_bytes(self, row: Row) -> bytes:
        """Return the row's entry in a view."""
        return self.places[id(row)]

    def cut(self, old: Sequence[int], ranks: Sequence[int], flags: Sequence[int] | None) -> Cut:
        """Return where an old order is cut: at the slots that leave it."""
        return Cut(
            [
                bisect_left(old, ranks[slot], key=ranks.__getitem__)
                for slot in self.leaving
                if flags is None or flags[slot]
            ]
        )

    def write(self, filter_name: str, sort_name: str, cut: Cut) -> None:
        """Write an order and its view, made from the old ones."""
        base = self.base
        old_view = base.view(filter_name, sort_name)
        order = base.section(fmt.order_section(filter_name, sort_name), "I")
        self.sections[fmt.order_section(filter_name, sort_name)] = cut.splice(order, 4, self.slot_bytes)
        self.sections[fmt.view_section(filter_name, sort_name)] = cut.splice(
            old_view, 2 * old_view.itemsize, self.place_bytes
        )

    def write_whole(self, filter_name: str, sort_name: str, slots: Sequence[int]) -> None:
        """Write an order and its view without the old ones."""
        self.sections[fmt.order_section(filter_name, sort_name)] = array("I", slots)
        self.sections[fmt.view_section(filter_name, sort_name)] = in_order(self._all_places, slots)

    def write_passing(self, filter_name: str, sort_name: str, order: Iterable[int]) -> None:
        """Write an order and its view: the slots of a whole order that pass a filter."""
        flags = self.gathered(fmt.flags_section(filter_name), "B")
        self.write_whole(filter_name, sort_name, [slot for slot in order if flags[slot]])

    def gathered(self, section: str, typecode: Literal["B", "I", "Q"]) -> array[int]:
        """Return a section that is written already, in one piece."""
        gathered = array(typecode)
        for piece in pieces(self.sections[section]):
            gathered.frombytes(piece)
        return gathered

    @cached_property
    def _all_places(self) -> array[int]:
        return self.gathered("places", self.place_type)

    def passes(self, name: str, item: Item, errors: Counter[str]) -> bool:
        """Return whether the item passes a filter."""
        return passes(name, self.declaration.filters[name], item, errors)

    def sort_key(self, name: str, item: Item, errors: Counter[str]) -> Key:
        """Return what the item is ordered by in a sort."""
        return sort_key(name, self.declaration.sorts[name], item, errors)
