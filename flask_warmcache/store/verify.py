"""Whether the published files are still what was written, by their checksums."""

from __future__ import annotations

import os
from pathlib import Path

from .file_access import OPEN_FLAGS, Stamp, crc_of, opened, stamp_of
from .snapshot import Snapshot


class Verifier:
    """Compares a list's published files with their checksums; it reads whole files, so never in a request."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name
        self._seen: Stamp | None = None
        self._data_size_and_time = (0, 0)
        self._data: tuple[str, int, int] = ("", 0, 0)  # id, length and checksum of the data read so far

    def is_damaged(self, snapshot: Snapshot) -> bool:
        """Return whether the snapshot's files differ from what was written; cheap if already checked."""
        if snapshot.is_cold:
            return False
        try:
            status = os.stat(self._folder / snapshot.header["data"]["file"])
            size, changed_at = self._data_size_and_time
            self._data_size_and_time = (status.st_size, status.st_mtime_ns)
            # A rebuild only appends; the same size with another time means a change in place.
            in_place = status.st_size == size and status.st_mtime_ns != changed_at
            if snapshot.stamp == self._seen and not in_place:
                return False
            self._seen = snapshot.stamp
            if in_place:
                self._data = ("", 0, 0)
            return self._index_differs(snapshot) or self._data_differs(snapshot)
        except FileNotFoundError:
            return False  # replaced meanwhile; the next call checks the new snapshot
        except OSError:
            self._seen = None  # for lack of descriptors, say: the files are checked again at the next call
            return False

    def _index_differs(self, snapshot: Snapshot) -> bool:
        with opened(self._folder / f"{self._name}.index", OPEN_FLAGS) as index:
            if stamp_of(os.fstat(index)) != snapshot.stamp:
                return False
            for offset, length, checksum in snapshot.header["sections"].values():
                begin = snapshot.base + offset
                if crc_of(index, begin, begin + length, 0) != checksum:
                    return True
        return False

    def _data_differs(self, snapshot: Snapshot) -> bool:
        """Compare the data's checksum; data only grows, so only what was not read before is read."""
        described = snapshot.header["data"]
        data_id, begin, checksum = self._data
        if data_id != described["id"] or begin > described["length"]:
            begin, checksum = 0, 0
        with opened(self._folder / described["file"], OPEN_FLAGS) as data:
            checksum = crc_of(data, begin, described["length"], checksum)
        self._data = (described["id"], described["length"], checksum)
        return bool(checksum != described["checksum"])
