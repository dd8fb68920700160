"""Which items exist now: what a list's source gives, checked and compared with the old snapshot."""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from ..declaration import Declaration, Item
from ..errors import RebuildError, SourceShrunkError, named
from ..index.exact import exact_text, restore, unpacked
from ..settings import Settings
from ..status.progress import Progress
from ..store.format import ALL, FINGERPRINT_BYTES, NO_FINGERPRINT, SOURCE_ORDER, fingerprint_of, key_hash
from ..store.snapshot import DAMAGE, Snapshot
from .tools import Failures, Tools

# The progress is reported when all these bits of an item's number are zero: for one item of 64.  The keeper
# reports it for slow sources.
REPORT_BITS = 63
# A shorter list may lose all its items without being suspected.
SUSPECT_FROM = 10


@dataclass(slots=True)
class Pending:
    """A source item to be enriched; in a first build these are all items."""

    item: Item
    key: str | int | None
    slot: int | None  # of its old version, if the snapshot has one
    fingerprint: bytes | None  # None if it could not be made; then the old version stays


@dataclass
class Matched:
    """What the source gave, compared with the old snapshot."""

    sequence: array[int] = field(default_factory=lambda: array("q"))
    """Source order: the old snapshot's slot of an unchanged item, or ``-1 - number`` of a pending one."""
    pending: list[Pending] = field(default_factory=list)
    known: bytearray = field(default_factory=bytearray)  # one byte per old slot: whether the source gave its key
    reused: int = 0
    in_order: bool = True  # whether old items come in their old order, and new ones after them


def match(
    declaration: Declaration,
    old: Snapshot | None,
    upstream: Snapshot | None,
    tools: Tools,
    progress: Progress,
    failures: Failures,
    enrich_all: bool = False,
) -> Matched:
    """Call the source, and find the items that the old snapshot has unchanged.

    A source usually gives its items in the same order again.  So each item is first compared with the item after
    the last match: equal fingerprints mean equal keys, and no look-up is needed.

    :param upstream: the source list's snapshot, if the list is made of another.
    :param enrich_all: whether unchanged items are pending, too.
    :raises Exception: what the app's function raised, or a RebuildError when it did not give dicts.
    """
    with tools.context():
        produced = _call(declaration, upstream)
        if declaration.kind == "value":
            produced = [{"value": produced}]
        if declaration.key is None:
            return _all_new(declaration, produced, tools, progress)
        return _Matcher(declaration, old, tools, failures, enrich_all).match(produced, progress)


def _all_new(declaration: Declaration, produced: Iterable[Any], tools: Tools, progress: Progress) -> Matched:
    matched = Matched()
    for item in produced:
        tools.breathe()
        _check(declaration, item)
        matched.sequence.append(-1 - len(matched.pending))
        matched.pending.append(Pending(item, None, None, NO_FINGERPRINT))
        progress.advance(len(matched.pending))
    return matched


def _check(declaration: Declaration, item: object) -> None:
    if not isinstance(item, dict):
        raise RebuildError(f"source of {declaration.name!r} gave a {type(item).__name__}; items are dicts")


