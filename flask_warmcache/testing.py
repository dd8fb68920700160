"""For the tests of apps: lists that are rebuilt in the thread that reads them, at a known moment.

::

    @pytest.fixture
    def client(app):
        with inline_rebuilds(app):
            yield app.test_client()
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import Literal

from flask import Flask

from .errors import RebuildBusyError, RebuildError, UnknownListError
from .rebuild.outcome import Outcome
from .settings import KEY
from .state import AppState
from .status.condition import Condition, ListStatus

# How long a keeper that runs already may take for the rebuild it is at.
LAST_REBUILD = 60.0


@contextmanager
def inline_rebuilds(app: Flask, *, raise_errors: bool = True) -> Iterator[None]:
    """Until the block ends, a read that finds its list cold, stale, invalidated or failed rebuilds it at once.

    Lists begin cold, in a temporary folder that belongs to the block, and no keeper runs.  This is what
    ``WARMCACHE_ENABLED = False`` does, without the pause after a failure, and with its errors shown.

    :param raise_errors: whether a read raises what ``source`` raised, or ``enrich`` for an item, instead of
        giving the old list, or the one without that item, as it would in production.
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

    A list that others are made of comes before them, and is rebuilt once.

    :raises Exception: whatever ``source`` raised; with ``inline_rebuilds`` raising errors, ``enrich`` too.
    """
    state = _state_of(app)
    state.open()
    build = state.build if isinstance(state, _InlineState) else _plain_build(state)
    outcomes: dict[str, Outcome] = {}
    for status in sorted(state.statuses.values(), key=lambda status: _depth(state, status)):
        state.keeper.note_stale(status)
        # Its source list is new, so this one is due by itself; to want it would rebuild the other again.
        is_due = status.declaration.source_list is not None and status.condition().due
        outcomes[status.name] = build(status, not is_due)
    return outcomes


@contextmanager
def showing(app: Flask, state: Literal["cold", "stale"], *names: str) -> Iterator[None]:
    """Inside ``inline_rebuilds``: show lists as cold or stale, and rebuild none until the block ends.

    Answers say ``cache_rebuilding: true`` meanwhile, as they do while a worker rebuilds.

    :param names: the lists to be in that state; by default all.
    :raises UnknownListError: for a name that is none.
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
    """An app's lists while its tests have them rebuilt inline."""

    def __init__(self, before: AppState, folder: str, raise_errors: bool) -> None:
        settings = replace(before.settings, enabled=False, dir=folder)
        super().__init__(before.app, settings, before.registry)
        self._raise_errors = raise_errors
        self.holds = 0  # how many blocks of showing() there are around

    def build_inline(self, status: ListStatus) -> Condition:
        self.keeper.note_stale(status)
        condition = status.condition()
        if self.holds or not (condition.due or condition.state == "failed"):
            return condition
        try:
            self.build(status, not condition.due)
        except RebuildBusyError:
            pass  # read by its own source or enrich, or by another thread meanwhile
        except Exception:
            if self._raise_errors:
                raise
        return status.condition()

    def build(self, status: ListStatus, wanted: bool) -> Outcome:
        """Rebuild a list.

        :raises Exception: what ended the rebuild; if errors are raised, what the first failed item met, too.
        """
        with _noted_failures() as failures:
            outcome = self.keeper.rebuild_now(status.name, wanted=wanted)
        if self._raise_errors and (failures or outcome.failed):  # the former may be its source list's
            raise failures[0] if failures else RebuildError(f"{outcome.failed} items of {status.name!r} failed")
        return outcome


class _Failures(logging.Handler):
    """Keeps what the log says of failed items, which end no rebuild and so are told nowhere else."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        if str(record.msg).startswith("warmcache.item_failed"):
            error = record.exc_info[1] if record.exc_info else None
            self.errors.append(error or RebuildError(record.getMessage()))


@contextmanager
def _noted_failures() -> Iterator[list[BaseException]]:
    log, handler = logging.getLogger("flask_warmcache"), _Failures()
    log.addHandler(handler)
    try:
        yield handler.errors
    finally:
        log.removeHandler(handler)


def _state_of(app: Flask) -> AppState:
    try:
        state: AppState = app.extensions[KEY]
    except KeyError:
        raise RuntimeError("This app has no WarmCache.") from None
    return state


def _at_rest(state: AppState) -> AppState:
    """The state for after the block: itself, or if its keeper ran and had to be ended, one like it."""
    if not (state.is_started and state.settings.enabled):
        return state
    state.keeper.stop()
    if not state.keeper.join(LAST_REBUILD):
        raise RuntimeError(
            f"A list of {state.app.name!r} is still being rebuilt in the background. Use inline_rebuilds before "
            "the app's first request."
        )
    return AppState(state.app, state.settings, state.registry)


def _plain_build(state: AppState) -> Callable[[ListStatus, bool], Outcome]:
    return lambda status, wanted: state.keeper.rebuild_now(status.name, wanted=wanted)


def _depth(state: AppState, status: ListStatus) -> int:
    """How many lists stand between this one and a source that is a function."""
    depth, source_list = 0, status.declaration.source_list
    while source_list is not None and source_list in state.statuses:
        depth, source_list = depth + 1, state.statuses[source_list].declaration.source_list
    return depth


def _clear(status: ListStatus) -> None:
    lock = status.store.try_lock(status.name)
    if lock is None:
        raise RebuildBusyError(f"Warm list {status.name!r} is being rebuilt.")
    try:
        status.store.publish_cold(status.name)
    finally:
        lock.close()
