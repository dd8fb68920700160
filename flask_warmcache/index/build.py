"""The sections of an index, computed from all items of a list."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

from ..declaration import Declaration, Item
from ..store import format as fmt
from ..store.data import DataWriter
from ..store.writer import Section
from .exact import packed
from .item_views import ViewErrors
from .views import ViewBuilder


@dataclass
class IndexContent:
    """What an index consists of, except for what its header says about the rebuild or write that makes it."""

    sections: dict[str, Section]
    header: dict[str, Any]
    errors: ViewErrors  # of filters and sorts


class Builder:
    """Takes all items of a list in source order, and makes every section of an index."""

    def __init__(self, declaration: Declaration, breathe: Callable[[], None]) -> None:
        self._declaration = declaration
        self._breathe = breathe
        self._line_numbers = array("Q")  # of each item, in the data file
        self._hashes = array("Q")
        self._fingerprints = bytearray()
        self.views = ViewBuilder(declaration)

    @property
    def count(self) -> int:
        """How many items there are so far."""
        return len(self._line_numbers)

    def add(self, line_number: int, fingerprint: bytes, item: Item | None, key: object) -> None:
        """Take the next item, decoded, or None unless ``views.needs_items``."""
        self._line_numbers.append(line_number)
        self._fingerprints += fingerprint
        if self._declaration.key is not None:
            self._hashes.append(fmt.key_hash(key))
        self.views.add(item)

    def content(self, writer: DataWriter, advance: Callable[[int], None] = lambda done: None) -> IndexContent:
        """Return the content of the index.

        :param writer: of the data file; it is flushed.
        :param advance: called after each step with the share of the work that is done, as a number of items.
        :raises ViewError: when a sort's keys cannot be compared with one another.
        """
        numbers, steps = count(1), 2 + self.views.steps

        def step() -> None:
            self._breathe()
            advance(self.count * min(steps, next(numbers)) // steps)

        place_type = fmt.place_type(writer.end)
        of_lines = memoryview(writer.places)
        places = array(place_type)
        for line_number in self._line_numbers:
            places.append(of_lines[2 * line_number])
            places.append(of_lines[2 * line_number + 1])
        step()
        sections: dict[str, Any] = {"places": places, "fingerprints": self._fingerprints}
        if self._declaration.key is not None:
            hashes = self._hashes
            order = sorted(range(len(hashes)), key=hashes.__getitem__)
            step()
            sections["key_hashes"] = array("Q", [hashes[slot] for slot in order])
            sections["key_slots"] = array("I", order)
        sections |= self.views.sections(places, step)
        return IndexContent(
            sections,
            {
                "count": self.count,
                "slots": self.count,
                "place_type": place_type,
                "filters": self.views.filter_counts(),
                "live_bytes": sum(places[1::2]) - sum(places[::2]) + (fmt.FINGERPRINT_LENGTH + 1) * self.count,
                "view_errors": self.views.errors.total(),
                "exact": packed(self.views.kinds),
                "view_faults": self.views.errors.added_to({}, Counter(), ()),
            },
            self.views.errors,
        )
