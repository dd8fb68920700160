"""What can go wrong, and what to do about it."""

from __future__ import annotations


class WarmCacheError(Exception):
    """The root of every error that flask-warmcache raises on purpose."""


class DeclarationError(WarmCacheError, ValueError):
    """A list was declared wrongly; the message names it and says how to mend it."""


class SettingError(WarmCacheError, ValueError):
    """A ``WARMCACHE_*`` setting is unknown or has a wrong value."""


class UnknownListError(WarmCacheError, LookupError):
    """No list of that name was declared."""

    def __init__(self, name: str, known: list[str]) -> None:
        super().__init__(f"No warm list named {name!r}. Declared: {', '.join(known) or 'none'}.")
        self.name = name
        self.known = known


class StoreError(WarmCacheError, RuntimeError):
    """The cache folder cannot be used; the message says which setting to change."""


class SnapshotError(WarmCacheError, RuntimeError):
    """A snapshot's files are missing, damaged or of another format."""


class RebuildError(WarmCacheError, RuntimeError):
    """A rebuild could not be finished; the old snapshot, if any, stays."""


class SourceShrunkError(RebuildError):
    """The source gave so few items that something is wrong, such as a share that is not mounted."""


class RebuildBusyError(RebuildError):
    """Another thread or process rebuilds this list at the moment."""


class ViewError(RebuildError):
    """A filter or sort function cannot be applied to the list's items."""


class ChildError(RebuildError):
    """A rebuilding child process could not be started, or did not find its app; the log says why."""


class ChildKilledError(RebuildError):
    """A rebuilding child process ended without reporting why: it was killed, or code of the app ended it."""


class BuildTimeoutError(RebuildError):
    """A rebuild in a child process took longer than ``WARMCACHE_BUILD_TIMEOUT``."""


class ItemTimeoutError(RebuildError):
    """One item took longer than its list's ``item_timeout``; only a child process can stop an item."""


def named(key: object) -> str:
    """Return a key as a message shows it."""
    try:
        return repr(key)
    except ValueError:  # a number of 5,000 digits cannot be shown as text
        return f"that is a very large {type(key).__name__}"
