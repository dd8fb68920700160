"""One sort's orders when a few items change: bisection finds where the changed items belong."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter

from ..store import format as fmt
from .patch import MendImpossible, Patch
from .sort_order import Key
from .splice import Row
from .views import ranks_of


class SortMender:
    """Mends one sort's order, its ranks, and its order under each filter."""

    def __init__(self, patch: Patch, name: str, source_ranks: Sequence[int]) -> None:
        """:param source_ranks: of all slots; items with equal keys keep source order."""
        self._patch = patch
        self._name = name
        self._source_ranks = source_ranks
        self._order = patch.base.order(fmt.ALL, name)
        self._keys: dict[int, Key] = {}  # of the base's items that were compared, by slot

    def mend(self, flags: Mapping[str, Mapping[int, bool]]) -> None:
        """Write the sort's sections.

        :param flags: which rows pass each filter, by slot.
        :raises MendImpossible: when they must be computed from all items.
        """
        name, patch, order = self._name, self._patch, self._order
        base = patch.base
        ranks = base.ranks(name)
        cut = patch.cut(order, ranks, None)
        before, after = _kept_neighbours(cut.out)
        try:
            cut.rows = self._positions(after)
        except Exception as error:
            raise MendImpossible(f"sort {name}: {type(error).__name__}") from error
        patch.write(fmt.ALL, name, cut)
        gaps = [(before.get(at - 1, at - 1), after.get(at, at)) for at, _ in cut.rows]
        rows = [row for _, row in cut.rows]
        new_ranks = self._new_ranks(ranks, rows, gaps)
        if new_ranks is None:
            self._rank_all(flags)
            return
        patch.sections[fmt.rank_section(name)] = patch.patched(
            fmt.rank_section(name),
            8,
            {id(row): array("Q", [new_ranks[patch.slot_of(row)]]).tobytes() for row in patch.rows},
        )
        for filter_name, passing in flags.items():
            old = base.order(filter_name, name)
            cut = patch.cut(old, ranks, base.flags(filter_name))
            cut.rows = [
                (bisect_left(old, new_ranks[patch.slot_of(row)], key=ranks.__getitem__), row)
                for row in rows
                if passing[patch.slot_of(row)]
            ]
            patch.write(filter_name, name, cut)

    def _positions(self, kept_after: Mapping[int, int]) -> list[tuple[int, Row]]:
        """Return the rows in their new order, each with its position in the old order.

        :param kept_after: for each position that is left out, the next one that is kept.
        """
        patch = self._patch
        keys = {id(row): patch.sort_key(self._name, row.item, patch.errors) for row in patch.rows}
        in_source_order = sorted(patch.rows, key=lambda row: self._source_ranks[patch.slot_of(row)])
        placed: list[tuple[int, Row]] = []
        low, end = 0, len(self._order)
        for row in sorted(in_source_order, key=lambda row: keys[id(row)]):
            high = end
            while low < high:
                middle = (low + high) // 2
                # The old position of an item that is left out says nothing about its new source order.
                at = kept_after.get(middle, middle)
                if at < end and self._is_before(self._order[at], row, keys[id(row)]):
                    low = at + 1
                else:
                    high = middle
            placed.append((low, row))
        return placed

    def _is_before(self, slot: int, row: Row, key: Key) -> bool:
        """Return whether an item of the base comes before a row."""
        if slot not in self._keys:
            self._keys[slot] = self._patch.sort_key(self._name, self._patch.base.item(slot), Counter())
        other = self._keys[slot]
        if other < key:
            return True
        return not key < other and self._source_ranks[slot] < self._source_ranks[self._patch.slot_of(row)]

    def _new_ranks(
        self, ranks: Sequence[int], rows: list[Row], gaps: list[tuple[int, int]]
    ) -> dict[int, int] | None:
        """Return a rank for each row's slot, between those of its new neighbours, or None if two leave no room."""
        order = self._order
        new_ranks: dict[int, int] = {}
        for (left, right), entries in groupby(zip(gaps, rows, strict=True), key=itemgetter(0)):
            members = [row for _, row in entries]
            below = ranks[order[left]] if left >= 0 else 0
            above = ranks[order[right]] if right < len(order) else below + (len(members) + 1) * fmt.RANK_GAP
            step = (above - below) // (len(members) + 1)
            if step == 0 or above >= 1 << 64:
                return None
            for number, row in enumerate(members, 1):
                new_ranks[self._patch.slot_of(row)] = below + number * step
        return new_ranks

    def _rank_all(self, filters: Iterable[str]) -> None:
        """Write the ranks of all slots, and the order under each filter."""
        name, patch = self._name, self._patch
        order = patch.gathered(fmt.order_section(fmt.ALL, name), "I")
        patch.sections[fmt.rank_section(name)] = ranks_of(order, patch.slots)
        for filter_name in filters:
            patch.write_passing(filter_name, name, order)


def _kept_neighbours(out: Iterable[int]) -> tuple[dict[int, int], dict[int, int]]:
    """Return the nearest kept position before and after each position that is left out."""
    rising = sorted(out)
    before: dict[int, int] = {}
    after: dict[int, int] = {}
    for at in rising:
        before[at] = before.get(at - 1, at - 1)
    for at in reversed(rising):
        after[at] = after.get(at + 1, at + 1)
    return before, after
