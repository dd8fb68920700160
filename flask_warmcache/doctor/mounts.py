"""The file system that a path lies on, as the kernel names it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

MOUNTS = "/proc/self/mountinfo"
# Seen by several machines, whose locks may not know of each other.
NETWORK = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|ceph|afs|lustre|gfs2?|ocfs2|glusterfs|9p|virtiofs|fuse\.(?!fuse-overlayfs).*"
)


def kind_of(path: str | os.PathLike[str], mounts: str = MOUNTS) -> str | None:
    """The file system's kind, as "ext4", or None where that cannot be said."""
    there = Path(os.path.realpath(path))
    while not there.exists() and there != there.parent:
        there = there.parent
    best, kind = "", None
    for point, of in _points(mounts):
        is_above = there == Path(point) or Path(point) in there.parents
        if is_above and len(point) >= len(best):  # the later of two at the same place covers the other
            best, kind = point, of
    return kind


def points_in(folder: Path, mounts: str = MOUNTS) -> list[str]:
    """The names in a folder that are mounts themselves."""
    there = Path(os.path.realpath(folder))
    return sorted({Path(point).name for point, _ in _points(mounts) if Path(point).parent == there})


def _points(mounts: str) -> Iterator[tuple[str, str]]:
    """Where something is mounted, and of which kind."""
    try:
        lines = Path(mounts).read_text().splitlines()
    except OSError:
        return
    for line in lines:
        fields, _, told = line.partition(" - ")
        # A blank in a path is written as \040.
        yield re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), fields.split()[4]), told.split()[0]
