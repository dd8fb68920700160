"""New lines for a published data file: where they will lie, and how they are appended."""

from __future__ import annotations

import zlib
from typing import Any

from ..errors import RebuildError
from ..store import format as fmt
from ..store.data import append_lines, end_of
from ..store.files import FileStore
from ..store.snapshot import Snapshot


class Tail:
    """The end of a published data file, and the lines to be appended to it."""

    def __init__(self, store: FileStore, snapshot: Snapshot) -> None:
        data = snapshot.header["data"]
        self._data = data
        self._path = store.folder / data["file"]
        self._end, self._checksum, ends_with_newline = end_of(self._path, data["length"], data["checksum"])
        # A killed write may have left bytes after the published length, even half a line.
        self._lines = bytearray(b"" if ends_with_newline else b"\n")

    def add(self, fingerprint: bytes, encoded: bytes) -> tuple[int, int]:
        """Add an item's line, and return the item's place in the file."""
        tab = self._end + len(self._lines) + fmt.FINGERPRINT_LENGTH
        self._lines += fmt.data_line(fingerprint, encoded)
        return tab, self._end + len(self._lines) - 1

    def described(self) -> dict[str, Any]:
        """Return what the index says about the data file once the lines are appended."""
        return {
            **self._data,
            "length": self._end + len(self._lines),
            "checksum": zlib.crc32(self._lines, self._checksum),
        }

    def append(self) -> bool:
        """Append the lines and sync the file; the caller holds the publish lock.

        :returns: False when the file no longer ends where it did; nothing is written then.
        """
        try:
            return append_lines(self._path, self._end, bytes(self._lines))
        except FileNotFoundError:
            raise RebuildError("the cache folder was removed during the rebuild") from None
