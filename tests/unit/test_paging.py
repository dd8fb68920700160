"""Pages: their exact keys and order, their limits, their ETags, and the worker's page cache."""

from __future__ import annotations

import json
import weakref
from typing import Any

import pytest

from flask_warmcache import BadQueryError
from flask_warmcache.declaration import Item
from flask_warmcache.query.page_cache import ENTRY_OVERHEAD, PageCache
from flask_warmcache.query.parse import NO_DEFAULTS
from flask_warmcache.store.search import search
from tests.support.shelf import Shelf, declare, files

MARKS: dict[str, Any] = {
    "filters": {"unmarked": lambda item: item["size"] < 2},
    "sorts": {"name": lambda item: item["path"]},
    "search": ("path",),
    "counts": ("unmarked",),
}


def numbered(count: int) -> list[Item]:
    return [{"path": f"p{number:04}", "size": number % 3} for number in range(count)]


def body_of(shelf: Shelf, query: bytes = b"", **declared: Any) -> bytes:
    pager = shelf.pager(declare(**declared))
    return pager.body(pager.status.condition(), query, NO_DEFAULTS).data


def test_cold_answer_has_exactly_these_bytes(shelf: Shelf) -> None:
    assert body_of(shelf, **MARKS) == (
        b'{"files": [], "page": 1, "per_page": 100, "total_files": 0, "total_pages": 1, '
        b'"unmarked_count": 0, "cache_rebuilding": true}\n'
    )


def test_warm_answer_has_same_keys_in_same_order(shelf: Shelf) -> None:
    shelf.rebuild(numbered(7), **MARKS)
    answer = json.loads(body_of(shelf, b"page=2&per_page=3", **MARKS))
    assert list(answer.items()) == [
        ("files", numbered(7)[3:6]),
        ("page", 2),
        ("per_page", 3),
        ("total_files", 7),
        ("total_pages", 3),
        ("unmarked_count", 5),
        ("cache_rebuilding", False),
    ]


def test_unit_names_keys(shelf: Shelf) -> None:
    shelf.rebuild(files("a"))
    assert list(json.loads(body_of(shelf, unit="entry")))[:4] == ["entries", "page", "per_page", "total_entries"]


def test_pages_beyond_ends_are_clamped(shelf: Shelf) -> None:
    shelf.rebuild(numbered(5), **MARKS)
    pager = shelf.pager(declare(**MARKS))
    for query, page, paths in (
        ("page=99&per_page=2", 3, ["p0004"]),
        ("page=999999999999999999999&per_page=2", 3, ["p0004"]),
        ("page=0&per_page=2", 1, ["p0000", "p0001"]),
        ("page=-3&per_page=2", 1, ["p0000", "p0001"]),
        ("page=3&per_page=5", 1, [f"p000{number}" for number in range(5)]),
    ):
        answer = shelf.ask(pager, query)
        assert (answer["page"], [item["path"] for item in answer["files"]]) == (page, paths)


def test_empty_list_has_one_page(shelf: Shelf) -> None:
    shelf.rebuild([], **MARKS)
    answer = shelf.ask(shelf.pager(declare(**MARKS)), "page=5&filter=unmarked&sort=-name&search=x")
    assert (answer["files"], answer["page"], answer["total_files"], answer["total_pages"]) == ([], 1, 0, 1)


def test_all_items_at_once_if_list_allows_it(shelf: Shelf) -> None:
    shelf.rebuild(numbered(1000), **MARKS)
    pager = shelf.pager(declare(**MARKS, allow_all=True))
    for everything in ("0", "-1"):
        answer = shelf.ask(pager, f"per_page={everything}&page=3")
        assert (len(answer["files"]), answer["per_page"]) == (1000, 1000)
        assert (answer["page"], answer["total_pages"]) == (1, 1)
    answer = shelf.ask(pager, "per_page=0&filter=unmarked&sort=-name")
    assert (len(answer["files"]), answer["per_page"]) == (667, 667)


def test_all_items_at_once_are_limited_in_bytes(shelf: Shelf) -> None:
    shelf.rebuild(numbered(1000), **MARKS)
    snapshot = shelf.snapshot()
    size = sum(newline - tab for tab, newline in map(snapshot.place, range(1000)))
    pager = shelf.pager(declare(**MARKS, allow_all=True), max_all_bytes=size)
    assert len(shelf.ask(pager, "per_page=0")["files"]) == 1000
    pager = shelf.pager(declare(**MARKS, allow_all=True), max_all_bytes=size - 1)
    with pytest.raises(BadQueryError, match="All 1000 files at once are too large .* of at most 500"):
        shelf.ask(pager, "per_page=0")
    assert len(shelf.ask(pager, "per_page=500")["files"]) == 500


