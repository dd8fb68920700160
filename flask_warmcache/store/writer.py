"""Writing a snapshot: items appended to a data file, an index published by rename.

A publication is all or nothing for readers: the data is synced before the index that points at it,
and the index appears under its name by ``os.replace``, whole.  Killed at any instruction, a writer
leaves at worst an unreferenced file, which the next holder of the rebuild lock removes.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
import zlib
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import RebuildError
from . import format as fmt
from .snapshot import Snapshot, crc_of

log = logging.getLogger("flask_warmcache")
BUFFER = 1 << 20
CREATE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
APPEND_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
Section = array | bytes | bytearray  # type: ignore[type-arg]


def write_all(descriptor: int, data: bytes | bytearray | memoryview) -> None:
    """Write every byte; ``os.write`` may write fewer without an error, at a size limit for instance."""
    view = memoryview(data).cast("B")
    while view:
        view = view[os.write(descriptor, view) :]


def write_whole(folder: Path, name: str, data: bytes, *, sync: bool) -> None:
    """Replace a small file by rename, so that a reader sees it old or new."""
    draft = folder / f"{name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    descriptor = os.open(draft, CREATE_FLAGS, 0o600)
    try:
        try:
            write_all(descriptor, data)
            if sync:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(draft, folder / name)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


class DataWriter:
    """Appends items to a list's data file; only the holder of the rebuild lock has one."""

    def __init__(self, path: Path, data_id: str, descriptor: int, end: int, checksum: int) -> None:
        self.path = path
        self.data_id = data_id
        self.descriptor = descriptor
        self.end = end  # where the next line begins
        self.checksum = checksum  # CRC-32 of everything before it
        self.began = end  # where this rebuild's lines begin
        self.is_new = end == 0  # no index refers to the file yet
        self._pending = bytearray()

    @classmethod
    def create(cls, folder: Path, name: str, generation: int) -> DataWriter:
        """Begin a new data file."""
        path = folder / f"{name}.{generation}.data"
        descriptor = os.open(path, CREATE_FLAGS, 0o600)
        writer = cls(path, secrets.token_hex(8), descriptor, 0, 0)
        writer._append(fmt.data_first_line(writer.data_id))
        return writer

    @classmethod
    def extend(cls, folder: Path, snapshot: Snapshot) -> DataWriter:
        """Go on in the data file of a published snapshot, behind whatever its last writer left."""
        data = snapshot.header["data"]
        path = folder / data["file"]
        descriptor = os.open(path, APPEND_FLAGS)
        end = os.lseek(descriptor, 0, os.SEEK_END)
        # What lies behind the published length was left by a rebuild that did not finish.
        writer = cls(path, data["id"], descriptor, end, crc_of(descriptor, data["length"], end, data["checksum"]))
        if os.pread(descriptor, 1, end - 1) != b"\n":
            writer._append(b"\n")  # a killed writer left half a line; no index points at it
        return writer

    def add(self, fingerprint: bytes, encoded: bytes) -> tuple[int, int]:
        """Append one item; returns what ``Snapshot.place`` will say of it."""
        tab = self.end + fmt.FINGERPRINT_LENGTH
        self._append(b"%b\t%b\n" % (fingerprint, encoded))
        return tab, self.end - 1

    def _append(self, data: bytes) -> None:
        self._pending += data
        self.end += len(data)
        self.checksum = zlib.crc32(data, self.checksum)
        if len(self._pending) >= BUFFER:
            self.flush()

    def flush(self) -> None:
        """Hand everything to the operating system."""
        if self._pending:
            pending, self._pending = self._pending, bytearray()
            write_all(self.descriptor, pending)

    def sync(self) -> None:
        """Have everything on disk; an index may point at it from here on."""
        self.flush()
        os.fsync(self.descriptor)

    def take_back(self) -> None:
        """Drop what was appended, so that a rebuild that failed for lack of room does not keep it.

        Only for lines that no published index refers to: readers that map them would die.
        """
        self._pending.clear()
        if self.is_new:
            self.path.unlink(missing_ok=True)
        else:
            os.ftruncate(self.descriptor, self.began)

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
            raise RebuildError("the cache folder was removed during the rebuild") from None
        if not os.path.samestat(named, os.fstat(self.descriptor)):
            raise RebuildError("the data file was replaced during the rebuild")


def next_generation(*seen: int) -> int:
    """The publishing time in nanoseconds, made to rise strictly above every generation seen."""
    return max(time.time_ns(), *(generation + 1 for generation in seen), 1)


def publish_index(folder: Path, name: str, header: Mapping[str, Any], sections: Mapping[str, Section]) -> None:
    """Put a snapshot's index in place; the caller holds the publish lock and has synced the data.

    :param header: all of the header but the section table; ``generation`` becomes the file's mtime.
    """
    table: dict[str, tuple[int, int, int]] = {}
    offset = 0
    for section, content in sections.items():
        view = memoryview(content).cast("B")
        table[section] = (offset, len(view), zlib.crc32(view))
        offset += len(view) + (-len(view) % 8)
    head = fmt.pack_header({**header, "list": name, "sections": table})
    draft = folder / f"{name}.index.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    descriptor = os.open(draft, CREATE_FLAGS, 0o600)
    try:
        try:
            write_all(descriptor, head)
            for content in sections.values():
                view = memoryview(content).cast("B")
                write_all(descriptor, view)
                write_all(descriptor, bytes(-len(view) % 8))
            os.fsync(descriptor)
            os.utime(descriptor, ns=(header["generation"], header["generation"]))
        finally:
            os.close(descriptor)
        os.replace(draft, folder / f"{name}.index")
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    """Make a rename durable; one that is not stays published all the same, so an error is no failure."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError:
        log.warning(
            "warmcache.not_durable: a snapshot is published, but may not survive a power cut", exc_info=True
        )
