"""What a rebuild or a write changes: its lines behind the published data, and its rows and gone slots."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

from ..declaration import Declaration, Item
from ..errors import RebuildError
from ..index.patch import MendImpossible
from ..index.splice import Row
from ..store import format as fmt
from ..store.data import append_lines, end_of
from ..store.files import FileStore
from ..store.snapshot import Snapshot
from .enrich import Enriched
from .source import Matched


class Tail:
    """The end of a published data file, and the lines that are to come behind it."""

    def __init__(self, store: FileStore, snapshot: Snapshot) -> None:
        data = snapshot.header["data"]
        self._data = data
        self._path = store.folder / data["file"]
        self._end, self._checksum, is_whole = end_of(self._path, data["length"], data["checksum"])
        # What lies behind the published length was left by a write that was killed, perhaps half a line.
        self._lines = bytearray(b"" if is_whole else b"\n")

    def rows(self, lines: Iterable[tuple[str | int, Enriched, int | None]]) -> list[Row]:
        """The rows of these items, as they will lie in the file: key, item and slot of each."""
        rows = []
        for key, one, slot in lines:
            tab = self._end + len(self._lines) + fmt.FINGERPRINT_LENGTH
            self._lines += fmt.data_line(one.fingerprint, one.encoded)
            place = (tab, self._end + len(self._lines) - 1)
            item: Item = json.loads(one.encoded)
            rows.append(Row(key, one.fingerprint, item, place, slot))
        return rows

    def described(self) -> dict[str, Any]:
        """What the header says of the data file once they are there."""
        return {
            **self._data,
            "length": self._end + len(self._lines),
            "checksum": zlib.crc32(self._lines, self._checksum),
        }

    def append(self) -> bool:
        """Write them; the caller holds the publish lock."""
        try:
            return append_lines(self._path, self._end, bytes(self._lines))
        except FileNotFoundError:
            raise RebuildError("the cache folder was removed during the rebuild") from None


class Change:
    """What a rebuild found, as changes to what is published by now."""

    def __init__(
        self,
        old: Snapshot,
        published: Snapshot,
        matched: Matched,
        results: Sequence[Enriched | None],
        written: set[object],
        declaration: Declaration,
    ) -> None:
        """:param written: the keys of writes that win."""
        self._published = published
        self._matched = matched
        self._written = written
        field = declaration.key or ""
        # Slots that source no longer gave, unless a write did.
        self.dead = [
            slot
            for slot in old.order(fmt.ALL, fmt.SOURCE_ORDER)
            if not matched.known[slot] and not (written and old.item(slot)[field] in written)
        ]
        self.lines: list[tuple[str | int, Enriched, int | None]] = []
        self._row_of: dict[int, int] = {}  # a pending item's number: that of its row
        for number, (pending, result) in enumerate(zip(matched.pending, results, strict=True)):
            if result is not None and pending.key is not None and pending.key not in written:
                self._row_of[number] = len(self.lines)
                self.lines.append((pending.key, result, pending.slot))

    def sequence(self, rows: Sequence[Row]) -> list[int] | None:
        """Source order as slots, or None when items are where they were and new ones come last."""
        if self._matched.in_order:
            return None
        if self._written:
            raise MendImpossible("the order of the source changed beside a write")
        slots, new = [], self._published.slots
        slot_of: list[int] = []
        for row in rows:
            slot_of.append(new if row.slot is None else row.slot)
            new += row.slot is None
        for one in self._matched.sequence:
            if one >= 0:
                slots.append(one)
            elif -1 - one in self._row_of:
                slots.append(slot_of[self._row_of[-1 - one]])
            elif (kept := self._matched.pending[-1 - one].slot) is not None:
                slots.append(kept)  # it failed, so its old version stays
        return slots
