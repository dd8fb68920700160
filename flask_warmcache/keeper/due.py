"""Which lists are due for a rebuild, and why: besides their age, what only a second file tells."""

from __future__ import annotations

import time
from collections.abc import Mapping

from .. import events
from ..host import threads
from ..status.condition import ListStatus
from ..store.files import FileStore
from ..store.verify import Verifier

WRITE_FOLLOWS_WITHIN = 2_000_000_000  # nanoseconds; a write is abandoned after one second


class Due:
    """Examines the lists of one app."""

    def __init__(self, by_name: Mapping[str, ListStatus], store: FileStore) -> None:
        self._by_name = by_name
        self._store = store
        self._verifiers = {name: Verifier(store.folder, name) for name in by_name}

    def is_due(self, status: ListStatus) -> bool:
        """Examine a list as thoroughly as only the keeper does, and return whether to rebuild it now."""
        self.note_stale(status)
        threads.apart(lambda: self._verify(status))
        return status.condition().due and not self._is_upstream_busy(status)

    def note_stale(self, status: ListStatus) -> None:
        """Note whether the source list has a newer snapshot, or the list was invalidated while it was made.

        The latter is already noted in the snapshot, unless its builder died between the rename and that.
        """
        snapshot = status.reader.current()
        if snapshot is None or snapshot.is_cold:
            return
        if self._store.invalidation(status.name) != snapshot.header["invalidation"]:
            status.staleness.require_newer_than(snapshot.rebuilt)
        source_list = status.declaration.source_list
        if source_list is None:
            return
        source = self._by_name[source_list]
        upstream = source.reader.current()
        if upstream is None or upstream.is_cold or upstream.generation == snapshot.header["upstream"]:
            return
        # A write to the source list is passed on to a list with the same keys, which then needs no rebuild.
        is_written = upstream.generation != upstream.rebuilt and source.declaration.key == status.declaration.key
        if not is_written or time.time_ns() - upstream.generation > WRITE_FOLLOWS_WITHIN:
            status.staleness.require_successor_of(snapshot.generation)

    def _is_upstream_busy(self, status: ListStatus) -> bool:
        """Whether the source list is being rebuilt, so that a rebuild of this one would not get its lock."""
        source_list = status.declaration.source_list
        return source_list is not None and self._by_name[source_list].is_rebuilding

    def _verify(self, status: ListStatus) -> None:
        """Verify the checksums of a new snapshot once; have a damaged one rebuilt from scratch."""
        snapshot = status.reader.current()
        if snapshot is not None and self._verifiers[status.name].is_damaged(snapshot):
            status.staleness.note_damage(snapshot)
            message = "the files of %(list)r fail their checksums; they are rebuilt"
            events.error("warmcache.snapshot_damaged", message, list=status.name)
