"""What dead writers leave in the cache folder: what a rebuild goes on in, and what is removed."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from .snapshot import DAMAGE, Snapshot
from .writer import remove_if_forsaken

if TYPE_CHECKING:
    from .files import FileStore

FORGOTTEN_AFTER = 3600.0


def sweep(folder: Path, name: str, keep: Collection[str | None]) -> None:
    """Remove data files that no index refers to, and drafts of dead writers.

    The caller holds both locks of the list. A write makes its draft without them, but a draft's maker holds
    a lock on the draft itself, which the kernel frees when it dies.
    """
    data = re.compile(rf"{name}\.\d+\.data")
    drafts = re.compile(rf"{name}\.index\.\d+-[0-9a-f]+\.tmp")
    # Only the holder of the rebuild lock writes these.
    own = re.compile(rf"{name}\.(progress\.\d+-[0-9a-f]+|\d+\.data)\.tmp")
    # Anybody may be writing one of these at this moment, but not for an hour.
    forgotten = re.compile(rf"{name}\.invalidated\.\d+-[0-9a-f]+\.tmp")
    for entry in list(os.scandir(folder)):
        try:
            if drafts.fullmatch(entry.name):
                remove_if_forsaken(entry.path)
            elif (
                (data.fullmatch(entry.name) and entry.name not in keep)
                or own.fullmatch(entry.name)
                or (forgotten.fullmatch(entry.name) and entry.stat().st_mtime < time.time() - FORGOTTEN_AFTER)
            ):
                os.unlink(entry.path)
        except FileNotFoundError:
            pass


def unfinished(store: FileStore, name: str) -> Path | None:
    """The data file that a rebuild which did not come to its end left, if any; all else it left is removed.

    The caller holds the rebuild lock.
    """
    referenced: str | None = None
    is_done = True
    with store.publishing(name):
        try:
            published = Snapshot(store.folder, name)
        except FileNotFoundError:
            pass  # nothing was ever published, so nothing is referred to
        except (*DAMAGE, OSError):
            return None  # what cannot be read now may be readable to others, and its data theirs
        else:
            referenced = None if published.is_cold else str(published.header["data"]["file"])
            is_done = published.is_cold or published.complete
        # A build that goes on in the file of a list that is shown in part may have begun another.
        left = [
            (int(entry.split(".")[-2]), entry)
            for entry in os.listdir(store.folder)
            if not (is_done and entry == referenced) and re.fullmatch(rf"{name}\.\d+\.data", entry)
        ]
        newest = max(left)[1] if left else None
        sweep(store.folder, name, (referenced, newest))
        return None if newest is None else store.folder / newest
