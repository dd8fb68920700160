"""A patch is applied to a snapshot: its arrays are copied, and only the changed entries are computed.

In each order the changed items are cut out and inserted again by bisection, which decodes the twenty or so items
that each is compared with.  All else is copied, in pieces, from the map of the old index to the new file.  So a
change costs one rewrite of the index and no more.

The slots of unchanged items stay the same: see store/format.py.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence

from ..declaration import Declaration
from ..store import format as fmt
from ..store.snapshot import Snapshot
from ..store.writer import Piece
from .build import IndexContent
from .exact import packed
from .item_views import ViewErrors, passes, shown, sort_key
from .patch import Cut, Patch, Row
from .patch_orders import SortPatch, patch_filters, patch_source_order


def patch_index(
    base: Snapshot,
    declaration: Declaration,
    rows: Sequence[Row],
    dead: Iterable[int],
    sequence: Sequence[int] | None = None,
) -> IndexContent:
    """Return the content of the next index: a snapshot with some rows, and without some slots.

    :param rows: at most one for each key.
    :param dead: the slots of items that go.
    :param sequence: the new source order, as slots; new slots are numbered from ``base.slots`` in the order of
        ``rows``, and unchanged items keep their order. By default new items come last.
    :raises PatchImpossible: when the arrays must be computed from all items.
    """
    patch = Patch(base, declaration, rows, dead)
    patch.write_slots("places", 2 * array(patch.place_type).itemsize, patch.place_bytes)
    patch.write_slots("fingerprints", fmt.FINGERPRINT_BYTES, {row: row.fingerprint for row in rows})
    _patch_keys(patch)
    source_ranks = patch_source_order(patch, sequence)
    passing = patch_filters(patch, sequence)
    for name in declaration.sorts:
        SortPatch(patch, name, source_ranks).write(passing)
    if declaration.search:
        _patch_text(patch)
    live_bytes = base.header["live_bytes"]
    live_bytes -= sum(_line_length(base.place(slot)) for slot in patch.leaving)
    live_bytes += sum(_line_length(row.place) for row in rows)
    gone, gone_keys = _errors_gone(patch)
    header = {
        "count": base.count - len(patch.dead) + len(patch.new),
        "slots": patch.slots,
        "place_type": patch.place_type,
        "filters": {
            name: base.filter_count(name)
            - sum(base.flags(name)[slot] for slot in patch.leaving)
            + sum(rows_passing.values())
            for name, rows_passing in passing.items()
        },
        "live_bytes": live_bytes,
        "view_errors": base.header["view_errors"] - gone.total() + patch.errors.total(),
        "exact": packed(patch.kinds),
        "view_faults": patch.errors.added_to(base.view_faults, gone, gone_keys),
    }
    return IndexContent(patch.sections, header, patch.errors)


def _errors_gone(patch: Patch) -> tuple[ViewErrors, set[str]]:
    """Return the errors of the base that concern items that go, and the keys of these items as text."""
    errors, keys = ViewErrors(), set()
    if patch.base.header["view_errors"]:
        for slot in patch.leaving:
            item = patch.old_item(slot)
            keys.add(shown(item.get(patch.declaration.key or "")))
            for name in patch.declaration.filters:
                passes(patch.declaration, name, item, errors)
            for name in patch.declaration.sorts:
                sort_key(patch.declaration, name, item, errors)
    return errors, keys


def _patch_keys(patch: Patch) -> None:
    base = patch.base
    hashes = base.section("key_hashes", "Q", base.count)
    slots = base.section("key_slots", "I", base.count)
    cut = Cut()
    for slot in patch.dead:
        at = bisect_left(hashes, fmt.key_hash(base.item(slot)[patch.declaration.key]))
        while slots[at] != slot:
            at += 1
        cut.out.append(at)
    new_hashes = {row: fmt.key_hash(row.key) for row in patch.new}
    cut.rows = [
        (bisect_left(hashes, new_hashes[row]), row) for row in sorted(patch.new, key=new_hashes.__getitem__)
    ]
    hash_bytes = {row: array("Q", [key_hash]).tobytes() for row, key_hash in new_hashes.items()}
    patch.sections["key_hashes"] = cut.splice(hashes, 8, hash_bytes)
    patch.sections["key_slots"] = cut.splice(slots, 4, patch.slot_bytes)


def _patch_text(patch: Patch) -> None:
    """Write the search text; a dead slot has an empty line, in which no word is found."""
    base = patch.base
    text, starts = base.search_text()
    new_text = {slot: b"\n" for slot in patch.dead}
    new_text |= {slot: patch.texts[row] for row, slot in patch.slot_of.items()}
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
