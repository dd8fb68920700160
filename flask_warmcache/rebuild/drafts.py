"""The drafts of a rebuild's index: one of all its items, or one of what is published with a few changes.

A write wins over a rebuild that began before it, since the rebuild may have read its source before the change that
the write reports.  The write stays in the index's ``writes`` until a rebuild that began after it has published.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..declaration import Declaration
from ..errors import RebuildError, SnapshotError
from ..index.build import IndexContent
from ..index.exact import unpacked
from ..index.patch import PatchImpossible
from ..index.patch_index import patch_index
from ..status.progress import Progress
from ..store.data import DataWriter, Tail
from ..store.files import FileStore
from ..store.locks import HeldLock
from ..store.snapshot import Snapshot, Write
from ..store.writer import Draft, next_generation
from .apply import Change, merge, row_of, with_writes
from .leftovers import Enriched
from .source import Matched


@dataclass
class DraftMaker:
    """Makes the drafts of one rebuild."""

    declaration: Declaration
    store: FileStore
    lock: HeldLock  # the list's rebuild lock, which the calling process holds
    invalidation: str  # the last one before the source was called
    started: int  # the time at which the rebuild began, as a generation
    # The generation that was published before the source was called; later writes win.  The start would not do,
    # because a clock may be set back.
    seen: int
    header: Callable[[], dict[str, Any]]  # gives what the index says about the rebuild
    progress: Progress
    overwritten_keys: list[str | int] = field(default_factory=list)  # keys whose writes won over this rebuild

    def open_writes(self, published: Snapshot | None, *, complete: bool) -> list[Write]:
        """Return the writes that stay in the index, and note which keys they overwrite.

        :param complete: whether the index has all items; a partial one keeps all writes, since this rebuild
            has not reached their items yet.
        :raises RebuildError: when code with another ``key=`` has made a write that wins. Its item cannot be found
            by our key; the next rebuild's source knows what it changed.
        """
        if published is None or published.is_cold:
            return []
        try:
            writes = published.writes()
        except SnapshotError:
            if published.generation > self.seen:
                raise
            writes = []  # all of them came before the source was called, which knows what they changed
        winning = [write for write in writes if write.sequence > self.seen]
        self.overwritten_keys = [write.key for write in winning]
        if published.header.get("key", self.declaration.key) != self.declaration.key:
            if winning:
                raise RebuildError(
                    f"while {self.declaration.name!r} was rebuilt, it was written to by code that has another key="
                )
            return []
        return winning if complete else writes

    def draft(
        self,
        content: IndexContent,
        published: Snapshot | None,
        writes: Sequence[Write],
        data: dict[str, Any],
        *,
        complete: bool,
        sync: bool = True,
    ) -> Draft:
        """Write a draft.

        :param published: what is published; the draft gets a higher generation.
        :param data: what the index says about its data file.
        """
        generation = next_generation(self.started, *([published.generation] if published else []))
        header = {
            **content.header,
            **self.header(),
            "complete": complete,
            "data": data,
            "generation": generation,
            "started": self.started,
            "rebuilt": generation,
            "unsettled": bool(writes),  # until they are looked up again; the rebuild may die before that
            "declaration": self.declaration.digest,
            "key": self.declaration.key,
            "invalidation": self.invalidation,
            "published_at": time.time(),
        }
        return Draft(self.store.folder, self.declaration.name, header, with_writes(content, writes), sync=sync)

    def check_lock(self) -> None:
        """Refuse to publish once another process may have the rebuild lock.

        :raises RebuildError: when the lock file was removed.
        """
        if not self.lock.still_ours():
            raise RebuildError("the lock file was removed during the rebuild, so another may be running")


@dataclass
class WholeIndex:
    """An index computed from all items; the rebuild's own data file becomes the published one."""

    maker: DraftMaker
    content: IndexContent
    writer: DataWriter
    complete: bool
    data: dict[str, Any] = field(default_factory=dict)  # what the draft says about the data file

    def draft(self, published: Snapshot | None) -> Draft:
        """Write a draft, in which writes since the rebuild began win."""
        maker, complete = self.maker, self.complete
        writes = maker.open_writes(published, complete=complete)
        items = {} if published is None else {write.key: self._copied(published, write) for write in writes}
        self.writer.sync()
        self.data = self.writer.described()
        draft = maker.draft(self.content, published, writes, self.data, complete=complete, sync=not writes)
        if not writes:
            return draft
        name = maker.declaration.name
        try:
            base = Snapshot(maker.store.folder, name, draft.path.name)
            content = merge(base, maker.declaration, items, self._place_of)
            return maker.draft(content, published, writes, self.data, complete=complete)
        except (PatchImpossible, OverflowError) as error:
            # Without the writes, readers would see the list as it was before them.  The next rebuild's source
            # knows what they changed.
            raise RebuildError(f"writes of {name!r} do not fit into the new list: {error}") from error
        finally:
            draft.remove()

    def _copied(self, published: Snapshot, write: Write) -> Enriched | None:
        """Copy a written item into the rebuild's own data file."""
        slot = None if write.discarded else published.find(write.key, self.maker.declaration.key or "")
        if slot is None:
            return None
        item = Enriched(
            published.fingerprint(slot), published.encoded(slot), None, kinds=unpacked(published.exact)
        )
        if published.header["data"]["id"] == self.writer.data_id:
            item.place = published.place(slot)
        else:
            item.line_number = self.writer.add(item.fingerprint, item.encoded)
        return item

    def _place_of(self, item: Enriched) -> tuple[int, int]:
        return item.place or self.writer.place(item.line_number)

    def append(self) -> bool:
        """Return whether the data file is still as the draft says; the caller holds the publish lock."""
        self.maker.check_lock()
        self.writer.check_in_place()
        return self.writer.described() == self.data


