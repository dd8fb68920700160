"""Steps 3 to 5 of a rebuild: pending items are enriched, the index is computed or patched, and published."""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Iterator
from contextlib import closing

from .. import events
from ..declaration import Declaration
from ..errors import RebuildError
from ..index.build import Builder
from ..index.patch import MendImpossible
from ..status.progress import Progress
from ..store.compaction import is_mostly_dead
from ..store.snapshot import DAMAGE, Snapshot
from .data_file import DataFile
from .drafts import BaseGone
from .enrich import Enricher
from .enriched import Enriched
from .partial import Schedule
from .publish import Publisher
from .source import Matched
from .tools import Failures, Tools

# If more than one item in this many changed, computing the arrays from all items is quicker than patching them.
MEND_SHARE = 50
# The same goes for dead slots, because every search and every rewrite passes over them.
DEAD_SHARE = 4


class OldDamaged(Exception):
    """A line of the old snapshot cannot be read, so nothing of it may be reused."""


class Maker:
    """Makes the items and the index of one rebuild, and publishes them."""

    def __init__(
        self,
        declaration: Declaration,
        tools: Tools,
        progress: Progress,
        failures: Failures,
        data_file: DataFile,
        publisher: Publisher,
        old: Snapshot | None,
        partial: Schedule | None,
    ) -> None:
        """
        :param old: the snapshot whose unchanged items are reused.
        :param partial: says when a partial list is published, if one may be.
        """
        self._declaration = declaration
        self._tools = tools
        self._progress = progress
        self._failures = failures
        self._data_file = data_file
        self._publisher = publisher
        self._old = old
        self._partial = partial

    def make(self, matched: Matched, enricher: Enricher) -> tuple[int, int]:
        """Enrich what is pending, publish, and return generation and count.

        :raises OldDamaged: when an unchanged item cannot be read.
        """
        self._progress.begin("enrich", len(matched.pending))
        with closing(self._enriched(matched, enricher)) as results:
            old = self._old
            if old is None or not self._may_mend(old, matched):
                return self._build(matched, results)
            enriched = list(results)
            survivors = matched.reused + sum(
                result is not None or pending.slot is not None
                for pending, result in zip(matched.pending, enriched, strict=True)
            )
            self._check_survivors(survivors)
            try:
                return self._publisher.mended(old, matched, enriched)
            except (MendImpossible, BaseGone, OverflowError, FileNotFoundError, *DAMAGE) as why:
                events.info("warmcache.computed_anew", "%(list)r: %(why)s", list=self._declaration.name, why=why)
            return self._build(matched, iter(enriched))

    def _enriched(self, matched: Matched, enricher: Enricher) -> Generator[Enriched | None, None, None]:
        """Yield each pending item's new version, which is in the data file, or None when it failed."""
        data_file = self._data_file
        with closing(enricher.run(matched.pending, data_file.leftovers, data_file.keep)) as results:
            for done, result in enumerate(results, 1):
                self._progress.advance(done)
                self._tools.breathe()
                yield result

    def _may_mend(self, old: Snapshot, matched: Matched) -> bool:
        if self._declaration.key is None or old.header["declaration"] != self._declaration.digest:
            return False
        changes = len(matched.pending) + old.count - sum(matched.known)
        if changes > 1 and changes * MEND_SHARE > old.count:
            return False
        if (old.slots - old.count) * DEAD_SHARE > old.count:
            return False
        try:
            size = os.stat(self._data_file.folder / old.header["data"]["file"]).st_size
        except FileNotFoundError:
            return False  # somebody has emptied the folder; the mapped items can still be copied
        return not is_mostly_dead(size, old.header["live_bytes"])

    def _build(self, matched: Matched, results: Iterator[Enriched | None]) -> tuple[int, int]:
        """Compute every array; the rebuild's own data file gets all items and is published."""
        builder = Builder(self._declaration, self._tools.breathe)
        partial, last = self._partial, len(matched.sequence) - 1
        for number, entry in enumerate(matched.sequence):
            result = next(results) if entry < 0 else None
            pending = matched.pending[-1 - entry] if entry < 0 else None
            slot = entry if pending is None else pending.slot
            if result is not None and pending is not None:
                item = json.loads(result.encoded) if builder.views.needs_items else None
                builder.add(result.line_number, result.fingerprint, item, pending.key)
            elif slot is not None:
                self._take_old(builder, slot)
            if partial is not None and number < last and partial.is_due(builder.count):
                with partial.publishing(builder.count):
                    self._publisher.built(builder, self._data_file.writer(), complete=False)
            self._tools.breathe()
        self._check_survivors(builder.count)
        generation = self._publisher.built(builder, self._data_file.writer(), complete=True)
        return generation, builder.count

    def _check_survivors(self, count: int) -> None:
        if self._failures.count and not count:
            raise RebuildError(
                f"every item of {self._declaration.name!r} failed; the first: {self._failures.first}"
            )

    def _take_old(self, builder: Builder, slot: int) -> None:
        """Copy an item of the old snapshot to the data file, unless an interrupted rebuild has copied it."""
        old, field = self._old, self._declaration.key
        assert old is not None  # the slot is one of its slots
        try:
            fingerprint, encoded = old.fingerprint(slot), old.encoded(slot)
            item = json.loads(encoded)
            key = item[field]
        except DAMAGE as error:
            raise OldDamaged(f"slot {slot}") from error
        found = self._data_file.leftovers.find(fingerprint, field, key)
        place = found[0] if found is not None and found[1] == encoded else None
        builder.add(self._data_file.line_number(fingerprint, encoded, place), fingerprint, item, key)
