"""A query becomes a page: bytes, counts, ETag.

This is the hot path.  A repeated question costs one look-up of finished bytes, a new one a join of slices
of the mapped data; no item is parsed or encoded.
"""

from __future__ import annotations

import json
import logging
import zlib
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..errors import BadQueryError
from ..settings import Settings
from ..status.condition import Condition, ListStatus
from ..store.search import search
from ..store.snapshot import DAMAGE, Snapshot
from .page_cache import PageCache
from .parse import Defaults, Query, check, parse

log = logging.getLogger("flask_warmcache")
PAGE = b"page="
DIGITS_MAX = 9
REMEMBERED_MAX = 256
NOTHING = array("I")


@dataclass(frozen=True)
class Page:
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
    search_complete: bool


class Body(NamedTuple):
    """A finished answer and its validator."""

    data: bytes
    etag: str


class Plan(NamedTuple):
    """All that a query's pages have in common: in which order the items come, and the figures around them."""

    view: memoryview[int] | array[int]  # places, two numbers for each item
    backwards: bool
    total: int
    per_page: int
    total_pages: int
    search_complete: bool
    tails: tuple[bytes, bytes]  # the answer behind the page's number: with the flag false, and true

    def cut(self, page: int) -> tuple[int, list[int]]:
        """The number of the page that there is, and its places, which are to be read backwards if the plan is."""
        page = min(page, self.total_pages)
        begin, end = (page - 1) * self.per_page, min(page * self.per_page, self.total)
        if self.backwards:
            begin, end = self.total - end, self.total - begin
        return page, self.view[2 * begin : 2 * end].tolist()


