"""From a query to its plan: which items answer it, in which order, and the figures around them."""

from __future__ import annotations

import weakref
from array import array
from typing import NamedTuple

from .. import events
from ..declaration import Declaration
from ..settings import Settings
from ..store.search import search
from ..store.snapshot import Snapshot
from .page_cache import PageCache
from .parse import NO_DEFAULTS, BadQueryError, Defaults, Query, parse

PAGE = b"page="
DIGITS_MAX = 9
PLANS_MAX = 256
NOTHING = array("I")


class Plan(NamedTuple):
    """Everything that the pages of one query have in common."""

    view: memoryview[int] | array[int]  # places, two numbers for each item
    backwards: bool
    total: int
    per_page: int
    total_pages: int
    search_complete: bool
    tails: tuple[bytes, bytes]  # the answer's end after the page number, for a false and a true flag

    def cut(self, page: int) -> tuple[int, list[int]]:
        """Return the number of an existing page, and its places, in reverse order if the plan is backwards."""
        page = min(page, self.total_pages)
        begin, end = (page - 1) * self.per_page, min(page * self.per_page, self.total)
        if self.backwards:
            begin, end = self.total - end, self.total - begin
        return page, self.view[2 * begin : 2 * end].tolist()


class Planner:
    """Makes the plans of one list's queries, and remembers those of the current generation."""

    def __init__(self, declaration: Declaration, settings: Settings, cache: PageCache) -> None:
        self._declaration = declaration
        self._settings = settings
        self._cache = cache
        self._tail = f', "per_page": %d, "total_{declaration.plural}": %d, "total_pages": %d'
        self._counts = tuple((name, f', "{name}_count": ') for name in declaration.counts)
        self._is_size_logged = False
        # Those of one generation, and what forgets them at the snapshot's end: they hold its index in memory.
        self._plans: tuple[int, dict[tuple[bytes, Defaults], Plan], object] = (0, {}, None)

    def plan_and_page(
        self, snapshot: Snapshot | None, generation: int, raw: bytes, defaults: Defaults
    ) -> tuple[Plan, int]:
        """Return the plan of a raw query string, and the number of the page that it asks for.

        A reader who turns pages sends the same query with another number, so the rest is planned only once.

        :raises BadQueryError: for a parameter that is wrong.
        """
        first, _, rest = raw.partition(b"&")
        page = first[len(PAGE) :]
        if not (first.startswith(PAGE) and page.isdigit() and len(page) <= DIGITS_MAX):
            query = parse(raw, defaults, self._declaration, self._settings)
            return self.plan(snapshot, query, defaults), query.page
        planned_generation, plans, _ = self._plans
        if planned_generation != generation or len(plans) > PLANS_MAX:
            plans = {}
            ended = None if snapshot is None else weakref.ref(snapshot, lambda _: plans.clear())
            self._plans = (generation, plans, ended)
        plan = plans.get((rest, defaults))
        if plan is None:
            query = parse(raw, defaults, self._declaration, self._settings)
            plan = self.plan(snapshot, query, defaults)
            # The result of a search is kept in the page cache, which counts its bytes.
            if not query.search:
                plans[rest, defaults] = plan
        return plan, int(page) or 1

    def plan(self, snapshot: Snapshot | None, query: Query, defaults: Defaults = NO_DEFAULTS) -> Plan:
        """Return the plan of a query.

        :param defaults: of the view. One that asks for all items itself gets them, however large they are.
        :raises BadQueryError: when the query asks for all items and they are too large for one answer.
        """
        view: memoryview[int] | array[int] = NOTHING
        complete = True
        # Other code, which did not have this view, may have made the snapshot.
        if snapshot is not None and snapshot.has_view(query.filter, query.sort):
            if not query.search:
                view = snapshot.view(query.filter, query.sort)
            elif snapshot.has_search:
                view, complete = self._found(snapshot, query)
        total = len(view) // 2
        if query.per_page == 0 and snapshot is not None:
            self._check_size(view, is_chosen_by_view=defaults[0] in (0, -1))
        per_page = query.per_page or max(total, 1)
        total_pages = max(1, -(-total // per_page))
        tail = self._tail % (per_page, total, total_pages)
        for name, label in self._counts:
            tail += label + str(0 if snapshot is None else snapshot.filter_count(name))
        end = "}\n" if complete else ', "search_complete": false}\n'
        off, on = (f'{tail}, "cache_rebuilding": {flag}{end}'.encode() for flag in ("false", "true"))
        backwards = query.backwards and not query.search  # the result of a search is in its final order
        return Plan(view, backwards, total, per_page, total_pages, complete, (off, on))

    def _check_size(self, view: memoryview[int] | array[int], *, is_chosen_by_view: bool) -> None:
        if is_chosen_by_view and self._is_size_logged:
            return
        if sum(view[1::2]) - sum(view[::2]) <= self._settings.max_all_bytes:
            return
        if not is_chosen_by_view:
            raise BadQueryError(
                "per_page",
                f"All {len(view) // 2} {self._declaration.plural} at once are too large for one answer; ask for "
                f"pages of at most {self._settings.max_per_page}.",
            )
        if not self._is_size_logged:
            self._is_size_logged = True
            events.warning(
                "warmcache.answer_large",
                "a view answers with all %(count)d items of %(list)r, more than WARMCACHE_MAX_ALL_BYTES",
                list=self._declaration.name,
                count=len(view) // 2,
            )

    def _found(self, snapshot: Snapshot, query: Query) -> tuple[array[int], bool]:
        """Search, and keep the result in the page cache for the next page of it."""
        key = (
            self._declaration.name, snapshot.generation, query.search, query.filter, query.sort, query.backwards
        )  # fmt: skip
        result = self._cache.get(key)
        if result is None:
            slots, complete = search(snapshot, query.search, self._settings.search_budget)
            places = snapshot.places(snapshot.in_view(slots, query.filter, query.sort, query.backwards))
            # An incomplete result is kept, too: all pages of a search should be pages of one result.
            result = (places, complete)
            self._cache.put(key, result, places.itemsize * len(places))
        return result  # type: ignore[no-any-return]
