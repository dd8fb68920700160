"""What lists and values have in common: a declaration, and a condition in the current app."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from flask import Request, current_app, has_app_context, has_request_context, request

from ..declaration import Declaration
from ..errors import UnknownListError
from ..registry import Registry
from ..settings import KEY
from ..state import AppState
from ..status.condition import Condition, ListStatus
from .asynchronous import checked

if TYPE_CHECKING:
    from ..rebuild.tools import Outcome


def current_state(registry: Registry | None = None) -> AppState:
    """Return the state of the current app, with its keeper running; see ``find_state``."""
    state = find_state(registry)
    if not state.is_started:  # otherwise the gate has done so at the beginning of this request
        state.start(serves=has_request_context())
    return state


def find_state(registry: Registry | None = None) -> AppState:
    """Return the state of the current app.

    :param registry: outside an app context, its only app is the current one.
    :raises RuntimeError: outside an app context without such an app, or for an app without the extension.
    """
    try:
        state: AppState = current_app.extensions[KEY]
    except KeyError:
        raise RuntimeError(
            "This app has no WarmCache. Create one with WarmCache(app), or call init_app(app)."
        ) from None
    except RuntimeError:  # there is no app context
        if registry is None or has_app_context():
            raise
        state = registry.only_app().extensions[KEY]
    return state


def current_request() -> Request:
    """Return the request itself, because every attribute costs a microsecond through its proxy."""
    current: Request = request._get_current_object()  # type: ignore[attr-defined]
    return current


class Warm:
    """One declared list or value."""

    def __init__(self, declaration: Declaration, registry: Registry) -> None:
        """:param registry: refuses a declaration that comes too late, and knows the apps."""
        self.name = declaration.name
        self.declaration = declaration  # what has been declared so far
        self._registry = registry

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"

    def _declare(self, role: str, function: object, **options: Any) -> None:
        """Add a function to the declaration, under the name of its role, and what was declared with it."""
        changes = {role: checked(self.name, role, function), **options}
        advice = " Declare lists where the app is made."
        self._registry.require_open(f"The {role} of warm list {self.name!r} comes", advice)
        self.declaration = self.declaration.with_functions(**changes)

    def _condition(self) -> tuple[AppState, Condition]:
        """Return the app's state and the list's condition, and wake the keeper if the list is due."""
        state, status = self._status()
        if not state.settings.enabled:
            return state, state.build_inline(status)
        condition = status.condition()
        if condition.due:
            state.keeper.wake()
        return state, condition

    def _status(self) -> tuple[AppState, ListStatus]:
        state = current_state(self._registry)
        return state, self._status_in(state)

    def _status_in(self, state: AppState) -> ListStatus:
        try:
            return state.statuses[self.name]
        except KeyError:
            raise UnknownListError(self.name, sorted(state.statuses)) from None

    def _context(self) -> AbstractContextManager[object]:
        """Return an app context in which the calling thread can run the app's functions, unless it has one."""
        return nullcontext() if has_app_context() else self._registry.only_app().app_context()

    def invalidate(self) -> None:
        """Mark the list as out of date: every worker serves it as stale at once, and one rebuilds it.

        A rebuild that is running now is followed by another.

        :raises StoreError: when the cache folder cannot be written.
        """
        state, _ = self._status()
        state.store.invalidate(self.name)
        state.keeper.wake()

    def rebuild_now(self, *, all: bool = False) -> Outcome:
        """Rebuild in the calling thread and return the outcome; for scripts and tests, not for views.

        The main thread of a script first waits for the end of a rebuild that its own process has begun.

        :param all: enrich every item again, while the old list is shown. An item that fails keeps its old version.
        :raises RebuildBusyError: when the list is being rebuilt already.
        """
        state = find_state(self._registry)
        state.open()  # and start no keeper, which might begin what this call is to do
        status = self._status_in(state)
        # In another thread it could be the rebuild itself that calls this, and would wait for its own end.
        waits = threading.current_thread() is threading.main_thread() and not has_request_context()
        return state.keeper.rebuild_now(status, enrich_all=all, waits=waits)