def test_view_that_asks_for_all_items_itself_gets_them_at_any_size(
    shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    shelf.rebuild(numbered(1000), **MARKS)
    pager = shelf.pager(declare(**MARKS, allow_all=True), max_all_bytes=1)
    for query in (b"", b"page=1", b"sort=name", b"per_page=0"):
        body = pager.body(pager.status.condition(), query, (0, None, None))
        assert len(json.loads(body.data)["files"]) == 1000
    assert caplog.text.count("warmcache.answer_large: a view answers with all 1000 items of 'files'") == 1


def test_all_items_of_cold_list_are_none(shelf: Shelf) -> None:
    answer = shelf.ask(shelf.pager(declare(allow_all=True)), "per_page=0")
    assert (answer["files"], answer["total_pages"], answer["cache_rebuilding"]) == ([], 1, True)


def test_view_missing_in_snapshot_is_cold_and_asks_for_rebuild(shelf: Shelf) -> None:
    shelf.rebuild(numbered(3))  # an older deploy, without views
    pager = shelf.pager(declare(**MARKS))
    for query in ("sort=name", "filter=unmarked", "search=p", "sort=-name&search=p"):
        answer = shelf.ask(pager, query)
        assert (answer["files"], answer["total_files"], answer["cache_rebuilding"]) == ([], 0, True)
    answer = shelf.ask(pager)
    assert (len(answer["files"]), answer["unmarked_count"], answer["cache_rebuilding"]) == (3, 0, True)


def test_page_object_has_decoded_items(shelf: Shelf) -> None:
    shelf.rebuild(numbered(5), **MARKS)
    pager = shelf.pager(declare(**MARKS), per_page=2)
    page = pager.page(pager.status.condition(), {"page": "2", "sort": "-name"})
    assert page.items == [numbered(5)[2], numbered(5)[1]]
    assert (page.page, page.per_page, page.total, page.total_pages, page.counts) == (2, 2, 5, 3, {"unmarked": 4})
    assert (page.state, page.complete, page.rebuilding, page.search_complete) == ("fresh", True, False, True)
    assert page.generation == shelf.snapshot().shown_generation and page.age >= 0
    cold = Shelf(shelf.folder, "cold").pager(declare("cold", **MARKS))
    empty = cold.page(cold.status.condition(), {})
    assert (empty.items, empty.generation, empty.state, empty.complete) == ([], None, "cold", False)


# ETags


def etag(shelf: Shelf, query: bytes = b"", defaults: Any = NO_DEFAULTS, **declared: Any) -> str:
    pager = shelf.pager(declare(**declared))
    return pager.body(pager.status.condition(), query, defaults).etag


def test_etag_changes_with_generation_state_shape_and_defaults(shelf: Shelf) -> None:
    tags = [etag(shelf)]
    shelf.rebuild(files("a"))
    tags.append(etag(shelf))
    assert etag(shelf) == tags[-1]
    tags.append(etag(shelf, defaults=(5, None, None)))
    tags.append(etag(shelf, unit="thing"))
    shelf.store.invalidate(shelf.name)
    tags.append(etag(shelf))
    shelf.rebuild(files("a"))
    tags.append(etag(shelf))
    assert len(set(tags)) == len(tags)
    assert all(tag.startswith('W/"') and tag.endswith('"') and " " not in tag for tag in tags)


def test_flag_alone_changes_etag(shelf: Shelf) -> None:
    shelf.rebuild(files("a"))
    pager = shelf.pager(declare())
    condition = pager.status.condition()
    quiet = pager.body(condition, b"", NO_DEFAULTS)
    busy = pager.body(condition._replace(rebuilding=True), b"", NO_DEFAULTS)
    assert quiet.etag != busy.etag
    assert b'"cache_rebuilding": false' in quiet.data and b'"cache_rebuilding": true' in busy.data


def test_incomplete_search_has_its_own_etag(shelf: Shelf) -> None:
    shelf.rebuild(numbered(300), **MARKS)
    tags = []
    for budget in (60.0, 1e-9):
        pager = shelf.pager(declare(**MARKS), search_budget=budget)
        tags.append(pager.body(pager.status.condition(), b"search=p", NO_DEFAULTS).etag.count("-"))
    assert tags[1] == tags[0] + 1


def test_remembered_shapes_are_bounded(shelf: Shelf) -> None:
    pager = shelf.pager(declare())
    for number in range(1, 2000):
        pager.body(pager.status.condition(), b"", (number, None, None))
    assert len(pager._shapes) <= 256


# The page cache


def test_repeated_query_is_answered_from_cache(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.rebuild(numbered(10), **MARKS)
    pager = shelf.pager(declare(**MARKS))
    built: list[object] = []
    build = pager._build

    def counted(*arguments: Any) -> Any:
        built.append(arguments)
        return build(*arguments)

    monkeypatch.setattr(pager, "_build", counted)
    condition = pager.status.condition()
    bodies = {pager.body(condition, b"page=1", NO_DEFAULTS) for _ in range(10)}
    assert len(bodies) == 1
    assert len(built) <= 2  # the first answer is not kept, because most pages are asked for once
    busy = pager.body(condition._replace(rebuilding=True), b"page=1", NO_DEFAULTS)
    assert b'"cache_rebuilding": true' in busy.data
    stale = pager.body(condition._replace(state="stale"), b"page=1", NO_DEFAULTS)
    assert len({busy.etag, stale.etag, *(body.etag for body in bodies)}) == 3
    assert len(built) <= 4  # each of the other two was asked for once


def test_no_answer_outlives_its_snapshot(shelf: Shelf) -> None:
    pager = shelf.pager(declare())
    for name in "abcdef":
        shelf.rebuild(files(name))
        for _ in range(3):
            assert shelf.ask(pager)["files"] == files(name)


def test_remembered_plan_holds_no_replaced_index(shelf: Shelf) -> None:
    shelf.rebuild(files("a"))
    pager = shelf.pager(declare())
    pager.body(pager.status.condition(), b"page=1", NO_DEFAULTS)
    replaced = weakref.ref(pager.status.condition().snapshot._bytes.obj)  # type: ignore[union-attr]
    assert replaced() is not None
    shelf.rebuild(files("b"))
    pager.status.condition()
    assert replaced() is None


def test_pages_of_one_search_search_once(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.rebuild(numbered(100), **MARKS)
    searches: list[str] = []

    def counted(snapshot: Any, words: str, budget: float) -> Any:
        searches.append(words)
        return search(snapshot, words, budget)

    monkeypatch.setattr("flask_warmcache.query.plan.search", counted)
    pager = shelf.pager(declare(**MARKS))
    for page in range(1, 11):
        assert len(shelf.ask(pager, f"search=p&per_page=10&page={page}")["files"]) == 10
    assert searches == ["p"]


def held(cache: PageCache) -> int:
    return int(cache._entries.currsize)


def test_page_cache_is_bounded_in_bytes() -> None:
    cache = PageCache(20_000)
    for number in range(1000):
        cache.put(number, b"x" * 1000, 1000)
        assert held(cache) <= 20_000
    assert cache.get(999) is not None and cache.get(0) is None
    assert len(cache._entries) == 20_000 // (1000 + ENTRY_OVERHEAD)


def test_value_larger_than_page_cache_is_not_kept() -> None:
    cache = PageCache(10_000)
    cache.put("large", b"", 10_000)
    assert (cache.get("large"), held(cache)) == (None, 0)
    nothing = PageCache(0)
    nothing.put("a", b"", 0)
    assert nothing.get("a") is None


def test_page_cache_recognizes_repeated_key() -> None:
    cache = PageCache(10_000)
    assert cache.ask("a") == (None, False)
    assert cache.ask("a") == (None, True)
    cache.put("a", 1, 10)
    assert cache.ask("a") == (1, True)
    for number in range(5000):
        cache.ask(number)
    assert len(cache._asked) <= 1024


def test_flood_of_queries_does_not_grow_worker(shelf: Shelf) -> None:
    shelf.rebuild(numbered(200), **MARKS)
    pager = shelf.pager(declare(**MARKS), page_cache_bytes=50_000)
    condition = pager.status.condition()
    for number in range(3000):
        for _ in range(2):
            pager.body(condition, b"page=1&_=%d" % number, NO_DEFAULTS)
    assert 0 < held(pager._cache) <= 50_000
