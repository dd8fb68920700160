"""Reading one snapshot: its items, views and keys, straight from the mapped files.

A snapshot never changes.  Its files may be replaced or unlinked while it is open, but the maps stay valid, and all
workers share one copy of them in the page cache.  Nothing here locks, writes or waits.
"""

from __future__ import annotations

import json
import mmap
import os
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ..errors import SnapshotError
from . import format as fmt
from .file_access import map_file
from .header import check_header

# Exceptions, besides OSError, from reading files that differ from what was written.
DAMAGE = (SnapshotError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
# A published index has its generation as its time of modification; a marked one has a time before this.
INVALIDATED_BEFORE = 10**9  # nanoseconds: the first second of 1970
# The bytes at the places of up to 500 items; those of more items are compared one by one.
LINE_ENDS = (ord("\t"), ord("\n")) * 500


class Write(NamedTuple):
    """One key's refresh or discard, kept until a rebuild that began after it is published."""

    key: str | int
    sequence: int  # the generation that published it
    discarded: bool


class Snapshot:
    """One immutable, published state of a list, mapped into memory."""

    def __init__(self, folder: Path, name: str, index_name: str = "") -> None:
        """Open what is published now.

        :param index_name: the name of a draft that is not published yet, to open that instead.
        :raises FileNotFoundError: when there is no index.
        :raises SnapshotError: when index and data are damaged or do not belong together.
        """
        index, self.stamp = map_file(folder / (index_name or f"{name}.index"), None)
        header, base = fmt.read_header(index, self.stamp[1])
        self.header = check_header(header)
        if header["list"] != name:
            raise SnapshotError(f"the index belongs to list {header['list']!r}")
        self.generation: int = header["generation"]
        self.rebuilt: int = header.get("rebuilt", self.generation)  # of the last rebuild; writes may have followed
        # Some of these writes won over that rebuild and have not been looked up again since.
        self.is_unsettled: bool = header.get("unsettled", False)
        self.shown_generation = f"{self.generation:x}"  # opaque to clients, which compare it for equality
        self.published_at: float = header["published_at"]  # by the wall clock; the generation may be ahead of it
        self.count: int = header["count"]
        self.slots: int = header["slots"]  # the items and the dead slots
        self.complete: bool = header["complete"]
        self.is_cold: bool = header["cold"]  # published by ``clear``: nothing to serve or reuse
        self.is_value: bool = header["is_value"]  # the one item is {"value": ...}
        self.is_invalidated = self.stamp[2] < INVALIDATED_BEFORE
        self._bytes = memoryview(index)
        self.base = base  # where the sections begin
        self._arrays: dict[tuple[str, str], memoryview[int]] = {}
        self.place_type: Literal["I", "Q"] = header["place_type"]
        self._places = self.section("places", self.place_type, 2 * self.slots)
        # Source order, unless the slots are in that order already.
        self._order: memoryview[int] | None = None
        if fmt.order_section(fmt.ALL, fmt.SOURCE_ORDER) in header["sections"]:
            self._order = self.section(fmt.order_section(fmt.ALL, fmt.SOURCE_ORDER), "I", self.count)
        elif self.slots != self.count:
            raise SnapshotError("the index has dead slots and no source order")
        # Slices of a memoryview copy nothing, so one join copies all of them, and the processor loads the memory
        # of several items at once.  Measured: half the time of a page of a list of 1,000,000.
        self._data = memoryview(b"" if self.is_cold else self._map_data(folder))
        if not self.is_cold:
            self.fingerprints()  # every rebuild needs them

    def _map_data(self, folder: Path) -> mmap.mmap:
        described = self.header["data"]
        if os.path.basename(described["file"]) != described["file"]:
            raise SnapshotError("the index names a data file outside the folder")
        try:
            data, _ = map_file(folder / described["file"], described["length"])
        except FileNotFoundError:
            raise SnapshotError(f"the data file {described['file']} is missing") from None
        first = fmt.data_first_line(described["id"])
        if data[: len(first)] != first:
            raise SnapshotError(f"the data file {described['file']} is another one")
        return data

    def section(self, name: str, typecode: Literal["B", "I", "Q"], count: int | None = None) -> memoryview[int]:
        """Return a section as an array.

        :param count: how many entries it must have.
        :raises SnapshotError: when there is no such section, or it has another length.
        """
        known = self._arrays.get((name, typecode))
        if known is not None:
            return known
        try:
            offset, length, _ = self.header["sections"][name]
        except KeyError:
            raise SnapshotError(f"the index has no section {name}") from None
        begin = self.base + offset
        array: memoryview[int] = self._bytes[begin : begin + length].cast(typecode)
        if count is not None and len(array) != count:
            raise SnapshotError(f"section {name} of the index has {len(array)} entries, not {count}")
        self._arrays[name, typecode] = array
        return array

    # Views

    def has_view(self, filter_name: str, sort_name: str) -> bool:
        """Return whether this snapshot has that filter and sort; one of an older deploy may have others."""
        if (filter_name, sort_name) == (fmt.ALL, fmt.SOURCE_ORDER):
            return True
        return fmt.view_section(filter_name, sort_name) in self.header["sections"]

    def filter_count(self, filter_name: str) -> int:
        """Return how many items match a filter; 0 for a filter that this snapshot does not have."""
        if filter_name == fmt.ALL:
            return self.count
        return int(self.header["filters"].get(filter_name, 0))

    def view(self, filter_name: str, sort_name: str) -> memoryview[int]:
        """Return the places of a view's items in its order, two numbers each, without reading them."""
        if filter_name == fmt.ALL and sort_name == fmt.SOURCE_ORDER and self._order is None:
            return self._places
        return self.section(fmt.view_section(filter_name, sort_name), self.place_type)

    def order(self, filter_name: str, sort_name: str) -> Sequence[int]:
        """Return the slots of a view's items in its order."""
        if filter_name == fmt.ALL and sort_name == fmt.SOURCE_ORDER:
            return range(self.slots) if self._order is None else self._order
        return self.section(fmt.order_section(filter_name, sort_name), "I")

    def ranks(self, sort_name: str) -> Sequence[int]:
        """Return a number for each slot that rises in this order; a dead slot has any number."""
        if sort_name == fmt.SOURCE_ORDER and self._order is None:
            return range(self.slots)
        return self.section(fmt.rank_section(sort_name), "Q", self.slots)

    def flags(self, filter_name: str) -> memoryview[int]:
        """Return one byte per slot: whether its item matches the filter."""
        return self.section(fmt.flags_section(filter_name), "B", self.slots)

    def places(self, slots: Iterable[int]) -> array[int]:
        """Return the places of the items in these slots, two numbers each."""
        places, chosen = self._places, array(self.place_type)
        for slot in array("I", slots):  # an array of "I" refuses negative slots, which would count from the end
            chosen.append(places[2 * slot])
            chosen.append(places[2 * slot + 1])
        return chosen

    def in_view(self, found: list[int], filter_name: str, sort_name: str, backwards: bool) -> list[int]:
        """Return those of the found slots whose items match a filter, in a view's order."""
        if filter_name != fmt.ALL:
            flags = self.flags(filter_name)
            found = [slot for slot in found if flags[slot]]
        if sort_name != fmt.SOURCE_ORDER or self._order is not None:
            found.sort(key=self.ranks(sort_name).__getitem__)
        if backwards:
            found.reverse()
        return found

    def section_bytes(self, name: str) -> memoryview[int]:
        """Return a whole section, to be copied into the next index, or nothing when there is none."""
        if name not in self.header["sections"]:
            return memoryview(b"")
        return self.section(name, "B")

    # Items

    def items_json(
        self, places: Sequence[int], head: bytes = b"", tail: bytes = b"", *, backwards: bool = False
    ) -> bytes:
        """Return the JSON of the items at these places, joined by commas, between head and tail, parsing none.

        :param backwards: begin with the item at the last place.
        :raises IndexError: when a place is outside the data.
        :raises SnapshotError: when a line is not whole.
        """
        if not places:
            return head + tail
        data, in_pairs = self._data, iter(places)
        pieces: list[Any] = [data[tab:newline] for tab, newline in zip(in_pairs, in_pairs, strict=True)]
        if backwards:
            pieces.reverse()
        # Head and tail become part of the first and last piece, so that the page is copied only once.
        pieces[0] = head + pieces[0]
        pieces[-1] = b"%b%b" % (pieces[-1], tail)
        joined = b",".join(pieces)
        # Checked after the join, which has loaded these bytes into the processor's cache.
        if itemgetter(*places)(data) != LINE_ENDS[: len(places)]:
            self._check_each(places)
        return joined

    def _check_each(self, places: Sequence[int]) -> None:
        for place, line_end in zip(places, cycle(LINE_ENDS[:2]), strict=False):
            if self._data[place] != line_end:
                raise SnapshotError("an item's line in the data file is damaged")

    def slot_at(self, position: int) -> int:
        """Return the slot of the item at this position of the source order."""
        return position if self._order is None else self._order[position]

    def place(self, slot: int) -> tuple[int, int]:
        """Return where an item's JSON is in the data file: between this tab and this newline."""
        return self._places[2 * slot], self._places[2 * slot + 1]

    def encoded(self, slot: int) -> bytes:
        """Return one item's JSON.

        :raises SnapshotError: when its line is not whole.
        """
        tab, newline = self.place(slot)
        self._check_each((tab, newline))
        return bytes(self._data[tab + 1 : newline])

    def item(self, slot: int) -> Any:
        """Return one item, decoded."""
        return json.loads(self.encoded(slot))

    def fingerprint(self, slot: int) -> bytes:
        """Return the fingerprint of what one item was made from."""
        begin = slot * fmt.FINGERPRINT_BYTES
        return bytes(self.fingerprints()[begin : begin + fmt.FINGERPRINT_BYTES])

    def fingerprints(self) -> memoryview[int]:
        """Return the fingerprints of all slots, one after the other."""
        return self.section("fingerprints", "B", self.slots * fmt.FINGERPRINT_BYTES)

    def writes(self) -> list[Write]:
        """Return the writes that no rebuild has seen yet.

        :raises SnapshotError: when they cannot be read.
        """
        try:
            writes = [Write(*entry) for entry in json.loads(bytes(self.section_bytes("writes")) or b"[]")]
        except DAMAGE as error:
            raise SnapshotError("the writes in the index are damaged") from error
        if not all(type(key) in (str, int) and type(sequence) is int for key, sequence, _ in writes):
            raise SnapshotError("the writes in the index are damaged")
        return writes

    def find(self, key: object, field: str) -> int | None:
        """Return the slot of the item with this key, or None."""
        if "key_hashes" not in self.header["sections"]:
            return None
        key_hash = fmt.key_hash(key)
        hashes = self.section("key_hashes", "Q", self.count)
        by_hash = self.section("key_slots", "I", self.count)
        index = bisect_left(hashes, key_hash)
        # Two keys can have the same hash, so the item itself is compared.
        while index < self.count and hashes[index] == key_hash:
            slot = int(by_hash[index])
            if self.item(slot).get(field) == key:
                return slot
            index += 1
        return None

    @property
    def view_faults(self) -> Mapping[str, list[Any]]:
        """What fails in filters and sorts: on how many items, on which first, and why (index/item_views.py)."""
        faults: dict[str, list[Any]] = self.header.get("view_faults", {})
        return faults

    @property
    def exact(self) -> list[list[Any]]:
        """Of which kinds the values in the items were before they were JSON (index/exact.py)."""
        kinds: list[list[Any]] = self.header.get("exact", [])
        return kinds

    @property
    def has_search(self) -> bool:
        """Whether this snapshot has a search text; one of an older deploy may have none."""
        return "text" in self.header["sections"]

    def search_text(self) -> tuple[memoryview[int], memoryview[int]]:
        """Return the folded search text, one line per item, and where each item's line begins."""
        return self.section("text", "B"), self.section("text_starts", "Q", self.slots + 1)
