"""The views of a list, computed from all its items: the order of each filter and sort, and the search text."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any

from ..declaration import Declaration, Item
from ..errors import ViewError
from ..store import format as fmt
from ..store.writer import Section
from .exact import Path, restore
from .item_views import ViewErrors, passes, sort_key, text_of


class ViewBuilder:
    """Takes a list's items one by one, in source order, and makes the index sections of its views."""

    def __init__(self, declaration: Declaration) -> None:
        self._declaration = declaration
        self._count = 0
        self._flags = {name: bytearray() for name in declaration.filters}
        # Kinds and keys lie apart, because pairs of them would take twice the memory.
        self._kinds = {name: bytearray() for name in declaration.sorts}
        self._keys: dict[str, list[Any]] = {name: [] for name in declaration.sorts}
        self._text = bytearray()
        self._text_starts = array("Q", [0])
        self.errors = ViewErrors()
        self.kinds: dict[Path, str] = {}  # of the values in all items, before they were JSON
        self.needs_items = bool(declaration.filters or declaration.sorts or declaration.search)

    def add(self, item: Item | None) -> None:
        """Take the next item, decoded, or None if no view needs it."""
        self._count += 1
        if item is None:
            return
        declaration = self._declaration
        if declaration.search:
            self._text += text_of(declaration.search, item)
            self._text_starts.append(len(self._text))
        if self.kinds:
            restore(item, self.kinds)
        for name, flags in self._flags.items():
            flags.append(passes(declaration, name, item, self.errors))
        for name, keys in self._keys.items():
            kind, key = sort_key(declaration, name, item, self.errors)
            self._kinds[name].append(kind)
            keys.append(key)

    @property
    def steps(self) -> int:
        """The number of steps of ``sections``."""
        return 2 * len(self._keys) + len(self._flags) * (1 + len(self._keys))

    def sections(self, places: array[int], breathe: Callable[[], None]) -> dict[str, Section]:
        """Return the index sections of all views.

        :param places: the places of all items, in source order, two numbers each.
        :param breathe: called after each step, so that requests get the interpreter.
        :raises ViewError: when a sort's keys cannot be compared with one another.
        """
        sections: dict[str, Section] = {}
        orders: dict[str, Sequence[int]] = {fmt.SOURCE_ORDER: range(self._count)}
        for name in self._keys:
            orders[name] = self._order(name)
            breathe()
            sections[fmt.rank_section(name)] = ranks_of(orders[name], self._count)
            sections[fmt.order_section(fmt.ALL, name)] = array("I", orders[name])
            sections[fmt.view_section(fmt.ALL, name)] = in_order(places, orders[name])
            breathe()
        for filter_name, flags in self._flags.items():
            sections[fmt.flags_section(filter_name)] = flags
            for sort_name, order in orders.items():
                passing = [position for position in order if flags[position]]
                sections[fmt.order_section(filter_name, sort_name)] = array("I", passing)
                sections[fmt.view_section(filter_name, sort_name)] = in_order(places, passing)
                breathe()
        if self._declaration.search:
            sections["text"] = self._text
            sections["text_starts"] = self._text_starts
        return sections

    def filter_counts(self) -> dict[str, int]:
        """Return how many items pass each filter."""
        return {name: sum(flags) for name, flags in self._flags.items()}

    def _order(self, name: str) -> list[int]:
        kinds, keys = self._kinds[name], self._keys[name]
        order: list[int] = []
        for kind in sorted(set(kinds)):
            positions = [position for position, other in enumerate(kinds) if other == kind]
            try:
                positions.sort(key=keys.__getitem__)
            except TypeError as error:
                raise ViewError(
                    f"Sort {name!r} gives keys that cannot be compared ({error}). "
                    "Make its function return one type, numbers or text."
                ) from error
            order += positions
        return order


def ranks_of(order: Iterable[int], slots: int) -> array[int]:
    """Return a number for each slot; the numbers rise in this order."""
    ranks = array("Q", bytes(8 * slots))
    for number, slot in enumerate(order, 1):
        ranks[slot] = number * fmt.RANK_GAP
    return ranks


def in_order(places: array[int], order: Sequence[int]) -> array[int]:
    """Return the places of these slots; only the bytes of the array count, not its type."""
    if places.itemsize == 4:
        pairs = memoryview(places).cast("B").cast("Q")  # two numbers of four bytes are copied as one of eight
        return array("Q", [pairs[position] for position in order])
    tabs, newlines = places[::2], places[1::2]
    return array("Q", chain.from_iterable((tabs[position], newlines[position]) for position in order))
