"""The cache folder: where it is by default, and whether only this account can use it."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from pathlib import Path

from ..errors import StoreError


def prepare(folder: Path) -> None:
    """Create the folder, or check that it is a real folder that belongs to this account only.

    :raises StoreError: with the setting to change.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = os.lstat(folder)
    except OSError as error:
        raise StoreError(
            f"The cache folder cannot be created ({error.strerror}). Set WARMCACHE_DIR to a folder that "
            "this account may write."
        ) from error
    if not stat.S_ISDIR(status.st_mode):
        raise StoreError("The cache folder is a link or a file. Set WARMCACHE_DIR to a real folder.")
    if status.st_uid != os.geteuid():
        raise StoreError("The cache folder belongs to another account. Set WARMCACHE_DIR to a folder of this one.")
    if status.st_mode & 0o077:
        raise StoreError(
            "The cache folder is open to other accounts. Run 'chmod 700' on it, or set WARMCACHE_DIR to "
            "a folder that does not exist yet."
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StoreError("The cache folder is not writable. Change its permissions, or set WARMCACHE_DIR.")


def default_folder(instance_path: str, app_name: str) -> Path:
    """Return the cache folder of an app that sets none: in its instance folder, else in the user's state folder.

    It is never in a shared temporary folder, where others could plant files and cleaners delete locks.
    """
    safe = re.sub(r"[^A-Za-z0-9_.-]", "_", app_name).lstrip(".") or "app"
    instance = Path(instance_path)
    existing = instance
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if os.access(existing, os.W_OK | os.X_OK):
        return instance / "warmcache" / safe
    state = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    # Two apps with one name, in two places, must not share a folder.
    which = hashlib.blake2b(os.fsencode(instance_path), digest_size=4).hexdigest()
    return Path(state) / "warmcache" / f"{safe}-{which}"
