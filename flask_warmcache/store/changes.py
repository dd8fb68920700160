"""Whether there is anything new to look at: one word in shared memory, which every change overwrites.

A ``stat`` for each request costs more than its two microseconds: it gives the interpreter away, and with threads
another one takes it.  So who publishes, marks or reports overwrites the word behind it, and who reads compares it
with the word that was there before its last look.  It only saves looks: what is not told, as a folder removed,
a backup put back or a writer killed in between, is seen within half a second.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Sequence
from pathlib import Path

from .snapshot import DAMAGE, map_file

log = logging.getLogger("flask_warmcache")
FILE = "changes"
BYTES = 8
LOOK_ANYWAY_AFTER = 0.5  # seconds
NOT_MAPPED = (0,)  # in the word's place
WRITE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Changes:
    """A folder's word, as one process has it mapped."""

    def __init__(self, folder: Path) -> None:
        """Only remembers the folder."""
        self._path = folder / FILE
        self._inode = 0  # no other file gets its number while it is mapped
        self.word: Sequence[int] = NOT_MAPPED

    def find(self) -> None:
        """Map the file that is there now, if it is not the one that is mapped."""
        try:
            inode = os.stat(self._path).st_ino
            if inode != self._inode:
                mapped, (inode, *_) = map_file(self._path, BYTES)
                self.word = memoryview(mapped).cast("Q")
        except (*DAMAGE, OSError):
            inode, self.word = 0, NOT_MAPPED
        self._inode = inode


class Watch:
    """What one reader has seen."""

    def __init__(self, changes: Changes) -> None:
        """:param changes: of the folder that it reads in."""
        self._changes = changes
        self.forget()

    def forget(self) -> None:
        """Have the next read look, whatever the word says."""
        self._seen = 0
        self._until = 0.0  # of the monotonic clock

    def is_over(self) -> bool:
        """Whether it is time to look; asked by every read."""
        return self._changes.word[0] != self._seen or time.monotonic() >= self._until

    def before(self) -> int:
        """The word to give to ``after``; what is overwritten from now on leads to another look."""
        self._changes.find()
        return self._changes.word[0]

    def after(self, word: int) -> None:
        """Nothing new, or all of it read: no look is needed until somebody overwrites the word."""
        self._until = time.monotonic() + LOOK_ANYWAY_AFTER if word else 0.0
        self._seen = word


def tell(folder: Path) -> None:
    """Have every reader look, from this moment on.

    :raises OSError: when they cannot be told; they look half a second later.
    """
    descriptor = os.open(folder / FILE, WRITE_FLAGS, 0o600)
    try:
        os.pwrite(descriptor, secrets.token_bytes(BYTES), 0)
    finally:
        os.close(descriptor)


def tell_or_wait(folder: Path) -> None:
    """Return when every read from now on is one that has looked."""
    try:
        tell(folder)
    except OSError:
        log.warning("warmcache.not_told: what is new is seen half a second late", exc_info=True)
        time.sleep(LOOK_ANYWAY_AFTER)
