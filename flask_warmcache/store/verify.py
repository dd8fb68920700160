"""Are the published files still what was written?  Checked by checksum, off the request path."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

from .mapping import OPEN_FLAGS, Stamp, stamp_of
from .snapshot import Snapshot

# Below the size from which malloc asks the system for each piece, and then keeps more than it needs.
VERIFY_SLICE = 1 << 16


class Verifier:
    """Compares a list's published files with their checksums; it reads them whole, off the request path."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name
        self._seen: Stamp | None = None
        self._data_size_and_time = (0, 0)
        self._data: tuple[str, int, int] = ("", 0, 0)  # id, length and checksum of what was read of the data

    def is_damaged(self, snapshot: Snapshot) -> bool:
        """Whether the snapshot's files are not what was written; costs nothing for one that was looked at."""
        if snapshot.is_cold:
            return False
        try:
            status = os.stat(self._folder / snapshot.header["data"]["file"])
            size, changed_at = self._data_size_and_time
            self._data_size_and_time = (status.st_size, status.st_mtime_ns)
            # A rebuild appends, which is no news; the same size with another time is a change in place.
            in_place = status.st_size == size and status.st_mtime_ns != changed_at
            if snapshot.stamp == self._seen and not in_place:
                return False
            self._seen = snapshot.stamp
            if in_place:
                self._data = ("", 0, 0)
            return self._index_differs(snapshot) or self._data_differs(snapshot)
        except FileNotFoundError:
            return False  # replaced meanwhile; the next one is looked at in its turn
        except OSError:
            self._seen = None  # out of descriptors, say; that is no news of the files, which are looked at again
            return False

    def _index_differs(self, snapshot: Snapshot) -> bool:
        with open(self._folder / f"{self._name}.index", "rb", buffering=0, opener=_opener) as index:
            if stamp_of(os.fstat(index.fileno())) != snapshot.stamp:
                return False
            for offset, length, checksum in snapshot.header["sections"].values():
                begin = snapshot.base + offset
                if crc_of(index.fileno(), begin, begin + length, 0) != checksum:
                    return True
        return False

    def _data_differs(self, snapshot: Snapshot) -> bool:
        """The data only grows, so of a file that was read before, the new end is read."""
        wanted = snapshot.header["data"]
        data_id, begin, found = self._data
        if data_id != wanted["id"] or begin > wanted["length"]:
            begin, found = 0, 0
        with open(self._folder / wanted["file"], "rb", buffering=0, opener=_opener) as data:
            found = crc_of(data.fileno(), begin, wanted["length"], found)
        self._data = (wanted["id"], wanted["length"], found)
        return bool(found != wanted["checksum"])


def _opener(path: str, _: int) -> int:
    return os.open(path, OPEN_FLAGS)


def crc_of(descriptor: int, begin: int, end: int, found: int) -> int:
    """CRC-32 of a part of a file, going on from ``found``."""
    while begin < end:
        piece = os.pread(descriptor, min(VERIFY_SLICE, end - begin), begin)
        if not piece:
            break
        found = zlib.crc32(piece, found)
        begin += len(piece)
    return found
