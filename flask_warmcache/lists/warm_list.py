"""What a view may ask of a list, and the items that it gets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

from flask import Response

from ..declaration import Item, asynchronous
from ..errors import DeclarationError, SnapshotError, StoreError
from ..query.answers import Read
from ..query.pager import Page
from ..query.parse import BadQueryError
from ..state import AppState
from ..status.condition import Condition, ListStatus
from ..store.format import key_hash
from ..store.snapshot import DAMAGE, Snapshot
from .warm import Warm, current_request

if TYPE_CHECKING:
    from ..rebuild.writes import Writes

Function = TypeVar("Function", bound=Callable[..., Any])


class Items(Read, Sequence[Item]):
    """The items of one snapshot of a list: a read-only sequence that decodes each item when it is accessed."""

    def __init__(self, status: ListStatus, condition: Condition) -> None:
        self._status = status
        self._condition = condition
        self._snapshot: Snapshot | None = condition.snapshot
        self.generation = None if condition.snapshot is None else condition.snapshot.shown_generation
        self.age = condition.age
        self.state = condition.state
        self.complete = condition.snapshot is not None and condition.snapshot.complete
        self.rebuilding = condition.rebuilding

    def __len__(self) -> int:
        return 0 if self._snapshot is None else self._snapshot.count

    @overload
    def __getitem__(self, index: int) -> Item: ...

    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...

    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        positions = range(len(self))[index]  # raises IndexError as a list does
        if isinstance(positions, range):
            return [self._item(position) for position in positions]
        return self._item(positions)

    def _item(self, position: int) -> Item:
        assert self._snapshot is not None  # an empty sequence has no positions
        try:
            item: Item = self._snapshot.item(self._snapshot.slot_at(position))
            return item
        except DAMAGE as error:
            # Not IndexError, which would end a loop as if the list were complete.
            self._status.staleness.note_damage(self._snapshot)
            raise SnapshotError("an item's line is damaged; the list is rebuilt") from error

    def __repr__(self) -> str:
        return f"<Items {len(self)}, {self.state}>"


class WarmList(Warm):
    """A named, cached list of items: JSON objects with a unique key."""

    # Declaring

    def source(self, function: Function) -> Function:
        """Declare the cheap function that yields or returns, as dicts, the items that exist now."""
        if self.declaration.source_list is not None:
            raise DeclarationError(
                f"Warm list {self.name!r} has a source already: the list {self.declaration.source_list!r}."
            )
        self._declare("source", function)
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
        """Declare the expensive function that completes one item; it is called only for new and changed items.

        :param fingerprint: what an enriched item depends on: names of fields of the source item, or a function of
            it. While that is unchanged the item is reused. By default it is the whole source item.
        :param version: the version of the function itself; every item is enriched again when it changes.
        :param workers: how many threads call it at the same time, if it waits for disks or networks.
        :param batch: the function takes a list of at most this many items and returns the completed ones in order.
            A rebuild gives it fewer if so many would take much longer than a second.
        :param item_timeout: seconds after which a call is interrupted and its items count as failed. It needs a
            rebuild in a child process, since a call in a thread cannot be interrupted, and one worker.
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
        if asynchronous(fingerprint):
            raise DeclarationError(
                f"fingerprint of warm list {self.name!r} is called once for each item and cannot be async."
            )
        fields = fingerprint if fingerprint is None or callable(fingerprint) else tuple(fingerprint)

        def declare(enrich: Function) -> Function:
            self._declare(
                "enrich",
                enrich,
                fingerprint=fields,
                version=str(version),
                workers=workers,
                batch=batch,
                item_timeout=item_timeout,
            )
            return enrich

        return declare if function is None else declare(function)

    @overload
    def lookup(self, function: Function) -> Function: ...

    @overload
    def lookup(self, function: None = None, *, batch: int | None = None) -> Callable[[Function], Function]: ...

    def lookup(
        self, function: Function | None = None, *, batch: int | None = None
    ) -> Function | Callable[[Function], Function]:
        """Declare the function that ``refresh`` calls with a key for its source item; None means there is none.

        :param batch: the function takes a list of at most this many keys, and returns the source items that there
            are, in any order.
        """
        if self.declaration.key is None:
            raise DeclarationError(f"Warm list {self.name!r} has no key=, so nothing can be looked up by it.")

        def declare(lookup: Function) -> Function:
            self._declare("lookup", lookup, lookup_batch=batch)
            return lookup

        return declare if function is None else declare(function)

    # Changing

    def refresh(self, *keys: str | int | Item) -> bool:
        """Look these keys up and enrich them now; the next request in every worker sees them.

        It rewrites the index once and never waits for a rebuild. Call it after the commit of the change. A key
        that ``lookup`` no longer finds is discarded. Lists derived from this one are updated too; one that cannot
        be (it is cold, for example) catches up at its next rebuild.

        :param keys: keys, or source items, which are not looked up.
        :returns: True when they are published in this list. False when that failed within a second, or there is
            nothing published yet; then the list is invalidated, and the next rebuild brings the changes.
        :raises StoreError: when the list could not be invalidated, either: the cache folder cannot be written.
        :raises DeclarationError: for a key of a list that has neither ``lookup`` nor a source list.
        :raises Exception: what ``lookup`` or ``enrich`` raised; then nothing is changed.
        """
        with self._context():
            return self._woken(self._writes().refresh(keys))

    def discard(self, *keys: str | int) -> bool:
        """Remove these keys from the list; the next request in every worker no longer sees them.

        :returns: as ``refresh``.
        :raises StoreError: as ``refresh``.
        """
        with self._context():
            return self._woken(self._writes().discard(keys))

    def _writes(self) -> Writes:
        state, _ = self._status()
        if self.declaration.key is None:
            raise DeclarationError(f"Warm list {self.name!r} has no key=, so no item can be written by it.")
        return state.writes_of(self.name)

    def _woken(self, published: bool) -> bool:
        if not published:
            self._status()[0].keeper.wake()
        return published

    # Reading

    def get(self) -> Items:
        """Return every item in source order, each decoded when it is accessed, with the list's state."""
        state, condition = self._condition()
        return Items(state.statuses[self.name], condition)

    def find(self, key: str | int) -> Item | None:
        """Return the item with this key, or None when the newest snapshot has none.

        :raises SnapshotError: when the files were changed under us; then the list is rebuilt.
        """
        state, condition = self._condition()
        field, snapshot = self.declaration.key, condition.snapshot
        if field is None:
            raise DeclarationError(f"Warm list {self.name!r} has no key=, so no item can be found by it.")
        if snapshot is None:
            return None
        try:
            slot = snapshot.find(key, field)
            return None if slot is None else snapshot.item(slot)
        except DAMAGE as error:
            key_hash(key)  # a key of a wrong type is the caller's TypeError
            # None would claim that there is no such item, which is unknown.
            state.statuses[self.name].staleness.note_damage(snapshot)
            raise SnapshotError(f"an item of {self.name!r} is damaged; the list is rebuilt") from error

    def page(
        self,
        page: int | str | None = None,
        per_page: int | str | None = None,
        filter: str | None = None,
        sort: str | None = None,
        search: str | None = None,
    ) -> Page:
        """Return one page with decoded items, for a view that answers in its own format.

        Each argument may come from ``request.args`` as it is. None counts as left out.

        :raises BadQueryError: for a value that ``response`` would answer with 400; if the view lets it pass, Flask
            answers so, too.
        """
        state, condition = self._condition()
        given = {"page": page, "per_page": per_page, "filter": filter, "sort": sort, "search": search}
        parameters = {name: str(value) for name, value in given.items() if value is not None}
        return state.pagers[self.name].page(condition, parameters)

    def response(
        self, *, per_page: int | None = None, filter: str | None = None, sort: str | None = None
    ) -> Response:
        """Answer the request's ``page``, ``per_page``, ``filter``, ``sort``, ``search`` and ``refresh``.

        It never waits, and it parses and encodes no item.  A wrong parameter is answered with 400 and the allowed
        values.

        :param per_page: how many items are on a page, unless the request says.
        :param filter: the filter, unless the request names one.
        :param sort: the order, unless the request names one; by default source order.
        """
        request = current_request()
        state, condition = self._condition()
        pager = state.pagers[self.name]
        raw = request.query_string
        defaults = (per_page, filter, sort)
        try:
            if b"refresh" in raw and pager.parse(raw, defaults).refresh:
                condition = self._refresh(state, condition)
            body = pager.body(condition, raw, defaults)
        except BadQueryError as error:
            return state.answers.refusal(error)
        return state.answers.ok(request, pager.status, body.condition or condition, body.data, body.etag)

    def _refresh(self, state: AppState, condition: Condition) -> Condition:
        """Ask for a rebuild unless one is under way or the list is newer than the refresh interval."""
        if not state.settings.allow_refresh or condition.rebuilding or condition.due:
            return condition
        if condition.snapshot is None or condition.age < state.settings.refresh_interval:
            return condition
        try:
            state.store.mark_stale(self.name, condition.snapshot)
        except StoreError:
            return condition  # the folder cannot be written: the keeper reports it, and the read continues
        return self._condition()[1]