class _Matcher:
    def __init__(
        self, declaration: Declaration, old: Snapshot | None, tools: Tools, failures: Failures, enrich_all: bool
    ) -> None:
        self._declaration = declaration
        self._old = old
        self._tools = tools
        self._failures = failures
        self._enrich_all = enrich_all
        self._key = declaration.key or ""
        self._new_keys: set[object] = set()
        self._first_new: int | None = None  # position of the first new item in the sequence

    def match(self, produced: Iterable[Any], progress: Progress) -> Matched:
        old, breathe, report = self._old, self._tools.breathe, progress.report
        matched = Matched(known=bytearray(0 if old is None else old.slots))
        known, take = matched.known, matched.sequence.append
        old_fingerprints = b"" if old is None else bytes(old.fingerprints())
        order = () if old is None or self._enrich_all else old.order(ALL, SOURCE_ORDER)
        count, length = len(order), FINGERPRINT_BYTES
        expected = 0  # position in the old source order
        fingerprint_item = fingerprinter(self._declaration, self._tools.encode)
        # Each name and call in this loop costs a tenth of a second at a million items.
        for number, item in enumerate(produced, 1):
            breathe()
            report.done = number
            if not number & REPORT_BITS:
                progress.advance(number)
            if not isinstance(item, dict):
                _check(self._declaration, item)
            try:
                fingerprint: bytes | None = fingerprint_item(item)
            except Exception as error:
                self._failures.note(f"the fingerprint of the item {named(item.get(self._key))}", error)
                fingerprint = None
            if expected < count:
                slot = order[expected]
                at = slot * length
                if old_fingerprints[at : at + length] == fingerprint and not known[slot]:
                    known[slot] = 1
                    expected += 1
                    take(slot)
                    continue
            expected = self._match_by_key(item, fingerprint, matched, expected)
        matched.reused = sum(known) - sum(pending.slot is not None for pending in matched.pending)
        if self._first_new is not None and matched.in_order:
            rest = matched.sequence[self._first_new :]
            matched.in_order = all(entry < 0 and matched.pending[-1 - entry].slot is None for entry in rest)
        return matched

    def _match_by_key(self, item: Item, fingerprint: bytes | None, matched: Matched, expected: int) -> int:
        """Take an item that is not the expected one, and return the position in the old order expected next."""
        old = self._old
        try:
            key = item[self._key]
            key_hash(key)
        except (KeyError, TypeError, ValueError) as error:
            self._failures.note(f"an item whose key field {self._key!r} is missing or unfit", error)
            return expected
        slot = self._find(key)
        if key in self._new_keys or (slot is not None and matched.known[slot]):
            self._failures.note(f"a second item with the key {named(key)}", None)
            return expected
        if slot is None or old is None:
            self._new_keys.add(key)
            if fingerprint is None:
                return expected
            if self._first_new is None:
                self._first_new = len(matched.sequence)
        else:
            matched.known[slot] = 1
            following = _position_after(old, slot)
            matched.in_order = matched.in_order and following > expected
            expected = following
            if old.fingerprint(slot) == fingerprint and not self._enrich_all:
                matched.sequence.append(slot)
                return expected
        matched.sequence.append(-1 - len(matched.pending))
        matched.pending.append(Pending(item, key, slot, fingerprint))
        return expected

    def _find(self, key: object) -> int | None:
        try:
            return None if self._old is None else self._old.find(key, self._key)
        except DAMAGE:
            return None


def check_shrink(declaration: Declaration, before: int, after: int) -> None:
    """Refuse a source that gave far fewer items than there were: an unmounted share looks like an empty folder.

    :raises SourceShrunkError: when more items are gone than ``max_shrink`` allows.
    """
    max_shrink = Settings.max_shrink if declaration.max_shrink is None else declaration.max_shrink
    # The product is rounded, because 10 * (1 - 0.7) is 3.0000000000000004 in floating point.
    if before >= SUSPECT_FROM and after < round(before * (1 - max_shrink), 6):
        raise SourceShrunkError(
            f"source gave {after} items where the list has {before}; the list stays as it is. If they are "
            f"really gone, run 'flask warmcache clear {declaration.name}' once, or declare it with "
            "max_shrink=1."
        )


def fingerprinter(declaration: Declaration, encode: Callable[[Any], bytes]) -> Callable[[Item], bytes]:
    """Return the function that makes a source item's fingerprint.

    As long as an item has the same fingerprint, its enriched version is still good.  The key is always part of it.
    The function raises what the app's function or encoder raises.
    """
    chosen, key = declaration.fingerprint, declaration.key or ""
    version = declaration.version.encode("utf-8", "surrogatepass")
    if declaration.enrich is not None:
        version += b"\0enriched"  # so that an item published before there was an enrich does not count as finished
    if chosen is None:
        # This is fingerprint_of without its call, which shows at a million items.
        prefix, digest, size = version + b"\0", hashlib.blake2b, FINGERPRINT_BYTES
        return lambda item: digest(prefix + encode(item) + exact_text(item), digest_size=size).digest()

    def fingerprint(parts: list[Any]) -> bytes:
        return fingerprint_of(version, encode(parts) + exact_text(parts))

    if callable(chosen):
        function = chosen
        return lambda item: fingerprint([item[key], function(item)])
    fields = (key, *chosen)
    return lambda item: fingerprint([item[field] for field in fields])


def _position_after(old: Snapshot, slot: int) -> int:
    """Return the position after that of a slot in the old source order."""
    order, ranks = old.order(ALL, SOURCE_ORDER), old.ranks(SOURCE_ORDER)
    return bisect_left(order, ranks[slot], key=ranks.__getitem__) + 1


def _call(declaration: Declaration, upstream: Snapshot | None) -> Any:
    if upstream is not None:
        kinds = unpacked(upstream.exact)
        return (restore(upstream.item(slot), kinds) for slot in upstream.order(ALL, SOURCE_ORDER))
    source = declaration.source
    assert source is not None  # the keeper does not start a list whose declaration has a problem
    produced = source()
    if declaration.kind != "value" and (
        isinstance(produced, (str, bytes, dict)) or not isinstance(produced, Iterable)
    ):
        raise RebuildError(f"source of {declaration.name!r} gave a {type(produced).__name__}, not a list of items")
    return produced
