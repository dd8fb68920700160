"""Whether there is anything new to look at: two words in shared memory, which every change overwrites.

A ``stat`` for each request costs more than its two microseconds: it gives the interpreter away, and with threads
another one takes it.  So a reader compares the words with those that were there before its last look.

The first word belongs to who holds the publish lock: it is zero, which means "look", from before the rename until
behind it, so that no reader goes on with the old list when another has seen the new one.  A publisher killed in
between leaves it zero until the next publication.  The second belongs to who marks what is published.  What nobody
tells of, a folder removed or a backup put back, is seen within a hundredth of a second: every reader looks then.
"""

from __future__ import annotations

import logging
import mmap
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import SnapshotError
from .mapping import map_file

log = logging.getLogger("flask_warmcache")
WORD = 8  # bytes
LOOK = bytes(WORD)  # as the first word
LOOK_ANYWAY_AFTER = 0.01  # seconds
WRITE_FLAGS = os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Watch:
    """What one reader has seen of one list's changes."""

    def __init__(self, folder: Path, name: str) -> None:
        """Only remembers where they are told."""
        self._path = _path(folder, name)
        self._inode = 0  # no other file gets its number while it is mapped
        self._words: mmap.mmap | bytes = b""
        self.forget()

    def forget(self) -> None:
        """Have the next read look, whatever the words say."""
        self._seen = b""
        self._until = 0.0  # of the monotonic clock

    def is_over(self) -> bool:
        """Whether it is time to look; asked by every read."""
        return self._words[:] != self._seen or time.monotonic() >= self._until

    def before(self) -> tuple[bytes, float]:
        """What to give to ``after``: what is overwritten from now on leads to another look."""
        now = time.monotonic()
        try:
            inode = os.stat(self._path).st_ino
            if inode != self._inode:
                self._words, (inode, *_) = map_file(self._path, 2 * WORD)
        except (SnapshotError, ValueError, OSError):
            inode, self._words = 0, b""
        self._inode = inode
        return self._words[:], now

    def after(self, words: bytes, looked_at: float) -> None:
        """Nothing was new: no look is needed until somebody overwrites the words."""
        is_told = bool(words) and not words.startswith(LOOK)
        self._until = looked_at + LOOK_ANYWAY_AFTER if is_told else 0.0
        self._seen = words


@contextmanager
def told(folder: Path, name: str) -> Iterator[None]:
    """Around a publication: every read that begins in it looks, and so does the first one behind it.

    The caller holds the publish lock.
    """
    _write_or_wait(folder, name, LOOK + secrets.token_bytes(WORD), 0)
    try:
        yield
    finally:
        _write_or_wait(folder, name, secrets.token_bytes(2 * WORD), 0)


def tell(folder: Path, name: str) -> None:
    """Return when every read of this list from now on is one that has looked."""
    _write_or_wait(folder, name, secrets.token_bytes(WORD), WORD)


def _write_or_wait(folder: Path, name: str, words: bytes, at: int) -> None:
    """Who cannot be told is waited for: a hundredth of a second later it has looked by itself."""
    try:
        if _write(_path(folder, name), words, at):
            return
    except OSError:
        log.warning("warmcache.not_told: what is new in %r is seen a moment late", name, exc_info=True)
    _let_all_look()


def _let_all_look() -> None:
    time.sleep(LOOK_ANYWAY_AFTER)


def _write(path: Path, words: bytes, at: int) -> bool:
    """Whether all readers know of the file: not when it is new, they may have an older one mapped that is gone."""
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
