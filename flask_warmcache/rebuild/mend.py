"""A few changes to a snapshot: its arrays copied, with the changed entries cut out and put in where they belong.

Nothing is computed that did not change.  In each order the changed items are cut out and inserted again by
bisection, which decodes the twenty or so items that each is compared with; all else is copied, in pieces,
from the map of the old index to the new file.  So a change costs one rewrite of the index and no more.

Slots stay: see store/format.py.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import groupby
from operator import itemgetter
from typing import Any, Literal

from ..declare import Declaration, Item
from ..store import format as fmt
from ..store.snapshot import Snapshot
from ..store.writer import Piece, Section, pieces
from .splice import Cut, Mended, Row
from .views import FAILED, PLAIN, SortKinds, in_order, odd_keys, ranks_of, sort_key_of, text_of


class MendImpossible(Exception):
    """These changes need the arrays to be computed from all items."""


class Mender:
    """Makes the sections of an index from those of a snapshot, some rows and some slots that die."""

    def __init__(
        self,
        base: Snapshot,
        declaration: Declaration,
        rows: Sequence[Row],
        dead: Iterable[int],
        sequence: Sequence[int] | None = None,
    ) -> None:
        """
        :param rows: at most one for each key.
        :param dead: slots whose items go.
        :param sequence: source order, as slots, new ones numbered from ``base.slots`` in the order of ``rows``;
            items that are no rows keep their order. By default new items come last.
        """
        self._base = base
        self._declaration = declaration
        self._rows = rows
        self._dead = sorted(dead)
        self._sequence = sequence
        self._slots = base.slots
        self._slot: dict[int, int] = {}
        for row in rows:
            self._slot[id(row)] = self._slots if row.slot is None else row.slot
            self._slots += row.slot is None
        # What is cut out of each order: the slots that die, and those whose item is replaced.
        self._leaving = sorted({*self._dead, *(row.slot for row in rows if row.slot is not None)})
        self._new = [row for row in rows if row.slot is None]
        self._place_type = base.header["place_type"]
        self._sections: dict[str, Section] = {}
        self._errors: Counter[str] = Counter()
        self._kinds: dict[str, Any] = {}  # for the header: of each sort's keys
        self._odd_left = 0  # items that go and that stood behind the others in an order, counted for each order
        self._packed = {id(row): array(self._place_type, row.place).tobytes() for row in rows}

    def mend(self) -> Mended:
        """
        :raises MendImpossible: when the arrays must be computed from all items.
        """
        base = self._base
        sections = self._sections
        count = base.count - len(self._dead) + len(self._new)
        sections["places"] = self._patched("places", 2 * base._places.itemsize, self._packed)
        sections["fingerprints"] = self._patched(
            "fingerprints", fmt.FINGERPRINT_BYTES, {id(row): row.fingerprint for row in self._rows}
        )
        self._keys()
        source_ranks = self._source_order()
        flags = self._flags()
        for name in self._declaration.sorts:
            self._sort(name, source_ranks, flags)
        self._text()
        counts = {
            name: base.filter_count(name)
            - sum(base.flags(name)[slot] for slot in self._leaving)
            + sum(passing.values())
            for name, passing in flags.items()
        }
        live = base.header["live_bytes"]
        for slot in self._leaving:
            live -= _line_length(base.place(slot))
        live += sum(_line_length(row.place) for row in self._rows)
        header = {
            "count": count,
            "slots": self._slots,
            "place_type": self._place_type,
            "filters": counts,
            "sort_kinds": self._kinds,
            "live_bytes": live,
            "view_errors": base.header["view_errors"] - self._errors_left() + self._errors.total(),
        }
        return Mended(sections, header, self._errors)

    def _errors_left(self) -> int:
        """How many errors of the base go with the items that go."""
        if not self._base.header["view_errors"]:
            return 0
        errors: Counter[str] = Counter()
        for slot in self._leaving:
            item = self._base.item(slot)
            for name in self._declaration.filters:
                self._passes(name, item, errors)
        return errors.total() + self._odd_left

    def _passes(self, name: str, item: Item, errors: Counter[str]) -> bool:
        try:
            return bool(self._declaration.filters[name](item))
        except Exception as error:
            errors[f"filter {name}: {type(error).__name__}"] += 1
            return False

    # By slot

    def _patched(self, name: str, width: int, contents: Mapping[int, bytes]) -> list[Piece]:
        """A section of one entry per slot, with the rows' entries in place of the old ones or behind them."""
        old = self._base.section_bytes(name)
        pieces: list[Piece] = []
        done = 0
        for row in sorted(self._rows, key=self._slot_of_row):
            at = self._slot_of_row(row) * width
            if row.slot is not None:
                pieces += (old[done:at], contents[id(row)])
                done = at + width
        pieces.append(old[done:])
        pieces += (contents[id(row)] for row in self._new)
        return pieces

    def _slot_of_row(self, row: Row) -> int:
        return self._slot[id(row)]

    def _keys(self) -> None:
        base = self._base
        hashes = base._section("key_hashes", "Q", base.count)
        slots = base._section("key_slots", "I", base.count)
        cut = Cut()
        for slot in self._dead:
            key_field = self._declaration.key
            at = bisect_left(hashes, fmt.key_hash(base.item(slot)[key_field]))
            while slots[at] != slot:
                at += 1
            cut.out.append(at)
        hashed = sorted((fmt.key_hash(row.key), number) for number, row in enumerate(self._new))
        cut.rows = [(bisect_left(hashes, one), self._new[number]) for one, number in hashed]
        wanted = {id(self._new[number]): one for one, number in hashed}
        self._sections["key_hashes"] = cut.splice(hashes, 8, lambda row: array("Q", [wanted[id(row)]]).tobytes())
        self._sections["key_slots"] = cut.splice(slots, 4, self._slot_bytes)

    def _slot_bytes(self, row: Row) -> bytes:
        return array("I", [self._slot_of_row(row)]).tobytes()

    # Source order

    def _source_order(self) -> Sequence[int]:
        """Write source order, where it is not that of the slots; returns the ranks of all slots in it."""
        base, sections = self._base, self._sections
        view = fmt.view_section(fmt.ALL, fmt.SOURCE_ORDER)
        order = fmt.order_section(fmt.ALL, fmt.SOURCE_ORDER)
        rank = fmt.rank_section(fmt.SOURCE_ORDER)
        old_ranks = base.ranks(fmt.SOURCE_ORDER)
        old_order = base.order(fmt.ALL, fmt.SOURCE_ORDER)
        is_plain = isinstance(old_order, range)
        if self._sequence is not None:
            self._check_kept_order(old_ranks)
            ranks: Any = ranks_of(self._sequence, self._slots)
            sections[rank] = ranks
            self._write_whole(fmt.ALL, fmt.SOURCE_ORDER, self._sequence)
            return ranks  # type: ignore[no-any-return]
        if is_plain and not self._dead:
            return range(self._slots)
        # Items stay where they are, some go, new ones come last.
        kept = memoryview(array("I", old_order)) if isinstance(old_order, range) else old_order
        cut = self._cut(old_order, old_ranks, None)
        place_of = dict(zip(self._leaving, cut.out, strict=True))
        cut.rows = [(place_of[row.slot], row) for row in self._rows if row.slot is not None]
        cut.rows += [(len(old_order), row) for row in self._new]
        old_view = base.view(fmt.ALL, fmt.SOURCE_ORDER)
        assert isinstance(kept, memoryview)
        sections[order] = cut.splice(kept, 4, self._slot_bytes)
        sections[view] = cut.splice(old_view, 2 * old_view.itemsize, self._place_bytes)
        if is_plain:
            ranks = ranks_of(range(self._slots), self._slots)
        else:
            ranks = array("Q", bytes(base.section_bytes(rank)))
            last = old_ranks[old_order[-1]] if len(old_order) else 0
            ranks.extend(last + fmt.RANK_GAP * (1 + number) for number in range(len(self._new)))
        sections[rank] = ranks
        return ranks  # type: ignore[no-any-return]

    def _check_kept_order(self, old_ranks: Sequence[int]) -> None:
        """Equal sort keys keep source order, so an item that moved in it is in the wrong place elsewhere, too."""
        assert self._sequence is not None
        replaced = {row.slot for row in self._rows}
        before = -1
        for slot in self._sequence:
            if slot < self._base.slots and slot not in replaced:
                if old_ranks[slot] < before:
                    raise MendImpossible("unchanged items have another order")
                before = old_ranks[slot]

    @cached_property
    def _places(self) -> array[int]:
        return self._gathered("places", self._place_type)

    def _gathered(self, section: str, typecode: Literal["B", "I", "Q"]) -> array[int]:
        """A section that is written already, in one piece."""
        whole = array(typecode)
        for piece in pieces(self._sections[section]):
            whole.frombytes(piece)
        return whole

    def _place_bytes(self, row: Row) -> bytes:
        return self._packed[id(row)]

    # Filters and sorts

    def _flags(self) -> dict[str, dict[int, bool]]:
        """Which rows pass each filter, by slot; writes the sections that are in source order."""
        flags: dict[str, dict[int, bool]] = {}
        for name in self._declaration.filters:
            passing = {self._slot_of_row(row): self._passes(name, row.item, self._errors) for row in self._rows}
            flags[name] = passing
            contents = {id(row): bytes([passing[self._slot_of_row(row)]]) for row in self._rows}
            self._sections[fmt.flags_section(name)] = self._patched(fmt.flags_section(name), 1, contents)
            self._filtered_source_order(name, passing)
        return flags

    def _filtered_source_order(self, name: str, passing: dict[int, bool]) -> None:
        if self._sequence is not None:
            self._write_passing(name, fmt.SOURCE_ORDER, self._sequence)
            return
        base = self._base
        ranks = base.ranks(fmt.SOURCE_ORDER)
        old = base.order(name, fmt.SOURCE_ORDER)
        cut = self._cut(old, ranks, base.flags(name))
        for row in self._rows:
            if passing[self._slot_of_row(row)]:
                at = len(old) if row.slot is None else bisect_left(old, ranks[row.slot], key=ranks.__getitem__)
                cut.rows.append((at, row))
        # Between two neighbours, replaced items stand as they did and new ones behind them.
        cut.rows.sort(key=lambda entry: (entry[1].slot is None, self._rank_before(ranks, entry[1])))
        self._write(name, fmt.SOURCE_ORDER, cut)

    def _rank_before(self, ranks: Sequence[int], row: Row) -> int:
        return self._slot_of_row(row) if row.slot is None else ranks[row.slot]

    def _cut(self, old: Sequence[int], ranks: Sequence[int], flags: Sequence[int] | None) -> Cut:
        """An old order without the slots that leave it."""
        return Cut(
            [
                bisect_left(old, ranks[slot], key=ranks.__getitem__)
                for slot in self._leaving
                if flags is None or flags[slot]
            ]
        )

    def _write(self, filter_name: str, sort_name: str, cut: Cut) -> None:
        base = self._base
        old_view = base.view(filter_name, sort_name)
        order = base._section(fmt.order_section(filter_name, sort_name), "I")
        self._sections[fmt.order_section(filter_name, sort_name)] = cut.splice(order, 4, self._slot_bytes)
        self._sections[fmt.view_section(filter_name, sort_name)] = cut.splice(
            old_view, 2 * old_view.itemsize, self._place_bytes
        )

    def _write_passing(self, filter_name: str, sort_name: str, order: Iterable[int]) -> None:
        """A filter's view of a whole order, from nothing."""
        flags = self._gathered(fmt.flags_section(filter_name), "B")
        self._write_whole(filter_name, sort_name, [slot for slot in order if flags[slot]])

    def _write_whole(self, filter_name: str, sort_name: str, slots: Sequence[int]) -> None:
        self._sections[fmt.order_section(filter_name, sort_name)] = array("I", slots)
        self._sections[fmt.view_section(filter_name, sort_name)] = in_order(self._places, slots)

    def _sort(self, name: str, source_ranks: Sequence[int], flags: dict[str, dict[int, bool]]) -> None:
        base = self._base
        sort_key = self._declaration.sorts[name]
        order, ranks = base.order(fmt.ALL, name), base.ranks(name)
        leaving = set(self._leaving)
        known = {slot: self._key_of(name, base.item(slot), Counter()) for slot in leaving}
        keys = {id(row): self._key_of(name, row.item, self._errors) for row in self._rows}
        kinds, front = self._kinds_after(
            name, [key for key, _ in known.values()], [key for key, _ in keys.values()]
        )

        cut = self._cut(order, ranks, None)
        before_out, behind_out = _around(cut.out)

        def is_before(slot: int, row: Row) -> bool:
            if slot not in known:
                known[slot] = sort_key_of(sort_key, base.item(slot))
            mine, key = keys[id(row)][1], known[slot][1]
            if key < mine:
                return True
            return not mine < key and source_ranks[slot] < source_ranks[self._slot_of_row(row)]

        def is_before_in_source(slot: int, row: Row) -> bool:
            return source_ranks[slot] < source_ranks[self._slot_of_row(row)]

        def by_source(row: Row) -> int:
            return source_ranks[self._slot_of_row(row)]

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

        ordered = [row for row in self._rows if keys[id(row)][0] in kinds.ordered]
        behind = [row for row in self._rows if keys[id(row)][0] not in kinds.ordered]
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
        self._write(fmt.ALL, name, cut)
        gaps = [(before_out.get(at - 1, at - 1), behind_out.get(at, at)) for at, _ in placed]
        new_ranks = self._new_ranks(order, ranks, [row for _, row in placed], gaps)
        if new_ranks is None:
            self._number_anew(name, flags)
            return
        self._sections[fmt.rank_section(name)] = self._patched(
            fmt.rank_section(name),
            8,
            {id(row): array("Q", [new_ranks[self._slot_of_row(row)]]).tobytes() for row in self._rows},
        )
        for filter_name, passing in flags.items():
            old = base.order(filter_name, name)
            cut = self._cut(old, ranks, base.flags(filter_name))
            cut.rows = [
                (bisect_left(old, new_ranks[self._slot_of_row(row)], key=ranks.__getitem__), row)
                for _, row in placed
                if passing[self._slot_of_row(row)]
            ]
            self._write(filter_name, name, cut)

    def _key_of(self, name: str, item: Item, errors: Counter[str]) -> tuple[str, Any]:
        try:
            return sort_key_of(self._declaration.sorts[name], item)
        except Exception as error:
            errors[f"sort {name}: {type(error).__name__}"] += 1
            return FAILED, None

    def _kinds_after(self, name: str, out: list[str], put_in: list[str]) -> tuple[SortKinds, int]:
        """Of which kinds the keys are from now on, and how many of the old order are in its front.

        :raises MendImpossible: when other kinds might come to the front.
        """
        said = self._base.header.get("sort_kinds", {}).get(name)
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
            self._errors[odd_keys(name, after.ordered[0])] += len(odd)
        self._odd_left += sum(kind == FAILED or kind in were_odd for kind in out)
        self._kinds[name] = after.header()
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
                given[self._slot_of_row(row)] = below + number * step
        return given

    def _number_anew(self, name: str, flags: dict[str, dict[int, bool]]) -> None:
        order = self._gathered(fmt.order_section(fmt.ALL, name), "I")
        self._sections[fmt.rank_section(name)] = ranks_of(order, self._slots)
        for filter_name in flags:
            self._write_passing(filter_name, name, order)

    # Search

    def _text(self) -> None:
        """Each slot has its line; that of a dead one is empty, which no word is found in."""
        fields = self._declaration.search
        if not fields:
            return
        base = self._base
        text, starts = base.search_text()
        lines = {slot: b"\n" for slot in self._dead}
        lines |= {self._slot_of_row(row): text_of(fields, row.item) for row in self._rows}
        pieces: list[Piece] = []
        new_starts = array("Q")
        done = moved = 0  # slots copied, and how much further on their lines begin
        for slot in sorted(lines):
            if slot < base.slots:
                pieces += (text[starts[done] : starts[slot]], lines[slot])
                _extend(new_starts, starts[done : slot + 1], moved)
                moved += len(lines[slot]) - (starts[slot + 1] - starts[slot])
                done = slot + 1
        pieces.append(text[starts[done] : starts[base.slots]])
        _extend(new_starts, starts[done:], moved)
        for slot in range(base.slots, self._slots):
            pieces.append(lines[slot])
            new_starts.append(new_starts[-1] + len(lines[slot]))
        self._sections["text"] = pieces
        self._sections["text_starts"] = new_starts


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


def _extend(numbers: array[int], more: memoryview[int], moved: int) -> None:
    """Append numbers, each so much higher."""
    if moved:
        numbers.extend([number + moved for number in more])
    else:
        numbers.frombytes(more.cast("B"))


def _line_length(place: tuple[int, int]) -> int:
    return place[1] + 1 - place[0] + fmt.FINGERPRINT_LENGTH
