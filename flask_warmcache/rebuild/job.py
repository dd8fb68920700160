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
   patched (index/mend.py); otherwise they are computed from all items (index/build.py).
5. The new index replaces the old one under the publish lock (publish.py).  Few changed items are appended to the
   published data file; otherwise the rebuild's own file becomes the published one.

If the process is killed before the rename in step 5, the old snapshot stays whole; after it, the new one is.
"""

from __future__ import annotations

from dataclasses import dataclass

from .. import events
from ..declaration import Declaration
from ..status.progress import Progress
from ..store.files import FileStore
from ..store.locks import HeldLock
from ..store.snapshot import Snapshot
from ..store.writer import next_generation
from .data_file import DataFile
from .drafts import DraftMaker
from .enrich import Enricher
from .followers import refresh_overwritten
from .make import Maker, OldDamaged
from .outcome import Outcome
from .partial import Schedule
from .publish import Publisher
from .shrink import check_shrink
from .source import match
from .tally import Tally
from .tools import Failures, Tools


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

    def run(self) -> Outcome:
        """Rebuild and publish.

        :raises Exception: what ``source`` raised, or a RebuildError; the old snapshot stays.
        """
        try:
            return self._run(self.old)
        except OldDamaged as error:
            events.warning(
                "warmcache.old_damaged", "%(list)r is rebuilt from nothing", error, list=self.declaration.name
            )
            return self._run(None)

    def _run(self, compared: Snapshot | None) -> Outcome:
        """:param compared: the published snapshot that the source is compared with."""
        declaration, store, tools, progress = self.declaration, self.store, self.tools, self.progress
        name = declaration.name
        failures = Failures(name)
        enricher = Enricher(declaration, tools, failures)
        # The items of a partial snapshot are in the data file that this rebuild resumes.
        old = compared if compared is not None and compared.complete else None
        tally = Tally(declaration, old, self.upstream, enricher, failures, progress, self.code_started)
        invalidation = store.invalidation(name)
        started = next_generation(compared.generation if compared is not None else 0)
        published = store.published(name)
        # Writes win that are newer than this, because the source may or may not know of them.
        base = compared or published
        publish_lock = store.publishing(name)
        data_file = DataFile(declaration, store, self.lock, publish_lock, started, tools.breathe)
        data_file.resume(published)
        progress.begin("source")
        try:
            matched = match(declaration, old, self.upstream, tools, progress, failures)
            tally.unchanged = matched.reused
            if old is not None:
                check_shrink(declaration, old.count, len(matched.sequence))
                tally.dropped = 0 if declaration.key is None else old.count - sum(matched.known)
            data_file.choose(matched.pending)
            drafts = DraftMaker(
                declaration,
                store,
                self.lock,
                invalidation=invalidation,
                started=started,
                seen=base.generation if base is not None else 0,
                header=tally.header,
                begin_phase=progress.begin,
            )
            publisher = Publisher(drafts, publish_lock)
            partial = _partial_schedule(declaration, tools, old, published)
            maker = Maker(declaration, tools, progress, failures, data_file, publisher, old, partial)
            generation, count = maker.make(matched, enricher)
            refresh_overwritten(declaration, store, tools, self.upstream, drafts.overwritten_keys)
        except BaseException as error:
            data_file.keep_for_the_next(error)
            raise
        finally:
            data_file.close()
        return tally.outcome(generation, count)


def _partial_schedule(
    declaration: Declaration, tools: Tools, old: Snapshot | None, published: Snapshot | None
) -> Schedule | None:
    """Return when a partial list is published: only while no whole one is, even if nothing of it can be reused."""
    is_cold = published is None or published.is_cold
    may_show = is_cold or (published is not None and not published.complete)
    if old is not None or declaration.key is None or not may_show:
        return None
    return Schedule(tools.first_page, 0 if published is None or is_cold else published.count)
