"""Changes to a published index: keys that writes refreshed or discarded, and what a rebuild found."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import count

from ..declaration import Declaration
from ..index.build import IndexContent
from ..index.patch import PatchImpossible, Row
from ..index.patch_index import patch_index
from ..store import format as fmt
from ..store.snapshot import Snapshot, Write
from ..store.writer import Section
from .leftovers import Enriched
from .source import Matched

Place = tuple[int, int]


def merge(
    base: Snapshot,
    declaration: Declaration,
    changes: Mapping[str | int, Enriched | None],
    place_of: Callable[[Enriched], Place],
) -> IndexContent:
    """Return the next index: that of ``base`` with these keys changed.

    :param changes: the new item of each key, or None for a key that was discarded.
    :param place_of: gives the item's place in the data file of the next index.
    :raises PatchImpossible: when the arrays must be computed from all items.
    """
    rows, dead = [], []
    for key, item in changes.items():
        slot = base.find(key, declaration.key or "")
        if item is not None:
            rows.append(row_of(key, item, place_of(item), slot))
        elif slot is not None:
            dead.append(slot)
    return patch_index(base, declaration, rows, dead)


def row_of(key: str | int, item: Enriched, place: Place, slot: int | None) -> Row:
    """Return an item's row; its slot is that of the item it replaces, or None for a new item."""
    return Row(key, item.fingerprint, json.loads(item.encoded), place, slot, item.kinds or {})


def with_writes(content: IndexContent, writes: Iterable[Write]) -> dict[str, Section]:
    """Return the sections of an index, with the writes that no rebuild has seen yet."""
    entries = [list(write) for write in writes]
    return {**content.sections, **({"writes": json.dumps(entries).encode()} if entries else {})}


class Change:
    """The items that a rebuild found to be new or changed, the slots it found to be dead, and the new order."""

    def __init__(
        self,
        old: Snapshot,
        published: Snapshot,
        matched: Matched,
        results: Sequence[Enriched | None],
        overwritten_keys: Collection[object],
        declaration: Declaration,
    ) -> None:
        """
        :param old: the snapshot that the rebuild compared its source with.
        :param published: the snapshot to be changed: the old one, or what writes have made of it.
        :param results: the new version of each pending item, or None if it failed.
        :param overwritten_keys: the keys whose writes win over this rebuild.
        """
        self._published = published
        self._matched = matched
        self._overwritten_keys = overwritten_keys
        field = declaration.key or ""
        # The source no longer gave the items of these slots, and no write did.
        self.dead = [
            slot
            for slot in old.order(fmt.ALL, fmt.SOURCE_ORDER)
            if not matched.known[slot] and not (overwritten_keys and old.item(slot)[field] in overwritten_keys)
        ]
        self.new_items: list[tuple[str | int, Enriched, int | None]] = []  # key, item and slot of each row
        self._row_numbers: dict[int, int] = {}  # by the number of the pending item
        for number, (pending, result) in enumerate(zip(matched.pending, results, strict=True)):
            if result is not None and pending.key is not None and pending.key not in overwritten_keys:
                self._row_numbers[number] = len(self.new_items)
                self.new_items.append((pending.key, result, pending.slot))

    def sequence(self) -> list[int] | None:
        """Return the source order as slots, or None when no item moved and new ones come last.

        :raises PatchImpossible: when the order changed and a write wins over this rebuild.
        """
        matched, published = self._matched, self._published
        if matched.in_order:
            return None
        if self._overwritten_keys:
            raise PatchImpossible("the order of the source changed beside a write")
        new_slots = count(published.slots)
        row_slots = [next(new_slots) if slot is None else slot for _, _, slot in self.new_items]
        slots: list[int] = []
        for entry in matched.sequence:
            if entry >= 0:
                slots.append(entry)
            elif -1 - entry in self._row_numbers:
                slots.append(row_slots[self._row_numbers[-1 - entry]])
            elif (kept := matched.pending[-1 - entry].slot) is not None:
                slots.append(kept)  # it failed, so its old version stays
        return slots
