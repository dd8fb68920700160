"""What a view may ask of a list."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

from flask import Request, Response, current_app, has_request_context, request

from .declare import Declaration, Item, check_function
from .errors import BadQueryError, DeclarationError, SnapshotError, StoreError, UnknownListError
from .items import Items
from .paging import Page
from .rebuild.status import Condition, ListStatus
from .state import KEY, AppState
from .store.format import key_hash
from .store.snapshot import DAMAGE

log = logging.getLogger("flask_warmcache")
if TYPE_CHECKING:
    from .rebuild.job import Outcome
    from .rebuild.writes import Writes

Function = TypeVar("Function", bound=Callable[..., Any])


def current_state() -> AppState:
    """The state of the app that handles this request or whose context is pushed, with its keeper running.

    :raises RuntimeError: outside an app context, or for an app without the extension.
    """
    try:
        state: AppState = current_app.extensions[KEY]
    except KeyError:
        raise RuntimeError(
            "This app has no WarmCache. Create one with WarmCache(app), or call init_app(app)."
        ) from None
    if not state.is_started:  # else the gate has looked after it, at the beginning of this request
        state.start(serves=has_request_context())
    return state


def _request() -> Request:
    """The request itself: through its proxy every attribute costs a microsecond."""
    asked: Request = request._get_current_object()  # type: ignore[attr-defined]
    return asked


class Warm:
    """One declared list or value: what both have in common."""

    def __init__(self, declaration: Declaration, is_closed: Callable[[], bool]) -> None:
        self._declaration = declaration
        self._is_closed = is_closed

    @property
    def name(self) -> str:
        """The list's name."""
        return self._declaration.name

    @property
    def declaration(self) -> Declaration:
        """What was declared so far."""
        return self._declaration

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"

    def _declare(self, role: str, function: object, **changes: Any) -> None:
        check_function(self.name, role, function)
        if self._is_closed():
            raise DeclarationError(
                f"The {role} of warm list {self.name!r} comes too late: declarations closed at the app's first "
                "request. Declare lists where the app is made."
            )
        self._declaration = self._declaration.with_functions(**changes)

    def _look(self) -> tuple[AppState, Condition]:
        """The list as it is now; wakes the keeper when it is due."""
        state, status = self._status()
        if not state.settings.enabled:
            return state, state.build_inline(status)
        condition = status.condition()
        if condition.due:
            state.keeper.wake()
        return state, condition

    def _status(self) -> tuple[AppState, ListStatus]:
        state = current_state()
        try:
            return state, state.statuses[self.name]
        except KeyError:
            raise UnknownListError(self.name, sorted(state.statuses)) from None

    def invalidate(self) -> None:
        """Say that the list is out of date: every worker shows it as stale at once, one rebuilds it.

        A rebuild that runs at this moment is followed by another.

        :raises StoreError: when the cache folder cannot be written.
        """
        state, _ = self._status()
        state.store.invalidate(self.name)
        state.keeper.wake()

    def rebuild_now(self) -> Outcome:
        """Rebuild in the calling thread and return what was done; for scripts and tests, not for views.

        :raises RebuildBusyError: when it is being rebuilt already.
        """
        state, _ = self._status()
        return state.keeper.rebuild_now(self.name)


