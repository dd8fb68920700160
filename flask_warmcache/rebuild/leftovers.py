"""What an interrupted rebuild finished: the lines of its data file, by fingerprint."""

from __future__ import annotations

import json
import logging
import mmap
from collections.abc import Iterable
from pathlib import Path

from ..declaration import Item
from ..errors import SnapshotError
from ..store import format as fmt
from ..store.data import DataWriter

log = logging.getLogger("flask_warmcache")


class Leftovers:
    """The finished items that a data file holds; a rebuild finds them here and writes on behind them."""

    def __init__(self, path: Path | None) -> None:
        """:param path: of the data file; without one there is nothing."""
        self.writer: DataWriter | None = None
        self._places: dict[bytes, tuple[int, int]] = {}
        self._data: mmap.mmap | None = None
        if path is None:
            return
        try:
            self.writer = DataWriter.go_on(path)
            self._data = mmap.mmap(self.writer.descriptor, 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError, SnapshotError) as error:
            log.warning("warmcache.leftovers_unusable: what an interrupted rebuild left is not used: %s", error)
            return
        self._scan(self._data)

    def _scan(self, data: mmap.mmap) -> None:
        length = fmt.FINGERPRINT_LENGTH
        begin = data.find(b"\n") + 1
        while (newline := data.find(b"\n", begin)) >= 0:
            tab = begin + length
            if tab < newline and data[tab] == fmt.TAB:
                try:
                    # Of two lines with one fingerprint the later counts: it may be a write's.
                    self._places[bytes.fromhex(data[begin:tab].decode("ascii"))] = (tab, newline)
                except ValueError:
                    pass  # not ours, or cut off by a power failure
            begin = newline + 1

    def size_of(self, fingerprints: Iterable[bytes | None]) -> int:
        """How many bytes the lines of these items have here."""
        size = 0
        for fingerprint in fingerprints:
            tab, newline = self._places.get(fingerprint or b"", (0, 0))
            size += newline - tab
        return size

    def __len__(self) -> int:
        return len(self._places)

    def find(self, fingerprint: bytes, key_field: str | None, key: object) -> tuple[tuple[int, int], bytes] | None:
        """The place and the JSON of a finished item; its line is looked at, as nobody has vouched for it yet."""
        place = self._places.get(fingerprint)
        if place is None or self._data is None:
            return None
        encoded = self._data[place[0] + 1 : place[1]]
        try:
            item: Item = json.loads(encoded)
            return (place, encoded) if item[key_field or ""] == key else None
        except (ValueError, LookupError, TypeError, RecursionError):
            return None
