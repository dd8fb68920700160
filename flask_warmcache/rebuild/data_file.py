"""The data file a rebuild writes: a new one, or the one an interrupted rebuild left, resumed."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from .. import events
from ..declaration import Declaration
from ..errors import RebuildError
from ..index.exact import Kinds, Path, add_kinds, packed
from ..store.data import DataWriter
from ..store.file_access import may_be_ours
from ..store.files import FileStore
from ..store.locks import HeldLock, PublishLock
from ..store.sweeping import is_mostly_dead
from .leftovers import KINDS, Enriched, Leftovers, unfinished
from .source import Pending


@dataclass
class DataFile:
    """Appends a rebuild's items to its data file, and finds those that an interrupted rebuild has appended."""

    declaration: Declaration
    store: FileStore
    lock: HeldLock  # the list's rebuild lock, which the calling process holds
    publish_lock: PublishLock  # under which a published file is appended to
    started: int  # the generation that names a new file
    breathe: Callable[[], None]  # is called for each item, so that requests get the interpreter
    leftovers: Leftovers = field(default_factory=lambda: Leftovers(None))
    _writer: DataWriter | None = None
    _kinds: dict[Path, str] = field(default_factory=dict)  # of the values in the file's items

    def resume(self, *, reuse: bool = True) -> None:
        """Open the file that an interrupted rebuild left, if there is one, and its items may be reused."""
        left = unfinished(self.store, self.declaration.name)
        self.leftovers = Leftovers(left if reuse and self.declaration.key is not None else None)
        self._writer, self._kinds = self.leftovers.writer, self.leftovers.kinds()
        if self._writer is not None and self._may_be_published(self._writer):
            self._writer.share(self.publish_lock)

    def choose(self, pending: Sequence[Pending]) -> None:
        """Keep the resumed file, unless most of it is useless; then copy the useful lines to a new one."""
        writer = self.leftovers.writer
        if writer is None:
            return
        useful = self.leftovers.size_of(item.fingerprint for item in pending)
        if is_mostly_dead(writer.end, useful):
            self._writer, old, self.leftovers = None, self.leftovers, Leftovers(None)
            if useful:
                self._copy_useful(old, pending)
            else:
                self._kinds = {}
            if writer.is_shared:
                writer.close()
            else:
                writer.remove()

    def _copy_useful(self, leftovers: Leftovers, pending: Sequence[Pending]) -> None:
        """Begin a new file with the useful lines.

        They are all copied now, because this rebuild may be interrupted, too.  If it is interrupted in here,
        the new file does not appear and the next rebuild finds the old one.
        """
        with self._new_file() as writer:
            if self._kinds:
                writer.add(KINDS, json.dumps(packed(self._kinds)).encode())
            for item in pending:
                found = leftovers.find(item.fingerprint, self.declaration.key, item.key)
                if found is not None:
                    writer.add(found.fingerprint, found.encoded)
                self.breathe()
        writer.close()
        self.leftovers = Leftovers(writer.path)
        self._writer = self.leftovers.writer

    def _new_file(self) -> AbstractContextManager[DataWriter]:
        self.store.prepare()
        return DataWriter.create(self.store.folder, self.declaration.name, self.started)

    def writer(self) -> DataWriter:
        """Return the file's writer; a new file is made at the first call."""
        if self._writer is None:
            with self._new_file() as begun:
                pass
            self._writer = begun
        return self._writer

    def line_number(self, item: Enriched) -> int:
        """Return the number of the item's line, which is appended unless an interrupted rebuild has done so."""
        if item.place is not None and self.leftovers.writer is not None:
            return self.writer().adopt(*item.place)
        return self.writer().add(item.fingerprint, item.encoded)

    def keep(self, finished: Sequence[Enriched]) -> None:
        """Append finished items, so that they are not lost if this process dies."""
        for item in finished:
            if item.kinds:
                self._note_kinds(item.kinds)
            item.line_number = self.line_number(item)
        if finished and (self.declaration.batch or self.declaration.workers > 1):
            self.writer().flush()  # the next item may take long

    def _note_kinds(self, kinds: Kinds) -> None:
        """Write down kinds of values that are not in the file yet; the next rebuild has only the items' JSON."""
        known = dict(self._kinds)
        add_kinds(self._kinds, kinds)
        if self._kinds != known:
            self.writer().add(KINDS, json.dumps(packed(self._kinds)).encode())

    def keep_for_the_next(self, error: BaseException) -> None:
        """Leave finished items to the next rebuild, unless that would keep a disk full."""
        writer = self._writer
        if writer is None:
            return
        disk_is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        try:
            if not (disk_is_full or self.declaration.key is None):
                writer.flush()
            elif not writer.is_shared and self.lock.still_ours() and not self._may_be_published(writer):
                writer.remove()
        except (OSError, RebuildError):
            name = self.declaration.name
            events.warning("warmcache.not_kept", "finished items of %(list)r are lost", True, list=name)

    def _may_be_published(self, writer: DataWriter) -> bool:
        """Return whether an index may refer to the file; the error may have come after the rename."""
        published = self.store.published(self.declaration.name)
        if published is None:  # another process may be able to read the index
            return may_be_ours(self.store.folder / f"{self.declaration.name}.index")
        return not published.is_cold and bool(published.header["data"]["id"] == writer.data_id)

    def close(self) -> None:
        """Close the file's descriptor."""
        if self._writer is not None:
            self._writer.close()
