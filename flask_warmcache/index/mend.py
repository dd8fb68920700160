"""A patch is applied to a snapshot: its arrays are copied, and only the changed entries are computed.

Only what changed is computed.  In each order the changed items are cut out and inserted again by bisection,
which decodes the twenty or so items that each is compared with.  All else is copied, in pieces, from the map of
the old index to the new file.  So a change costs one rewrite of the index and no more.

The slots of unchanged items stay the same: see store/format.py.
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
from .item_views import text_of
from .mend_sort import SortMender
from .mend_source import mend_filters, mend_source_order
from .patch import Patch
from .splice import Cut, IndexContent, Row


class Mender:
    """Makes the content of an index from a snapshot, some rows, and some slots that die."""

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
        :param dead: the slots of items that go.
        :param sequence: the new source order, as slots; new slots are numbered from ``base.slots`` in the order
            of ``rows``, and unchanged items keep their order. By default new items come last.
        """
        self._patch = Patch(base, declaration, rows, dead)
        self._sequence = sequence

    def mend(self) -> IndexContent:
        """Return the content of the next index.

        :raises MendImpossible: when the arrays must be computed from all items.
        """
        patch = self._patch
        base, sections = patch.base, patch.sections
        sections["places"] = patch.patched("places", 2 * array(patch.place_type).itemsize, patch.places)
        sections["fingerprints"] = patch.patched(
            "fingerprints", fmt.FINGERPRINT_BYTES, {id(row): row.fingerprint for row in patch.rows}
        )
        self._mend_keys()
        source_ranks = mend_source_order(patch, self._sequence)
        flags = mend_filters(patch, self._sequence)
        for name in patch.declaration.sorts:
            SortMender(patch, name, source_ranks).mend(flags)
        self._mend_text()
        passing_counts = {
            name: base.filter_count(name)
            - sum(base.flags(name)[slot] for slot in patch.leaving)
            + sum(passing.values())
            for name, passing in flags.items()
        }
        live_bytes = base.header["live_bytes"]
        live_bytes -= sum(_line_length(base.place(slot)) for slot in patch.leaving)
        live_bytes += sum(_line_length(row.place) for row in patch.rows)
        header = {
            "count": base.count - len(patch.dead) + len(patch.new),
            "slots": patch.slots,
            "place_type": patch.place_type,
            "filters": passing_counts,
            "live_bytes": live_bytes,
            "view_errors": base.header["view_errors"] - self._errors_gone() + patch.errors.total(),
        }
        return IndexContent(sections, header, patch.errors)

    def _errors_gone(self) -> int:
        """Return how many errors of the base concern items that go."""
        patch = self._patch
        errors: Counter[str] = Counter()
        if patch.base.header["view_errors"]:
            for slot in patch.leaving:
                item = patch.base.item(slot)
                for name in patch.declaration.filters:
                    patch.passes(name, item, errors)
                for name in patch.declaration.sorts:
                    patch.sort_key(name, item, errors)
        return errors.total()

    def _mend_keys(self) -> None:
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
        new_hashes = {id(row): fmt.key_hash(row.key) for row in patch.new}
        cut.rows = [
            (bisect_left(hashes, new_hashes[id(row)]), row)
            for row in sorted(patch.new, key=lambda row: new_hashes[id(row)])
        ]
        patch.sections["key_hashes"] = cut.splice(
            hashes, 8, lambda row: array("Q", [new_hashes[id(row)]]).tobytes()
        )
        patch.sections["key_slots"] = cut.splice(slots, 4, patch.slot_bytes)

    def _mend_text(self) -> None:
        """Write the search text; a dead slot has an empty line, in which no word is found."""
        patch = self._patch
        base, fields = patch.base, patch.declaration.search
        if not fields:
            return
        text, starts = base.search_text()
        new_text = {slot: b"\n" for slot in patch.dead}
        new_text |= {patch.slot_of(row): text_of(fields, row.item) for row in patch.rows}
        pieces: list[Piece] = []
        new_starts = array("Q")
        done = moved = 0  # how many slots are copied, and by how much their text has moved
        for slot in sorted(new_text):
            if slot < base.slots:
                pieces += (text[starts[done] : starts[slot]], new_text[slot])
                _extend(new_starts, starts[done : slot + 1], moved)
                moved += len(new_text[slot]) - (starts[slot + 1] - starts[slot])
                done = slot + 1
        pieces.append(text[starts[done] : starts[base.slots]])
        _extend(new_starts, starts[done:], moved)
        for slot in range(base.slots, patch.slots):
            pieces.append(new_text[slot])
            new_starts.append(new_starts[-1] + len(new_text[slot]))
        patch.sections["text"] = pieces
        patch.sections["text_starts"] = new_starts


def _extend(numbers: array[int], more: memoryview[int], moved: int) -> None:
    """Append numbers, each increased by ``moved``."""
    if moved:
        numbers.extend([number + moved for number in more])
    else:
        numbers.frombytes(more.cast("B"))


def _line_length(place: tuple[int, int]) -> int:
    return place[1] + 1 - place[0] + fmt.FINGERPRINT_LENGTH
