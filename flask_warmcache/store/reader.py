"""Which snapshot a process serves: the newest that it can open, or else the one it has."""

from __future__ import annotations

import math
import os
import threading
import time
from pathlib import Path

from .. import events
from .change_words import Watch
from .file_access import Stamp, stamp_of
from .snapshot import DAMAGE, Snapshot

TRIES = 3
RETRY_AFTER = 1.0  # seconds until an open that the system refused, for lack of descriptors say, is retried


class Reader:
    """One process's view of one list."""

    def __init__(self, folder: Path, name: str) -> None:
        self._watch = Watch(folder, name)
        self._folder = folder
        self._name = name
        self._path = os.fspath(folder / f"{name}.index")
        self._snapshot: Snapshot | None = None
        self._refused: Stamp | None = None  # an index that could not be opened; a damaged one is not retried
        self._refused_until = 0.0  # of the monotonic clock
        self._exchange = threading.Lock()  # guards the exchange of _snapshot, held for one stat
        self.is_unusable = False  # the index under the name is gone or damaged: a rebuild is needed

    def after_fork(self) -> None:
        """Make a new lock: one that another thread held at the fork would stay locked in the child for ever."""
        self._exchange = threading.Lock()

    def expire(self) -> None:
        """Make the next read stat the index, whatever the change words say."""
        self._watch.expire()

    def current(self) -> Snapshot | None:
        """Return the snapshot to serve now, or None when nothing was ever published."""
        if not self._watch.needs_stat():
            return self._snapshot
        words, read_at = self._watch.read()
        try:
            status = os.stat(self._path)
        except OSError:
            self.is_unusable = True
            return self._snapshot
        snapshot = self._snapshot
        stamp = stamp_of(status)
        if snapshot is not None and snapshot.stamp == stamp:
            self.is_unusable = False
            self._watch.note_unchanged(words, read_at)
            return snapshot
        if stamp == self._refused and time.monotonic() < self._refused_until:
            self.is_unusable = True
            return snapshot
        return self._open()

    def _open(self) -> Snapshot | None:
        """Open what is published now; if that fails, keep the snapshot we have."""
        refused: Stamp | None = None
        why: Exception | None = None
        for _ in range(TRIES):
            try:
                refused = stamp_of(os.stat(self._path))
                opened = Snapshot(self._folder, self._name)
            except FileNotFoundError:
                self.is_unusable = True
                return self._snapshot
            except (*DAMAGE, OSError) as error:
                # Between our two opens a publisher may have replaced the index and unlinked the old data.
                why = error
                continue
            # Threads A and B both open the index.  A maps generation 5 and is delayed; B maps and sets 6.  Without
            # this second stat A would then set 5, and the next answers would go backwards.
            with self._exchange:
                try:
                    is_newest = stamp_of(os.stat(self._path)) == opened.stamp
                except OSError:
                    self.is_unusable = True
                    return self._snapshot or opened
                # A snapshot that was replaced while we opened it may still be newer than ours.  In a list that is
                # written to all the time this can happen at every try; the writes before this read are in it.
                if is_newest or self._snapshot is None or opened.generation > self._snapshot.generation:
                    self._snapshot, self._refused, self.is_unusable = opened, None, False
                if is_newest:
                    return opened
        if why is not None:
            is_known = refused == self._refused
            self._refused = refused
            self._refused_until = time.monotonic() + RETRY_AFTER if isinstance(why, OSError) else math.inf
            self.is_unusable = True
            if is_known:
                return self._snapshot
            message = "the snapshot of %(list)r cannot be served: %(why)s"
            events.warning("warmcache.snapshot_refused", message, list=self._name, why=why)
        return self._snapshot
