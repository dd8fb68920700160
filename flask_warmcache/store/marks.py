"""Marks that say a list is out of date.

There are two.  The file ``NAME.invalidated`` holds random text, the *invalidation*, which each ``invalidate``
replaces.  And the published index is marked by a time of modification in 1970, which every reader sees in the
``stat`` that it makes anyway.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from .change_words import announce
from .file_access import OPEN_FLAGS, may_be_ours, opened, read_small, stamp_of, write_small
from .snapshot import INVALIDATED_BEFORE, Snapshot


def invalidate(folder: Path, name: str) -> None:
    """Mark the published index, and the one that a running rebuild is about to publish, as out of date.

    A rebuild compares the invalidation that it read before it called ``source`` with the one after its rename
    (see ``mark_if_invalidated``).  However the two processes interleave, either the rebuild sees the new
    invalidation, or the index that it published is marked here.
    """
    try:
        write_small(folder, f"{name}.invalidated", secrets.token_hex(8).encode(), sync=False)
    finally:
        mark(folder, name)  # takes no space, so that a write that a full disk refuses comes with the next rebuild


def invalidation(folder: Path, name: str) -> str:
    """Return the text of the last ``invalidate``, or an empty text."""
    return read_small(folder, f"{name}.invalidated").decode("ascii", "replace")


def mark_if_invalidated(folder: Path, name: str, known: str) -> None:
    """Mark the index that was just published if the list was invalidated since ``known`` was read."""
    if invalidation(folder, name) != known:
        mark(folder, name)


def mark(folder: Path, name: str) -> None:
    """Mark the index that is published under this name, unless no process can read it."""
    path = folder / f"{name}.index"
    with suppress(FileNotFoundError):
        if may_be_ours(path):
            os.utime(path, ns=_in_1970(), follow_symlinks=False)
            announce(folder, name)


def mark_snapshot(folder: Path, name: str, snapshot: Snapshot) -> None:
    """Mark the published index if it is still this snapshot's."""
    with suppress(FileNotFoundError), opened(folder / f"{name}.index", OPEN_FLAGS) as descriptor:
        # By descriptor: after the comparison, the name may belong to the next index.
        if stamp_of(os.fstat(descriptor)) == snapshot.stamp:
            os.utime(descriptor, ns=_in_1970())
            announce(folder, name)


@contextmanager
def published_mark(folder: Path, name: str) -> Iterator[Callable[[], bool]]:
    """Give a function that tells whether the index published now is marked, even after it has been replaced."""
    with ExitStack() as stack:
        descriptor = None
        path = folder / f"{name}.index"
        with suppress(FileNotFoundError, PermissionError):  # what no process can read is replaced all the same
            if may_be_ours(path):
                descriptor = stack.enter_context(opened(path, OPEN_FLAGS))
        yield lambda: descriptor is not None and os.fstat(descriptor).st_mtime_ns < INVALIDATED_BEFORE


def _in_1970() -> tuple[int, int]:
    """Return a random time that marks an index, so that marking an index again changes its stamp."""
    time = secrets.randbelow(INVALIDATED_BEFORE)
    return time, time
