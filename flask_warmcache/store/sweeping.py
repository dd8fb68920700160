"""Removing what dead writers left in the cache folder."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Collection
from pathlib import Path

from .writer import remove_if_abandoned

ABANDONED_AFTER = 3600.0  # seconds


def sweep(folder: Path, name: str, keep: Collection[str | None]) -> None:
    """Remove data files to which no index refers, and drafts of dead processes.

    The caller holds both locks of the list.  A write makes its draft of an index without them, but it holds a lock
    on the draft itself, which the kernel releases when the process dies.
    """
    data = re.compile(rf"{name}\.\d+\.data")
    drafts = re.compile(rf"{name}\.index\.\d+-[0-9a-f]+\.tmp")
    # Only the holder of the rebuild lock writes these.
    own = re.compile(rf"{name}\.(progress\.\d+-[0-9a-f]+|\d+\.data)\.tmp")
    # Any process may be writing one of these now, but none writes for an hour.
    invalidations = re.compile(rf"{name}\.invalidated\.\d+-[0-9a-f]+\.tmp")
    for entry in list(os.scandir(folder)):
        try:
            if drafts.fullmatch(entry.name):
                remove_if_abandoned(entry.path)
            elif (
                (data.fullmatch(entry.name) and entry.name not in keep)
                or own.fullmatch(entry.name)
                or (invalidations.fullmatch(entry.name) and entry.stat().st_mtime < time.time() - ABANDONED_AFTER)
            ):
                os.unlink(entry.path)
        except FileNotFoundError:
            pass
