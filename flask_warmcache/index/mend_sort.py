"""One sort's orders when a few items change: the changed ones go where their keys belong, by bisection."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from ..declaration import Item
from ..store import format as fmt
from .patch import MendImpossible, Patch
from .splice import Row
from .views import FAILED, PLAIN, SortKinds, odd_keys, ranks_of, sort_key_of


class SortMender:
    """Mends one sort's order, its ranks, and its order under each filter."""

    def __init__(self, patch: Patch, name: str, source_ranks: Sequence[int]) -> None:
        """:param source_ranks: of all slots; equal keys stand in source order."""
        self._patch = patch
        self._name = name
        self._source_ranks = source_ranks
        self.kinds: dict[str, Any] = {}  # for the header: of its keys
        self.odd_left = 0  # items that go and that stood behind the others in the order

    def mend(self, flags: Mapping[str, Mapping[int, bool]]) -> None:
        """Write the sort's sections.

        :param flags: which rows pass each filter, by slot.
        :raises MendImpossible: when they must be computed from all items.
        """
        name, patch, source_ranks = self._name, self._patch, self._source_ranks
        base = patch.base
        order, ranks = base.order(fmt.ALL, name), base.ranks(name)
        leaving = set(patch.leaving)
        known = {slot: self._key_of(base.item(slot), Counter()) for slot in leaving}
        keys = {id(row): self._key_of(row.item, patch.errors) for row in patch.rows}
        kinds, front = self._kinds_after([key for key, _ in known.values()], [key for key, _ in keys.values()])

        cut = patch.cut(order, ranks, None)
        before_out, behind_out = _around(cut.out)

        def is_before(slot: int, row: Row) -> bool:
            if slot not in known:
                known[slot] = sort_key_of(patch.declaration.sorts[name], base.item(slot))
            mine, key = keys[id(row)][1], known[slot][1]
            if key < mine:
                return True
            return not mine < key and source_ranks[slot] < source_ranks[patch.slot_of(row)]

        def is_before_in_source(slot: int, row: Row) -> bool:
            return source_ranks[slot] < source_ranks[patch.slot_of(row)]

        def by_source(row: Row) -> int:
            return source_ranks[patch.slot_of(row)]

        def place(row: Row, low: int, high: int, is_before: Callable[[int, Row], bool]) -> int:
            end = high
            while low < high:
                middle = (low + high) // 2
                # An item that leaves may not stand where its old place was in source order.
                at = behind_out.get(middle, middle)
                if at < end and is_before(order[at], row):
                    low = at + 1
                else:
                    high = middle
            return low

        ordered = [row for row in patch.rows if keys[id(row)][0] in kinds.ordered]
        behind = [row for row in patch.rows if keys[id(row)][0] not in kinds.ordered]
        placed: list[tuple[int, Row]] = []
        try:
            for row in sorted(ordered, key=lambda row: (keys[id(row)][1], by_source(row))):
                placed.append((place(row, placed[-1][0] if placed else 0, front, is_before), row))
        except Exception as error:
            raise MendImpossible(f"sort {name}: {type(error).__name__}") from error
        placed += [
            (place(row, front, len(order), is_before_in_source), row) for row in sorted(behind, key=by_source)
        ]
        cut.rows = placed
        patch.write(fmt.ALL, name, cut)
        gaps = [(before_out.get(at - 1, at - 1), behind_out.get(at, at)) for at, _ in placed]
        new_ranks = self._new_ranks(order, ranks, [row for _, row in placed], gaps)
        if new_ranks is None:
            self._number_anew(flags)
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
                for _, row in placed
                if passing[patch.slot_of(row)]
            ]
            patch.write(filter_name, name, cut)

    def _key_of(self, item: Item, errors: Counter[str]) -> tuple[str, Any]:
        try:
            return sort_key_of(self._patch.declaration.sorts[self._name], item)
        except Exception as error:
            errors[f"sort {self._name}: {type(error).__name__}"] += 1
            return FAILED, None

    def _kinds_after(self, out: list[str], put_in: list[str]) -> tuple[SortKinds, int]:
        """Of which kinds the keys are from now on, and how many of the old order are in its front.

        :raises MendImpossible: when other kinds might come to the front.
        """
        name, patch = self._name, self._patch
        said = patch.base.header.get("sort_kinds", {}).get(name)
        if said is None:
            raise MendImpossible(f"the index does not say of which kinds the keys of sort {name} are")
        before = SortKinds(said["ordered"], Counter(said["counts"]))
        front = sum(before.counts[kind] for kind in before.ordered)
        counts = Counter(before.counts)
        counts.subtract(out)
        counts.update(put_in)
        after = SortKinds(before.ordered, +counts)
        if not front:
            # Nothing is ordered so far, so whatever is new begins an order, if it is of one kind.
            after.ordered = sorted(kind for kind in after.counts if kind != FAILED)
            if len(after.ordered) > 1:
                raise MendImpossible(f"sort {name} gives keys of several kinds for the first time")
        were_odd, are_odd = (
            {kind for kind in kinds.counts if kind not in (FAILED, *after.ordered)} for kinds in (before, after)
        )
        if are_odd:
            if are_odd != were_odd and not (are_odd & PLAIN and PLAIN.issuperset(after.ordered)):
                raise MendImpossible(f"sort {name} gives keys of other kinds than so far")
            if [after.commonest] != after.ordered:
                raise MendImpossible(f"sort {name} gives more keys of another kind now")
        after.ordered = [kind for kind in after.ordered if after.counts[kind]]
        odd = [kind for kind in put_in if kind in are_odd]
        if odd:
            patch.errors[odd_keys(name, after.ordered[0])] += len(odd)
        self.odd_left = sum(kind == FAILED or kind in were_odd for kind in out)
        self.kinds = after.header()
        return after, front

    def _new_ranks(
        self, order: Sequence[int], ranks: Sequence[int], rows: list[Row], gaps: list[tuple[int, int]]
    ) -> dict[int, int] | None:
        """Numbers between those of each row's new neighbours, or None when there is no room between two."""
        given: dict[int, int] = {}
        for (left, right), entries in groupby(zip(gaps, rows, strict=True), key=itemgetter(0)):
            members = [row for _, row in entries]
            below = ranks[order[left]] if left >= 0 else 0
            above = ranks[order[right]] if right < len(order) else below + (len(members) + 1) * fmt.RANK_GAP
            step = (above - below) // (len(members) + 1)
            if step == 0 or above >= 1 << 64:
                return None
            for number, row in enumerate(members, 1):
                given[self._patch.slot_of(row)] = below + number * step
        return given

    def _number_anew(self, filters: Iterable[str]) -> None:
        name, patch = self._name, self._patch
        order = patch.gathered(fmt.order_section(fmt.ALL, name), "I")
        patch.sections[fmt.rank_section(name)] = ranks_of(order, patch.slots)
        for filter_name in filters:
            patch.write_passing(filter_name, name, order)


def _around(out: Iterable[int]) -> tuple[dict[int, int], dict[int, int]]:
    """For each place that is left, the next in front of it and the next behind it that is not."""
    rising = sorted(out)
    before: dict[int, int] = {}
    behind: dict[int, int] = {}
    for at in rising:
        before[at] = before.get(at - 1, at - 1)
    for at in reversed(rising):
        behind[at] = behind.get(at + 1, at + 1)
    return before, behind
