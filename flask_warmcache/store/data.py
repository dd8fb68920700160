"""A list's data file: items appended, one per line, and never changed."""

from __future__ import annotations

import errno
import os
import secrets
import time
import zlib
from array import array
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from ..errors import RebuildError, SnapshotError
from . import format as fmt
from .verify import crc_of
from .writer import CREATE_FLAGS, write_all

APPEND_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
BUFFER = 1 << 20
# A finished item is handed to the system after so many seconds at the latest: a killed rebuild loses no more.
FLUSH_EVERY = 0.005
FIRST_LINE_MAX = 256


class DataWriter:
    """The data file that a rebuild writes; only the holder of the rebuild lock has one.

    No index refers to it at first.  It may be published while it grows, as that of a partial list; then a write
    may append to it, too, so from that moment both do so under the publish lock only.
    """

    def __init__(self, path: Path, data_id: str, descriptor: int, end: int, checksum: int) -> None:
        self.path = path
        self.data_id = data_id
        self.descriptor = descriptor
        self.checksum = checksum  # CRC-32 of what is in the file
        self.places = array("Q")  # of the lines added or found, two numbers each
        self._end = end  # of the file, as we know it
        self._pending = bytearray()
        self._pending_lines = 0
        self._flushed_at = time.monotonic()
        self._sharing: Callable[[], AbstractContextManager[None]] | None = None
        self._lock_is_held = False  # the publish lock, by who publishes this file

    @classmethod
    @contextmanager
    def beginning(cls, folder: Path, name: str, generation: int) -> Iterator[DataWriter]:
        """Begin a new data file, which the next rebuild finds only with all that was added within.

        :raises FileExistsError: when there is one of this generation; only who holds the rebuild lock makes any.
        :raises RebuildError: when the folder was removed meanwhile.
        """
        path = folder / f"{name}.{generation}.data"
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path.name)
        draft = folder / f"{path.name}.tmp"
        writer = cls(path, secrets.token_hex(8), os.open(draft, CREATE_FLAGS, 0o600), 0, 0)
        writer._pending += fmt.data_first_line(writer.data_id)
        try:
            yield writer
            writer.flush()
            try:
                os.rename(draft, path)
            except FileNotFoundError:
                raise _folder_removed() from None
        except BaseException:
            writer.close()
            draft.unlink(missing_ok=True)
            raise

    @classmethod
    def go_on(cls, path: Path) -> DataWriter:
        """Go on in a data file that an interrupted rebuild left.

        :raises SnapshotError: when it is none of ours.
        """
        descriptor = os.open(path, APPEND_FLAGS)
        try:
            status = os.fstat(descriptor)
            first = os.pread(descriptor, FIRST_LINE_MAX, 0).partition(b"\n")[0] + b"\n"
            data_id = fmt.data_id_of(first)
            if status.st_uid != os.geteuid():
                raise SnapshotError(f"{path.name} belongs to another account")
        except BaseException:
            os.close(descriptor)
            raise
        end = os.lseek(descriptor, 0, os.SEEK_END)
        writer = cls(path, data_id, descriptor, end, crc_of(descriptor, 0, end, 0))
        if not _ends_whole(descriptor, end):
            writer._pending += b"\n"  # a killed writer left half a line; no index points at it
            writer.flush()
        return writer

    @property
    def lines(self) -> int:
        """How many lines were added or found so far."""
        return len(self.places) // 2

    @property
    def is_shared(self) -> bool:
        """Whether the file was published, so that others may map it and append to it."""
        return self._sharing is not None

    def described(self) -> dict[str, Any]:
        """What an index says of the file as it is, with what a write has appended; everything is flushed."""
        self._make_room()
        return {"file": self.path.name, "id": self.data_id, "length": self._end, "checksum": self.checksum}

    @property
    def end(self) -> int:
        """The file's length once everything is flushed."""
        return self._end + len(self._pending)

    def found(self, tab: int, newline: int) -> int:
        """Take a line that is in the file already; returns its number."""
        self.flush()  # the pending lines are the last ones in places
        self.places.append(tab)
        self.places.append(newline)
        return self.lines - 1

    def add(self, fingerprint: bytes, encoded: bytes) -> int:
        """Append one item; returns its line's number, under which ``places`` has it after ``flush``."""
        tab = self.end + fmt.FINGERPRINT_LENGTH
        self._pending += fmt.data_line(fingerprint, encoded)
        self._pending_lines += 1
        self.places.append(tab)
        self.places.append(self.end - 1)
        # What a killed process has handed over to the system is there for the next one.
        if len(self._pending) >= BUFFER or time.monotonic() - self._flushed_at > FLUSH_EVERY:
            self.flush()
        return self.lines - 1

    def place(self, line_number: int) -> tuple[int, int]:
        """Return where the item of this line lies; the line is flushed."""
        return self.places[2 * line_number], self.places[2 * line_number + 1]

    def flush(self) -> None:
        """Hand everything to the operating system."""
        if self._pending:
            with nullcontext() if self._sharing is None or self._lock_is_held else self._sharing():
                if self._make_room() and not _ends_whole(self.descriptor, self._end):
                    self._move_pending(1)  # a killed write left half a line; no index points at it
                    self._pending[:0] = b"\n"
                write_all(self.descriptor, self._pending)
            self.checksum = zlib.crc32(self._pending, self.checksum)
            self._end += len(self._pending)
            self._pending.clear()
            self._pending_lines = 0
        self._flushed_at = time.monotonic()

    def _make_room(self) -> bool:
        """Put the pending lines behind what a write has appended meanwhile; says whether one has."""
        end = os.lseek(self.descriptor, 0, os.SEEK_END)
        moved = end - self._end
        if moved:
            self.checksum = crc_of(self.descriptor, self._end, end, self.checksum)
            self._end = end
            self._move_pending(moved)
        return bool(moved)

    def _move_pending(self, by: int) -> None:
        for at in range(len(self.places) - 2 * self._pending_lines, len(self.places)):
            self.places[at] += by

    def share(self, publishing: Callable[[], AbstractContextManager[None]]) -> None:
        """From here on the file is published, so lines are appended under the publish lock."""
        self._sharing = publishing

    @contextmanager
    def lock_held(self, held: bool) -> Iterator[None]:
        """Within it, whether the publish lock is held by who writes here."""
        self._lock_is_held = held
        try:
            yield
        finally:
            self._lock_is_held = False

    def sync(self) -> None:
        """Have everything on disk; an index may point at it from here on."""
        self.flush()
        os.fsync(self.descriptor)

    def remove(self) -> None:
        """Delete the file; for one that no index refers to."""
        self.close()
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Give the descriptor back; what was not flushed is dropped."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def check_in_place(self) -> None:
        """Refuse to go on when the file was deleted or replaced under us.

        :raises RebuildError: an index would point at a file that is not there.
        """
        try:
            named = os.stat(self.path)
        except FileNotFoundError:
            raise _folder_removed() from None
        if not os.path.samestat(named, os.fstat(self.descriptor)):
            raise RebuildError("the data file was replaced during the rebuild")


