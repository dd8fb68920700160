"""The file system that a path is on, by the kernel's name for it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

MOUNTS = "/proc/self/mountinfo"
# Several machines may use these at once, and their locks may not exclude one another.
NETWORK = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|ceph|afs|lustre|gfs2?|ocfs2|glusterfs|9p|virtiofs|fuse\.(?!fuse-overlayfs).*"
)


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
        lines = Path(mounts).read_text().splitlines()
    except OSError:
        return
    for line in lines:
        fields, _, file_system = line.partition(" - ")
        # The kernel writes a space in a path as \040.
        point = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), fields.split()[4])
        yield point, file_system.split()[0]
