"""The cache folder: rights, file system, free space, and whether a lock excludes another process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from ..errors import StoreError
from ..store.files import FileStore
from ..store.locks import HeldLock, try_lock
from . import mounts
from .finding import FAULT, INFO, OK, WARNING, Report

MIB = 1 << 20
LEAST_SPACE = 20 * MIB
# Another process's try at a lock: it prints whether it got it.
TRY = """
import os, sys
from filelock import lock_descriptor
print(bool(lock_descriptor(os.open(sys.argv[1], os.O_RDWR), blocking=False)))
"""


def check_folder(report: Report, store: FileStore) -> None:
    """Note how the folder is."""
    folder = store.folder
    facts = report.facts["folder"] = {
        "path": os.fspath(folder),
        "file_system": None,
        "bytes": 0,
        "free_bytes": None,
    }
    try:
        store.prepare()
    except StoreError as error:
        _add_unusable(report, folder, str(error))
        return
    kind = mounts.kind_of(folder)
    used = sum(map(_size, os.scandir(folder)))
    free = shutil.disk_usage(folder).free
    facts |= {"file_system": kind, "bytes": used, "free_bytes": free}
    where = kind or "an unknown file system"
    report.add(
        "folder.usable", OK, f"Cache folder {folder}: {used / MIB:.1f} MiB on {where}, this account's alone."
    )
    _check_kind(report, folder, kind)
    if mounted := mounts.points_in(folder):
        report.add(
            "folder.mounted_files",
            FAULT,
            f"In the cache folder {', '.join(mounted)} {'is' if len(mounted) == 1 else 'are'} mounted singly.",
            "What is mounted cannot be replaced, so no rebuild can publish a newer list.",
            "Mount the folder, and nothing in it.",
        )
    _check_space(report, used, free)
    _check_lock(report, folder)


def _add_unusable(report: Report, folder: Path, error: str) -> None:
    """:param error: what is wrong, and behind that what to do."""
    what, _, do = error.partition(". ")
    report.add(
        "folder.unusable",
        FAULT,
        f"{folder}: {what.removesuffix('.')}.",
        "Nothing is kept: every worker answers as cold.",
        do or "Set WARMCACHE_DIR to a folder that this account may write.",
    )


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_size
    except FileNotFoundError:  # a rebuild has put another in its place
        return 0


def _check_kind(report: Report, folder: Path, kind: str | None) -> None:
    if kind is not None and mounts.NETWORK.fullmatch(kind):
        report.add(
            "folder.network",
            FAULT,
            f"The cache folder lies on {kind}, which other machines can see.",
            "Locks there need not exclude one another, and a mapped file may change under its reader.",
            "Set WARMCACHE_DIR to a folder on a disk of this machine.",
        )
    elif kind in ("overlay", "fuse.fuse-overlayfs", "aufs"):
        report.add(
            "folder.in_container",
            INFO,
            "The cache folder lies inside the container.",
            "It goes with it: after each deployment the lists are built from nothing.",
            "Mount a volume, and set WARMCACHE_DIR to a folder on it.",
        )
    elif kind in ("tmpfs", "ramfs"):
        report.add(
            "folder.in_memory",
            INFO,
            f"The cache folder lies in memory ({kind}).",
            "It counts as the container's memory, and is empty after a restart of the machine.",
            "Set WARMCACHE_DIR to a folder on a disk, unless that is meant so.",
        )


def _check_space(report: Report, used: int, free: int) -> None:
    # A rebuild writes a whole new list beside the old one, which workers still read.
    needed = max(LEAST_SPACE, 2 * used)
    if free < needed:
        report.add(
            "folder.space",
            FAULT if free < max(MIB, used) else WARNING,
            f"The cache folder has {free / MIB:.0f} MiB free; a rebuild of all lists may need {needed / MIB:.0f}.",
            "A list that does not fit is not published: the old one stays, and grows old.",
            "Make room, or set WARMCACHE_DIR to a larger disk.",
        )
    else:
        report.add("folder.space", OK, f"The cache folder has {free / MIB:.0f} MiB free.")


def _check_lock(report: Report, folder: Path) -> None:
    """Two processes try: the one must be refused while the other has it, and get it afterwards."""
    path = folder / f"doctor-{os.getpid()}.lock"
    lock = HeldLock(path)
    try:
        has_it = try_lock(lock.descriptor)
        got_it_too = _another_gets(path)
        lock.close()
        gets_it_then = _another_gets(path)
    finally:
        lock.close()
        path.unlink(missing_ok=True)
    if has_it and not got_it_too and gets_it_then:
        report.add("folder.locks", OK, "Locks work: a second process is refused, and let in afterwards.")
        return
    report.add(
        "folder.locks",
        FAULT,
        "Two processes could hold the same lock." if got_it_too else "A lock cannot be had.",
        "Workers would all rebuild at once, or never.",
        "Set WARMCACHE_DIR to a folder on a local disk.",
    )


def _another_gets(path: Path) -> bool:
    ran = subprocess.run([sys.executable, "-c", TRY, path], text=True, capture_output=True, timeout=60)
    return ran.stdout.strip() == "True"
