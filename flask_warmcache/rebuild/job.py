"""One rebuild, from source to publish.

How a list stays warm
---------------------
A request never builds.  It reads the newest snapshot and, when that is cold or stale, leaves a wish.
The keeper (keeper.py), a thread in every worker, hears wishes and watches ages; when a list is due, it
tries the list's lock without waiting.  The process that gets it runs one ``Job``; the others go on serving
what they have and see the new snapshot at their next read, because a read begins with one ``stat``.

A job works in five steps, and only the last one changes what readers see:

1. It notes the invalidation token and the start, *before* it calls ``source``: what is changed after that
   may or may not be in this rebuild, and whoever says so in the meantime gets another one.
2. ``source`` says which items exist.  If it fails, or has lost most of them, the old snapshot stays.
3. An item whose fingerprint is that of its published version keeps that version.  The others are enriched and
   appended to a data file of the rebuild's own, to which no index points yet.  A rebuild that is cut off here,
   killed or recycled with its worker, leaves that file; the next one goes on in it and enriches only the rest.
4. Filters, orders, key look-up and search text are brought up to date: few changes are mended into the
   published arrays (mend.py), many have them computed anew (views.py).
5. The index replaces the old one under the publish lock (publish.py).  Few changes are appended to the
   published data file, many make the rebuild's own file the published one.

Killed anywhere before the rename in step 5, it leaves the old snapshot whole; killed after it, the new one.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import Any

from ..declaration import Declaration
from ..errors import RebuildError
from ..index.build import Builder
from ..index.patch import MendImpossible
from ..status.progress import Progress
from ..store.compaction import is_mostly_dead
from ..store.files import FileStore
from ..store.locks import HeldLock
from ..store.snapshot import DAMAGE, Snapshot
from ..store.writer import next_generation
from .data_file import DataFile
from .enrich import Enriched, Enricher
from .outcome import Outcome
from .partial import Schedule
from .publish import BaseGone, Publisher
from .shrink import check_shrink
from .source import Matched, match
from .tools import Failures, Tools
from .writes import Writes, item_finder

log = logging.getLogger("flask_warmcache")
# Past this share of changes it is quicker to compute the arrays anew than to mend them.
MEND_SHARE = 50
# Past this share of dead slots, too: every search and every rewrite goes past them.
DEAD_SHARE = 4
# Rebuilds whose durations are kept for the status page.
DURATIONS_KEPT = 20


class _OldDamaged(Exception):
    """A line of the old snapshot cannot be read; nothing of it is to be reused."""


class Job:
    """Rebuilds one list once; the caller holds the list's lock, whichever process or thread that is."""

    def __init__(
        self,
        declaration: Declaration,
        store: FileStore,
        lock: HeldLock,
        old: Snapshot | None,
        upstream: Snapshot | None,
        tools: Tools,
        progress: Progress,
        code_started: int,
    ) -> None:
        """
        :param old: the snapshot to reuse items of and to replace, if there is one.
        :param upstream: for a list whose source is another list, that list's snapshot.
        :param code_started: when the server that runs this code started, in nanoseconds; written into the
            index, so that older code still running does not replace what newer code made.
        """
        self._declaration = declaration
        self._store = store
        self._lock = lock
        self._old = old
        self._upstream = upstream
        self._tools = tools
        self._progress = progress
        self._code_started = code_started
        self._failures = Failures(declaration.name)
        self._publisher: Publisher

    def run(self) -> Outcome:
        """Rebuild and publish.

        :raises Exception: whatever ``source`` raised, or a RebuildError; the old snapshot stays.
        """
        try:
            return self._run()
        except _OldDamaged:
            log.warning("warmcache.old_damaged: %r is rebuilt from nothing", self._declaration.name, exc_info=True)
            self._old = None
            self._failures = Failures(self._declaration.name)
            return self._run()

    def _run(self) -> Outcome:
        self._began, self._cpu_began = time.monotonic(), time.thread_time()
        name = self._declaration.name
        self._token = self._store.invalidation(name)
        self._started = next_generation(*([self._old.generation] if self._old else []))
        published = self._store.published(name)
        # Of what is published later than what it is compared with, the source may know or not.
        known = self._old or published
        seen = known.generation if known is not None else 0
        if self._old is not None and not self._old.complete:
            self._old = None  # its items are in the data file that this rebuild goes on in
        # What is whole is not replaced by a part, even if nothing of it can be reused.
        self._shown = 0 if published is None or published.is_cold else published.count
        self._may_show = published is None or published.is_cold or not published.complete
        self._data = DataFile(self._declaration, self._store, self._lock, self._started, self._tools.breathe)
        self._data.resume(published)
        self._progress.begin("source")
        try:
            self._matched = matched = match(
                self._declaration, self._old, self._upstream, self._tools, self._progress, self._failures
            )
            self._dropped = self._count_dropped(matched)
            self._enricher = enricher = Enricher(self._declaration, self._tools, self._failures)
            self._publisher = Publisher(
                self._declaration,
                self._store,
                self._lock,
                token=self._token,
                started=self._started,
                seen=seen,
                header=self._header,
                enter=self._progress.begin,
            )
            self._data.choose(matched.pending)
            generation, count = self._make(matched, enricher)
            self._write_again([write.key for write in self._publisher.written])
        except BaseException as error:
            self._data.keep_for_the_next(error)
            raise
        finally:
            self._data.close()
            # Maps and descriptors go now, and not when the collector finds the circles that we are in.
            self.__dict__.pop("_publisher", None)
            del self._data
        return Outcome(
            generation=generation,
            count=count,
            reused=matched.reused + enricher.found,
            enriched=enricher.enriched,
            failed=self._failures.count,
            dropped=self._dropped,
            duration=self._duration(),
        )

    def _duration(self) -> float:
        return time.monotonic() - self._began + self._progress.report.worked

    def _count_dropped(self, matched: Matched) -> int:
        old = self._old
        if old is None:
            return 0
        check_shrink(self._declaration, old.count, len(matched.sequence))
        return 0 if self._declaration.key is None else old.count - sum(matched.known)

    def _write_again(self, keys: list[str | int]) -> None:
        """What was written while this ran won over it; now that the source has been read, look once more."""
        name, lookup = self._declaration.name, self._declaration.lookup
        source_list, field = self._declaration.source_list, self._declaration.key or ""
        if not keys:
            return
        upstream = self._upstream
        if (
            lookup is None
            and source_list is not None
            and upstream is not None
            and upstream.header.get("key") == field
        ):
            # As it is by now: what was written may be newer than what this rebuild was made of.
            lookup = item_finder(lambda: self._store.published(source_list), field)
        try:
            if lookup is None:
                self._store.invalidate(name)
            else:
                with self._tools.context():
                    Writes(self._declaration, self._store, self._tools, lookup).refresh(keys)
        except Exception:
            # The rebuild itself is published; the writes stay in the index for the next one.
            log.exception("warmcache.not_written_again: writes of %r stay until the next rebuild", name)

    # Steps 3 to 5

    def _make(self, matched: Matched, enricher: Enricher) -> tuple[int, int]:
        """Enrich what is pending and publish; returns generation and count."""
        self._progress.begin("enrich", len(matched.pending))
        results = self._enriched(matched, enricher)
        with closing(results):
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
                log.info("warmcache.computed_anew: %r: %s", self._declaration.name, why)
            return self._build(matched, iter(enriched))

    def _enriched(self, matched: Matched, enricher: Enricher) -> Generator[Enriched | None, None, None]:
        """Each pending item's version, in the rebuild's data file, or None when it failed."""
        with closing(enricher.run(matched.pending, self._data.leftovers, self._data.keep)) as results:
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
            size = os.stat(self._store.folder / old.header["data"]["file"]).st_size
        except FileNotFoundError:
            return False  # the folder was emptied under us; what is mapped can still be copied
        return not is_mostly_dead(size, old.header["live_bytes"])

    def _build(self, matched: Matched, results: Iterator[Enriched | None]) -> tuple[int, int]:
        """Compute every array; the rebuild's own data file gets all lines and is published."""
        builder = Builder(self._declaration, self._tools.breathe)
        partial = None
        if self._old is None and self._may_show and self._declaration.key is not None:
            partial = Schedule(self._tools.first_page, self._shown)
        last = len(matched.sequence) - 1
        for number, one in enumerate(matched.sequence):
            result = next(results) if one < 0 else None
            pending = matched.pending[-1 - one] if one < 0 else None
            slot = one if pending is None else pending.slot
            if result is not None and pending is not None:
                item = json.loads(result.encoded) if builder.views.needs_items else None
                builder.add(result.line_number, result.fingerprint, item, pending.key)
            elif slot is not None:
                self._take_old(builder, slot)
            if partial is not None and number < last and partial.is_due(builder.count):
                with partial.publishing(builder.count):
                    self._publisher.built(builder, self._data.writer(), complete=False)
            self._tools.breathe()
        self._check_survivors(builder.count)
        generation = self._publisher.built(builder, self._data.writer(), complete=True)
        return generation, builder.count

    def _check_survivors(self, count: int) -> None:
        if self._failures.count and not count:
            raise RebuildError(
                f"every item of {self._declaration.name!r} failed; the first: {self._failures.first}"
            )

    def _take_old(self, builder: Builder, slot: int) -> None:
        """Bring an item over from the old snapshot, unless an interrupted rebuild has done so."""
        old, field = self._old, self._declaration.key
        assert old is not None  # a slot is one of its own
        try:
            fingerprint, encoded = old.fingerprint(slot), old.encoded(slot)
            item = json.loads(encoded)
            key = item[field]
        except DAMAGE as error:
            raise _OldDamaged(f"slot {slot}") from error
        found = self._data.leftovers.find(fingerprint, field, key)
        place = found[0] if found is not None and found[1] == encoded else None
        builder.add(self._data.line_number(fingerprint, encoded, place), fingerprint, item, key)

    def _header(self) -> dict[str, Any]:
        """What the index says of this rebuild."""
        worked, duration = time.monotonic() - self._began, round(self._duration(), 3)
        earlier = [] if self._old is None else self._old.header.get("durations", [])
        return {
            "code_started": self._code_started,
            "cold": False,
            "is_value": self._declaration.kind == "value",
            # With what was done of it elsewhere: else a list that was handed over late would seem quick, and the
            # next rebuild would begin in a thread again.
            "duration": duration,
            "durations": [*earlier, duration][-DURATIONS_KEPT:],
            "cpu_share": round(min(1.0, (time.thread_time() - self._cpu_began) / max(worked, 1e-6)), 3),
            "upstream": self._upstream.generation if self._upstream else None,
            "reused": self._matched.reused + self._enricher.found,
            "enriched": self._enricher.enriched,
            "failed_items": self._failures.count,
            "dropped": self._dropped,
        }
