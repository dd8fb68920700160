"""The files of one app's lists in the cache folder: locks, marks, reports and published snapshots."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import events
from ..errors import StoreError
from . import marks
from .file_access import OPEN_FLAGS, read_small, write_small
from .folder import prepare
from .locks import HeldLock, PublishLock, no_fork, try_lock
from .reader import TRIES, Reader
from .snapshot import DAMAGE, Snapshot
from .sweeping import sweep
from .writer import Draft, next_generation


@dataclass
class Publication:
    """A draft that is to replace the published index, and what comes before and after its rename."""

    draft: Draft
    base: int  # the generation that was published when the draft was begun, or 0
    append: Callable[[], bool]  # puts the data in place, under the publish lock; False when it cannot
    invalidation: str  # the last one that the draft takes into account; a later one marks the new index
    keeps_mark: bool = False  # whether a mark on the old index passes to the new one
    tidy: Callable[[], None] = lambda: None  # called after the rename, under the publish lock


class FileStore:
    """Snapshots, locks and reports of one app's lists, in one folder of one machine."""

    def __init__(self, folder: Path) -> None:
        """Remember the folder; it is created and checked at its first use, not while the app loads."""
        self.folder = folder

    def reader(self, name: str) -> Reader:
        """Return a reader of one list's snapshots."""
        return Reader(self.folder, name)

    def prepare(self) -> None:
        """Create the folder, or check that it is a real folder that belongs to this account only.

        :raises StoreError: with the folder, and the setting to change.
        """
        prepare(self.folder)

    # Locks

    def try_lock(self, name: str) -> HeldLock | None:
        """Acquire the rebuild lock without waiting, and return it, or None when another process holds it.

        :raises StoreError: when the folder cannot be used.
        """
        self.prepare()
        lock = HeldLock(self.lock_path(name))
        try:
            # If the folder was removed between open and flock, we have locked a file that no other process sees.
            if try_lock(lock.descriptor) and lock.still_ours():
                return lock
        except BaseException:
            lock.close()
            raise
        lock.close()
        return None

    def lock_path(self, name: str) -> Path:
        """Return where the list's rebuild lock is."""
        return self.folder / f"{name}.lock"

    def is_locked(self, name: str) -> bool:
        """Return whether a process rebuilds this list now, without waiting and without creating a file.

        The probe is a shared lock, so that probes do not block one another.
        """
        with no_fork:
            try:
                descriptor = os.open(self.lock_path(name), OPEN_FLAGS)
            except OSError:
                return False
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return True
            finally:
                os.close(descriptor)
        return False

    def publishing(self, name: str, wait: float | None = None) -> PublishLock:
        """Return the publish lock, which a ``with`` block acquires.

        :param wait: seconds to wait for it; by default half a minute.
        :raises StoreError: when the folder cannot be used.
        """
        self.prepare()
        return PublishLock(self.folder / f"{name}.publish.lock", wait)

    # Small files

    def invalidate(self, name: str) -> None:
        """Mark what is published, and what a running rebuild is about to publish, as out of date.

        :raises StoreError: when the folder cannot be written.
        """
        self.prepare()
        try:
            marks.invalidate(self.folder, name)
        except OSError as error:
            raise StoreError(f"{name!r} cannot be invalidated: {error}") from error

    def invalidation(self, name: str) -> str:
        """Return the text of the last ``invalidate``, or an empty text."""
        return marks.invalidation(self.folder, name)

    def mark_stale(self, name: str, snapshot: Snapshot) -> None:
        """Mark this snapshot as out of date, and what writes made of it, but no newer one.

        A rebuild that runs already is as good as a new one.

        :raises StoreError: when the folder cannot be written.
        """
        self.prepare()
        published: Snapshot | None = snapshot
        for _ in range(TRIES):
            if published is None or published.rebuilt != snapshot.rebuilt or published.is_invalidated:
                return
            try:
                marks.mark_snapshot(self.folder, name, published)
            except OSError as error:
                raise StoreError(f"{name!r} cannot be marked as out of date: {error}") from error
            published = self.published(name)  # a write may have replaced it
        # Writes replace it all the time; or the file system, FAT for example, cannot store a time in 1970.
        self.invalidate(name)

    def write_progress(self, name: str, report: dict[str, Any]) -> None:
        """Replace the report of the current or last rebuild; the report is never the lock.

        :raises StoreError: when the folder cannot be used.
        """
        self.prepare()
        write_small(self.folder, f"{name}.progress", json.dumps(report).encode(), sync=False)

    def read_progress(self, name: str) -> dict[str, Any] | None:
        """Return the last report, or None when there is none that can be read."""
        try:
            report = json.loads(read_small(self.folder, f"{name}.progress") or b"null")
        except (ValueError, RecursionError):
            return None
        return report if isinstance(report, dict) else None

    def commit(self, name: str, publication: Publication, lock: PublishLock) -> bool:
        """Publish a draft and return True, or remove it if something else was published since it was begun.

        :param lock: the list's publish lock, which the calling thread may hold already.
        :raises RebuildBusyError: when another process holds the publish lock for too long.
        """
        draft = publication.draft
        try:
            with lock, marks.published_mark(self.folder, name) as is_marked:
                if self.published_generation(name) != publication.base or not publication.append():
                    return False
                draft.publish()
                try:
                    # After the rename, because a mark set just before it is on the index that was replaced.
                    if publication.keeps_mark and is_marked():
                        marks.mark(self.folder, name)
                    marks.mark_if_invalidated(self.folder, name, publication.invalidation)
                    publication.tidy()
                except OSError:
                    # The draft is published. The keeper compares the invalidations, and the next rebuild sweeps.
                    events.warning("warmcache.not_tidied", "after a publication of %(list)r", True, list=name)
                return True
        finally:
            draft.remove()

    def published_generation(self, name: str) -> int:
        """Return the generation that is published now, or 0 when there is none that can be read."""
        published = self.published(name)
        return 0 if published is None else published.generation

    def published(self, name: str) -> Snapshot | None:
        """Return the snapshot that is published now, if it can be read."""
        for _ in range(TRIES):
            try:
                return Snapshot(self.folder, name)
            except FileNotFoundError:
                return None
            except (*DAMAGE, OSError):
                pass  # a rebuild may just have published another, and removed this one's data file
        return None

    def publish_cold(self, name: str) -> None:
        """Publish an empty, cold snapshot and delete the items; the caller holds the rebuild lock.

        Deleting the files is not enough: workers would still serve what they have mapped.
        """
        with self.publishing(name):
            header = {
                "generation": next_generation(self.published_generation(name)),
                "published_at": time.time(),
                "cold": True,
                "is_value": False,
                "complete": False,
                "count": 0,
                "slots": 0,
                "filters": {},
                "data": None,
                "place_type": "I",
                "declaration": "",
                "code_started": 0,
                "invalidation": self.invalidation(name),
                "upstream": None,
            }
            Draft(self.folder, name, header, {"places": b""}, sync=True).publish()
            sweep(self.folder, name, keep=())
