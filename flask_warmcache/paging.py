"""A query becomes a page: bytes, counts, ETag.

This is the hot path.  A repeated question costs one look-up of finished bytes, a new one a join of slices
of the mapped data; no item is parsed or encoded.
"""

from __future__ import annotations

import json
import logging
import re
import zlib
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from .errors import BadQueryError
from .page_cache import PageCache
from .query import Defaults, Query, check, parse
from .rebuild.status import Condition, ListStatus
from .settings import Settings
from .store.search import search
from .store.snapshot import DAMAGE, Snapshot

log = logging.getLogger("flask_warmcache")
PAGE_FIRST = re.compile(rb"page=([0-9]{1,9})&(.*)\Z", re.DOTALL)
PARSED_MAX = 256


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


class Slice(NamedTuple):
    """Which positions a query's page holds, and the figures around them."""

    positions: Sequence[int]
    page: int
    per_page: int
    total: int
    total_pages: int
    search_complete: bool


class Pager:
    """Answers queries of one list in one process, and remembers what it answered."""

    def __init__(self, status: ListStatus, settings: Settings, cache: PageCache) -> None:
        self.status = status
        self._declaration = status.declaration
        self._settings = settings
        self._cache = cache
        plural = self._declaration.plural
        self._head = b'{"%b": [' % plural.encode()
        self._total = f'], "page": %d, "per_page": %d, "total_{plural}": %d, "total_pages": %d'
        self._counts = tuple((name, f', "{name}_count": ') for name in self._declaration.counts)
        self._shapes: dict[Defaults, str] = {}
        self._parsed: dict[tuple[bytes, Defaults], Query] = {}

    def parse(self, raw: bytes, defaults: Defaults) -> Query:
        """The query of a raw query string.

        :raises BadQueryError: naming the parameter and what is allowed.
        """
        first = PAGE_FIRST.match(raw)
        if first is None or b"page=" in first[2].replace(b"per_page=", b""):
            return parse(raw, defaults, self._declaration, self._settings)
        # Who turns pages asks the same again with another number: the rest is read once.
        key = (first[2], defaults)
        query = self._parsed.get(key)
        if query is None:
            query = parse(first[2], defaults, self._declaration, self._settings)
            if len(self._parsed) >= PARSED_MAX:
                self._parsed.clear()
            self._parsed[key] = query
        return query._replace(page=int(first[1]) or 1)

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
        body: Body | None = self._cache.get(cache_key)
        if body is None:
            query = self.parse(raw, defaults)
            try:
                body, lasting = self._build(condition, query, defaults)
            except BadQueryError:
                raise
            except DAMAGE as error:
                # The files were changed under us.  An answer without items is better than none; it is rebuilt.
                condition = self._note_damage(condition, error)
                body, lasting = self._build(condition, query, defaults)
            if lasting:
                self._cache.offer(cache_key, body, len(body.data) + len(raw))
        return body

    def _build(self, condition: Condition, query: Query, defaults: Defaults) -> tuple[Body, bool]:
        """The answer, and whether the same question would get the same again."""
        snapshot = condition.snapshot
        part = self._slice(snapshot, query)
        lines, whole = (b"", True) if snapshot is None else self._lines(snapshot, part.positions)
        # Key order and names are those that front ends of the seed's API read.
        tail = self._total % (part.page, part.per_page, part.total, part.total_pages)
        for name, label in self._counts:
            tail += label + str(0 if snapshot is None else snapshot.filter_count(name))
        tail += ', "cache_rebuilding": true' if condition.rebuilding else ', "cache_rebuilding": false'
        if not part.search_complete:
            tail += ', "search_complete": false'
        data = b"".join((self._head, lines, tail.encode(), b"}\n"))
        # An ETag counts for one URL, so generation, state and flag decide; the flag changes it without a new
        # generation, lest a 304 keep an old ``cache_rebuilding`` alive.
        generation = "0" if snapshot is None else snapshot.token
        etag = f'"{generation}-{condition.state}-{condition.rebuilding:d}-{self._shape_of(defaults)}'
        lasting = part.search_complete and whole
        if not lasting:
            etag += f"-{zlib.crc32(data):x}"
        return Body(data, etag + '"'), lasting

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
        part = self._slice(snapshot, query)
        items = [] if snapshot is None else json.loads(b"[%b]" % self._lines(snapshot, part.positions)[0])
        return Page(
            items=items,
            page=part.page,
            per_page=part.per_page,
            total=part.total,
            total_pages=part.total_pages,
            counts={
                name: 0 if snapshot is None else snapshot.filter_count(name) for name in self._declaration.counts
            },
            generation=None if snapshot is None else snapshot.token,
            age=condition.age,
            state=condition.state,
            complete=snapshot is not None and snapshot.complete,
            rebuilding=condition.rebuilding,
            search_complete=part.search_complete,
        )

    def _shape_of(self, defaults: Defaults) -> str:
        """What differs between two processes, or two views, that show the same snapshot in another way."""
        shape = self._shapes.get(defaults)
        if shape is None:
            if len(self._shapes) >= PARSED_MAX:
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

    # From query to positions

    def _slice(self, snapshot: Snapshot | None, query: Query) -> Slice:
        if (
            snapshot is None
            or not snapshot.has_view(query.filter, query.sort)
            or (query.search and not snapshot.has_search)
        ):
            # Cold; or made by other code, which had no such view: cold for this view.
            return Slice((), 1, query.per_page, 0, 1, True)
        found: Sequence[int] | None = None
        complete = True
        if query.search:
            found, complete = self._found(snapshot, query)
            total = len(found)
        else:
            total = snapshot.filter_count(query.filter)
        per_page = query.per_page or max(total, 1)
        total_pages = max(1, -(-total // per_page))
        page = min(query.page, total_pages)
        begin, end = (page - 1) * per_page, min(page * per_page, total)
        if found is not None:
            positions: Sequence[int] = found[begin:end]
        else:
            positions = snapshot.positions(query.filter, query.sort, query.backwards, begin, end)
        if query.per_page == 0 and snapshot.size_of(positions) > self._settings.max_all_bytes:
            raise BadQueryError(
                "per_page",
                f"All {total} {self._declaration.plural} at once are too large for one answer; ask for pages "
                f"of at most {self._settings.max_per_page}.",
            )
        return Slice(positions, page, per_page, total, total_pages, complete)

    def _found(self, snapshot: Snapshot, query: Query) -> tuple[array[int], bool]:
        """What a search finds, in the view's order; kept, since its pages are asked for one after another."""
        key = (
            self.status.name, snapshot.generation, query.search, query.filter, query.sort, query.backwards
        )  # fmt: skip
        known = self._cache.get(key)
        if known is None:
            positions, complete = search(snapshot, query.search, self._settings.search_budget)
            ordered = snapshot.in_view(positions, query.filter, query.sort, query.backwards)
            # Kept even when the budget ended it: the pages of one search should be pages of one result.
            known = (array("I", ordered), complete)
            self._cache.put(key, known, 4 * len(ordered))
        return known  # type: ignore[no-any-return]

    def _lines(self, snapshot: Snapshot, positions: Sequence[int]) -> tuple[bytes, bool]:
        """The items' JSON, and whether none had to be left out."""
        try:
            return snapshot.lines(positions), True
        except DAMAGE:
            # The data file was changed under us.  Serve the items whose lines are whole, ask for a rebuild.
            self.status.note_damage(snapshot)
            return b",".join(whole for position in positions if (whole := _whole(snapshot, position))), False


def _whole(snapshot: Snapshot, position: int) -> bytes:
    """One item's JSON, or nothing when its line is damaged."""
    try:
        line = snapshot.lines((position,))
        return line if isinstance(json.loads(line), dict) else b""
    except DAMAGE:
        return b""
