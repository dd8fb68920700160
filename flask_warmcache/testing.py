"""For the tests of apps: lists that are rebuilt at a known moment, in the thread that reads them.

::

    @pytest.fixture
    def client(app):
        with inline_rebuilds(app):
            yield app.test_client()
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import Literal

from flask import Flask

from .errors import RebuildBusyError, UnknownListError
from .rebuild.tools import Failures, Outcome
from .settings import KEY
from .state import AppState
from .status.condition import Condition, ListStatus

# Seconds that a running keeper may take to finish its rebuild.
LAST_REBUILD = 60.0


@contextmanager
def inline_rebuilds(app: Flask, *, raise_errors: bool = True) -> Iterator[None]:
    """Inside the block, a read of a list that is cold, stale, invalidated or failed rebuilds it first.

    Lists begin cold, in a temporary folder of the block, and no keeper runs.  ``WARMCACHE_ENABLED = False`` does
    the same, but pauses after a failure and hides its errors.

    :param raise_errors: whether a read raises an error of ``source``, or of ``enrich``, a filter or a sort for an
        item. Otherwise it returns the old list, or the list without that item, as in production.
    :raises RuntimeError: when the app has no WarmCache, or a rebuild in the background does not end.
    """
    before = _state_of(app)
    after = _at_rest(before)
    with TemporaryDirectory(prefix="warmcache-test-", ignore_cleanup_errors=True) as folder:
        app.extensions[KEY] = _InlineState(before, folder, raise_errors)
        try:
            yield
        finally:
            app.extensions[KEY] = after


def rebuild_all(app: Flask) -> dict[str, Outcome]:
    """Rebuild every list in the calling thread, whether it is due or not; return what was done, by name.

    A list is rebuilt before the lists that are made of it, and only once.

    :raises Exception: what ``source`` raised, and what ``enrich`` raised if ``inline_rebuilds`` raises errors.
    """
    state = _state_of(app)
    state.open()
    outcomes: dict[str, Outcome] = {}
    for status in sorted(state.statuses.values(), key=lambda status: _depth(state, status)):
        state.keeper.due.note_stale(status)
        # After a rebuild of its source list a list is due. Forcing it would rebuild the source list again.
        is_due = status.declaration.source_list is not None and status.condition().due
        if isinstance(state, _InlineState):
            outcomes[status.name] = state.build(status, not is_due)
        else:
            outcomes[status.name] = state.rebuilder.rebuild_now(status.name, only_if_due=is_due)
    return outcomes


@contextmanager
def showing(app: Flask, state: Literal["cold", "stale"], *names: str) -> Iterator[None]:
    """Show lists as cold or stale, and rebuild none until the block ends; use this inside ``inline_rebuilds``.

    Answers have ``cache_rebuilding: true``, as they do while a worker rebuilds.

    :param names: of the lists to show in that state; by default all.
    :raises UnknownListError: for the name of a list that is not declared.
    :raises RuntimeError: outside of ``inline_rebuilds``.
    """
    inline = _state_of(app)
    if not isinstance(inline, _InlineState):
        raise RuntimeError("showing() needs lists that no keeper rebuilds: use it inside inline_rebuilds(app).")
    if state not in ("cold", "stale"):
        raise ValueError(f"A list can be shown as 'cold' or 'stale', not as {state!r}.")
    inline.open()
    unknown = [name for name in names if name not in inline.statuses]
    if unknown:
        raise UnknownListError(unknown[0], sorted(inline.statuses))
    chosen = [status for status in inline.statuses.values() if not names or status.name in names]
    if state == "stale":
        for status in chosen:
            inline.build_inline(status)
    inline.holds += 1
    try:
        for status in chosen:
            _clear(status) if state == "cold" else status.store.invalidate(status.name)
        yield
    finally:
        inline.holds -= 1


class _InlineState(AppState):
    """An app's lists inside a block of ``inline_rebuilds``."""

    def __init__(self, before: AppState, folder: str, raise_errors: bool) -> None:
        settings = replace(before.settings, enabled=False, dir=folder)
        super().__init__(before.app, settings, before.registry)
        self.blueprints = before.blueprints
        self._raise_errors = raise_errors
        self.holds = 0  # the number of enclosing blocks of showing()

    def build_inline(self, status: ListStatus) -> Condition:
        self.keeper.due.note_stale(status)
        condition = status.condition()
        if self.holds or not (condition.due or condition.state == "failed"):
            return condition
        try:
            self.build(status, not condition.due)
        except RebuildBusyError:
            pass  # its own source or enrich reads it, or another thread is rebuilding it
        except Exception:
            if self._raise_errors:
                raise
        return status.condition()

    def build(self, status: ListStatus, forced: bool) -> Outcome:
        """Rebuild a list.

        :param forced: even if it is not due.
        :raises Exception: what ended the rebuild, or the error of the first failed item if errors are raised.
        """
        errors: list[BaseException] = []  # of failed items in this list and in its source lists
        Failures.callbacks.append(errors.append)
        try:
            outcome = self.rebuilder.rebuild_now(status.name, only_if_due=not forced)
        finally:
            Failures.callbacks.remove(errors.append)
        if self._raise_errors and errors:
            raise errors[0]
        return outcome


def _state_of(app: Flask) -> AppState:
    try:
        state: AppState = app.extensions[KEY]
    except KeyError:
        raise RuntimeError("This app has no WarmCache.") from None
    return state


def _at_rest(state: AppState) -> AppState:
    """Return the state to use after the block: the same, or a new one if its keeper had to be stopped."""
    if not (state.is_started and state.settings.enabled):
        return state
    state.keeper.stop()
    if not state.keeper.join(LAST_REBUILD):
        raise RuntimeError(
            f"A list of {state.app.name!r} is still being rebuilt in the background. Use inline_rebuilds before "
            "the app's first request."
        )
    renewed = AppState(state.app, state.settings, state.registry)
    renewed.blueprints = state.blueprints
    return renewed


def _depth(state: AppState, status: ListStatus) -> int:
    """Return how many source lists this list is made of, directly and indirectly."""
    source = state.statuses.get(status.declaration.source_list or "")
    return 0 if source is None else 1 + _depth(state, source)


def _clear(status: ListStatus) -> None:
    lock = status.store.try_lock(status.name)
    if lock is None:
        raise RebuildBusyError(f"Warm list {status.name!r} is being rebuilt.")
    with closing(lock):
        status.store.publish_cold(status.name)
