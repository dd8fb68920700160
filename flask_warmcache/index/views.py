"""Orders and filters: the places of the items of each declared filter in each declared order.

Filters and sorts see an item as JSON gives it back, so that a rebuild that reuses an item and one that
enriches it anew compute the same.  A function that fails on an item puts it out of that filter, or last
in that order, and is reported; one odd item must not sink the list.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from ..declaration import Declaration, Item
from ..errors import ViewError
from ..store import format as fmt
from ..store.writer import Section


class ViewBuilder:
    """Takes a list's items one by one, in source order, and makes the index sections of its views."""

    def __init__(self, declaration: Declaration, breathe: Callable[[], None]) -> None:
        self._filters = dict(declaration.filters)
        self._sorts = dict(declaration.sorts)
        self._search = declaration.search
        self._breathe = breathe
        self._count = 0
        self._flags = {name: bytearray() for name in self._filters}
        self._keys: dict[str, list[Any]] = {name: [] for name in self._sorts}
        self._unsortable: dict[str, list[int]] = {name: [] for name in self._sorts}
        self.sort_kinds: dict[str, SortKinds] = {}
        self._text = bytearray()
        self._text_starts = array("Q", [0])
        self._errors: Counter[str] = Counter()
        self._others: dict[str, int] = {}  # keys of another type than most, as the sections were last made
        self.needs_items = bool(self._filters or self._sorts or self._search)

    def add(self, item: Item | None) -> None:
        """Take the next item, decoded; None will do where no view needs it."""
        position = self._count
        self._count += 1
        if item is None:
            return
        for name, passes in self._filters.items():
            try:
                self._flags[name].append(1 if passes(item) else 0)
            except Exception as error:
                self._flags[name].append(0)
                self._errors[f"filter {name}: {type(error).__name__}"] += 1
        for name, key in self._sorts.items():
            try:
                self._keys[name].append(sort_key_of(key, item)[1])
            except Exception as error:
                self._keys[name].append(None)
                self._unsortable[name].append(position)
                self._errors[f"sort {name}: {type(error).__name__}"] += 1
        if self._search:
            self._text += text_of(self._search, item)
            self._text_starts.append(len(self._text))

    def sections(self, places: array[int]) -> dict[str, Section]:
        """The index sections of all views.

        :param places: of all items, in source order, two numbers each.
        :raises ViewError: when a sort's keys cannot be compared with one another at all.
        """
        self._others = {}
        sections: dict[str, Section] = {}
        everything = range(self._count)
        orders: dict[str, Any] = {fmt.SOURCE_ORDER: everything}
        for name in self._sorts:
            orders[name] = self._order(name)
            self._breathe()
            sections[fmt.rank_section(name)] = ranks_of(orders[name], self._count)
            sections[fmt.order_section(fmt.ALL, name)] = array("I", orders[name])
            sections[fmt.view_section(fmt.ALL, name)] = in_order(places, orders[name])
            self._breathe()
        for filter_name, flags in self._flags.items():
            sections[fmt.flags_section(filter_name)] = flags
            for sort_name, order in orders.items():
                passing = [position for position in order if flags[position]]
                sections[fmt.order_section(filter_name, sort_name)] = array("I", passing)
                sections[fmt.view_section(filter_name, sort_name)] = in_order(places, passing)
                self._breathe()
        if self._search:
            sections["text"] = self._text
            sections["text_starts"] = self._text_starts
        return sections

    @property
    def errors(self) -> Counter[str]:
        """What failed, "filter marked: KeyError" say, and on how many items; complete behind ``sections``."""
        return self._errors + Counter(self._others)

    def filter_counts(self) -> dict[str, int]:
        """How many items each filter lets through."""
        return {name: sum(flags) for name, flags in self._flags.items()}

    def _order(self, name: str) -> list[int]:
        keys = self._keys[name]
        last = set(self._unsortable[name])
        sortable = [position for position in range(self._count) if position not in last]
        kinds: Counter[str] = Counter()
        for of, count in Counter(type(keys[position]) for position in sortable).items():
            if of not in (tuple, list):
                kinds[_kind(of)] += count
        kinds.update(kind_of(key) for position in sortable if type(key := keys[position]) in (tuple, list))
        if last:
            kinds[FAILED] = len(last)
        self.sort_kinds[name] = SortKinds(sorted(kind for kind in kinds if kind != FAILED), kinds)
        try:
            return sorted(sortable, key=keys.__getitem__) + sorted(last)
        except TypeError:
            pass
        # Keys of several kinds, such as None among numbers: the commonest kind is ordered, the rest go last.
        commonest = self.sort_kinds[name].commonest
        self.sort_kinds[name] = SortKinds([] if commonest is None else [commonest], kinds)
        fitting = [position for position in sortable if kind_of(keys[position]) == commonest]
        others = [position for position in sortable if kind_of(keys[position]) != commonest]
        self._others[odd_keys(name, commonest)] = len(others)
        try:
            return sorted(fitting, key=keys.__getitem__) + sorted([*others, *last])
        except TypeError as error:
            raise ViewError(
                f"Sort {name!r} gives keys that cannot be compared ({error}). "
                "Make its function return one type, numbers or text."
            ) from error


