"""The data file of one rebuild: that of an interrupted one, gone on in, or one of its own."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from ..declaration import Declaration
from ..errors import RebuildError
from ..store.compaction import is_mostly_dead
from ..store.data import DataWriter
from ..store.files import FileStore
from ..store.locks import HeldLock
from ..store.snapshot import Snapshot
from ..store.sweeping import unfinished
from .enrich import Enriched
from .leftovers import Leftovers
from .source import Pending

log = logging.getLogger("flask_warmcache")


class Lines:
    """Writes the lines of a rebuild's items, and finds those that an interrupted rebuild has written."""

    def __init__(
        self,
        declaration: Declaration,
        store: FileStore,
        lock: HeldLock,
        started: int,
        breathe: Callable[[], None],
    ) -> None:
        """
        :param lock: the list's, which the rebuild holds.
        :param started: the generation that names a file of its own.
        :param breathe: called for each item, so that a rebuild in a thread lets requests go first.
        """
        self._declaration = declaration
        self._store = store
        self._lock = lock
        self._started = started
        self._breathe = breathe
        self.leftovers = Leftovers(None)
        self._writer: DataWriter | None = None

    def go_on(self, published: Snapshot | None) -> None:
        """Take up the file that an interrupted rebuild left, if there is one."""
        name = self._declaration.name
        left = unfinished(self._store, name)
        self.leftovers = Leftovers(left if self._declaration.key is not None else None)
        if left is not None and published is not None and not published.is_cold:
            if published.header["data"]["file"] == left.name and self.leftovers.writer is not None:
                self.leftovers.writer.share(lambda: self._store.publishing(name))
        self._writer = self.leftovers.writer

    def choose(self, pending: Sequence[Pending]) -> None:
        """Go on in an interrupted rebuild's file, unless it is mostly of no use; then take over what is."""
        writer = self.leftovers.writer
        if writer is None:
            return
        useful = self.leftovers.size_of(one.fingerprint for one in pending)
        if is_mostly_dead(writer.end, useful):
            self._writer, old, self.leftovers = None, self.leftovers, Leftovers(None)
            if useful:
                self._take_over(old, pending)
            if writer.is_shared:
                writer.close()
            else:
                writer.remove()

    def _take_over(self, leftovers: Leftovers, pending: Sequence[Pending]) -> None:
        """Begin a data file with what is of use; at once, as this rebuild may be interrupted, too.

        Interrupted in here, it leaves the old file to the next one.
        """
        with self._beginning() as taken:
            for one in pending:
                found = (
                    leftovers.find(one.fingerprint, self._declaration.key, one.key) if one.fingerprint else None
                )
                if found is not None and one.fingerprint is not None:
                    taken.add(one.fingerprint, found[1])
                self._breathe()
        taken.close()
        self.leftovers = Leftovers(taken.path)
        self._writer = self.leftovers.writer

    def _beginning(self) -> AbstractContextManager[DataWriter]:
        self._store.prepare()
        return DataWriter.beginning(self._store.folder, self._declaration.name, self._started)

    def writer(self) -> DataWriter:
        """What writes the file, which is made when the first line is written."""
        if self._writer is None:
            with self._beginning() as begun:
                pass
            self._writer = begun
        return self._writer

    def line(self, fingerprint: bytes, encoded: bytes, place: tuple[int, int] | None) -> int:
        """The number of the item's line in this rebuild's data file, where an interrupted one may have put it."""
        if place is not None and self.leftovers.writer is not None:
            return self.writer().found(*place)
        return self.writer().add(fingerprint, encoded)

    def keep(self, finished: Sequence[Enriched]) -> None:
        """Write finished items, so that they are not lost with this process."""
        for one in finished:
            one.line = self.line(one.fingerprint, one.encoded, one.place)
        if finished and (self._declaration.batch or self._declaration.workers > 1):
            self.writer().flush()  # the next may be long in coming

    def keep_for_the_next(self, error: BaseException) -> None:
        """Leave finished items to the next rebuild, unless that would keep a disk full."""
        writer = self._writer
        if writer is None:
            return
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        try:
            if not (full or self._declaration.key is None):
                writer.flush()
            elif not writer.is_shared and self._lock.still_ours() and not self._is_published(writer):
                writer.remove()
        except (OSError, RebuildError):
            log.warning("warmcache.not_kept: finished items of %r are lost", self._declaration.name, exc_info=True)

    def _is_published(self, writer: DataWriter) -> bool:
        """Whether an index refers to the file; what went wrong may have done so behind the rename."""
        published = self._store.published(self._declaration.name)
        if published is None:  # it may be readable to others
            return (self._store.folder / f"{self._declaration.name}.index").exists()
        return not published.is_cold and bool(published.header["data"]["id"] == writer.data_id)

    def close(self) -> None:
        """Let go of the file."""
        if self._writer is not None:
            self._writer.close()
