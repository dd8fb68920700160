"""From a query to its page: bytes, counts, ETag.

This is the hot path.  A repeated query costs one look-up of finished bytes, and a new one a join of slices of the
mapped data; no item is parsed or encoded.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .. import events
from ..settings import Settings
from ..status.condition import Condition, ListStatus
from ..store.snapshot import DAMAGE, Snapshot
from .answers import Read
from .page_cache import PageCache
from .parse import BadQueryError, Defaults, Query, check, parse
from .plan import Plan, Planner

SHAPES_MAX = 256


@dataclass(frozen=True)
class Page(Read):
    """One page of a list, as ``files.page()`` returns it to a view that has a shape of its own."""

    items: list[dict[str, Any]]
    page: int
    per_page: int
    total: int
    total_pages: int
    counts: dict[str, int]
    generation: str | None
    age: float
    state: str
    complete: bool
    rebuilding: bool
    search_complete: bool  # if not, the search ran out of time, and ``total`` counts only what it found
    _status: ListStatus = field(repr=False, compare=False)
    _condition: Condition = field(repr=False, compare=False)


class Body(NamedTuple):
    """A finished answer and its validator."""

    data: bytes
    etag: str
    condition: Condition | None = None  # of an answer that met damage: what its headers must say


class Pager:
    """Answers the queries of one list in one process."""

    def __init__(self, status: ListStatus, settings: Settings, cache: PageCache) -> None:
        self.status = status
        self._declaration = status.declaration
        self._settings = settings
        self._cache = cache
        self._planner = Planner(status.declaration, settings, cache)
        self._head = b'{"%b": [' % self._declaration.plural.encode()
        self._shapes: dict[Defaults, str] = {}
        self._last_etag: tuple[tuple[object, ...], str] = ((), "")  # and what it is the ETag of

    def parse(self, raw: bytes, defaults: Defaults) -> Query:
        """Return the query of a raw query string.

        :raises BadQueryError: naming the parameter and what is allowed.
        """
        return parse(raw, defaults, self._declaration, self._settings)

    def body(self, condition: Condition, raw: bytes, defaults: Defaults) -> Body:
        """Return the answer to a raw query string.

        :param defaults: the view's per_page, filter and sort, for requests that leave them out.
        :raises BadQueryError: for a parameter that is wrong.
        """
        snapshot = condition.snapshot
        generation = snapshot.generation if snapshot is not None else 0
        cache_key = (
            self.status.name, generation, raw, defaults, condition.state, condition.rebuilding
        )  # fmt: skip
        body: Body | None
        body, asked_before = self._cache.ask(cache_key)
        if body is None:
            try:
                plan, page = self._planner.plan_and_page(snapshot, generation, raw, defaults)
                body, lasting = self._build(condition, plan, page, defaults)
            except BadQueryError:
                raise
            except DAMAGE as error:
                # The files were changed under us.  Answer without items; the list is rebuilt.
                condition = self._note_damage(condition, error)
                plan = self._planner.plan(None, self.parse(raw, defaults))
                body, lasting = self._build(condition, plan, 1, defaults)
                return body._replace(condition=condition)
            if lasting and asked_before:
                self._cache.put(cache_key, body, len(body.data) + len(raw))
        return body

    def _build(self, condition: Condition, plan: Plan, page: int, defaults: Defaults) -> tuple[Body, bool]:
        """Return the answer, and whether the same query would be answered with it again."""
        snapshot = condition.snapshot
        page, places = plan.cut(page)
        # Front ends of the API that this replaces read these names, in this order.
        head, tail = self._head, b'], "page": %d%b' % (page, plan.tails[condition.rebuilding])
        met_damage = None
        if snapshot is None:
            data, is_whole = head + tail, True
        else:
            data, is_whole = self._items_json(snapshot, plan, places, head, tail)
            if not is_whole:
                condition = met_damage = self.status.damaged(condition, is_readable=True)
                data = data[: -len(tail)] + b'], "page": %d%b' % (page, plan.tails[condition.rebuilding])
        etag = self._etag_of(condition, defaults)
        lasting = plan.search_complete and is_whole
        if not lasting:
            etag = f'{etag[:-1]}-{zlib.crc32(data):x}"'
        return Body(data, etag, met_damage), lasting

    def _etag_of(self, condition: Condition, defaults: Defaults) -> str:
        """Return the ETag of all pages of one snapshot in one condition.

        An ETag counts for one URL, so generation, state and flag decide.  The flag is part of it because it can
        change without a new generation, and a 304 would keep an old ``cache_rebuilding`` alive.
        """
        generation = "0" if condition.snapshot is None else condition.snapshot.shown_generation
        described = (generation, condition.state, condition.rebuilding, defaults)
        last, etag = self._last_etag
        if last != described:
            etag = f'W/"{generation}-{condition.state}-{condition.rebuilding:d}-{self._shape_of(defaults)}"'
            self._last_etag = (described, etag)
        return etag

    def page(self, condition: Condition, parameters: Mapping[str, str]) -> Page:
        """Return one page with decoded items.

        :raises BadQueryError: for a parameter that is wrong.
        """
        query = check(parameters, self._declaration, self._settings)
        try:
            return self._page(condition, query)
        except BadQueryError:
            raise
        except DAMAGE as error:
            return self._page(self._note_damage(condition, error), query)

    def _page(self, condition: Condition, query: Query) -> Page:
        snapshot = condition.snapshot
        plan = self._planner.plan(snapshot, query)
        page, places = plan.cut(query.page)
        items = []
        if snapshot is not None:
            data, is_whole = self._items_json(snapshot, plan, places, b"[", b"]")
            items = json.loads(data)
            if not is_whole:
                condition = self.status.damaged(condition, is_readable=True)
        return Page(
            items=items,
            page=page,
            per_page=plan.per_page,
            total=plan.total,
            total_pages=plan.total_pages,
            counts={
                name: 0 if snapshot is None else snapshot.filter_count(name) for name in self._declaration.counts
            },
            generation=None if snapshot is None else snapshot.shown_generation,
            age=condition.age,
            state=condition.state,
            complete=snapshot is not None and snapshot.complete,
            rebuilding=condition.rebuilding,
            search_complete=plan.search_complete,
            _status=self.status,
            _condition=condition,
        )

    def _shape_of(self, defaults: Defaults) -> str:
        """Return what differs if two processes, or two views, show the same snapshot in different ways."""
        shape = self._shapes.get(defaults)
        if shape is None:
            if len(self._shapes) >= SHAPES_MAX:
                self._shapes.clear()
            text = repr((self._declaration.digest, self._declaration.plural, self._settings, defaults))
            shape = self._shapes[defaults] = f"{zlib.crc32(text.encode()):x}"
        return shape

    def _note_damage(self, condition: Condition, error: Exception) -> Condition:
        events.error(
            "warmcache.snapshot_damaged",
            "a page of %(list)r cannot be read (%(reason)s); the list is rebuilt",
            list=self.status.name,
            reason=f"{type(error).__name__}: {error}",
        )
        return self.status.damaged(condition, is_readable=False)

    def _items_json(
        self, snapshot: Snapshot, plan: Plan, places: list[int], head: bytes, tail: bytes
    ) -> tuple[bytes, bool]:
        """Return the items' JSON between head and tail, and whether it has all of them."""
        try:
            return snapshot.items_json(places, head, tail, backwards=plan.backwards), True
        except DAMAGE:
            # The data file was changed under us.  Serve the items whose lines are whole; the list is rebuilt.
            pairs = list(zip(places[::2], places[1::2], strict=True))
            if plan.backwards:
                pairs.reverse()
            items = b",".join(item for place in pairs if (item := _item_json(snapshot, place)))
            return head + items + tail, False


def _item_json(snapshot: Snapshot, place: tuple[int, int]) -> bytes:
    """Return one item's JSON, or nothing when its line is damaged."""
    try:
        item = snapshot.items_json(place)
        return item if isinstance(json.loads(item), dict) else b""
    except DAMAGE:
        return b""
