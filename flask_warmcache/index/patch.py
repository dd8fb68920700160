"""What changes from a snapshot's index to the next: rows and dead slots, and how they show in its sections."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import itemgetter
from typing import Literal

from ..declaration import Declaration, Item
from ..store import format as fmt
from ..store.snapshot import Snapshot
from ..store.writer import Piece, Section, pieces
from .exact import Kinds, add_kinds, restore, unpacked
from .item_views import ViewErrors, text_of
from .views import in_order


class PatchImpossible(Exception):
    """The arrays must be computed from all items."""


@dataclass(eq=False)
class Row:
    """One item that is new, or that replaces the item in its slot."""

    key: str | int
    fingerprint: bytes
    item: Item  # as JSON gives it back; a patch restores its values
    place: tuple[int, int]  # in the data file of the new index
    slot: int | None  # of the item that it replaces
    kinds: Kinds = field(default_factory=dict)  # of its values, before they were JSON


@dataclass
class Cut:
    """Where a sequence of the old index changes: positions to leave out, and rows to put in before positions."""

    out: list[int] = field(default_factory=list)
    rows: list[tuple[int, Row]] = field(default_factory=list)  # in their new order

    def splice(self, old: memoryview[int], width: int, contents: Mapping[Row, bytes]) -> list[Piece]:
        """Return the new sequence in pieces, given the ``width`` of an entry in bytes and the rows' entries."""
        old_bytes = old.cast("B")
        pieces: list[Piece] = []
        done = 0
        # A row comes before the entry at its position, whether that entry stays or is left out.
        changes: list[tuple[int, int, Row | None]] = [(at, 0, row) for at, row in self.rows]
        changes += ((at, 1, None) for at in self.out)
        for at, is_left_out, row in sorted(changes, key=itemgetter(0, 1)):
            pieces.append(old_bytes[done * width : at * width])
            done = max(done, at)
            if row is not None:
                pieces.append(contents[row])
            elif is_left_out:
                done = at + 1
        pieces.append(old_bytes[done * width :])
        return pieces


class Patch:
    """The rows and dead slots that change a snapshot, and the sections of the new index that are written."""

    def __init__(self, base: Snapshot, declaration: Declaration, rows: Sequence[Row], dead: Iterable[int]) -> None:
        self.base = base
        self.declaration = declaration
        self.rows = rows
        self.dead = sorted(dead)
        self.new = [row for row in rows if row.slot is None]
        self.slots = base.slots + len(self.new)
        # A row's slot is that of the item it replaces, or a new one after all others.
        new_slots = iter(range(base.slots, self.slots))
        self.slot_of = {row: next(new_slots) if row.slot is None else row.slot for row in rows}
        # These slots are cut out of each order: those that die, and those whose item is replaced.
        self.leaving = sorted({*self.dead, *(row.slot for row in rows if row.slot is not None)})
        self.sections: dict[str, Section] = {}
        self.errors = ViewErrors()  # of filters and sorts on the rows
        self.kinds = unpacked(base.exact)
        for row in rows:
            add_kinds(self.kinds, row.kinds)
        if any(not self.kinds[path].startswith(kind) for path, kind in unpacked(base.exact).items()):
            raise PatchImpossible("values are of another kind than before")
        self.texts = {row: text_of(declaration.search, row.item) for row in rows}  # search reads the JSON
        for row in rows:
            restore(row.item, self.kinds)
        self.place_type = base.place_type
        # Each row's entry in an order, and in a view.
        self.slot_bytes = {row: array("I", [slot]).tobytes() for row, slot in self.slot_of.items()}
        self.place_bytes = {row: array(self.place_type, row.place).tobytes() for row in rows}

    def old_item(self, slot: int) -> Item:
        """Return an item of the base as filters and sorts see it."""
        item: Item = restore(self.base.item(slot), self.kinds)
        return item

    def write_slots(self, name: str, width: int, contents: Mapping[Row, bytes]) -> None:
        """Write a section that has one entry per slot, with the entries of the rows."""
        old = self.base.section_bytes(name)
        pieces: list[Piece] = []
        done = 0
        for row in sorted(self.rows, key=self.slot_of.__getitem__):
            at = self.slot_of[row] * width
            if row.slot is not None:
                pieces += (old[done:at], contents[row])
                done = at + width
        pieces.append(old[done:])
        pieces += (contents[row] for row in self.new)
        self.sections[name] = pieces

    def cut(self, old: Sequence[int], ranks: Sequence[int], flags: Sequence[int] | None = None) -> Cut:
        """Return where an old order is cut: at the slots that leave it."""
        leaving = [slot for slot in self.leaving if flags is None or flags[slot]]
        return Cut([bisect_left(old, ranks[slot], key=ranks.__getitem__) for slot in leaving])

    def write(self, filter_name: str, sort_name: str, cut: Cut) -> None:
        """Write an order and its view, made from the old ones."""
        old_view, order = self.base.view(filter_name, sort_name), self.base.order(filter_name, sort_name)
        slots = order if isinstance(order, memoryview) else memoryview(array("I", order))
        self.sections[fmt.order_section(filter_name, sort_name)] = cut.splice(slots, 4, self.slot_bytes)
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
