"""Change words: how a read knows, without a system call, that nothing was published or marked.

A ``stat`` in each request costs more than its two microseconds: it releases the interpreter lock, and another
thread takes it.  So each list has a file of two words, ``NAME.changes``.  Readers map it into memory, and every
change overwrites a word with random bytes.  A reader compares the words with those it read before its last
``stat`` of the index.

The first word belongs to the holder of the publish lock.  From before the rename until after it the word is zero,
which makes every read ``stat``; otherwise one reader could continue with the old list after another has shown the
new one.  A publisher killed in between leaves it zero until the next publication.  The second word belongs to the
processes that mark a published index.

Some changes are not announced: a folder is removed, a backup is restored.  Every reader finds them within a
hundredth of a second, because it makes a ``stat`` at least that often.
"""

from __future__ import annotations

import mmap
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .. import events
from ..errors import SnapshotError
from .file_access import map_file

WORD = 8  # bytes
CHANGING = bytes(WORD)  # as the first word
STAT_EVERY = 0.01  # seconds
WRITE_FLAGS = os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Watch:
    """One reader's memory of one list's change words."""

    def __init__(self, folder: Path, name: str) -> None:
        """Remember where the words are; the file is mapped at the first read."""
        self._path = _path(folder, name)
        self._inode = 0  # no other file gets this number while the file is mapped
        self._words: mmap.mmap | bytes = b""
        self.expire()

    def expire(self) -> None:
        """Make the next read stat the index, whatever the words say."""
        self._seen = b""
        self._until = 0.0  # of the monotonic clock

    def needs_stat(self) -> bool:
        """Return whether a read must stat the index; every read calls this."""
        return self._words[:] != self._seen or time.monotonic() >= self._until

    def read(self) -> tuple[bytes, float]:
        """Return the words and the time, to be read before a stat: a later overwrite then causes another stat."""
        now = time.monotonic()
        try:
            inode = os.stat(self._path).st_ino
            if inode != self._inode:
                self._words, (inode, *_) = map_file(self._path, 2 * WORD)
        except (SnapshotError, ValueError, OSError):
            inode, self._words = 0, b""
        self._inode = inode
        return self._words[:], now

    def note_unchanged(self, words: bytes, read_at: float) -> None:
        """Record that the stat found nothing new: reads need no other until these words are overwritten."""
        is_settled = bool(words) and not words.startswith(CHANGING)
        self._until = read_at + STAT_EVERY if is_settled else 0.0
        self._seen = words


@contextmanager
def changing(folder: Path, name: str) -> Iterator[None]:
    """Make every read in this block stat the index, and every reader's first read after it.

    The caller holds the publish lock.
    """
    _overwrite_or_wait(folder, name, CHANGING + secrets.token_bytes(WORD), 0)
    try:
        yield
    finally:
        _overwrite_or_wait(folder, name, secrets.token_bytes(2 * WORD), 0)


def announce(folder: Path, name: str) -> None:
    """Return when the next read of every reader of this list is certain to stat the index."""
    _overwrite_or_wait(folder, name, secrets.token_bytes(WORD), WORD)


def _overwrite_or_wait(folder: Path, name: str, words: bytes, at: int) -> None:
    """Overwrite the words; where readers may not see that, wait until each must have made a stat of its own."""
    try:
        if _overwrite(_path(folder, name), words, at):
            return
    except OSError:
        events.warning("warmcache.not_told", "a change of %(list)r is seen a moment late", error=True, list=name)
    _wait_for_all_readers()


def _wait_for_all_readers() -> None:
    time.sleep(STAT_EVERY)


def _overwrite(path: Path, words: bytes, at: int) -> bool:
    """Return whether all readers see it; if the file is new, some may still map a removed one."""
    try:
        descriptor, is_known = os.open(path, WRITE_FLAGS), True
    except FileNotFoundError:
        descriptor, is_known = os.open(path, WRITE_FLAGS | os.O_CREAT, 0o600), False
    try:
        os.pwrite(descriptor, words, at)
    finally:
        os.close(descriptor)
    return is_known


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name}.changes"
