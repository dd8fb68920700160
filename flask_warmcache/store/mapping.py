"""Opening a file of the cache folder and mapping it into memory."""

from __future__ import annotations

import mmap
import os
import stat
from pathlib import Path

from ..errors import SnapshotError

Stamp = tuple[int, int, int, int]
# Non-blocking, so that a pipe under a file's name cannot make a read wait.
OPEN_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def stamp_of(status: os.stat_result) -> Stamp:
    """Return what identifies a published file: ext4 reuses an inode number at once, and an mtime can be set."""
    return (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def map_file(path: Path, length: int | None) -> tuple[mmap.mmap, Stamp]:
    """Map a file of this account, whole or its first ``length`` bytes, and return the map and the file's stamp.

    :raises SnapshotError: when it is not a regular file of ours, or is shorter.
    """
    descriptor = os.open(path, OPEN_FLAGS)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise SnapshotError(f"{path.name} is not a regular file")
        if status.st_uid != os.geteuid():
            raise SnapshotError(f"{path.name} belongs to another account")
        if status.st_size == 0 or (length is not None and status.st_size < length):
            raise SnapshotError(f"{path.name} is cut short")
        return mmap.mmap(descriptor, length or 0, access=mmap.ACCESS_READ), stamp_of(status)
    finally:
        os.close(descriptor)
