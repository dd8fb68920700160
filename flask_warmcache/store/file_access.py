"""Opening, mapping, reading and writing single files of the cache folder."""

from __future__ import annotations

import mmap
import os
import secrets
import stat
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..errors import SnapshotError

Stamp = tuple[int, int, int, int]
# Non-blocking, so that a pipe under a file's name cannot make a read wait.
OPEN_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
CREATE_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
SMALL_FILE_MAX = 64 * 1024
# Small enough that malloc serves it from its own heap and does not ask the system for each piece.
VERIFY_SLICE = 1 << 16
PIECES_MAX = 500  # in one call; Linux accepts 1,024


@contextmanager
def opened(path: str | Path, flags: int) -> Iterator[int]:
    """Give the descriptor of a file that is open during the block; no other account may use a file made here."""
    descriptor = os.open(path, flags, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def stamp_of(status: os.stat_result) -> Stamp:
    """Return what identifies a published file: ext4 reuses an inode number at once, and an mtime can be set."""
    return (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def current_stamp(path: str) -> Stamp | None:
    """Return the stamp of the file that has this name now, or None if there is none."""
    try:
        return stamp_of(os.stat(path))
    except OSError:
        return None


def may_be_ours(path: Path) -> bool:
    """Return whether this is a regular file of this account; no process of ours reads or leaves anything else."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()


def put_in_place(draft: Path, path: Path) -> None:
    """Give a draft its name, whatever has that name now; a directory is removed if it is empty, or moved aside."""
    try:
        os.replace(draft, path)
    except IsADirectoryError:
        if not stat.S_ISDIR(os.lstat(path).st_mode):  # then the draft is one
            raise
        try:
            os.rmdir(path)
        except OSError:
            os.rename(path, path.with_name(f"{path.name}.{secrets.token_hex(4)}.aside"))
        os.replace(draft, path)


def map_file(path: Path, length: int | None) -> tuple[mmap.mmap, Stamp]:
    """Map a file of this account, whole or its first ``length`` bytes, and return the map and the file's stamp.

    :raises SnapshotError: when it is not a regular file of ours, or is shorter.
    """
    with opened(path, OPEN_FLAGS) as descriptor:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise SnapshotError(f"{path.name} is not a regular file")
        if status.st_uid != os.geteuid():
            raise SnapshotError(f"{path.name} belongs to another account")
        if status.st_size == 0 or (length is not None and status.st_size < length):
            raise SnapshotError(f"{path.name} is cut short")
        return mmap.mmap(descriptor, length or 0, access=mmap.ACCESS_READ), stamp_of(status)


def crc_of(descriptor: int, begin: int, end: int, checksum: int) -> int:
    """Return the CRC-32 of a part of a file, continued from ``checksum``."""
    while begin < end:
        piece = os.pread(descriptor, min(VERIFY_SLICE, end - begin), begin)
        if not piece:
            break
        checksum = zlib.crc32(piece, checksum)
        begin += len(piece)
    return checksum


def write_all(descriptor: int, data: bytes | bytearray | memoryview) -> None:
    """Write every byte; ``os.write`` may write fewer without an error, at a size limit for example."""
    view = memoryview(data).cast("B")
    while view:
        view = view[os.write(descriptor, view) :]


def write_pieces(descriptor: int, views: Sequence[memoryview]) -> None:
    """Write every byte of every piece: hundreds in one call, and the rest of a short write one by one."""
    for begin in range(0, len(views), PIECES_MAX):
        batch = views[begin : begin + PIECES_MAX]
        written = os.writev(descriptor, batch)
        for view in batch:
            if written < len(view):
                write_all(descriptor, view[written:])
            written = max(0, written - len(view))


def write_small(folder: Path, file_name: str, data: bytes, *, sync: bool) -> None:
    """Replace a small file by rename, so that a reader sees its old or its new content."""
    draft = folder / f"{file_name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    try:
        with opened(draft, CREATE_FLAGS) as descriptor:
            write_all(descriptor, data)
            if sync:
                os.fsync(descriptor)
        put_in_place(draft, folder / file_name)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def read_small(folder: Path, file_name: str) -> bytes:
    """Return a small file's content, or nothing when it cannot be read."""
    try:
        with opened(folder / file_name, OPEN_FLAGS) as descriptor:
            return os.read(descriptor, SMALL_FILE_MAX)
    except OSError:
        return b""
