"""The orders of a list when a few items change: the source order, each filter's part of it, and each sort's."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter

from ..store import format as fmt
from .item_views import Key, ViewErrors, passes, sort_key
from .patch import Patch, PatchImpossible, Row
from .views import ranks_of

Passing = Mapping[str, Mapping[Row, bool]]  # by filter: which rows pass it


def patch_source_order(patch: Patch, sequence: Sequence[int] | None) -> Sequence[int]:
    """Write the source order, unless it is that of the slots, and return the rank of each slot in it.

    :param sequence: the new source order, as slots; by default no item moves and new ones come last.
    :raises PatchImpossible: when unchanged items have another order than before.
    """
    base = patch.base
    rank_section = fmt.rank_section(fmt.SOURCE_ORDER)
    old_ranks = base.ranks(fmt.SOURCE_ORDER)
    old_order = base.order(fmt.ALL, fmt.SOURCE_ORDER)
    if sequence is not None:
        _check_order_is_kept(patch, sequence, old_ranks)
        ranks = ranks_of(sequence, patch.slots)
        patch.write_whole(fmt.ALL, fmt.SOURCE_ORDER, sequence)
        patch.sections[rank_section] = ranks
        return ranks
    if isinstance(old_order, range) and not patch.dead:
        return range(patch.slots)
    # No item moves, some go, and new ones come last.
    cut = patch.cut(old_order, old_ranks)
    positions = dict(zip(patch.leaving, cut.out, strict=True))
    cut.rows = [(positions[row.slot], row) for row in patch.rows if row.slot is not None]
    cut.rows += [(len(old_order), row) for row in patch.new]
    patch.write(fmt.ALL, fmt.SOURCE_ORDER, cut)
    if isinstance(old_order, range):
        ranks = ranks_of(range(patch.slots), patch.slots)
    else:
        ranks = array("Q", bytes(base.section_bytes(rank_section)))
        last = old_ranks[old_order[-1]] if len(old_order) else 0
        ranks.extend(last + fmt.RANK_GAP * (1 + number) for number in range(len(patch.new)))
    patch.sections[rank_section] = ranks
    return ranks


def _check_order_is_kept(patch: Patch, sequence: Sequence[int], old_ranks: Sequence[int]) -> None:
    """Refuse a new order of unchanged items.

    Items with equal sort keys keep source order, so an item that moved in it would be misplaced in a sort, too.
    """
    replaced = {row.slot for row in patch.rows}
    before = -1
    for slot in sequence:
        if slot < patch.base.slots and slot not in replaced:
            if old_ranks[slot] < before:
                raise PatchImpossible("unchanged items have another order")
            before = old_ranks[slot]


def patch_filters(patch: Patch, sequence: Sequence[int] | None) -> Passing:
    """Write which items pass each filter, and these items in source order, and return which rows pass."""
    flags: dict[str, dict[Row, bool]] = {}
    for name in patch.declaration.filters:
        passing = {row: passes(patch.declaration, name, row.item, patch.errors) for row in patch.rows}
        flags[name] = passing
        patch.write_slots(fmt.flags_section(name), 1, {row: bytes([flag]) for row, flag in passing.items()})
        if sequence is None:
            _patch_filtered_source_order(patch, name, passing)
        else:
            patch.write_passing(name, fmt.SOURCE_ORDER, sequence)
    return flags


def _patch_filtered_source_order(patch: Patch, name: str, passing: Mapping[Row, bool]) -> None:
    ranks, old = patch.base.ranks(fmt.SOURCE_ORDER), patch.base.order(name, fmt.SOURCE_ORDER)
    cut = patch.cut(old, ranks, patch.base.flags(name))
    replaced = [row for row in patch.rows if row.slot is not None and passing[row]]
    replaced.sort(key=lambda row: ranks[patch.slot_of[row]])
    # Replaced items keep their order in the source, and new ones come after them.
    cut.rows = [(bisect_left(old, ranks[patch.slot_of[row]], key=ranks.__getitem__), row) for row in replaced]
    cut.rows += [(len(old), row) for row in patch.new if passing[row]]
    patch.write(name, fmt.SOURCE_ORDER, cut)


class SortPatch:
    """Patches one sort's order, its ranks, and its order under each filter.

    Bisection finds where the changed items belong.
    """

    def __init__(self, patch: Patch, name: str, source_ranks: Sequence[int]) -> None:
        """:param source_ranks: of all slots; items with equal keys keep source order."""
        self._patch = patch
        self._name = name
        self._source_ranks = source_ranks
        self._order = patch.base.order(fmt.ALL, name)
        self._keys: dict[int, Key] = {}  # of the base's items that were compared, by slot

    def write(self, passing: Passing) -> None:
        """Write the sort's sections.

        :raises PatchImpossible: when they must be computed from all items.
        """
        name, patch, base = self._name, self._patch, self._patch.base
        ranks = base.ranks(name)
        cut = patch.cut(self._order, ranks)
        before, after = _kept_neighbours(cut.out)
        try:
            cut.rows = self._positions(after)
        except Exception as error:
            raise PatchImpossible(f"sort {name}: {type(error).__name__}") from error
        patch.write(fmt.ALL, name, cut)
        gaps = [(before.get(at - 1, at - 1), after.get(at, at)) for at, _ in cut.rows]
        rows = [row for _, row in cut.rows]
        new_ranks = self._new_ranks(ranks, rows, gaps)
        if new_ranks is None:
            self._rank_all(passing)
            return
        rank_bytes = {row: array("Q", [rank]).tobytes() for row, rank in new_ranks.items()}
        patch.write_slots(fmt.rank_section(name), 8, rank_bytes)
        for filter_name, flags in passing.items():
            old = base.order(filter_name, name)
            cut = patch.cut(old, ranks, base.flags(filter_name))
            cut.rows = [
                (bisect_left(old, new_ranks[row], key=ranks.__getitem__), row) for row in rows if flags[row]
            ]
            patch.write(filter_name, name, cut)

    def _positions(self, kept_after: Mapping[int, int]) -> list[tuple[int, Row]]:
        """Return the rows in their new order, each with its position in the old order.

        :param kept_after: for each position that is left out, the next one that is kept.
        """
        patch = self._patch
        keys = {row: sort_key(patch.declaration, self._name, row.item, patch.errors) for row in patch.rows}
        in_source_order = sorted(patch.rows, key=lambda row: self._source_ranks[patch.slot_of[row]])
        placed: list[tuple[int, Row]] = []
        low, end = 0, len(self._order)
        for row in sorted(in_source_order, key=keys.__getitem__):
            high = end
            while low < high:
                middle = (low + high) // 2
                # The old position of an item that is left out says nothing about its new source order.
                at = kept_after.get(middle, middle)
                if at < end and self._is_before(self._order[at], row, keys[row]):
                    low = at + 1
                else:
                    high = middle
            placed.append((low, row))
        return placed

    def _is_before(self, slot: int, row: Row, key: Key) -> bool:
        """Return whether an item of the base comes before a row."""
        patch = self._patch
        if slot not in self._keys:
            self._keys[slot] = sort_key(patch.declaration, self._name, patch.old_item(slot), ViewErrors())
        other = self._keys[slot]
        if other < key:
            return True
        return not key < other and self._source_ranks[slot] < self._source_ranks[patch.slot_of[row]]

    def _new_ranks(
        self, ranks: Sequence[int], rows: list[Row], gaps: list[tuple[int, int]]
    ) -> dict[Row, int] | None:
        """Return a rank for each row, between those of its new neighbours, or None if two leave no room."""
        order = self._order
        new_ranks: dict[Row, int] = {}
        for (left, right), entries in groupby(zip(gaps, rows, strict=True), key=itemgetter(0)):
            members = [row for _, row in entries]
            below = ranks[order[left]] if left >= 0 else 0
            above = ranks[order[right]] if right < len(order) else below + (len(members) + 1) * fmt.RANK_GAP
            step = (above - below) // (len(members) + 1)
            if step == 0 or above >= 1 << 64:
                return None
            new_ranks |= {row: below + number * step for number, row in enumerate(members, 1)}
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
