"""What must hold after any fault: the published list is whole, and nothing is left behind."""

from __future__ import annotations

import json
import re
from pathlib import Path

from flask_warmcache.errors import SnapshotError
from flask_warmcache.store.snapshot import Snapshot
from flask_warmcache.store.verify import Verifier
from tests.support.answers import check_items


def published(folder: Path) -> int | None:
    """The generation under the list's name, which must be whole; None when nothing is published.

    :raises Exception: when what is published is torn.
    """
    try:
        snapshot = Snapshot(folder, "files")
    except FileNotFoundError:
        return None
    check_items(json.loads(b"[%b]" % snapshot.items_json(snapshot.view("all", ""))))
    return snapshot.generation


def is_damaged(folder: Path) -> bool:
    """Return whether a keeper would find that what is published is not what was written."""
    try:
        return Verifier(folder, "files").is_damaged(Snapshot(folder, "files"))
    except SnapshotError:
        return True


DATA = re.compile(r"files\.\d+\.data")
DRAFT = re.compile(r"files\.index\.\d+-[0-9a-f]+\.tmp")
# A draft so young may be one that its maker is about to lock, so it is left to a later build.
YOUNG = 1.0
LASTING = {
    "files.index",
    "files.lock",
    "files.publish.lock",
    "files.progress",
    "files.invalidated",
    "files.changes",
}


def litter(folder: Path) -> list[str]:
    """Files that no reader and no later build needs; of the data files, all but one."""
    names = sorted(path.name for path in folder.glob("*"))
    data = [name for name in names if DATA.fullmatch(name)]
    return data[1:] + [name for name in names if name not in LASTING and name not in data]
