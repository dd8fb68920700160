"""Writing indexes: each is a draft first, and one rename publishes it.

A publication is all or nothing for readers: the data is synced before the index that refers to it, and
one rename puts the whole index under its name.  A writer killed at any instruction leaves at worst a file to
which nothing refers, and the next holder of the rebuild lock removes it.
"""

from __future__ import annotations

import os
import secrets
import time
import zlib
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .. import events
from . import format as fmt
from .change_words import changing
from .file_access import CREATE_FLAGS, opened, put_in_place, write_pieces
from .locks import try_lock

Piece = array | bytes | bytearray | memoryview  # type: ignore[type-arg]
Section = Piece | list[Piece]  # in pieces where most of it is copied from the index before it


def next_generation(*seen: int) -> int:
    """Return the time in nanoseconds, or a larger number if needed to exceed every generation seen."""
    return max(time.time_ns(), *(generation + 1 for generation in seen), 1)


class Draft:
    """A whole index beside the published one, which it replaces with one rename."""

    def __init__(
        self, folder: Path, name: str, header: Mapping[str, Any], sections: Mapping[str, Section], *, sync: bool
    ) -> None:
        """
        :param header: all of the header but the section table; ``generation`` becomes the file's mtime.
        :param sync: whether it is to be published, and must be on disk before that.
        """
        self.generation: int = header["generation"]
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
            os.utime(descriptor, ns=(self.generation, self.generation))
        except BaseException:
            self.remove()
            raise

    def _create(self) -> tuple[Path, int]:
        """Create a file and lock it: the lock shows processes that remove abandoned drafts that we are alive.

        Such a process may come between the creation and the lock.  Then it holds the lock, or the file is gone,
        and another is created.
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
        """Replace the published index; the caller holds the publish lock and has synced the data."""
        with changing(self._folder, self._name):
            put_in_place(self.path, self._folder / f"{self._name}.index")
        self.remove()
        _sync_folder(self._folder)

    def remove(self) -> None:
        """Delete the draft if it was not published; later calls do nothing."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            try:
                os.close(descriptor)
            except OSError:
                # Some file systems report failed writes here.  The draft was synced before the rename.
                events.warning("warmcache.not_closed", "the draft of an index", error=True)
            self.path.unlink(missing_ok=True)


def pieces(content: Section) -> Iterator[memoryview]:
    """Yield the bytes of a section, piece by piece."""
    for piece in content if isinstance(content, list) else [content]:
        view = memoryview(piece)
        if view.nbytes:
            yield view.cast("B")


def _sync_folder(folder: Path) -> None:
    """Make a rename durable.  An error is only logged, because the snapshot is published all the same."""
    try:
        with opened(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) as descriptor:
            os.fsync(descriptor)
    except OSError:
        message = "a snapshot is published, but may not survive a power cut"
        events.warning("warmcache.not_durable", message, error=True)
