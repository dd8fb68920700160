"""Source order, and what passes each filter in it, when a few items change."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

from ..store import format as fmt
from .patch import MendImpossible, Patch
from .splice import Row
from .views import ranks_of


def source_order(patch: Patch, sequence: Sequence[int] | None) -> Sequence[int]:
    """Write source order, where it is not that of the slots; returns the ranks of all slots in it.

    :param sequence: the new source order, as slots; by default items stay where they are and new ones come last.
    :raises MendImpossible: when unchanged items stand in another order than before.
    """
    base, sections = patch.base, patch.sections
    view = fmt.view_section(fmt.ALL, fmt.SOURCE_ORDER)
    order = fmt.order_section(fmt.ALL, fmt.SOURCE_ORDER)
    rank = fmt.rank_section(fmt.SOURCE_ORDER)
    old_ranks = base.ranks(fmt.SOURCE_ORDER)
    old_order = base.order(fmt.ALL, fmt.SOURCE_ORDER)
    is_plain = isinstance(old_order, range)
    if sequence is not None:
        _check_kept_order(patch, sequence, old_ranks)
        ranks: Any = ranks_of(sequence, patch.slots)
        sections[rank] = ranks
        patch.write_whole(fmt.ALL, fmt.SOURCE_ORDER, sequence)
        return ranks  # type: ignore[no-any-return]
    if is_plain and not patch.dead:
        return range(patch.slots)
    # Items stay where they are, some go, new ones come last.
    kept = memoryview(array("I", old_order)) if isinstance(old_order, range) else old_order
    cut = patch.cut(old_order, old_ranks, None)
    place_of = dict(zip(patch.leaving, cut.out, strict=True))
    cut.rows = [(place_of[row.slot], row) for row in patch.rows if row.slot is not None]
    cut.rows += [(len(old_order), row) for row in patch.new]
    old_view = base.view(fmt.ALL, fmt.SOURCE_ORDER)
    assert isinstance(kept, memoryview)
    sections[order] = cut.splice(kept, 4, patch.slot_bytes)
    sections[view] = cut.splice(old_view, 2 * old_view.itemsize, patch.place_bytes)
    if is_plain:
        ranks = ranks_of(range(patch.slots), patch.slots)
    else:
        ranks = array("Q", bytes(base.section_bytes(rank)))
        last = old_ranks[old_order[-1]] if len(old_order) else 0
        ranks.extend(last + fmt.RANK_GAP * (1 + number) for number in range(len(patch.new)))
    sections[rank] = ranks
    return ranks  # type: ignore[no-any-return]


def _check_kept_order(patch: Patch, sequence: Sequence[int], old_ranks: Sequence[int]) -> None:
    """Equal sort keys keep source order, so an item that moved in it is in the wrong place elsewhere, too."""
    replaced = {row.slot for row in patch.rows}
    before = -1
    for slot in sequence:
        if slot < patch.base.slots and slot not in replaced:
            if old_ranks[slot] < before:
                raise MendImpossible("unchanged items have another order")
            before = old_ranks[slot]


def filters(patch: Patch, sequence: Sequence[int] | None) -> dict[str, dict[int, bool]]:
    """Which rows pass each filter, by slot; writes the sections that are in source order."""
    flags: dict[str, dict[int, bool]] = {}
    for name in patch.declaration.filters:
        passing = {patch.slot_of(row): patch.passes(name, row.item, patch.errors) for row in patch.rows}
        flags[name] = passing
        contents = {id(row): bytes([passing[patch.slot_of(row)]]) for row in patch.rows}
        patch.sections[fmt.flags_section(name)] = patch.patched(fmt.flags_section(name), 1, contents)
        _filtered_source_order(patch, name, passing, sequence)
    return flags


def _filtered_source_order(
    patch: Patch, name: str, passing: dict[int, bool], sequence: Sequence[int] | None
) -> None:
    if sequence is not None:
        patch.write_passing(name, fmt.SOURCE_ORDER, sequence)
        return
    base = patch.base
    ranks = base.ranks(fmt.SOURCE_ORDER)
    old = base.order(name, fmt.SOURCE_ORDER)
    cut = patch.cut(old, ranks, base.flags(name))
    for row in patch.rows:
        if passing[patch.slot_of(row)]:
            at = len(old) if row.slot is None else bisect_left(old, ranks[row.slot], key=ranks.__getitem__)
            cut.rows.append((at, row))
    # Between two neighbours, replaced items stand as they did and new ones behind them.
    cut.rows.sort(key=lambda entry: (entry[1].slot is None, _rank_before(patch, ranks, entry[1])))
    patch.write(name, fmt.SOURCE_ORDER, cut)


def _rank_before(patch: Patch, ranks: Sequence[int], row: Row) -> int:
    return patch.slot_of(row) if row.slot is None else ranks[row.slot]
