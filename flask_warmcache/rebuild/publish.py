"""Step 5 of a rebuild: an index is drafted without the publish lock, and published under it.

Drafting runs the app's own sort functions and writes up to a hundred megabytes, so it happens before the publish
lock is acquired.  Under the lock the rebuild checks that what it began with is still published:

    rebuild A                          refresh B
    reads the index, generation 7
    writes its draft                   reads the index, generation 7
                                       writes its draft, locks, sees 7, publishes 8, unlocks
    locks, sees 8 and not 7, unlocks
    writes another draft from 8, in which B's item stays as B wrote it
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial

from .. import events
from ..errors import RebuildError
from ..index.build import Builder
from ..index.exact import Kinds, inexact
from ..store.data import DataWriter
from ..store.files import Publication
from ..store.locks import PublishLock
from ..store.snapshot import Snapshot
from ..store.sweeping import sweep
from .drafts import DraftMaker, PatchedIndex, WholeIndex
from .leftovers import Enriched
from .source import Matched
from .tools import note_view_errors

# Writes may publish between our reading the index and our lock; a writer in a loop may do so again and again.
TRIES = 50
# After this many tries, the next draft is written under the lock, so that no write can come between.
TRIES_WITHOUT_LOCK = 3
# Seconds between two partial publications.
PARTIAL_EVERY = 0.5
# A partial publication may take one part in this many of the time.
PARTIAL_COST = 20


class Publisher:
    """Publishes what one rebuild made."""

    def __init__(self, maker: DraftMaker, publish_lock: PublishLock) -> None:
        self._maker = maker
        self._store = maker.store
        self._name = maker.declaration.name
        self._publish_lock = publish_lock

    def built(self, builder: Builder, writer: DataWriter, *, complete: bool) -> int:
        """Publish every item that the builder has, and return the generation.

        :param writer: of the rebuild's own data file, which becomes the published one.
        """
        writer.flush()
        if complete:
            progress = self._maker.progress
            progress.begin("views", builder.count)
            content = builder.content(writer, progress.advance)
            progress.begin("publish", builder.count)
        else:
            content = builder.content(writer)
        generation = self._publish(WholeIndex(self._maker, content, writer, complete), writer.path.name)
        if complete:
            note_view_errors(self._name, content.errors)
            self._note_inexact(builder.views.kinds)
        writer.share(self._publish_lock)
        return generation

    def patched(self, old: Snapshot, matched: Matched, results: Sequence[Enriched | None]) -> tuple[int, int]:
        """Publish the old snapshot with the changes that the rebuild found, and return generation and count.

        :raises PatchImpossible: when the arrays must be computed from all items, or something else is published.
        """
        index = PatchedIndex(self._maker, old, matched, results)
        generation = self._publish(index, old.header["data"]["file"])
        note_view_errors(self._name, index.content.errors)
        return generation, index.content.header["count"]

    def _note_inexact(self, kinds: Kinds) -> None:
        """Log the fields that filters and sorts do not see as they were, if there are any."""
        if self._maker.declaration.filters or self._maker.declaration.sorts:
            for name, why in inexact(kinds).items():
                message = "the field %(field)r of %(list)r: %(why)s"
                events.warning("warmcache.value_inexact", message, field=name, list=self._name, why=why)

    def _publish(self, index: WholeIndex | PatchedIndex, data_file: str) -> int:
        for number in range(TRIES):
            with self._publish_lock if number >= TRIES_WITHOUT_LOCK else nullcontext():
                published = self._store.published(self._name)
                publication = Publication(
                    index.draft(published),
                    0 if published is None else published.generation,
                    index.append,
                    self._maker.invalidation,
                    tidy=partial(sweep, self._store.folder, self._name, (data_file,)),
                )
                if self._store.commit(self._name, publication, self._publish_lock):
                    return publication.draft.generation
        raise RebuildError(f"{self._name!r} is written to so often that its rebuild cannot be published")


class Schedule:
    """Says when to publish a partial list: the first page at once, and then as often as that is cheap."""

    def __init__(self, first_page: int, shown: int) -> None:
        """:param shown: how many items an interrupted build has published; fewer are never published."""
        self._first_page = first_page
        self._next = 0.0
        self._shown = shown

    def is_due(self, count: int) -> bool:
        """Return whether this many items should be published now."""
        return count >= self._first_page and count > self._shown and time.monotonic() >= self._next

    @contextmanager
    def publishing(self, count: int) -> Iterator[None]:
        """Time a publication, and put the next one off until a twentieth of the time goes into publishing."""
        began = time.monotonic()
        yield
        ended = time.monotonic()
        self._shown = count
        self._next = ended + max(PARTIAL_EVERY, PARTIAL_COST * (ended - began))
