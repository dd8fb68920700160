"""A list's data file: items are appended, one per line, and never changed."""

from __future__ import annotations

import errno
import os
import secrets
import time
import zlib
from array import array
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from ..errors import RebuildError, SnapshotError
from . import format as fmt
from .file_access import CREATE_FLAGS, crc_of, opened, write_all
from .locks import PublishLock

APPEND_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
BUFFER = 1 << 20
# Seconds after which finished items are written at the latest; a killed rebuild loses only the ones since.
FLUSH_EVERY = 0.005
FIRST_LINE_MAX = 256


class DataWriter:
    """The data file that a rebuild writes, under the rebuild lock.

    At first no index refers to it.  It may be published while it grows, with a partial list.  From then on a write
    may append to it, too, so both append only under the publish lock.
    """

    def __init__(self, path: Path, data_id: str, descriptor: int, end: int, checksum: int) -> None:
        self.path = path
        self.data_id = data_id
        self.descriptor = descriptor
        self.checksum = checksum  # CRC-32 of the file's content
        self.places = array("Q")  # of the lines added or adopted, two numbers each
        self._end = end  # of the file, as far as we know it
        self._pending = bytearray()
        self._pending_lines = 0
        self._flushed_at = time.monotonic()
        self._publish_lock: PublishLock | None = None

    @classmethod
    @contextmanager
    def create(cls, folder: Path, name: str, generation: int) -> Iterator[DataWriter]:
        """Create a data file, which gets its name at the end of the block, with everything that was added in it.

        :raises FileExistsError: when there is a file of this generation already.
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
    def resume(cls, path: Path) -> DataWriter:
        """Open a data file that an interrupted rebuild left, to append to it.

        :raises SnapshotError: when it is not one of ours.
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
            writer._pending += b"\n"  # a killed writer left half a line; no index refers to it
            writer.flush()
        return writer

    @property
    def lines(self) -> int:
        """How many lines were added or adopted so far."""
        return len(self.places) // 2

    @property
    def is_shared(self) -> bool:
        """Whether the file was published, so that other processes may map it and append to it."""
        return self._publish_lock is not None

    def described(self) -> dict[str, Any]:
        """Return what an index says about the flushed file, including what writes have appended."""
        self._move_behind_appended()
        return {"file": self.path.name, "id": self.data_id, "length": self._end, "checksum": self.checksum}

    @property
    def end(self) -> int:
        """The file's length once everything is flushed."""
        return self._end + len(self._pending)

    def adopt(self, tab: int, newline: int) -> int:
        """Note a line that is in the file already, and return its number."""
        self.flush()  # pending lines must stay the last ones in places
        self.places.append(tab)
        self.places.append(newline)
        return self.lines - 1

    def add(self, fingerprint: bytes, encoded: bytes) -> int:
        """Append one item and return its line's number; after ``flush``, ``places`` holds its place."""
        tab = self.end + fmt.FINGERPRINT_LENGTH
        self._pending += fmt.data_line(fingerprint, encoded)
        self._pending_lines += 1
        self.places.append(tab)
        self.places.append(self.end - 1)
        # A flushed line survives the process: the next rebuild finds it.
        if len(self._pending) >= BUFFER or time.monotonic() - self._flushed_at > FLUSH_EVERY:
            self.flush()
        return self.lines - 1

    def place(self, line_number: int) -> tuple[int, int]:
        """Return where the item of this line lies; the line is flushed."""
        return self.places[2 * line_number], self.places[2 * line_number + 1]

    def flush(self) -> None:
        """Write all pending lines."""
        if self._pending:
            with self._publish_lock or nullcontext():
                if self._move_behind_appended() and not _ends_whole(self.descriptor, self._end):
                    self._move_pending(1)  # a killed write left half a line; no index refers to it
                    self._pending[:0] = b"\n"
                write_all(self.descriptor, self._pending)
            self.checksum = zlib.crc32(self._pending, self.checksum)
            self._end += len(self._pending)
            self._pending.clear()
            self._pending_lines = 0
        self._flushed_at = time.monotonic()

    def _move_behind_appended(self) -> bool:
        """Move the pending lines behind what a write has appended, and return whether one has."""
        end = os.lseek(self.descriptor, 0, os.SEEK_END)
        appended = end - self._end
        if appended:
            self.checksum = crc_of(self.descriptor, self._end, end, self.checksum)
            self._end = end
            self._move_pending(appended)
        return bool(appended)

    def _move_pending(self, by: int) -> None:
        for at in range(len(self.places) - 2 * self._pending_lines, len(self.places)):
            self.places[at] += by

    def share(self, lock: PublishLock) -> None:
        """Append under the publish lock from now on, because the file is published."""
        self._publish_lock = lock

    def sync(self) -> None:
        """Write everything to disk; after that an index may refer to it."""
        self.flush()
        os.fsync(self.descriptor)

    def remove(self) -> None:
        """Delete the file, to which no index refers."""
        self.close()
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file; lines that were not flushed are lost."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def check_in_place(self) -> None:
        """Check that the file was not deleted or replaced while we wrote it.

        :raises RebuildError: when it was, so that an index would refer to a missing file.
        """
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            raise _folder_removed() from None
        if not os.path.samestat(status, os.fstat(self.descriptor)):
            raise RebuildError("the data file was replaced during the rebuild")


def _folder_removed() -> RebuildError:
    return RebuildError("the cache folder was removed during the rebuild")


def _ends_whole(descriptor: int, end: int) -> bool:
    """Return whether the last line of a data file of this length is whole."""
    return os.pread(descriptor, 1, end - 1) == b"\n"


class Tail:
    """The end of a published data file, and the lines to be appended to it."""

    def __init__(self, folder: Path, described: dict[str, Any]) -> None:
        """:param described: what the published index says about the file."""
        self._described = described
        self._path = folder / described["file"]
        with opened(self._path, APPEND_FLAGS) as descriptor:
            self._end = os.lseek(descriptor, 0, os.SEEK_END)
            self._checksum = crc_of(descriptor, described["length"], self._end, described["checksum"])
            # A killed write may have left bytes after the published length, even half a line.
            self._lines = bytearray(b"" if _ends_whole(descriptor, self._end) else b"\n")

    def add(self, fingerprint: bytes, encoded: bytes) -> tuple[int, int]:
        """Add an item's line, and return the item's place in the file."""
        tab = self._end + len(self._lines) + fmt.FINGERPRINT_LENGTH
        self._lines += fmt.data_line(fingerprint, encoded)
        return tab, self._end + len(self._lines) - 1

    def described(self) -> dict[str, Any]:
        """Return what the index says about the data file once the lines are appended."""
        length, checksum = self._end + len(self._lines), zlib.crc32(self._lines, self._checksum)
        return {**self._described, "length": length, "checksum": checksum}

    def append(self) -> bool:
        """Append the lines and sync the file; the caller holds the publish lock.

        :returns: False when the file no longer ends where it did; nothing is written then.
        :raises RebuildError: when the folder was removed meanwhile.
        """
        try:
            with opened(self._path, APPEND_FLAGS) as descriptor:
                if os.lseek(descriptor, 0, os.SEEK_END) != self._end:
                    return False
                try:
                    write_all(descriptor, self._lines)
                    os.fsync(descriptor)
                except BaseException:
                    # No index refers to the new lines, and nobody else appends while we hold the lock.
                    os.ftruncate(descriptor, self._end)
                    raise
                return True
        except FileNotFoundError:
            raise _folder_removed() from None
