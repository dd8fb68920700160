"""Merging writes into an index: keys refreshed or discarded since the index was made."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping

from ..declaration import Declaration
from ..index.mend import Mender
from ..index.splice import IndexContent, Row
from ..store.snapshot import Snapshot, Write
from ..store.writer import Section
from .leftovers import Enriched

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
    :raises MendImpossible: when the arrays must be computed from all items.
    """
    rows, dead = [], []
    for key, item in changes.items():
        slot = base.find(key, declaration.key or "")
        if item is not None:
            rows.append(row_of(key, item, place_of(item), slot))
        elif slot is not None:
            dead.append(slot)
    return Mender(base, declaration, rows, dead).mend()


def row_of(key: str | int, item: Enriched, place: Place, slot: int | None) -> Row:
    """Return an item's row.

    :param slot: the slot of the item that it replaces, or None for a new item.
    """
    return Row(key, item.fingerprint, json.loads(item.encoded), place, slot)


def with_writes(content: IndexContent, writes: Iterable[Write]) -> dict[str, Section]:
    """Return the sections of an index, with the writes that no rebuild has seen yet."""
    entries = [list(write) for write in writes]
    return {**content.sections, **({"writes": json.dumps(entries).encode()} if entries else {})}
