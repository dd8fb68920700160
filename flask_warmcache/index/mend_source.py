"""The source order, and each filter's items in source order, when a few items change."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Sequence

from ..store import format as fmt
from .patch import MendImpossible, Patch
from .splice import Row
from .views import ranks_of


def mend_source_order(patch: Patch, sequence: Sequence[int] | None) -> Sequence[int]:
    """Write the source order, unless it is that of the slots, and return the rank of each slot in it.

    :param sequence: the new source order, as slots; by default no item moves and new ones come last.
    :raises MendImpossible: when unchanged items have another order than before.
    """
    base, sections = patch.base, patch.sections
    rank_section = fmt.rank_section(fmt.SOURCE_ORDER)
    old_ranks = base.ranks(fmt.SOURCE_ORDER)
    old_order = base.order(fmt.ALL, fmt.SOURCE_ORDER)
    ranks: array[int]
    if sequence is not None:
        _check_order_is_kept(patch, sequence, old_ranks)
        ranks = ranks_of(sequence, patch.slots)
        patch.write_whole(fmt.ALL, fmt.SOURCE_ORDER, sequence)
        sections[rank_section] = ranks
        return ranks
    if isinstance(old_order, range) and not patch.dead:
        return range(patch.slots)
    # No item moves, some go, and new ones come last.
    cut = patch.cut(old_order, old_ranks, None)
    positions = dict(zip(patch.leaving, cut.out, strict=True))
    cut.rows = [(positions[row.slot], row) for row in patch.rows if row.slot is not None]
    cut.rows += [(len(old_order), row) for row in patch.new]
    old_slots = old_order if isinstance(old_order, memoryview) else memoryview(array("I", old_order))
    sections[fmt.order_section(fmt.ALL, fmt.SOURCE_ORDER)] = cut.splice(old_slots, 4, patch.slot_bytes)
    old_view = base.view(fmt.ALL, fmt.SOURCE_ORDER)
    sections[fmt.view_section(fmt.ALL, fmt.SOURCE_ORDER)] = cut.splice(
        old_view, 2 * old_view.itemsize, patch.place_bytes
    )
    if isinstance(old_order, range):
        ranks = ranks_of(range(patch.slots), patch.slots)
    else:
        ranks = array("Q", bytes(base.section_bytes(rank_section)))
        last = old_ranks[old_order[-1]] if len(old_order) else 0
        ranks.extend(last + fmt.RANK_GAP * (1 + number) for number in range(len(patch.new)))
    sections[rank_section] = ranks
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
                raise MendImpossible("unchanged items have another order")
            before = old_ranks[slot]


def mend_filters(patch: Patch, sequence: Sequence[int] | None) -> dict[str, dict[int, bool]]:
    """Write which items pass each filter, and return which rows do, by slot."""
    flags: dict[str, dict[int, bool]] = {}
    for name in patch.declaration.filters:
        passing = {patch.slot_of(row): patch.passes(name, row.item, patch.errors) for row in patch.rows}
        flags[name] = passing
        contents = {id(row): bytes([passing[patch.slot_of(row)]]) for row in patch.rows}
        patch.sections[fmt.flags_section(name)] = patch.patched(fmt.flags_section(name), 1, contents)
        _mend_filtered_source_order(patch, name, passing, sequence)
    return flags


def _mend_filtered_source_order(
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

    def source_position(entry: tuple[int, Row]) -> tuple[bool, int]:
        _, row = entry
        return row.slot is None, patch.slot_of(row) if row.slot is None else ranks[row.slot]

    # Replaced items keep their order in the source, and new ones come after them.
    cut.rows.sort(key=source_position)
    patch.write(name, fmt.SOURCE_ORDER, cut)
