"""Finished items, and those that an interrupted rebuild has left in its data file."""

from __future__ import annotations

import json
import mmap
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .. import events
from ..declaration import Item
from ..errors import SnapshotError
from ..index.exact import Kinds, unpacked
from ..index.exact import Path as KindPath
from ..store import format as fmt
from ..store.data import DataWriter
from ..store.file_access import may_be_ours
from ..store.files import FileStore
from ..store.snapshot import DAMAGE, INVALIDATED_BEFORE, Snapshot
from ..store.sweeping import sweep

# The fingerprint of a line that is no item, and to which no index refers: it has the kinds of values in the items.
KINDS = b"\xff" * fmt.FINGERPRINT_BYTES


@dataclass(slots=True)
class Enriched:
    """One finished item."""

    fingerprint: bytes
    encoded: bytes
    place: tuple[int, int] | None  # where an interrupted rebuild has written it
    line_number: int = -1  # in the rebuild's data file
    kinds: Kinds | None = None  # of its values, before they were JSON


class Leftovers:
    """The finished items of a data file that an interrupted rebuild left; the next rebuild appends to it."""

    def __init__(self, path: Path | None) -> None:
        """:param path: the data file, or None when nothing was left."""
        self.writer: DataWriter | None = None
        self._places: dict[bytes, tuple[int, int]] = {}
        self._data: mmap.mmap | None = None
        if path is None:
            return
        try:
            self.writer = DataWriter.resume(path)
            self._data = mmap.mmap(self.writer.descriptor, 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError, SnapshotError) as error:
            message = "the data file of an interrupted rebuild cannot be used: %(why)s"
            events.warning("warmcache.leftovers_unusable", message, why=error, file=path.name)
            return
        self._scan(self._data)

    def _scan(self, data: mmap.mmap) -> None:
        length = fmt.FINGERPRINT_LENGTH
        begin = data.find(b"\n") + 1
        while (newline := data.find(b"\n", begin)) >= 0:
            tab = begin + length
            if tab < newline and data[tab] == fmt.TAB:
                try:
                    # If two lines have one fingerprint, the later one counts: a write may have appended it.
                    self._places[bytes.fromhex(data[begin:tab].decode("ascii"))] = (tab, newline)
                except ValueError:
                    pass  # this is not an item's line, or a power failure cut it off
            begin = newline + 1

    def kinds(self) -> dict[KindPath, str]:
        """Return the kinds of the values in these items, before they were JSON."""
        place = self._places.get(KINDS)
        if place is None or self._data is None:
            return {}
        try:
            return unpacked(json.loads(self._data[place[0] + 1 : place[1]]))
        except (ValueError, TypeError, RecursionError):
            return {}  # no checksum covers the line

    def size_of(self, fingerprints: Iterable[bytes | None]) -> int:
        """Return how many bytes these items take in the file."""
        places = (self._places.get(fingerprint or b"", (0, 0)) for fingerprint in fingerprints)
        return sum(newline - tab for tab, newline in places)

    def find(self, fingerprint: bytes | None, key_field: str | None, key: object) -> Enriched | None:
        """Return a finished item, or None.

        The line is parsed first, because no checksum covers what an interrupted rebuild wrote.
        """
        place = self._places.get(fingerprint or b"")
        if fingerprint is None or place is None or self._data is None:
            return None
        encoded = self._data[place[0] + 1 : place[1]]
        try:
            item: Item = json.loads(encoded)
            return Enriched(fingerprint, encoded, place) if item[key_field or ""] == key else None
        except (ValueError, LookupError, TypeError, RecursionError):
            return None


def unfinished(store: FileStore, name: str) -> Path | None:
    """Return the data file that an interrupted rebuild left, if any, and remove all else it left.

    If the index cannot be read, nothing is removed.
    The caller holds the rebuild lock.
    """
    referenced: str | None = None
    is_done = True
    unreadable_since = 0  # nanoseconds
    with store.publishing(name):
        try:
            published = Snapshot(store.folder, name)
        except FileNotFoundError:
            pass  # nothing was ever published, so no index refers to a data file
        except (*DAMAGE, OSError):
            # Another process, with other code perhaps, may be able to read this index, and then needs its data
            # file, which is older. What attempts left since is resumed, or each would leave another file.
            unreadable_since = _published_at(store.folder / f"{name}.index")
        else:
            referenced = None if published.is_cold else str(published.header["data"]["file"])
            is_done = published.is_cold or published.complete
        # The file of a partial list counts as left.  A build that resumed it may have begun a newer one.
        left = [
            (int(entry.split(".")[-2]), entry)
            for entry in os.listdir(store.folder)
            if not (is_done and entry == referenced) and re.fullmatch(rf"{name}\.\d+\.data", entry)
            if may_be_ours(store.folder / entry) and int(entry.split(".")[-2]) > unreadable_since
        ]
        newest = max(left)[1] if left else None
        if not unreadable_since:
            sweep(store.folder, name, (referenced, newest))
        return None if newest is None else store.folder / newest


def _published_at(index: Path) -> int:
    """Return when an index that cannot be read was published or marked, or 0 for one that no process can read."""
    if not may_be_ours(index):
        return 0
    status = os.lstat(index)
    return status.st_ctime_ns if status.st_mtime_ns < INVALIDATED_BEFORE else status.st_mtime_ns
