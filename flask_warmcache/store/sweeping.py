"""What takes up space in the cache folder: files that dead writers left, and dead items in a list's files."""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from .file_access import OPEN_FLAGS, may_be_ours, opened
from .snapshot import Snapshot

ABANDONED_AFTER = 3600.0  # seconds
# A data file is rewritten when more than half of it is dead, but never for fewer dead bytes than this.
COMPACT_FROM = 1 << 20
# Each write copies the ones before it.  Measured with 10,300 items: 11 ms for the first, 36 ms after 10,000.
WRITES_FROM = 128 << 10
WRITES_SHARE = 32


def sweep(folder: Path, name: str, keep: Collection[str | None]) -> None:
    """Remove data files to which no index refers, and drafts of dead processes.

    The caller holds both locks of the list.  A write makes its draft of an index without them, but it holds a lock
    on the draft itself, which the kernel releases when the process dies.  A directory is never ours, and is left.
    """
    data = re.compile(rf"{name}\.\d+\.data")
    drafts = re.compile(rf"{name}\.index\.\d+-[0-9a-f]+\.tmp")
    # Only the holder of the rebuild lock writes these.
    own = re.compile(rf"{name}\.(progress\.\d+-[0-9a-f]+|\d+\.data)\.tmp")
    # Any process may be writing one of these now, but none writes for an hour.
    invalidations = re.compile(rf"{name}\.invalidated\.\d+-[0-9a-f]+\.tmp")
    for entry in list(os.scandir(folder)):
        with suppress(FileNotFoundError):
            if entry.is_dir(follow_symlinks=False):
                continue
            is_draft = drafts.fullmatch(entry.name) is not None
            if is_draft and may_be_ours(Path(entry.path)) and os.access(entry.path, os.R_OK):
                _remove_if_abandoned(entry.path)
            elif (
                is_draft
                or (data.fullmatch(entry.name) and entry.name not in keep)
                or own.fullmatch(entry.name)
                or (invalidations.fullmatch(entry.name) and _age(entry) > ABANDONED_AFTER)
            ):
                os.unlink(entry.path)


def _age(entry: os.DirEntry[str]) -> float:
    return time.time() - entry.stat(follow_symlinks=False).st_mtime


def _remove_if_abandoned(path: str) -> None:
    """Delete a draft whose process is dead; it is locked meanwhile, so a process that just created it notices."""
    with opened(path, OPEN_FLAGS) as descriptor, suppress(BlockingIOError):  # then its process lives
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)


def is_mostly_dead(size: int, useful: int) -> bool:
    """Return whether a data file of this size, with this many useful bytes, is to be rewritten."""
    return size > 2 * useful + COMPACT_FROM


def is_heavy(snapshot: Snapshot) -> bool:
    """Return whether a rebuild is due to make the list light again, however fresh it is."""
    if snapshot.is_cold:
        return False
    live = snapshot.header["live_bytes"]
    _, writes, _ = snapshot.header["sections"].get("writes", (0, 0, 0))
    return is_mostly_dead(snapshot.header["data"]["length"], live) or writes > WRITES_FROM + live // WRITES_SHARE