class Pager:
    """Answers queries of one list in one process, and remembers what it answered."""

    def __init__(self, status: ListStatus, settings: Settings, cache: PageCache) -> None:
        self.status = status
        self._declaration = status.declaration
        self._settings = settings
        self._cache = cache
        plural = self._declaration.plural
        self._head = b'{"%b": [' % plural.encode()
        self._tail = f', "per_page": %d, "total_{plural}": %d, "total_pages": %d'
        self._counts = tuple((name, f', "{name}_count": ') for name in self._declaration.counts)
        self._shapes: dict[Defaults, str] = {}
        self._etag: tuple[tuple[object, ...], str] = ((), "")  # the last one, and of what
        self._plans: tuple[int, dict[tuple[bytes, Defaults], Plan]] = (0, {})  # of one generation

    def parse(self, raw: bytes, defaults: Defaults) -> Query:
        """The query of a raw query string.

        :raises BadQueryError: naming the parameter and what is allowed.
        """
        return parse(raw, defaults, self._declaration, self._settings)

    def check(self, given: Mapping[str, str]) -> Query:
        """The query of these parameters.

        :raises BadQueryError: naming the parameter and what is allowed.
        """
        return check(given, self._declaration, self._settings)

    def body(self, condition: Condition, raw: bytes, defaults: Defaults) -> Body:
        """The answer to a raw query string.

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
                plan, page = self._planned(snapshot, generation, raw, defaults)
                body, lasting = self._build(condition, plan, page, defaults)
            except BadQueryError:
                raise
            except DAMAGE as error:
                # The files were changed under us.  An answer without items is better than none; it is rebuilt.
                condition = self._note_damage(condition, error)
                body, lasting = self._build(condition, self._plan(None, self.parse(raw, defaults)), 1, defaults)
            if lasting and asked_before:
                self._cache.put(cache_key, body, len(body.data) + len(raw))
        return body

    def _planned(
        self, snapshot: Snapshot | None, generation: int, raw: bytes, defaults: Defaults
    ) -> tuple[Plan, int]:
        """The plan of a query, and the page it asks for.

        Who turns pages asks the same again with another number, so the rest is read and looked up once.
        """
        first, _, rest = raw.partition(b"&")
        page = first[len(PAGE) :]
        if not (first.startswith(PAGE) and page.isdigit() and len(page) <= DIGITS_MAX):
            query = self.parse(raw, defaults)
            return self._plan(snapshot, query), query.page
        of, plans = self._plans
        if of != generation or len(plans) > REMEMBERED_MAX:
            plans = {}
            self._plans = (generation, plans)
        plan = plans.get((rest, defaults))
        if plan is None:
            query = self.parse(raw, defaults)
            plan = self._plan(snapshot, query)
            # What a search found is kept elsewhere, where its bytes are counted.
            if not query.search:
                plans[rest, defaults] = plan
        return plan, int(page) or 1

    def _build(self, condition: Condition, plan: Plan, page: int, defaults: Defaults) -> tuple[Body, bool]:
        """The answer, and whether the same question would get the same again."""
        snapshot = condition.snapshot
        page, places = plan.cut(page)
        # Key order and names are those that front ends of the seed's API read.
        head, tail = self._head, b'], "page": %d%b' % (page, plan.tails[condition.rebuilding])
        data, whole = (head + tail, True) if snapshot is None else self._lines(snapshot, plan, places, head, tail)
        etag = self._etag_of(condition, defaults)
        lasting = plan.search_complete and whole
        if not lasting:
            etag = f'{etag[:-1]}-{zlib.crc32(data):x}"'
        return Body(data, etag), lasting

    def _etag_of(self, condition: Condition, defaults: Defaults) -> str:
        """What validates all pages of one snapshot in one condition.

        An ETag counts for one URL, so generation, state and flag decide; the flag changes it without a new
        generation, lest a 304 keep an old ``cache_rebuilding`` alive.
        """
        generation = "0" if condition.snapshot is None else condition.snapshot.shown_generation
        asked = (generation, condition.state, condition.rebuilding, defaults)
        of, etag = self._etag
        if of != asked:
            etag = f'"{generation}-{condition.state}-{condition.rebuilding:d}-{self._shape_of(defaults)}"'
            self._etag = (asked, etag)
        return etag

    def page(self, condition: Condition, query: Query) -> Page:
        """One page with decoded items."""
        try:
            return self._page(condition, query)
        except BadQueryError:
            raise
        except DAMAGE as error:
            return self._page(self._note_damage(condition, error), query)

    def _page(self, condition: Condition, query: Query) -> Page:
        snapshot = condition.snapshot
        plan = self._plan(snapshot, query)
        page, places = plan.cut(query.page)
        items = [] if snapshot is None else json.loads(self._lines(snapshot, plan, places, b"[", b"]")[0])
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
        )

    def _shape_of(self, defaults: Defaults) -> str:
        """What differs between two processes, or two views, that show the same snapshot in another way."""
        shape = self._shapes.get(defaults)
        if shape is None:
            if len(self._shapes) >= REMEMBERED_MAX:
                self._shapes.clear()
            told = repr((self._declaration.digest, self._declaration.plural, self._settings, defaults))
            shape = self._shapes[defaults] = f"{zlib.crc32(told.encode()):x}"
        return shape

    def _note_damage(self, condition: Condition, error: Exception) -> Condition:
        log.error(
            "warmcache.snapshot_damaged: a page of %r cannot be read (%s: %s); the list is rebuilt",
            self.status.name,
            type(error).__name__,
            error,
            extra={"warmcache_list": self.status.name},
        )
        if condition.snapshot is not None:
            self.status.note_damage(condition.snapshot)
        return condition._replace(snapshot=None, rebuilding=True)

    # From query to places

    def _plan(self, snapshot: Snapshot | None, query: Query) -> Plan:
        """
        :raises BadQueryError: when everything at once is asked for and is too large.
        """
        view: memoryview[int] | array[int] = NOTHING
        complete = True
        if (
            snapshot is None
            or not snapshot.has_view(query.filter, query.sort)
            or (query.search and not snapshot.has_search)
        ):
            pass  # cold; or made by other code, which had no such view: cold for this view
        elif query.search:
            view, complete = self._found(snapshot, query)
        else:
            view = snapshot.view(query.filter, query.sort)
        total = len(view) // 2
        if query.per_page == 0 and snapshot is not None:
            self._check_size(view)
        per_page = query.per_page or max(total, 1)
        total_pages = max(1, -(-total // per_page))
        tail = self._tail % (per_page, total, total_pages)
        for name, label in self._counts:
            tail += label + str(0 if snapshot is None else snapshot.filter_count(name))
        end = "}\n" if complete else ', "search_complete": false}\n'
        off, on = (f'{tail}, "cache_rebuilding": {flag}{end}'.encode() for flag in ("false", "true"))
        backwards = query.backwards and not query.search  # what was found is in order already
        return Plan(view, backwards, total, per_page, total_pages, complete, (off, on))

    def _check_size(self, view: memoryview[int] | array[int]) -> None:
        if sum(view[1::2]) - sum(view[::2]) > self._settings.max_all_bytes:
            raise BadQueryError(
                "per_page",
                f"All {len(view) // 2} {self._declaration.plural} at once are too large for one answer; ask for "
                f"pages of at most {self._settings.max_per_page}.",
            )

    def _found(self, snapshot: Snapshot, query: Query) -> tuple[array[int], bool]:
        """What a search finds, in the view's order; kept, since its pages are asked for one after another."""
        key = (
            self.status.name, snapshot.generation, query.search, query.filter, query.sort, query.backwards
        )  # fmt: skip
        known = self._cache.get(key)
        if known is None:
            slots, complete = search(snapshot, query.search, self._settings.search_budget)
            ordered = snapshot.in_view(slots, query.filter, query.sort, query.backwards)
            # Kept even when the budget ended it: the pages of one search should be pages of one result.
            places = snapshot.places(ordered)
            known = (places, complete)
            self._cache.put(key, known, places.itemsize * len(places))
        return known  # type: ignore[no-any-return]

    def _lines(
        self, snapshot: Snapshot, plan: Plan, places: list[int], head: bytes, tail: bytes
    ) -> tuple[bytes, bool]:
        """The items' JSON between head and tail, and whether none had to be left out."""
        try:
            return snapshot.items_json(places, head, tail, backwards=plan.backwards), True
        except DAMAGE:
            # The data file was changed under us.  Serve the items whose lines are whole, ask for a rebuild.
            self.status.note_damage(snapshot)
            each = list(zip(places[::2], places[1::2], strict=True))
            if plan.backwards:
                each.reverse()
            lines = b",".join(whole for place in each if (whole := _whole(snapshot, place)))
            return head + lines + tail, False


def _whole(snapshot: Snapshot, place: tuple[int, int]) -> bytes:
    """One item's JSON, or nothing when its line is damaged."""
    try:
        line = snapshot.items_json(place)
        return line if isinstance(json.loads(line), dict) else b""
    except DAMAGE:
        return b""
