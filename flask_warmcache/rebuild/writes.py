"""A write: some keys refreshed or discarded at once, in front of every worker's next read, without a rebuild.

The app changes something and says which keys.  Their items are looked up and enriched in the calling thread, then
published beside the others.  Whoever writes at the same time in the same process shares one publication:

    A prepares, finds nobody publishing, publishes A
    B and C prepare meanwhile and wait for A's publication
    B finds nobody publishing, publishes B and C; C finds that it is done

What was looked up may be out of date by the time it is published: another write of the same key, begun later,
may be faster.  It shows in the index's ``writes`` with a higher sequence than ours began with; then the key is
looked up again.  So it is when a rebuild has published meanwhile, which may have read something newer and has
forgotten the writes that it knew of.  Of two writes that are published together the one whose look-up began
later counts: it saw all that the other's caller had written before.

An index is made without a lock and is made again when somebody else was faster (see publish.py).  Who lost twice
makes the next one under the lock, or a rebuild that writes its first list could keep it from ever winning.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from ..declaration import Declaration, Item
from ..errors import DeclarationError, RebuildBusyError, RebuildError, StoreError
from ..index.patch import MendImpossible
from ..store import format as fmt
from ..store.files import FileStore
from ..store.snapshot import DAMAGE, Snapshot, Write
from ..store.writer import Draft, next_generation
from .apply import merge, with_writes
from .enrich import Enriched, Enricher
from .source import Pending, marker
from .tail import Tail
from .tools import Failures, Tools

log = logging.getLogger("flask_warmcache")
# The time that a write waits for others that publish; a publication takes milliseconds.
DEADLINE = 1.0
# A key that others write all the time is looked up so often; what may be old is not published even then.
LOOKUPS = 5
# So often an index is made without the lock, before one is made under it.
FREE_TRIES = 2
Key = str | int


@dataclass
class _Change:
    """One key's new state."""

    key: Key
    item: Enriched | None  # None: discarded
    begin: int  # the published generation before it was looked up
    order: int  # of two in this process, the one whose look-up began later has the higher
    given: bool  # not looked up, so there is nothing to look up again


class _Request:
    """What one caller wants published."""

    def __init__(self, changes: dict[Key, _Change], upstream: tuple[int, int] | None) -> None:
        """:param upstream: a source list's generations before and behind the write that this one follows."""
        self.changes = changes
        self.upstream = upstream
        self.moved: tuple[int, int] | None = None  # this list's own generations, before and behind it
        self.deadline = time.monotonic() + DEADLINE
        self.outdated: list[Key] = []  # were written by others since they were looked up
        self.done = False
        self.published = False
        self.error: BaseException | None = None


def item_finder(newest: Callable[[], Snapshot | None], field: str) -> Callable[[Any], Item | None]:
    """The lookup of a list that is made of another: the other's item."""

    def find(key: Any) -> Item | None:
        snapshot = newest()
        slot = None if snapshot is None or snapshot.is_cold else snapshot.find(key, field)
        return None if snapshot is None or slot is None else snapshot.item(slot)

    return find


