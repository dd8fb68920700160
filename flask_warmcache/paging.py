"""A query becomes a page: bytes, counts, ETag.

This is the hot path.  A repeated question costs one look-up of finished bytes, a new one a join of slices
of the mapped data; no item is parsed or encoded, and the query string is read once, by hand, because
``request.args`` alone costs a twentieth of a small request.
"""

from __future__ import annotations

import json
import threading
import zlib
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote_plus

from cachetools import LRUCache

from .declare import Declaration
from .errors import BadQueryError, SnapshotError
from .rebuild.status import Condition, ListStatus
from .settings import Settings
from .store.format import ALL, SOURCE_ORDER
from .store.search import search
from .store.snapshot import Snapshot

SEARCH_MAX_CHARACTERS = 100
SEARCH_MAX_WORDS = 5
# What a cached entry costs besides its bytes, roughly: key, tuple, linked list, object headers.
ENTRY_OVERHEAD = 600
PARAMETERS = ("page", "per_page", "filter", "sort", "search", "refresh")
Defaults = tuple[int | None, str | None, str | None]  # per_page, filter, sort
YES, NO = ("true", "1", "yes", "on"), ("", "false", "0", "no", "off")


@dataclass(frozen=True)
class Query:
    """What a request asks of a list; checked."""

    page: int = 1
    per_page: int = 100  # 0: all
    filter: str = ALL
    sort: str = SOURCE_ORDER
    backwards: bool = False
    search: str = ""
    refresh: bool = False


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


@dataclass(frozen=True)
class Body:
    """A finished answer and its validator."""

    data: bytes
    etag: str


@dataclass(frozen=True)
class Slice:
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
        self._status = status
        self._declaration = status.declaration
        self._settings = settings
        self._cache = cache
        plural = self._declaration.plural
        self._head = b'{"%b": [' % plural.encode()
        self._count_keys = tuple(f'"{name}_count"' for name in self._declaration.counts)
        self._total_key = f'"total_{plural}"'

    def body(self, condition: Condition, raw: bytes, defaults: Defaults) -> Body:
        """The answer to a raw query string.

        :param defaults: the view's per_page, filter and sort, for requests that leave them out.
        :raises BadQueryError: for a parameter that is wrong.
        """
        snapshot = condition.snapshot
        generation = snapshot.generation if snapshot is not None else 0
        cache_key = (
            self._declaration.name, generation, raw, defaults, condition.state, condition.rebuilding
        )  # fmt: skip
        body = self._cache.get(cache_key)
        if body is None:
            query = self.parse(raw, defaults)
            body = self._build(condition, query)
            if len(body.data) <= self._settings.page_cache_bytes // 8:
                self._cache.put(cache_key, body, len(body.data) + len(raw))
        return body

    def _build(self, condition: Condition, query: Query) -> Body:
        snapshot = condition.snapshot
        part = self._slice(snapshot, query)
        lines = b"" if snapshot is None else self._lines(snapshot, part.positions)
        # Key order and names are those that front ends of the seed's API read.
        tail = [
            f'"page": {part.page}',
            f'"per_page": {part.per_page}',
            f"{self._total_key}: {part.total}",
            f'"total_pages": {part.total_pages}',
        ]
        for key, name in zip(self._count_keys, self._declaration.counts, strict=True):
            tail.append(f"{key}: {0 if snapshot is None else snapshot.filter_count(name)}")
        tail.append('"cache_rebuilding": true' if condition.rebuilding else '"cache_rebuilding": false')
        if not part.search_complete:
            tail.append('"search_complete": false')
        data = b"".join((self._head, lines, b"], ", ", ".join(tail).encode(), b"}\n"))
        # Generation, query, state and flag all stand in the body or decide it, so its checksum with the
        # generation is the validator: the flag changes it without a new generation.
        generation = 0 if snapshot is None else snapshot.generation
        return Body(data, f'"{generation:x}-{zlib.crc32(data):08x}-{condition.state}"')

    def page(self, condition: Condition, query: Query) -> Page:
        """One page with decoded items."""
        snapshot = condition.snapshot
        part = self._slice(snapshot, query)
        items = [] if snapshot is None else json.loads(b"[%b]" % self._lines(snapshot, part.positions))
        return Page(
            items=items,
            page=part.page,
            per_page=part.per_page,
            total=part.total,
            total_pages=part.total_pages,
            counts={
                name: 0 if snapshot is None else snapshot.filter_count(name)
                for name in self._declaration.counts
            },
            generation=None if snapshot is None else f"{snapshot.generation:x}",
            age=condition.age,
            state=condition.state,
            complete=snapshot is not None and snapshot.complete,
            rebuilding=condition.rebuilding,
            search_complete=part.search_complete,
        )

    # From query to positions

    def _slice(self, snapshot: Snapshot | None, query: Query) -> Slice:
        if snapshot is None or not snapshot.has_view(query.filter, query.sort):
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
            self._declaration.name, snapshot.generation, query.search, query.filter, query.sort, query.backwards
        )  # fmt: skip
        known = self._cache.get(key)
        if known is None:
            positions, complete = search(snapshot, query.search, self._settings.search_budget)
            ordered = snapshot.in_view(positions, query.filter, query.sort, query.backwards)
            known = (array("I", ordered), complete)
            if complete:
                self._cache.put(key, known, 4 * len(ordered))
        return known  # type: ignore[no-any-return]

    def _lines(self, snapshot: Snapshot, positions: Sequence[int]) -> bytes:
        try:
            return snapshot.lines(positions)
        except SnapshotError:
            # The data file was changed under us.  Serve the items whose lines are whole, ask for a rebuild.
            self._status.damaged_generation = snapshot.generation
            return b",".join(whole for position in positions if (whole := _whole(snapshot, position)))

    # From text to query

    def parse(self, raw: bytes, defaults: Defaults) -> Query:
        """Read a query string; what it does not say comes from ``defaults``.

        :raises BadQueryError: naming the parameter and what is allowed.
        """
        named = zip(("per_page", "filter", "sort"), defaults, strict=True)
        given = {name: str(default) for name, default in named if default is not None}
        asked: set[str] = set()
        for part in raw.decode("ascii", "replace").split("&"):
            name, _, value = part.partition("=")
            # The first of several wins, as with ``request.args.get``; what we do not know is the view's own.
            if name in PARAMETERS and name not in asked:
                asked.add(name)
                given[name] = unquote_plus(value) if "%" in value or "+" in value else value
        return self.check(given)

    def check(self, given: Mapping[str, str]) -> Query:
        """A checked query of these parameters.

        :raises BadQueryError: naming the parameter and what is allowed.
        """
        query = Query(
            page=max(1, _number("page", given.get("page") or "1")),
            per_page=self._per_page(given.get("per_page") or str(self._settings.per_page)),
            refresh=_yes_or_no("refresh", given.get("refresh", "")),
        )
        filter_name = given.get("filter") or ALL
        if filter_name != ALL and filter_name not in self._declaration.filters:
            allowed = [ALL, *self._declaration.filters]
            raise BadQueryError("filter", f"filter must be one of: {', '.join(allowed)}.", allowed)
        sort = given.get("sort") or SOURCE_ORDER
        backwards = sort.startswith("-")
        sort_name = sort.removeprefix("-")
        if sort_name and sort_name not in self._declaration.sorts:
            allowed = [direction + name for name in self._declaration.sorts for direction in ("", "-")]
            raise BadQueryError("sort", f"sort must be one of: {', '.join(allowed) or 'none'}.", allowed)
        words = given.get("search", "").strip()
        if len(words) > SEARCH_MAX_CHARACTERS or len(words.split()) > SEARCH_MAX_WORDS:
            raise BadQueryError(
                "search",
                f"search takes at most {SEARCH_MAX_CHARACTERS} characters and {SEARCH_MAX_WORDS} words.",
            )
        if words and not self._declaration.search:
            raise BadQueryError("search", "This list cannot be searched.", [])
        return replace(
            query, filter=filter_name, sort=sort_name, backwards=backwards, search=" ".join(words.split())
        )

    def _per_page(self, text: str) -> int:
        number = _number("per_page", text)
        if number > 0:
            return min(number, self._settings.max_per_page)
        if number in (0, -1) and self._declaration.allow_all:
            return 0
        every = ", or 0 for all" if self._declaration.allow_all else ""
        raise BadQueryError("per_page", f"per_page must be 1 to {self._settings.max_per_page}{every}.")