class WarmList(Warm):
    """A named, cached list of items: JSON objects with a unique key."""

    # Declaring

    def source(self, function: Function) -> Function:
        """Declare the cheap function that says which items exist now: it yields or returns dicts."""
        if self._declaration.source_list is not None:
            raise DeclarationError(
                f"Warm list {self.name!r} has a source already: the list {self._declaration.source_list!r}."
            )
        self._declare("source", function, source=function)
        return function

    @overload
    def enrich(self, function: Function) -> Function: ...

    @overload
    def enrich(
        self,
        function: None = None,
        *,
        fingerprint: Sequence[str] | Callable[[Item], object] | None = None,
        version: str | int = "",
        workers: int = 1,
        batch: int | None = None,
        item_timeout: float | None = None,
    ) -> Callable[[Function], Function]: ...

    def enrich(
        self,
        function: Function | None = None,
        *,
        fingerprint: Sequence[str] | Callable[[Item], object] | None = None,
        version: str | int = "",
        workers: int = 1,
        batch: int | None = None,
        item_timeout: float | None = None,
    ) -> Function | Callable[[Function], Function]:
        """Declare the expensive function that completes one item; it is called for new and changed ones only.

        :param fingerprint: what, unchanged, means that an enriched item is still good: field names of the
            source item, or a function of it. By default the whole source item.
        :param version: of the function itself; another version enriches every item anew.
        :param workers: threads that call it at the same time, for a function that waits for disks or networks.
        :param batch: the function takes a list of at most so many items, and returns the completed ones in order.
        :param item_timeout: seconds after which a call is ended and its items count as failed; only where
            the rebuild runs in a child process, where that can be done, and with one worker.
        """
        if not (
            fingerprint is None
            or callable(fingerprint)
            or (isinstance(fingerprint, (list, tuple)) and all(isinstance(name, str) for name in fingerprint))
        ):
            raise DeclarationError(
                f"fingerprint of warm list {self.name!r} is a tuple of field names or a function, "
                f"not {fingerprint!r}."
            )
        fields = fingerprint if fingerprint is None or callable(fingerprint) else tuple(fingerprint)

        def declare(enrich: Function) -> Function:
            self._declare(
                "enrich",
                enrich,
                enrich=enrich,
                fingerprint=fields,
                version=str(version),
                workers=workers,
                batch=batch,
                item_timeout=item_timeout,
            )
            return enrich

        return declare if function is None else declare(function)

    def lookup(self, function: Function) -> Function:
        """Declare the function that gives one source item by key, or None when there is none; for ``refresh``."""
        if self._declaration.key is None:
            raise DeclarationError(f"Warm list {self.name!r} has no key=, so nothing can be looked up by it.")
        self._declare("lookup", function, lookup=function)
        return function

    # Changing

    def refresh(self, *keys: str | int | Item) -> bool:
        """Look these keys up and enrich them now; the next request in every worker sees them.

        It costs one rewrite of the index and never waits for a rebuild. Call it behind the commit of what
        changed. A key that ``lookup`` no longer finds is discarded. Lists that are made of this one follow, and
        where they cannot, being cold say, their next rebuild does.

        :param keys: keys, or source items, which are then not looked up.
        :returns: True when they are published in this list. False when that could not be done within a second, or
            there is no list yet to publish in; then the list is invalidated, and the next rebuild brings them.
        :raises DeclarationError: for a key of a list that has neither ``lookup`` nor a source list.
        :raises Exception: what ``lookup`` or ``enrich`` raised; nothing is changed then.
        """
        published: bool = self._writes().refresh(keys)
        return self._woken(published)

    def discard(self, *keys: str | int) -> bool:
        """Take these keys out of the list; the next request in every worker no longer sees them.

        :returns: as ``refresh``.
        """
        published: bool = self._writes().discard(keys)
        return self._woken(published)

    def _writes(self) -> Writes:
        state, _ = self._status()
        if self._declaration.key is None:
            raise DeclarationError(f"Warm list {self.name!r} has no key=, so no item can be written by it.")
        return state.writes_of(self.name)

    def _woken(self, published: bool) -> bool:
        if not published:
            self._status()[0].keeper.wake()
        return published

    # Reading

    def get(self) -> Items:
        """Every item, in source order, decoded when touched; with the state it is in."""
        state, condition = self._look()
        return Items(condition, state.statuses[self.name].note_damage)

    def find(self, key: str | int) -> Item | None:
        """The item with this key, or None when the newest snapshot has none.

        :raises SnapshotError: when the files were changed under us; the list is rebuilt then.
        """
        state, condition = self._look()
        field, snapshot = self._declaration.key, condition.snapshot
        if field is None:
            raise DeclarationError(f"Warm list {self.name!r} has no key=, so no item can be found by it.")
        if snapshot is None:
            return None
        try:
            slot = snapshot.find(key, field)
            return None if slot is None else snapshot.item(slot)
        except DAMAGE as error:
            key_hash(key)  # a key of a wrong type is the caller's TypeError
            # "There is none" would be a guess.
            state.statuses[self.name].note_damage(snapshot)
            raise SnapshotError(f"an item of {self.name!r} is damaged; the list is rebuilt") from error

    def page(
        self,
        page: int = 1,
        per_page: int | None = None,
        filter: str | None = None,
        sort: str | None = None,
        search: str = "",
    ) -> Page:
        """One page with decoded items, for a view that has its own shape.

        :raises BadQueryError: for a value that ``response`` would answer with 400.
        """
        state, condition = self._look()
        pager = state.pagers[self.name]
        given = {"page": str(page), "search": search}
        given |= {"per_page": str(per_page)} if per_page is not None else {}
        query = pager.check({**given, "filter": filter or "", "sort": sort or ""})
        return pager.page(condition, query)

    def response(
        self, *, per_page: int | None = None, filter: str | None = None, sort: str | None = None
    ) -> Response:
        """Answer the request's ``page``, ``per_page``, ``filter``, ``sort``, ``search`` and ``refresh``.

        It never waits, and it parses and encodes no item.  Bad parameters get a 400 that names the allowed.

        :param per_page: items on a page when the request does not say.
        :param filter: the filter when the request names none.
        :param sort: the sort when the request names none; without it, source order.
        """
        asked = _request()
        state, condition = self._look()
        pager = state.pagers[self.name]
        raw = asked.query_string
        defaults = (per_page, filter, sort)
        try:
            if b"refresh" in raw and pager.parse(raw, defaults).refresh:
                condition = self._refresh(state, condition)
            data, etag = pager.body(condition, raw, defaults)
        except BadQueryError as error:
            return state.answers.refusal(error)
        return state.answers.ok(asked, pager.status, condition, data, etag)

    def _refresh(self, state: AppState, condition: Condition) -> Condition:
        """``?refresh=true``: ask for a rebuild, unless one is under way or the list is newer than the interval."""
        settings = state.settings
        if not settings.allow_refresh or condition.rebuilding or condition.due:
            return condition
        if condition.snapshot is None or condition.age < settings.refresh_interval:
            return condition
        try:
            state.store.outdate(self.name, condition.snapshot)
        except StoreError:
            return condition  # the folder cannot be written: the keeper will say so, the read goes on
        return self._look()[1]