class Writes:
    """One list's writes in one process."""

    def __init__(
        self, declaration: Declaration, store: FileStore, tools: Tools, lookup: Callable[[Any], Item | None] | None
    ) -> None:
        """:param lookup: gives one source item by key, or None when there is none."""
        self._declaration = declaration
        self._lookup = lookup
        self.followers: list[Writes] = []  # of the lists that are made of this one
        self._name = declaration.name
        self._store = store
        self._tools = tools
        self.after_fork()

    def after_fork(self) -> None:
        """Nobody waits or publishes in a new process."""
        self._guard = threading.Lock()  # guards _waiting
        self._publishing = threading.Lock()  # held by the caller who publishes for all that wait
        self._waiting: list[_Request] = []
        self._orders = itertools.count()

    def refresh(self, wanted: Iterable[Key | Item]) -> bool:
        """Look the keys up, enrich them, and publish; an item that is given is not looked up.

        :returns: False when it could not be published in time, and the list was invalidated instead.
        :raises Exception: what ``lookup`` or ``enrich`` raised; nothing is published then.
        """
        changes: dict[Key, _Change] = {}
        begin = self._generation()
        for one in wanted:
            if isinstance(one, dict):
                key = self._key_of(one)
                order = next(self._orders)
                changes[key] = _Change(key, self._enriched(one, key), begin, order, given=True)
            else:
                fmt.key_hash(one)
                changes[one] = self._looked_up(one, begin)
        return self._submit(changes, None)

    def discard(self, keys: Iterable[Key]) -> bool:
        """Take the keys out of the list, and publish.

        :returns: False when it could not be published in time, and the list was invalidated instead.
        """
        begin = self._generation()
        changes: dict[Key, _Change] = {}
        for key in keys:
            fmt.key_hash(key)
            changes[key] = _Change(key, None, begin, next(self._orders), given=True)
        return self._submit(changes, None)

    def _follow(self, keys: Iterable[Key], upstream: tuple[int, int]) -> None:
        """The same keys of a list that is made of another, just written; it need not be rebuilt for that.

        Where that cannot be done, as with a list that is cold, its next rebuild brings them.
        """
        begin = self._generation()
        try:
            self._submit({key: self._looked_up(key, begin) for key in keys}, upstream)
        except Exception:
            log.exception(
                "warmcache.write_not_followed: a write of its source list is left to the next rebuild of %r",
                self._name,
                extra={"warmcache_list": self._name},
            )

    # Preparing, in the caller's thread

    def _generation(self) -> int:
        return next(iter(self._store.published_generation(self._name)), 0)

    def _key_of(self, item: Item) -> Key:
        field = self._declaration.key or ""
        try:
            key: Key = item[field]
            fmt.key_hash(key)
        except (KeyError, TypeError) as error:
            raise RebuildError(f"an item given to {self._name!r} has no usable key field {field!r}") from error
        return key

    def _looked_up(self, key: Key, begin: int) -> _Change:
        lookup = self._lookup
        if lookup is None:
            raise DeclarationError(
                f"Warm list {self._name!r} has no lookup, so refresh({key!r}) cannot find the item. Declare one "
                f"with @{self._name}.lookup, or give the source item itself."
            )
        order = next(self._orders)
        item = lookup(key)
        if item is None:
            return _Change(key, None, begin, order, given=False)
        if not isinstance(item, dict) or item.get(self._declaration.key or "") != key:
            raise RebuildError(f"lookup of {self._name!r} gave no item with the key {key!r}")
        return _Change(key, self._enriched(item, key), begin, order, given=False)

    def _enriched(self, item: Item, key: Key) -> Enriched:
        mark = marker(self._declaration, self._tools.encode)(item)
        enricher = Enricher(self._declaration, self._tools, Failures(self._name))
        result = enricher.one(Pending(item, key, None, mark))
        if isinstance(result, Exception):
            raise result
        return result

    # Publishing, for all who wait

    def _submit(self, changes: dict[Key, _Change], upstream: tuple[int, int] | None) -> bool:
        if not changes:
            return True
        request = self._published(changes, upstream)
        for _ in range(LOOKUPS - 1):
            if not request.outdated:
                break
            # In a dict of its own: who publishes for us may still be at the old one.
            changes = changes | {key: self._looked_up(key, self._generation()) for key in request.outdated}
            request = self._published(changes, upstream)
        if not request.published:
            self._invalidate()
            return False
        for one in self.followers:
            if request.moved is not None:
                one._follow(changes, request.moved)
        return True

    def _published(self, changes: dict[Key, _Change], upstream: tuple[int, int] | None) -> _Request:
        request = _Request(changes, upstream)
        with self._guard:
            self._waiting.append(request)
        if self._publishing.acquire(timeout=max(0.0, request.deadline - time.monotonic())):
            try:
                if not request.done:
                    with self._guard:
                        requests, self._waiting = self._waiting, []
                    self._publish_all(requests, request.deadline)
            finally:
                self._publishing.release()
        with self._guard:
            if request in self._waiting:
                self._waiting.remove(request)
        if request.error is not None:
            raise request.error
        return request

    def _publish_all(self, requests: list[_Request], deadline: float) -> None:
        try:
            for number in itertools.count():
                if self._try(requests, deadline, hold=number >= FREE_TRIES) or time.monotonic() > deadline:
                    break
        except RebuildBusyError:
            pass  # somebody else keeps the publish lock
        except (MendImpossible, OverflowError, *DAMAGE, StoreError, RebuildError, OSError) as error:
            log.warning(
                "warmcache.write_not_published: a write of %r is left to the next rebuild",
                self._name,
                exc_info=error,
                extra={"warmcache_list": self._name},
            )
        except BaseException as error:
            for request in requests:
                request.error = error
        finally:
            for request in requests:
                request.done = True

    def _try(self, requests: list[_Request], deadline: float, *, hold: bool) -> bool:
        """Publish once; False when somebody else published meanwhile.

        :param hold: whether nobody else may, since the publish lock is held all the time.
        """
        wait = max(0.0, deadline - time.monotonic())
        try:
            with self._store.publishing(self._name, wait) if hold else nullcontext():
                return self._try_now(requests, wait, held=hold)
        except FileNotFoundError:
            return False  # a rebuild has just removed the data file that was the published one when we looked

    def _try_now(self, requests: list[_Request], wait: float, *, held: bool) -> bool:
        published = self._store.published(self._name)
        if (
            published is None
            or published.is_cold
            or published.header["declaration"] != self._declaration.digest
            or published.is_value
        ):
            return True  # there is nothing to write into; the mark has the next rebuild say it
        before = {write.key: write for write in published.writes()}
        changes: dict[Key, _Change] = {}
        fitting = []
        for request in requests:
            request.outdated = [
                key
                for key, change in request.changes.items()
                if not change.given
                and max(published.rebuilt, before[key].sequence if key in before else 0) > change.begin
            ]
            if request.outdated:
                continue
            fitting.append(request)
            for key, change in request.changes.items():
                if key not in changes or changes[key].order < change.order:
                    changes[key] = change
        if not changes:
            return True
        generation = next_generation(published.generation)
        tail = Tail(self._store, published)
        items = {key: change.item for key, change in changes.items()}
        made = merge(published, self._declaration, items, lambda item: tail.add(item.fingerprint, item.encoded))
        writes = [write for key, write in before.items() if key not in changes]
        writes += [Write(key, generation, one.item is None) for key, one in changes.items()]
        # All else the index says is of the last rebuild, its time above all.
        header: dict[str, Any] = {
            **published.header, **made.header, "data": tail.described(), "generation": generation,
            "unsettled": any(write.sequence < published.rebuilt for write in writes),
        }  # fmt: skip
        for request in fitting:
            if request.upstream is not None and request.upstream[0] == header["upstream"]:
                header["upstream"] = request.upstream[1]
        draft = Draft(self._store.folder, self._name, header, with_writes(made, writes), sync=True)
        if not self._store.commit(
            self._name,
            draft,
            (published.generation,),
            tail.append,
            token=published.header["invalidation"],
            keep_mark=True,
            wait=wait,
            held=held,
        ):
            return False
        for request in fitting:
            request.published = True
            # A follower of only one of several is not as new as this list: it is not to say so.
            request.moved = (published.generation if len(fitting) == 1 else generation, generation)
        return True

    def _invalidate(self) -> None:
        try:
            self._store.invalidate(self._name)
        except StoreError:
            log.exception("warmcache.not_invalidated: a write of %r is lost until the next rebuild", self._name)
