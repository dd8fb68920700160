"""Which folder an app's lists are in, and whether that folder can be used."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from contextlib import suppress
from pathlib import Path

from ..errors import StoreError


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
    state = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):  # the specification says that such a value is to be ignored
        state = os.path.join(os.path.expanduser("~"), ".local", "state")
    # Two apps with one name, in two places, must not share a folder.
    which = hashlib.blake2b(os.fsencode(instance_path), digest_size=4).hexdigest()
    return Path(state) / "warmcache" / f"{safe}-{which}"


def folder_in(folder: Path) -> Path:
    """Return the cache folder for the configured one: itself, or a private folder in it if others may use it, too.

    Volumes are made so: their root belongs to root, or is open to a group or to everybody.
    """
    try:
        status = os.lstat(folder)
    except OSError:
        return folder
    is_ours = status.st_uid == os.geteuid()
    if not stat.S_ISDIR(status.st_mode) or not (is_ours or status.st_uid == 0):
        return folder
    # A folder that has our files was private when they were made, and is better made private again.
    if (is_ours and not status.st_mode & 0o077) or not os.access(folder, os.W_OK | os.X_OK) or _has_locks(folder):
        return folder
    own = folder / f"warmcache-{os.geteuid()}"
    if os.geteuid() == 0 and not own.exists():
        # A command of root is about the server's lists, and is told whose they are.
        return next(iter(sorted(folder.glob("warmcache-*"))), own)
    return own


def _has_locks(folder: Path) -> bool:
    with suppress(OSError):
        return any(name.endswith(".lock") for name in os.listdir(folder))
    return False


def prepare(folder: Path) -> None:
    """Create the folder, or check that it is a real folder that belongs to this account only.

    :raises StoreError: with the folder, and the setting to change.
    """
    if not folder.is_absolute():
        raise _unusable(folder, "has no place: this account has no home folder", "Set WARMCACHE_DIR to a folder.")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = os.lstat(folder)
    except OSError as error:
        cure = "Set WARMCACHE_DIR to a folder that this account may write."
        raise _unusable(folder, f"cannot be created ({error.strerror})", cure) from error
    if not stat.S_ISDIR(status.st_mode):
        raise _unusable(folder, "is a link or a file", "Set WARMCACHE_DIR to a real folder.")
    if status.st_uid != os.geteuid():
        raise _unusable(
            folder,
            f"belongs to another account ({_account(status.st_uid)}), and this is {_account(os.geteuid())}",
            "Run this as that account, or give this one a folder of its own: with chown, or with WARMCACHE_DIR.",
        )
    if status.st_mode & 0o077:
        cure = "Run 'chmod 700' on it, or set WARMCACHE_DIR to a folder that does not exist yet."
        raise _unusable(folder, "is open to other accounts", cure)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _unusable(folder, "is not writable", "Change its permissions, or set WARMCACHE_DIR.")


def _unusable(folder: Path, what: str, cure: str) -> StoreError:
    return StoreError(f"The cache folder {folder} {what}. {cure}")


def _account(number: int) -> str:
    """Return the name and the number of an account, or the number if it has no name."""
    with suppress(ImportError, KeyError):
        import pwd

        return f"{pwd.getpwuid(number).pw_name}, {number}"
    return str(number)
