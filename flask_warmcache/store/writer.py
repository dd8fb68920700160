"""Writing indexes: made beside the published one, put in its place by rename.

A publication is all or nothing for readers: the data is synced before the index that points at it,
and the index appears under its name by ``os.replace``, whole.  Killed at any instruction, a writer
leaves at worst an unreferenced file, which the next holder of the rebuild lock removes.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import time
import zlib
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import format as fmt
from .changes import told
from .locks import try_lock

log = logging.getLogger("flask_warmcache")
CREATE_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
PIECES_MAX = 500  # with one call; Linux takes 1,024
Piece = array | bytes | bytearray | memoryview  # type: ignore[type-arg]
Section = Piece | list[Piece]  # in pieces where most of it is copied from the index before


def write_all(descriptor: int, data: bytes | bytearray | memoryview) -> None:
    """Write every byte; ``os.write`` may write fewer without an error, at a size limit for instance."""
    view = memoryview(data).cast("B")
    while view:
        view = view[os.write(descriptor, view) :]


def write_pieces(descriptor: int, views: Sequence[memoryview]) -> None:
    """Write every byte of every piece: hundreds with one call, and one by one what a short write leaves."""
    for begin in range(0, len(views), PIECES_MAX):
        batch = views[begin : begin + PIECES_MAX]
        written = os.writev(descriptor, batch)
        for view in batch:
            if written < len(view):
                write_all(descriptor, view[written:])
            written = max(0, written - len(view))


def next_generation(*seen: int) -> int:
    """The publishing time in nanoseconds, made to rise strictly above every generation seen."""
    return max(time.time_ns(), *(generation + 1 for generation in seen), 1)


class Draft:
    """An index written whole beside the published one, which one rename makes the published one."""

    def __init__(
        self, folder: Path, name: str, header: Mapping[str, Any], sections: Mapping[str, Section], *, sync: bool
    ) -> None:
        """
        :param header: all of the header but the section table; ``generation`` becomes the file's mtime.
        :param sync: whether it must be on disk, since it is to be published.
        """
        self._folder = folder
        self._name = name
        table: dict[str, tuple[int, int, int]] = {}
        offset = 0
        for section, content in sections.items():
            length = checksum = 0
            for view in pieces(content):
                length += len(view)
                checksum = zlib.crc32(view, checksum)
            table[section] = (offset, length, checksum)
            offset += length + (-length % 8)
        head = fmt.pack_header({**header, "list": name, "sections": table})
        self.path, self._descriptor = self._create()
        descriptor = self._descriptor
        try:
            views = [memoryview(head)]
            for section, content in sections.items():
                views += pieces(content)
                views.append(memoryview(bytes(-table[section][1] % 8)))
            write_pieces(descriptor, views)
            if sync:
                os.fsync(descriptor)
            os.utime(descriptor, ns=(header["generation"], header["generation"]))
        except BaseException:
            self.remove()
            raise

    def _create(self) -> tuple[Path, int]:
        """A file that is locked, which says that its maker lives, to who removes forsaken ones.

        Who looks for those may come between the creation and the lock: then he has the lock, or the file is gone.
        """
        while True:
            path = self._folder / f"{self._name}.index.{os.getpid()}-{secrets.token_hex(4)}.tmp"
            descriptor = os.open(path, CREATE_FLAGS, 0o600)
            try:
                if try_lock(descriptor) and os.fstat(descriptor).st_nlink:
                    return path, descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def publish(self) -> None:
        """Put it in place of the published index; the caller holds the publish lock and has synced the data."""
        with told(self._folder, self._name):
            os.replace(self.path, self._folder / f"{self._name}.index")
        self.remove()
        _sync_folder(self._folder)

    def remove(self) -> None:
        """Delete it if it was not published; later calls do nothing."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            try:
                os.close(descriptor)
            except OSError:
                # Some file systems tell here what they could not write. It has been synced before the rename.
                log.warning("warmcache.not_closed: the draft of an index", exc_info=True)
            self.path.unlink(missing_ok=True)


def remove_if_forsaken(path: str) -> None:
    """Delete a draft whose maker is dead; it is locked meanwhile, so a maker who comes late makes another."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
    except BlockingIOError:
        pass  # its maker lives
    finally:
        os.close(descriptor)


def pieces(content: Section) -> Iterator[memoryview]:
    """The bytes of a section, piece by piece."""
    for piece in content if isinstance(content, list) else [content]:
        view = memoryview(piece)
        if view.nbytes:
            yield view.cast("B")


def publish_index(folder: Path, name: str, header: Mapping[str, Any], sections: Mapping[str, Section]) -> None:
    """Put a snapshot's index in place; the caller holds the publish lock and has synced the data.

    :param header: all of the header but the section table; ``generation`` becomes the file's mtime.
    """
    Draft(folder, name, header, sections, sync=True).publish()


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
