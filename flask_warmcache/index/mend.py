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
from collections.abc import Iterable, Sequence

from ..declaration import Declaration
from ..store import format as fmt
from ..store.snapshot import Snapshot
from ..store.writer import Piece
from .mend_sort import SortMender
from .mend_source import filters, source_order
from .patch import Patch
from .splice import Cut, Mended, Row
from .views import text_of


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
        self._patch = Patch(base, declaration, rows, dead)
        self._sequence = sequence

    def mend(self) -> Mended:
        """
        :raises MendImpossible: when the arrays must be computed from all items.
        """
        patch = self._patch
        base, sections = patch.base, patch.sections
        count = base.count - len(patch.dead) + len(patch.new)
        sections["places"] = patch.patched("places", 2 * array(patch.place_type).itemsize, patch.places)
        sections["fingerprints"] = patch.patched(
            "fingerprints", fmt.FINGERPRINT_BYTES, {id(row): row.fingerprint for row in patch.rows}
        )
        self._keys()
        source_ranks = source_order(patch, self._sequence)
        flags = filters(patch, self._sequence)
        sorts = {name: SortMender(patch, name, source_ranks) for name in patch.declaration.sorts}
        for sort in sorts.values():
            sort.mend(flags)
        self._text()
        counts = {
            name: base.filter_count(name)
            - sum(base.flags(name)[slot] for slot in patch.leaving)
            + sum(passing.values())
            for name, passing in flags.items()
        }
        live = base.header["live_bytes"]
        for slot in patch.leaving:
            live -= _line_length(base.place(slot))
        live += sum(_line_length(row.place) for row in patch.rows)
        header = {
            "count": count,
            "slots": patch.slots,
            "place_type": patch.place_type,
            "filters": counts,
            "sort_kinds": {name: sort.kinds for name, sort in sorts.items()},
            "live_bytes": live,
            "view_errors": base.header["view_errors"] - self._errors_left(sorts.values()) + patch.errors.total(),
        }
        return Mended(sections, header, patch.errors)

    def _errors_left(self, sorts: Iterable[SortMender]) -> int:
        """How many errors of the base go with the items that go."""
        patch = self._patch
        if not patch.base.header["view_errors"]:
            return 0
        errors: Counter[str] = Counter()
        for slot in patch.leaving:
            item = patch.base.item(slot)
            for name in patch.declaration.filters:
                patch.passes(name, item, errors)
        return errors.total() + sum(sort.odd_left for sort in sorts)

    def _keys(self) -> None:
        patch = self._patch
        base = patch.base
        hashes = base.section("key_hashes", "Q", base.count)
        slots = base.section("key_slots", "I", base.count)
        cut = Cut()
        for slot in patch.dead:
            key_field = patch.declaration.key
            at = bisect_left(hashes, fmt.key_hash(base.item(slot)[key_field]))
            while slots[at] != slot:
                at += 1
            cut.out.append(at)
        hashed = sorted((fmt.key_hash(row.key), number) for number, row in enumerate(patch.new))
        cut.rows = [(bisect_left(hashes, one), patch.new[number]) for one, number in hashed]
        wanted = {id(patch.new[number]): one for one, number in hashed}
        patch.sections["key_hashes"] = cut.splice(hashes, 8, lambda row: array("Q", [wanted[id(row)]]).tobytes())
        patch.sections["key_slots"] = cut.splice(slots, 4, patch.slot_bytes)

    def _text(self) -> None:
        """Each slot has its line; that of a dead one is empty, which no word is found in."""
        patch = self._patch
        base, fields = patch.base, patch.declaration.search
        if not fields:
            return
        text, starts = base.search_text()
        lines = {slot: b"\n" for slot in patch.dead}
        lines |= {patch.slot_of(row): text_of(fields, row.item) for row in patch.rows}
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
        for slot in range(base.slots, patch.slots):
            pieces.append(lines[slot])
            new_starts.append(new_starts[-1] + len(lines[slot]))
        patch.sections["text"] = pieces
        patch.sections["text_starts"] = new_starts


def _extend(numbers: array[int], more: memoryview[int], moved: int) -> None:
    """Append numbers, each so much higher."""
    if moved:
        numbers.extend([number + moved for number in more])
    else:
        numbers.frombytes(more.cast("B"))


def _line_length(place: tuple[int, int]) -> int:
    return place[1] + 1 - place[0] + fmt.FINGERPRINT_LENGTH
