"""Step 5 of a rebuild, and all of a write: an index that is made without a lock, and put in place under it.

Making an index runs the app's own sort functions and writes up to a hundred megabytes, so it happens before
the publish lock is taken.  Under it the maker looks whether what it began with is still what is published:

    rebuild A                          refresh B
    reads the index, generation 7
    makes its draft                    reads the index, generation 7
                                       makes its draft, locks, sees 7, publishes 8, unlocks
    locks, sees 8 and not 7, unlocks
    makes another draft from 8, in which B's item stays as B wrote it

A write wins over a rebuild that began before it, since the rebuild's source may have been read before what
the write says.  It stays in the index's ``writes`` until a rebuild that began after it has published.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from ..declaration import Declaration
from ..errors import RebuildError
from ..index.build import Builder
from ..index.mend import Mender
from ..index.patch import MendImpossible
from ..index.splice import IndexContent
from ..store.data import DataWriter
from ..store.files import FileStore
from ..store.locks import HeldLock
from ..store.snapshot import Snapshot, Write
from ..store.sweeping import sweep
from ..store.writer import Draft, next_generation
from .apply import merge, row_of, with_writes
from .change import Change
from .enrich import Enriched
from .source import Matched
from .tail import Tail

log = logging.getLogger("flask_warmcache")
# Somebody publishes between our look and our lock; a writer in a loop could make that go on for ever.
TRIES = 50
# So many indexes are made without the lock; the next is made under it, so that nobody can.
FREE_TRIES = 3


class BaseGone(Exception):
    """The snapshot that was to be mended is no longer what is published."""


class Publisher:
    """Publishes what one rebuild made."""

    def __init__(
        self,
        declaration: Declaration,
        store: FileStore,
        lock: HeldLock,
        *,
        token: str,
        started: int,
        seen: int,
        header: Callable[[], dict[str, Any]],
        enter: Callable[[str, int], None],
    ) -> None:
        """
        :param token: of the last ``invalidate`` before the source was called.
        :param started: the rebuild's own start, by the clock, as a generation.
        :param seen: the generation that was published before the source was called; later writes win. It is not
            the start, since clocks are set back.
        :param header: what the header says of the rebuild.
        :param enter: told which phase begins, with how many items.
        """
        self._declaration = declaration
        self._name = declaration.name
        self._store = store
        self._lock = lock
        self._token = token
        self._started = started
        self._seen = seen
        self._header = header
        self._enter = enter
        self.written: list[Write] = []  # writes that won over this rebuild

    def built(self, builder: Builder, writer: DataWriter, *, complete: bool) -> int:
        """Publish every item that the builder has; the rebuild's own data file becomes the published one.

        :returns: the generation.
        """
        writer.flush()
        if complete:
            self._enter("views", builder.count)
        made = builder.content(writer)
        if complete:
            self._enter("publish", builder.count)

        def prepare(published: Snapshot | None) -> tuple[Draft, Callable[[], bool], int]:
            writes = self._writes(published, complete=complete)
            copied = {} if published is None else self._copy(published, writes, writer)
            writer.sync()
            generation = self._generation(published)
            data = writer.described()
            rest = {"complete": complete, "data": data, "generation": generation}
            draft = self._draft(made, rest, writes, sync=not writes)
            if writes:
                plain = draft
                try:
                    draft = self._with_writes(plain, writes, copied, rest, writer)
                finally:
                    plain.remove()

            def in_place() -> bool:
                self._check()
                writer.check_in_place()
                return writer.described() == data

            return draft, in_place, generation

        generation = self._publish(prepare, writer.path.name, writer)
        if complete:
            self._log_errors(builder.views.errors)
        writer.share(lambda: self._store.publishing(self._name))
        return generation

    def _copy(
        self, published: Snapshot, writes: Iterable[Write], writer: DataWriter
    ) -> dict[str | int, Enriched | None]:
        """Copy the written items into the rebuild's own data file."""
        copied: dict[str | int, Enriched | None] = {}
        for write in writes:
            copied[write.key] = None
            slot = None if write.discarded else published.find(write.key, self._declaration.key or "")
            if slot is None:
                continue
            fingerprint, encoded = published.fingerprint(slot), published.encoded(slot)
            item = copied[write.key] = Enriched(fingerprint, encoded, None)
            if published.header["data"]["id"] == writer.data_id:
                item.place = published.place(slot)
            else:
                item.line_number = writer.add(fingerprint, encoded)
        return copied

    def _with_writes(
        self,
        plain: Draft,
        writes: list[Write],
        copied: dict[str | int, Enriched | None],
        rest: dict[str, Any],
        writer: DataWriter,
    ) -> Draft:
        base = Snapshot(self._store.folder, self._name, plain.path.name)
        try:
            made = merge(
                base, self._declaration, copied, lambda item: item.place or writer.place(item.line_number)
            )
        except (MendImpossible, OverflowError) as error:
            # The next rebuild's source says what they say; until then readers would see the list before them.
            raise RebuildError(f"writes of {self._name!r} do not fit into the new list: {error}") from error
        return self._draft(made, rest, writes, sync=True)

    def mended(self, old: Snapshot, matched: Matched, results: Sequence[Enriched | None]) -> tuple[int, int]:
        """Publish the published snapshot with the changes that the rebuild found.

        :returns: generation and count.
        :raises BaseGone: when it is not what it was.
        :raises MendImpossible: when every array must be computed anew.
        """
        published_as: list[IndexContent] = []

        def prepare(published: Snapshot | None) -> tuple[Draft, Callable[[], bool], int]:
            if published is None or not self._is_base(published, old):
                raise BaseGone("something else is published")
            writes = self._writes(published, complete=True)
            change = Change(old, published, matched, results, {write.key for write in writes}, self._declaration)
            tail = Tail(self._store, published)
            rows = [
                row_of(key, item, tail.add(item.fingerprint, item.encoded), slot)
                for key, item, slot in change.new_items
            ]
            self._enter("views", len(rows))
            made = Mender(published, self._declaration, rows, change.dead, change.sequence(rows)).mend()
            self._enter("publish", made.header["count"])
            published_as[:] = [made]
            generation = self._generation(published)
            rest = {"complete": True, "data": tail.described(), "generation": generation}
            draft = self._draft(made, rest, writes, sync=True)

            def in_place() -> bool:
                self._check()
                return tail.append()

            return draft, in_place, generation

        generation = self._publish(prepare, old.header["data"]["file"])
        (made,) = published_as
        self._log_errors(made.errors)
        return generation, made.header["count"]

    def _log_errors(self, errors: Mapping[str, int]) -> None:
        for what, times in errors.items():
            log.warning(
                "warmcache.view_failed: %s on %d items of %r",
                what,
                times,
                self._name,
                extra={"warmcache_list": self._name},
            )

    def _is_base(self, published: Snapshot, old: Snapshot) -> bool:
        """Whether what is published is what this rebuild compared its source with, or that and writes.

        Not another rebuild's, and not a backup put back under us.
        """
        return (
            not published.is_cold
            and published.header["data"]["id"] == old.header["data"]["id"]
            and published.header["started"] == old.header["started"]
            and published.header["declaration"] == self._declaration.digest
            and published.generation >= old.generation
        )

    def _publish(
        self,
        prepare: Callable[[Snapshot | None], tuple[Draft, Callable[[], bool], int]],
        data_file: str,
        writer: DataWriter | None = None,
    ) -> int:
        for number in range(TRIES):
            held = number >= FREE_TRIES
            with (
                self._store.publishing(self._name) if held else nullcontext(),
                writer.lock_held(held) if writer is not None else nullcontext(),
            ):
                published = self._store.published(self._name)
                base = () if published is None else (published.generation,)
                draft, in_place, generation = prepare(published)
                if self._store.commit(
                    self._name,
                    draft,
                    base,
                    in_place,
                    token=self._token,
                    keep_mark=False,
                    then=lambda: sweep(self._store.folder, self._name, (data_file,)),
                    held=held,
                ):
                    return generation
        raise RebuildError(f"{self._name!r} is written to so often that its rebuild cannot be published")

    def _generation(self, published: Snapshot | None) -> int:
        return next_generation(self._started, *([published.generation] if published else []))

    def _writes(self, published: Snapshot | None, *, complete: bool) -> list[Write]:
        """The writes that this rebuild cannot know of, or has not come to yet."""
        if published is None or published.is_cold:
            return []
        writes = published.writes()
        self.written = [write for write in writes if write.sequence > self._seen]
        return self.written if complete else writes

    def _draft(self, made: IndexContent, rest: dict[str, Any], writes: Sequence[Write], *, sync: bool) -> Draft:
        header = {
            **made.header,
            **self._header(),
            **rest,
            "started": self._started,
            "rebuilt": rest["generation"],
            "unsettled": bool(writes),  # until the rebuild has written them again; it may die before
            "declaration": self._declaration.digest,
            "key": self._declaration.key,
            "invalidation": self._token,
            "published_at": time.time(),
        }
        return Draft(self._store.folder, self._name, header, with_writes(made, writes), sync=sync)

    def _check(self) -> None:
        if not self._lock.still_ours():
            raise RebuildError("the lock file was removed during the rebuild, so another may be running")