class WarmValue(Warm):
    """One cached JSON value."""

    _is_cold_refused = False  # and that was logged

    def get(self) -> Any:
        """The newest value, or what was declared as ``cold`` while there is none."""
        state, condition = self._look()
        try:
            return json.loads(self._encoded(state, condition))["value"]
        except DAMAGE:
            self._note_damage(state, condition)
            return self._declaration.cold

    def response(self) -> Response:
        """Answer ``{"value": ..., "cache_rebuilding": ...}`` at once."""
        state, condition = self._look()
        flag = b"true" if condition.rebuilding else b"false"
        # What is kept is an object already; the flag goes in before its last brace.
        data = b'%b, "cache_rebuilding": %b}\n' % (self._encoded(state, condition)[:-1], flag)
        generation = "0" if condition.snapshot is None else condition.snapshot.token
        etag = f'"{generation}-{condition.state}-{condition.rebuilding:d}"'
        return state.answers.ok(_request(), state.statuses[self.name], condition, data, etag)

    def _encoded(self, state: AppState, condition: Condition) -> bytes:
        """``{"value": ...}`` as JSON."""
        if condition.snapshot is not None:
            try:
                return condition.snapshot.encoded(0)
            except DAMAGE:
                self._note_damage(state, condition)
        try:
            return state.app.json.dumps({"value": self._declaration.cold}).strip().encode()
        except Exception:
            # Flask's own provider can write it, or the declaration had been refused; this app's cannot.
            if not self._is_cold_refused:
                self._is_cold_refused = True
                log.exception(
                    "warmcache.cold_unusable: app.json cannot write the cold= of %r; it is read as null",
                    self.name,
                    extra={"warmcache_list": self.name},
                )
            return b'{"value": null}'

    def _note_damage(self, state: AppState, condition: Condition) -> None:
        if condition.snapshot is not None:
            state.statuses[self.name].note_damage(condition.snapshot)