FAILED = ""  # the kind of a key that the sort function failed to give
UNORDERED = (FAILED, "NoneType")  # of which not even two can be compared
# Keys of two of these kinds can never be compared; of others who knows.
PLAIN = {"NoneType", "number", "str", "bytes", "list", "tuple", "dict"}


@dataclass
class SortKinds:
    """Of which kinds a sort's keys are, as an index's header says it."""

    ordered: list[str]  # in the order's front; the others stand behind them, in source order
    counts: Counter[str]

    @property
    def commonest(self) -> str | None:
        """The kind of most keys that have an order; of several the last in the alphabet."""
        kinds = [(count, kind) for kind, count in self.counts.items() if kind not in UNORDERED and count]
        return max(kinds)[1] if kinds else None

    def header(self) -> dict[str, Any]:
        """As JSON."""
        return {"ordered": self.ordered, "counts": {kind: count for kind, count in self.counts.items() if count}}


def odd_keys(name: str, commonest: str | None) -> str:
    """How it is counted when a sort gives keys that stand behind the others."""
    return f"sort {name}: keys that " + ("have no order" if commonest is None else f"are no {commonest}")


def sort_key_of(sort_key: Callable[[Item], Any], item: Item) -> tuple[str, Any]:
    """An item's key, and what it can be compared with: keys of one kind.

    :raises Exception: whatever the app's function raised, or a ValueError for a key that has no order.
    """
    key = sort_key(item)
    if key != key:
        raise ValueError("not a number, which is neither before nor behind any other")
    return kind_of(key), key


def kind_of(key: object) -> str:
    """What a key can be compared with: numbers, or its own class, or tuples or lists of the same kinds."""
    if isinstance(key, (tuple, list)):
        return f"{_kind(type(key))}({', '.join(_kind(type(one)) for one in key)})"
    return _kind(type(key))


def _kind(of: type) -> str:
    return "number" if of in (int, float, bool) else of.__qualname__


def text_of(fields: Iterable[str], item: Item) -> bytes:
    """An item's line in the search text."""
    words = fmt.fold(" ".join(_words(item.get(field)) for field in fields))
    return words.encode("utf-8", "surrogatepass") + b"\n"


def ranks_of(order: Iterable[int], slots: int) -> array[int]:
    """A number for each slot, rising in this order."""
    ranks = array("Q", bytes(8 * slots))
    for number, slot in enumerate(order, 1):
        ranks[slot] = number * fmt.RANK_GAP
    return ranks


def in_order(places: array[int], order: Sequence[int]) -> array[int]:
    """The places of these slots, as bytes in an array of whatever type."""
    if places.itemsize == 4:
        pairs = memoryview(places).cast("B").cast("Q")  # two numbers of four bytes are moved as one of eight
        return array("Q", [pairs[position] for position in order])
    tabs, newlines = places[::2], places[1::2]
    return array("Q", chain.from_iterable((tabs[position], newlines[position]) for position in order))


def _words(value: object) -> str:
    """A field as search reads it: text, numbers, and lists of those."""
    if value is None:
        return ""
    if isinstance(value, list):
        return " ".join(_words(one) for one in value)
    return str(value)
