"""One rebuild, from source to publication.

How a list stays warm
---------------------
A request never rebuilds.  It reads the newest snapshot and, when that is cold or stale, wakes the keeper.  The
keeper is a thread in every worker.  When a list is due, it tries to acquire the list's rebuild lock without
waiting.  The process that acquires it runs one ``Job``.  The others serve what they have, and see the new snapshot
at their next read.

A rebuild has five steps, and only the last one changes what readers see:

1. It notes the invalidation and the start *before* it calls ``source``.  A change after that may or may not be in
   this rebuild, so whoever reports one gets another rebuild.
2. ``source`` says which items exist.  If it fails, or has lost most of them, the old snapshot stays.
3. An item whose fingerprint is that of its published version keeps that version.  The others are enriched and
   appended to the rebuild's own data file, to which no index refers yet.  An interrupted rebuild leaves that file,
   even if its process is killed.  The next rebuild resumes it and enriches only the rest.
4. Filters, orders, key look-up and search text are updated.  If few items changed, the published arrays are
   patched (index/patch_index.py); otherwise they are computed from all items (index/build.py).
5. The new index replaces the old one under the publish lock (publish.py).  Few changed items are appended to the
   published data file; otherwise the rebuild's own file becomes the published one.

If the process is killed before the rename in step 5, the old snapshot stays whole; after it, the new one is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

from .. import events
from ..declaration import Declaration
from ..errors import RebuildError
from ..index.build import Builder
from ..index.exact import add_kinds, unpacked
from ..index.patch import PatchImpossible
from ..status.progress import Progress
from ..store.files import FileStore
from ..store.locks import HeldLock
from ..store.snapshot import DAMAGE, Snapshot
from ..store.sweeping import is_mostly_dead
from ..store.writer import next_generation
from .data_file import DataFile
from .drafts import DraftMaker
from .enrich import Enricher
from .followers import refresh_overwritten
from .leftovers import Enriched
from .publish import Publisher, Schedule
from .source import Matched, check_shrink, match
from .tally import Tally
from .tools import Failures, Outcome, Tools

# If more than one item in this many changed, computing the arrays from all items is quicker than patching them.
PATCH_SHARE = 50
# The same goes for dead slots, because every search and every rewrite passes over them.
DEAD_SHARE = 4


class OldDamaged(Exception):
    """A line of the old snapshot cannot be read, so nothing of it may be reused."""


@dataclass(frozen=True)
class Job:
    """One rebuild of a list; the calling process holds the list's rebuild lock."""

    declaration: Declaration
    store: FileStore
    lock: HeldLock
    old: Snapshot | None  # the snapshot that it replaces and whose items it reuses
    upstream: Snapshot | None  # that of the source list, if the list is made of another
    tools: Tools
    progress: Progress
    # When the server that runs this code started, in nanoseconds.  The index keeps it, so that older code that
    # still runs does not replace what newer code made.
    code_started: int
    enrich_all: bool = False  # whether unchanged items and those of an interrupted rebuild are enriched, too

    def run(self) -> Outcome:
        """Rebuild and publish.

        :raises Exception: what ``source`` raised, or a RebuildError; the old snapshot stays.
        """
        try:
            return _Attempt(self, self.old).run()
        except OldDamaged as error:
            name = self.declaration.name
            events.warning("warmcache.old_damaged", "%(list)r is rebuilt from nothing", error, list=name)
            return _Attempt(self, None).run()