class PageCache:
    """Finished bytes and search results of one process, the least recently used dropped first."""

    def __init__(self, size: int) -> None:
        """:param size: the most it may hold, in bytes."""
        self._size = size
        self.after_fork()

    def after_fork(self) -> None:
        """A child starts empty, with a lock that nobody holds."""
        self._guard = threading.Lock()  # guards _entries, held for a look-up only
        self._entries: LRUCache[Any, tuple[Any, int]] = LRUCache(self._size, getsizeof=lambda entry: entry[1])

    def get(self, key: Any) -> Any:
        """What was put under the key, or None."""
        with self._guard:
            entry = self._entries.get(key)
        return None if entry is None else entry[0]

    def put(self, key: Any, value: Any, size: int) -> None:
        """Keep a value of so many bytes, unless it is larger than the whole cache."""
        size += ENTRY_OVERHEAD
        if size <= self._size:
            with self._guard:
                self._entries[key] = (value, size)


def _number(parameter: str, text: str) -> int:
    digits = text[1:] if text[:1] == "-" else text
    if not (digits.isascii() and digits.isdigit()):
        raise BadQueryError(parameter, f"{parameter} must be a whole number.")
    # Far above any page; longer digits would only cost time.
    return int(text) if len(digits) <= 15 else (-1 if text[0] == "-" else 1) * 10**15


def _yes_or_no(parameter: str, text: str) -> bool:
    if text.lower() in YES:
        return True
    if text.lower() in NO:
        return False
    raise BadQueryError(parameter, f"{parameter} must be true or false.", ["true", "false"])


def _whole(snapshot: Snapshot, position: int) -> bytes:
    """One item's JSON, or nothing when its line is damaged."""
    try:
        line = snapshot.lines((position,))
        return line if isinstance(json.loads(line), dict) else b""
    except (SnapshotError, ValueError, RecursionError):
        return b""
