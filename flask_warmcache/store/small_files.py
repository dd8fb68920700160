"""Small files, such as a rebuild's report: replaced by rename, so that a reader sees old or new content."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from .mapping import OPEN_FLAGS
from .writer import CREATE_FLAGS, write_all

SMALL_FILE_MAX = 64 * 1024


def write_small(folder: Path, file_name: str, data: bytes, *, sync: bool) -> None:
    """Replace a small file."""
    draft = folder / f"{file_name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    descriptor = os.open(draft, CREATE_FLAGS, 0o600)
    try:
        try:
            write_all(descriptor, data)
            if sync:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(draft, folder / file_name)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def read_small(folder: Path, file_name: str) -> bytes:
    """Return a small file's content, or nothing when it cannot be read."""
    try:
        descriptor = os.open(folder / file_name, OPEN_FLAGS)
    except OSError:
        return b""
    try:
        return os.read(descriptor, SMALL_FILE_MAX)
    except OSError:
        return b""
    finally:
        os.close(descriptor)
