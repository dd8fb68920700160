"""What a rebuild needs from the app, a count of the items that failed, and what the rebuild did."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from traceback import format_exception_only
from typing import Any, ClassVar

from .. import events
from ..errors import RebuildError
from ..index.item_views import ViewErrors

# Every failed item is counted, but only the first few are logged with their tracebacks.
LOGGED_FAILURES = 5


@dataclass(frozen=True)
class Tools:
    """The functions of the app that a rebuild calls, so that nothing in this room must know Flask."""

    encode: Callable[[Any], bytes]  # gives an item as JSON, without a raw newline or tab
    context: Callable[[], AbstractContextManager[Any]]  # gives an app context
    breathe: Callable[[], None]  # is called between small steps, so that requests get the interpreter
    first_page: int = 100  # a first build is shown as soon as it has this many items
    # Ends an item that takes longer than this many seconds.  That works only in a child process.
    time_limit: Callable[[float | None], AbstractContextManager[Any]] = lambda seconds: nullcontext()


class Failures:
    """Counts the items that one rebuild could not take: each kept its old version, or was left out."""

    # Called with the error of every failed item, and with the first error of every failing filter and sort, in the
    # thread of the rebuild; see testing.py.
    callbacks: ClassVar[list[Callable[[BaseException], object]]] = []

    def __init__(self, list_name: str) -> None:
        self._list_name = list_name
        self.count = 0
        self.first = ""  # what happened to the first one, for people

    def note(self, what: str, error: BaseException | None) -> None:
        """Count a failed item, and log it if it is one of the first."""
        self.count += 1
        if not self.first:
            # str() would not do: an app's exception may fail in its own __str__.
            self.first = what if error is None else f"{what}: {''.join(format_exception_only(error)).strip()}"
        for callback in self.callbacks:
            callback(error or RebuildError(f"An item of {self._list_name!r} cannot be taken: {what}."))
        if self.count <= LOGGED_FAILURES:
            message = "an item of %(list)r was left as it was or left out: %(what)s"
            events.warning("warmcache.item_failed", message, error, list=self._list_name, what=what)


@dataclass(frozen=True)
class Outcome:
    """What one rebuild did."""

    generation: int
    count: int
    reused: int
    enriched: int
    failed: int
    dropped: int  # items of the old snapshot that the source no longer gave
    duration: float


def note_view_errors(list_name: str, errors: ViewErrors) -> None:
    """Log the filters and sorts that failed, each with its first item, and tell tests of them."""
    for what, times in errors.items():
        key, error = errors.first[what]
        message = "%(what)s on %(items)d items of %(list)r, first on %(key)s: %(why)s"
        facts = {"what": what, "items": times, "list": list_name, "key": key, "why": errors.message(what)}
        events.warning("warmcache.view_failed", message, error, **facts)
        for callback in Failures.callbacks:
            callback(error)