def _folder_removed() -> RebuildError:
    return RebuildError("the cache folder was removed during the rebuild")


def _ends_whole(descriptor: int, end: int) -> bool:
    """Whether the last line of a data file of so many bytes is not half of one."""
    return os.pread(descriptor, 1, end - 1) == b"\n"


def end_of(path: Path, begin: int, checksum: int) -> tuple[int, int, bool]:
    """Where a data file ends, the checksum up to there, and whether its last line is whole.

    :param begin: how much of it ``checksum`` is of.
    """
    descriptor = os.open(path, APPEND_FLAGS)
    try:
        end = os.lseek(descriptor, 0, os.SEEK_END)
        return end, crc_of(descriptor, begin, end, checksum), _ends_whole(descriptor, end)
    finally:
        os.close(descriptor)


def append_lines(path: Path, expected_end: int, lines: bytes) -> bool:
    """Append whole lines to a published data file and sync it; the caller holds the publish lock.

    :returns: whether the file ended where the lines' places assume; if not, nothing was written.
    """
    descriptor = os.open(path, APPEND_FLAGS)
    try:
        if os.lseek(descriptor, 0, os.SEEK_END) != expected_end:
            return False
        try:
            write_all(descriptor, lines)
            os.fsync(descriptor)
        except BaseException:
            # No index points behind expected_end, and nobody else appends while we hold the lock.
            os.ftruncate(descriptor, expected_end)
            raise
        return True
    finally:
        os.close(descriptor)