class _Attempt:
    """One attempt at a job: steps 1 to 5."""

    def __init__(self, job: Job, compared: Snapshot | None) -> None:
        """:param compared: the published snapshot that the source is compared with."""
        self._job = job
        self._declaration, self._store, self._progress = job.declaration, job.store, job.progress
        declaration, store, progress = job.declaration, job.store, job.progress
        # The items of a partial snapshot are in the data file that this rebuild resumes.
        self._old = old = compared if compared is not None and compared.complete else None
        self._failures = failures = Failures(declaration.name)
        self._enricher = enricher = Enricher(declaration, job.tools, failures)
        self._tally = Tally(declaration, old, job.upstream, enricher, failures, progress, job.code_started)
        invalidation = store.invalidation(declaration.name)
        started = next_generation(compared.generation if compared is not None else 0)
        self._published = published = store.published(declaration.name)
        # Writes win that are newer than this, because the source may or may not know of them.
        base = compared or published
        seen = base.generation if base is not None else 0
        publish_lock = store.publishing(declaration.name)
        self._data_file = DataFile(declaration, store, job.lock, publish_lock, started, job.tools.breathe)
        self._drafts = DraftMaker(
            declaration, store, job.lock, invalidation, started, seen, self._tally.header, progress
        )
        self._publisher = Publisher(self._drafts, publish_lock)

    def run(self) -> Outcome:
        """Rebuild and publish.

        :raises OldDamaged: when an unchanged item cannot be read.
        """
        job, old, data_file = self._job, self._old, self._data_file
        data_file.resume(reuse=not job.enrich_all)
        self._progress.begin("source")
        try:
            matched = match(
                job.declaration, old, job.upstream, job.tools, job.progress, self._failures, job.enrich_all
            )
            self._tally.unchanged = matched.reused
            if old is not None:
                check_shrink(job.declaration, old.count, len(matched.sequence))
                self._tally.dropped = 0 if job.declaration.key is None else old.count - sum(matched.known)
            data_file.choose(matched.pending)
            generation, count = self._make(matched)
            refresh_overwritten(job.declaration, job.store, job.tools, job.upstream, self._drafts.overwritten_keys)
        except BaseException as error:
            data_file.keep_for_the_next(error)
            raise
        finally:
            data_file.close()
        return self._tally.outcome(generation, count)

    def _make(self, matched: Matched) -> tuple[int, int]:
        """Enrich what is pending, publish, and return generation and count."""
        self._progress.begin("enrich", len(matched.pending))
        with closing(self._enriched(matched)) as results:
            old = self._old
            if old is None or not self._may_patch(old, matched):
                return self._build(matched, results)
            enriched = list(results)
            survivors = matched.reused + sum(
                result is not None or pending.slot is not None
                for pending, result in zip(matched.pending, enriched, strict=True)
            )
            self._check_survivors(survivors)
            try:
                return self._publisher.patched(old, matched, enriched)
            except (PatchImpossible, OverflowError, FileNotFoundError, *DAMAGE) as why:
                events.info("warmcache.computed_anew", "%(list)r: %(why)s", list=self._declaration.name, why=why)
            return self._build(matched, iter(enriched))

    def _enriched(self, matched: Matched) -> Generator[Enriched | None, None, None]:
        """Yield each pending item's new version, which is in the data file, or None when it failed."""
        data_file, done = self._data_file, 0

        def keep(finished: Sequence[Enriched]) -> None:
            """Keep items, and count them now: the list's order may let them wait for one that takes long."""
            nonlocal done
            data_file.keep(finished)
            done += len(finished)
            self._progress.advance(done)

        with closing(self._enricher.run(matched.pending, data_file.leftovers, keep)) as results:
            for result in results:
                if result is None:
                    done += 1
                    self._progress.advance(done)
                self._job.tools.breathe()
                yield result

    def _may_patch(self, old: Snapshot, matched: Matched) -> bool:
        if self._declaration.key is None or old.header["declaration"] != self._declaration.digest:
            return False
        changes = len(matched.pending) + old.count - sum(matched.known)
        if changes > 1 and changes * PATCH_SHARE > old.count:
            return False
        if (old.slots - old.count) * DEAD_SHARE > old.count:
            return False
        try:
            size = os.stat(self._store.folder / old.header["data"]["file"]).st_size
        except FileNotFoundError:
            return False  # somebody has emptied the folder; the mapped items can still be copied
        return not is_mostly_dead(size, old.header["live_bytes"])

    def _build(self, matched: Matched, results: Iterator[Enriched | None]) -> tuple[int, int]:
        """Compute every array; the rebuild's own data file gets all items and is published."""
        breathe = self._job.tools.breathe
        builder = Builder(self._declaration, breathe)
        of_old = {} if self._old is None else unpacked(self._old.exact)
        of_left = self._data_file.leftovers.kinds()
        partial, last = self._partial_schedule(), len(matched.sequence) - 1
        for number, entry in enumerate(matched.sequence):
            result = next(results) if entry < 0 else None
            pending = matched.pending[-1 - entry] if entry < 0 else None
            slot = entry if pending is None else pending.slot
            if result is not None and pending is not None:
                add_kinds(builder.views.kinds, result.kinds or {})
                if result.place is not None:  # an interrupted rebuild has made it
                    add_kinds(builder.views.kinds, of_left)
                item = json.loads(result.encoded) if builder.views.needs_items else None
                builder.add(result.line_number, result.fingerprint, item, pending.key)
            elif slot is not None:
                add_kinds(builder.views.kinds, of_old)
                self._take_old(builder, slot)
            if partial is not None and number < last and partial.is_due(builder.count):
                with partial.publishing(builder.count):
                    self._publisher.built(builder, self._data_file.writer(), complete=False)
            breathe()
        self._check_survivors(builder.count)
        return self._publisher.built(builder, self._data_file.writer(), complete=True), builder.count

    def _partial_schedule(self) -> Schedule | None:
        """Return when a partial list is published: only while no complete one is, even if none can be reused."""
        published = self._published
        if published is not None and published.is_cold:
            published = None
        if self._old or self._declaration.key is None or (published and published.complete):
            return None
        return Schedule(self._job.tools.first_page, published.count if published else 0)

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
            item = Enriched(old.fingerprint(slot), old.encoded(slot), None)
            decoded = json.loads(item.encoded)
            key = decoded[field]
        except DAMAGE as error:
            raise OldDamaged(f"slot {slot}") from error
        found = self._data_file.leftovers.find(item.fingerprint, field, key)
        if found is not None and found.encoded == item.encoded:
            item = found
        builder.add(self._data_file.line_number(item), item.fingerprint, decoded, key)
