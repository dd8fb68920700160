"""Removing what dead writers left in the cache folder."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Collection
from pathlib import Path

from .writer import remove_if_forsaken

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
