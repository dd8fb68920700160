"""What a view may ask of a list."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

from flask import Response

from ..declaration import Item
from ..errors import BadQueryError, DeclarationError, SnapshotError, StoreError
from ..query.pager import Page
from ..state import AppState
from ..status.condition import Condition
from ..store.format import key_hash
from ..store.snapshot import DAMAGE
from .items import Items
from .warm import Warm, current_request

log = logging.getLogger("flask_warmcache")
if TYPE_CHECKING:
    from ..rebuild.writes import Writes

Function = TypeVar("Function", bound=Callable[..., Any])


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
        return Items(condition, state.statuses[self.name].staleness.note_damage)

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
            state.statuses[self.name].staleness.note_damage(snapshot)
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
        asked = current_request()
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
