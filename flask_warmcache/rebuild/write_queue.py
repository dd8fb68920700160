"""The writes of one list that wait to be published; one thread publishes for all that wait.

    A is ready, finds no thread publishing, publishes A
    B and C get ready meanwhile, and wait for A's publication
    B finds no thread publishing, publishes B and C; C finds that it is done

What a thread looked up may be out of date by the time it is published.  Another write of the same key, whose
look-up began later, may have been faster; then the index's ``writes`` has the key with a higher sequence than the
generation that this look-up began with.  A rebuild may have been faster, too; it may have read something newer,
and it drops the writes that it knows of.  In both cases the key is looked up again.  If two writes of a key are
published together, the one whose look-up began later wins: it saw all that the other's caller had written before.

An index is drafted without the publish lock, and drafted again when another process was faster.  After two tries
the next one is drafted under the lock; otherwise a rebuild that writes its first list could starve the writes.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any

from .. import events
from ..declaration import Declaration
from ..errors import RebuildBusyError, RebuildError, StoreError
from ..index.patch import PatchImpossible
from ..store.data import Tail
from ..store.files import FileStore, Publication
from ..store.locks import PublishLock
from ..store.snapshot import DAMAGE, Snapshot, Write
from ..store.writer import Draft, next_generation
from .apply import merge, with_writes
from .leftovers import Enriched
from .tools import note_view_errors

# Seconds that a write waits for others that publish.  A publication takes milliseconds.
DEADLINE = 1.0
# After this many tries, the next draft is written under the publish lock.
TRIES_WITHOUT_LOCK = 2
Key = str | int


@dataclass
class KeyChange:
    """The new state of one key."""

    item: Enriched | None  # None if the key is discarded
    seen: int  # the generation that was published before the look-up began
    number: int  # rises with the beginning of each look-up in this process
    looked_up: bool  # False if the app gave the item, so that there is nothing to look up again


@dataclass(eq=False)
class WriteRequest:
    """What one thread wants to have published."""

    changes: Mapping[Key, KeyChange]
    upstream_generations: tuple[int, int] | None  # the source list's, before and after the write it follows
    deadline: float
    generations: tuple[int, int] | None = None  # this list's, before and after the write
    overwritten_keys: Sequence[Key] = ()  # keys that others have written since they were looked up
    done: bool = False
    published: bool = False
    error: BaseException | None = None

    def find_overwritten(self, published: Snapshot, sequences: Mapping[Key, int]) -> bool:
        """Note which keys were rebuilt or written (``sequences``) since their look-up; return whether any was."""
        self.overwritten_keys = [
            key
            for key, change in self.changes.items()
            if change.looked_up and max(published.rebuilt, sequences.get(key, 0)) > change.seen
        ]
        return bool(self.overwritten_keys)


class WriteQueue:
    """The writes of one list that wait to be published in this process."""

    def __init__(self, declaration: Declaration, store: FileStore) -> None:
        self._declaration = declaration
        self._name = declaration.name
        self._store = store
        self.after_fork()

    def after_fork(self) -> None:
        """Begin with an empty queue: the other threads do not exist in the child."""
        self._guard = threading.Lock()  # guards waiting
        self.publishing = threading.Lock()  # held by the thread that publishes for all that wait
        self.waiting: list[WriteRequest] = []

    def publish(
        self, changes: Mapping[Key, KeyChange], upstream_generations: tuple[int, int] | None
    ) -> WriteRequest:
        """Publish these changes, together with those of other threads, and return how that went."""
        request = WriteRequest(changes, upstream_generations, time.monotonic() + DEADLINE)
        with self._guard:
            self.waiting.append(request)
        if self.publishing.acquire(timeout=max(0.0, request.deadline - time.monotonic())):
            try:
                if not request.done:
                    with self._guard:
                        requests, self.waiting = self.waiting, []
                    self._publish_all(requests, request.deadline)
            finally:
                self.publishing.release()
        with self._guard, suppress(ValueError):  # the request was taken from the queue
            self.waiting.remove(request)
        if request.error is not None:
            raise request.error
        return request

    def _publish_all(self, requests: list[WriteRequest], deadline: float) -> None:
        try:
            for number in itertools.count():
                if self._try(requests, deadline, number >= TRIES_WITHOUT_LOCK) or time.monotonic() > deadline:
                    break
        except RebuildBusyError:
            pass  # another process holds the publish lock
        except (PatchImpossible, OverflowError, *DAMAGE, StoreError, RebuildError, OSError) as error:
            message = "a write of %(list)r is left to the next rebuild"
            events.warning("warmcache.write_not_published", message, error, list=self._name)
        except BaseException as error:
            for request in requests:
                request.error = error
        finally:
            for request in requests:
                request.done = True

    def _try(self, requests: list[WriteRequest], deadline: float, draft_under_lock: bool) -> bool:
        """Try to publish once, and return False when another process published meanwhile."""
        lock = self._store.publishing(self._name, max(0.0, deadline - time.monotonic()))
        try:
            with lock if draft_under_lock else nullcontext():
                return self._try_now(requests, lock)
        except FileNotFoundError:
            return False  # a rebuild has published, and removed the data file that we were to append to

    def _try_now(self, requests: list[WriteRequest], lock: PublishLock) -> bool:
        published = self._store.published(self._name)
        if (
            published is None
            or published.is_cold
            or published.header["declaration"] != self._declaration.digest
            or published.is_value
        ):
            return True  # there is no list to write to, so the callers invalidate it
        before = published.writes()
        sequences = {write.key: write.sequence for write in before}
        requests = [request for request in requests if not request.find_overwritten(published, sequences)]
        changes = _newest(requests)
        if not changes:
            return True
        tail = Tail(self._store.folder, published.header["data"])
        items = {key: change.item for key, change in changes.items()}
        content = merge(published, self._declaration, items, lambda item: tail.add(item.fingerprint, item.encoded))
        generation = next_generation(published.generation)
        writes = [write for write in before if write.key not in changes]
        writes += [Write(key, generation, item is None) for key, item in items.items()]
        # All else that the header says is about the last rebuild, above all its time.
        header: dict[str, Any] = {
            **published.header,
            **content.header,
            "data": tail.described(),
            "generation": generation,
            "unsettled": any(write.sequence < published.rebuilt for write in writes),
        }
        for request in requests:
            if request.upstream_generations is not None and request.upstream_generations[0] == header["upstream"]:
                header["upstream"] = request.upstream_generations[1]
        publication = Publication(
            Draft(self._store.folder, self._name, header, with_writes(content, writes), sync=True),
            published.generation,
            tail.append,
            published.header["invalidation"],
            keeps_mark=True,
        )
        if not self._store.commit(self._name, publication, lock):
            return False
        note_view_errors(self._name, content.errors)
        for request in requests:
            request.published = True
            # A list that follows only one of several requests is not as new as this list, and must not say it is.
            request.generations = (published.generation if len(requests) == 1 else generation, generation)
        return True


def _newest(requests: Sequence[WriteRequest]) -> dict[Key, KeyChange]:
    """Return the change of each key; if there are several, the one whose look-up began last."""
    changes: dict[Key, KeyChange] = {}
    for request in requests:
        for key, change in request.changes.items():
            if key not in changes or changes[key].number < change.number:
                changes[key] = change
    return changes