@dataclass
class PatchedIndex:
    """The published index with the changes that the rebuild found; its data file is appended to."""

    maker: DraftMaker
    old: Snapshot  # the snapshot that the rebuild compared its source with
    matched: Matched
    results: Sequence[Enriched | None]  # the new version of each pending item, or None if it failed
    tail: Tail = field(init=False)
    content: IndexContent = field(init=False)

    def draft(self, published: Snapshot | None) -> Draft:
        """Write a draft.

        :raises PatchImpossible: when the arrays must be computed from all items, or when something else than the
            old snapshot, or what writes made of it, is published.
        """
        if published is None or not self._is_base(published):
            raise PatchImpossible("something else is published")
        maker, declaration = self.maker, self.maker.declaration
        writes = maker.open_writes(published, complete=True)
        change = Change(self.old, published, self.matched, self.results, set(maker.overwritten_keys), declaration)
        self.tail = tail = Tail(maker.store.folder, published.header["data"])
        rows = [
            row_of(key, item, tail.add(item.fingerprint, item.encoded), slot)
            for key, item, slot in change.new_items
        ]
        maker.progress.begin("views", len(rows))
        self.content = patch_index(published, declaration, rows, change.dead, change.sequence())
        maker.progress.begin("publish", self.content.header["count"])
        return maker.draft(self.content, published, writes, tail.described(), complete=True)

    def _is_base(self, published: Snapshot) -> bool:
        """Return whether this is the old snapshot, or what writes have made of it.

        Another rebuild may have published, or somebody may have restored a backup.
        """
        old = self.old
        return (
            not published.is_cold
            and published.header["data"]["id"] == old.header["data"]["id"]
            and published.header["started"] == old.header["started"]
            and published.header["declaration"] == self.maker.declaration.digest
            and published.generation >= old.generation
        )

    def append(self) -> bool:
        """Append the changed items to the data file; the caller holds the publish lock."""
        self.maker.check_lock()
        return self.tail.append()
