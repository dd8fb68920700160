"""The cache folder: its permissions, file system and free space, and whether locks exclude another process."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from ..errors import StoreError
from ..host import resources
from ..keeper.children import SAFE
from ..store.files import FileStore
from ..store.locks import HeldLock, try_lock
from .report import FAULT, WARNING, Report

MIB = 1 << 20
LEAST_SPACE = 20 * MIB
# What another process runs: it tries to acquire the lock, and prints whether it did.
TRY = """
import os, sys
from filelock import lock_descriptor
print(bool(lock_descriptor(os.open(sys.argv[1], os.O_RDWR), blocking=False)))
"""
MOUNTS = "/proc/self/mountinfo"
# Several machines may use these at once, and their locks may not exclude one another.
NETWORK = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|ceph|afs|lustre|gfs2?|ocfs2|glusterfs|9p|virtiofs|fuse\.(?!fuse-overlayfs).*"
)


def check_folder(report: Report, store: FileStore) -> None:
    """Report the state of the folder."""
    folder = store.folder
    facts = {"path": os.fspath(folder), "file_system": None, "bytes": 0, "free_bytes": None}
    report.facts["folder"] = facts
    try:
        store.prepare()
    except StoreError as error:
        # The message says what is wrong, and then what to do.
        head = f"The cache folder {folder} "
        what, _, do = str(error).removeprefix(head).partition(". ")
        report.fault(
            "folder.unusable",
            f"{head}{what.removesuffix('.')}.",
            "No list is stored, so every worker answers as cold.",
            do or "Set WARMCACHE_DIR to a folder that this account may write.",
        )
        return
    kind = kind_of(folder)
    used = sum(map(_size, os.scandir(folder)))
    free = shutil.disk_usage(folder).free
    facts |= {"file_system": kind, "bytes": used, "free_bytes": free}
    where = f"{used / MIB:.1f} MiB on {kind or 'an unknown file system'}"
    report.ok("folder.usable", f"Cache folder {folder}: {where}, private to this account.")
    _check_kind(report, kind)
    if mounted := points_in(folder):
        report.fault(
            "folder.mounted_files",
            f"In the cache folder, {', '.join(mounted)} {'is a mount' if len(mounted) == 1 else 'are mounts'}.",
            "A mounted file cannot be replaced, so no rebuild can publish a newer list.",
            "Mount the folder itself, and no file in it.",
        )
    _check_space(report, used, free)
    _check_lock(report, folder)


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_size
    except FileNotFoundError:  # a rebuild has just replaced it
        return 0


def _check_kind(report: Report, kind: str | None) -> None:
    if kind is not None and NETWORK.fullmatch(kind):
        report.fault(
            "folder.network",
            f"The cache folder is on {kind}, which other machines may use, too.",
            "Locks on it may not exclude one another, and a mapped file may change while it is read.",
            "Set WARMCACHE_DIR to a folder on a disk of this machine.",
        )
    elif kind in ("overlay", "fuse.fuse-overlayfs", "aufs"):
        report.info(
            "folder.in_container",
            "The cache folder is inside the container.",
            "It is removed with the container, so after each deployment the lists are built from scratch.",
            "Mount a volume, and set WARMCACHE_DIR to a folder on it.",
        )
    elif kind in ("tmpfs", "ramfs"):
        report.info(
            "folder.in_memory",
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
        report.ok("folder.space", f"The cache folder has {free / MIB:.0f} MiB free.")


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
        report.ok("folder.locks", "Locks work: a second process is refused while the first one holds it.")
    else:
        report.fault(
            "folder.locks",
            "Two processes can hold the same lock." if is_shared else "A lock cannot be acquired.",
            "All workers would rebuild at once, or none.",
            "Set WARMCACHE_DIR to a folder on a local disk.",
        )


def _another_locks(path: Path) -> bool:
    ran = subprocess.run([sys.executable, SAFE, "-c", TRY, path], capture_output=True, timeout=60)
    return ran.stdout.strip() == b"True"


def kind_of(path: str | os.PathLike[str], mounts: str = MOUNTS) -> str | None:
    """Return the kind of the file system, such as "ext4", or None when it is unknown."""
    there = Path(os.path.realpath(path))
    while not there.exists() and there != there.parent:
        there = there.parent
    best, kind = "", None
    for point, of in _points(mounts):
        is_above = there == Path(point) or Path(point) in there.parents
        if is_above and len(point) >= len(best):  # of two mounts at the same place, the later one is visible
            best, kind = point, of
    return kind


def points_in(folder: Path, mounts: str = MOUNTS) -> list[str]:
    """Return the names in a folder that are mount points themselves."""
    there = Path(os.path.realpath(folder))
    return sorted({Path(point).name for point, _ in _points(mounts) if Path(point).parent == there})


def _points(mounts: str) -> Iterator[tuple[str, str]]:
    """Yield each mount point and the kind of its file system."""
    try:
        lines = resources.lines_of(mounts)
    except OSError:
        return
    for line in lines:
        fields, _, file_system = line.partition(" - ")
        # The kernel writes a space in a path as \040.
        point = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), fields.split(" ")[4])
        yield point, file_system.split(" ")[0]
