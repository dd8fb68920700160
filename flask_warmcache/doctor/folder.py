"""The cache folder: its permissions, file system and free space, and whether locks exclude another process."""

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
# What another process runs: it tries to acquire the lock, and prints whether it did.
TRY = """
import os, sys
from filelock import lock_descriptor
print(bool(lock_descriptor(os.open(sys.argv[1], os.O_RDWR), blocking=False)))
"""


def check_folder(report: Report, store: FileStore) -> None:
    """Report the state of the folder."""
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
        "folder.usable", OK, f"Cache folder {folder}: {used / MIB:.1f} MiB on {where}, private to this account."
    )
    _check_kind(report, folder, kind)
    if mounted := mounts.points_in(folder):
        report.add(
            "folder.mounted_files",
            FAULT,
            f"In the cache folder, {', '.join(mounted)} {'is a mount' if len(mounted) == 1 else 'are mounts'}.",
            "A mounted file cannot be replaced, so no rebuild can publish a newer list.",
            "Mount the folder itself, and no file in it.",
        )
    _check_space(report, used, free)
    _check_lock(report, folder)


def _add_unusable(report: Report, folder: Path, error: str) -> None:
    """Report that the folder cannot be used.

    :param error: a message that says what is wrong, and then what to do.
    """
    what, _, do = error.partition(". ")
    report.add(
        "folder.unusable",
        FAULT,
        f"{folder}: {what.removesuffix('.')}.",
        "No list is stored, so every worker answers as cold.",
        do or "Set WARMCACHE_DIR to a folder that this account may write.",
    )


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_size
    except FileNotFoundError:  # a rebuild has just replaced it
        return 0


def _check_kind(report: Report, folder: Path, kind: str | None) -> None:
    if kind is not None and mounts.NETWORK.fullmatch(kind):
        report.add(
            "folder.network",
            FAULT,
            f"The cache folder is on {kind}, which other machines may use, too.",
            "Locks on it may not exclude one another, and a mapped file may change while it is read.",
            "Set WARMCACHE_DIR to a folder on a disk of this machine.",
        )
    elif kind in ("overlay", "fuse.fuse-overlayfs", "aufs"):
        report.add(
            "folder.in_container",
            INFO,
            "The cache folder is inside the container.",
            "It is removed with the container, so after each deployment the lists are built from scratch.",
            "Mount a volume, and set WARMCACHE_DIR to a folder on it.",
        )
    elif kind in ("tmpfs", "ramfs"):
        report.add(
            "folder.in_memory",
            INFO,
            f"The cache folder is in memory ({kind}).",
            "It counts as memory of the container, and is empty after a restart of the machine.",
            "Set WARMCACHE_DIR to a folder on a disk, unless this is intended.",
        )


def _check_space(report: Report, used: int, free: int) -> None:
    # A rebuild writes a whole new list beside the old one, which workers are still reading.
    needed = max(LEAST_SPACE, 2 * used)
    if free < needed:
        report.add(
            "folder.space",
            FAULT if free < max(MIB, used) else WARNING,
            f"The cache folder has {free / MIB:.0f} MiB free; a rebuild of all lists may need {needed / MIB:.0f}.",
            "A list that does not fit is not published; the old one is served, and becomes older.",
            "Free some space, or set WARMCACHE_DIR to a folder on a larger disk.",
        )
    else:
        report.add("folder.space", OK, f"The cache folder has {free / MIB:.0f} MiB free.")


def _check_lock(report: Report, folder: Path) -> None:
    """Try with two processes: the second must be refused while the first holds the lock, and acquire it then."""
    path = folder / f"doctor-{os.getpid()}.lock"
    lock = HeldLock(path)
    try:
        is_locked = try_lock(lock.descriptor)
        is_shared = _another_locks(path)
        lock.close()
        is_released = _another_locks(path)
    finally:
        lock.close()
        path.unlink(missing_ok=True)
    if is_locked and not is_shared and is_released:
        report.add("folder.locks", OK, "Locks work: a second process is refused while the first one holds it.")
        return
    report.add(
        "folder.locks",
        FAULT,
        "Two processes can hold the same lock." if is_shared else "A lock cannot be acquired.",
        "All workers would rebuild at once, or none.",
        "Set WARMCACHE_DIR to a folder on a local disk.",
    )


def _another_locks(path: Path) -> bool:
    ran = subprocess.run([sys.executable, "-c", TRY, path], text=True, capture_output=True, timeout=60)
    return ran.stdout.strip() == "True"
