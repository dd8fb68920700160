"""Every item of a list, in source order, becomes every section of an index, from nothing."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any

from ..declaration import Declaration, Item
from ..store import format as fmt
from ..store.data import DataWriter
from .splice import Mended
from .views import ViewBuilder


class Builder:
    """Takes all items of a list in source order, and makes every section from nothing."""

    def __init__(self, declaration: Declaration, breathe: Callable[[], None]) -> None:
        self._declaration = declaration
        self._breathe = breathe
        self.lines = array("Q")  # the number of each item's line in the data file
        self.hashes = array("Q")
        self.fingerprints = bytearray()
        self.views = ViewBuilder(declaration, breathe)

    @property
    def count(self) -> int:
        """How many items there are so far."""
        return len(self.lines)

    def add(self, line: int, fingerprint: bytes, item: Item | None, key: object) -> None:
        """Take the next item, decoded; None will do where ``views.needs_items`` says so."""
        self.lines.append(line)
        self.fingerprints += fingerprint
        if self._declaration.key is not None:
            self.hashes.append(fmt.key_hash(key))
        self.views.add(item)

    def made(self, writer: DataWriter) -> Mended:
        """The sections and what the header says of them; ``writer`` is flushed.

        :raises ViewError: when a sort's keys cannot be compared with one another at all.
        """
        place_type = fmt.place_type(writer.end)
        every = memoryview(writer.places)
        places = array(place_type)
        for line in self.lines:
            places.append(every[2 * line])
            places.append(every[2 * line + 1])
        self._breathe()
        sections: dict[str, Any] = {"places": places, "fingerprints": self.fingerprints}
        if self._declaration.key is not None:
            hashes = self.hashes
            order = sorted(range(len(hashes)), key=hashes.__getitem__)
            self._breathe()
            sections["key_hashes"] = array("Q", [hashes[slot] for slot in order])
            sections["key_slots"] = array("I", order)
        sections |= self.views.sections(places)
        return Mended(
            sections,
            {
                "count": self.count,
                "slots": self.count,
                "place_type": place_type,
                "filters": self.views.filter_counts(),
                "sort_kinds": {name: kinds.header() for name, kinds in self.views.sort_kinds.items()},
                "live_bytes": sum(places[1::2]) - sum(places[::2]) + (fmt.FINGERPRINT_LENGTH + 1) * self.count,
                "view_errors": self.views.errors.total(),
            },
            self.views.errors,
        )
