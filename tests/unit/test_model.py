"""Every view is compared with a plain Python list that does the same in the simplest way."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

from hypothesis import given, settings
from hypothesis import strategies as st

from flask_warmcache.declaration import Item
from flask_warmcache.query.parse import NO_DEFAULTS
from flask_warmcache.store.format import fold
from tests.support.shelf import Shelf, declare

FILTERS: dict[str, Any] = {
    "even": lambda item: item["size"] % 2 == 0,
    "named": lambda item: item["title"] != "",
}
SORTS: dict[str, Any] = {"title": lambda item: item["title"], "size": lambda item: -item["size"]}
DECLARED: dict[str, Any] = {
    "filters": FILTERS,
    "sorts": SORTS,
    "search": ("title", "tags"),
    "counts": ("even",),
    "max_shrink": 1,
}

words = st.text(alphabet="abAB ßéİ\t", max_size=6)
items_of_a_list = st.lists(
    st.builds(
        lambda size, title, tags: {"size": size, "title": title, "tags": tags},
        st.integers(0, 5),
        words,
        st.lists(words, max_size=2),
    ),
    max_size=25,
).map(lambda items: [{"path": number, **item} for number, item in enumerate(items)])
queries = st.fixed_dictionaries(
    {},
    optional={
        "page": st.integers(-1, 8),
        "per_page": st.integers(1, 9),
        "filter": st.sampled_from(["all", *FILTERS]),
        "sort": st.sampled_from([direction + name for name in SORTS for direction in ("", "-")]),
        "search": words,
    },
)


def expected(items: list[Item], asked: dict[str, Any]) -> dict[str, Any]:
    """Return what the answer must be."""
    found = [item for item in items if asked.get("filter", "all") == "all" or FILTERS[asked["filter"]](item)]
    sought = fold(asked.get("search", "")).split()
    found = [
        item for item in found if all(word in fold(" ".join([item["title"], *item["tags"]])) for word in sought)
    ]
    sort = asked.get("sort", "")
    if sort:
        found.sort(key=SORTS[sort.lstrip("-")])
    if sort.startswith("-"):
        found.reverse()  # this reverses equal items, too: -name is name read backwards
    per_page = asked.get("per_page", 100)
    pages = max(1, -(-len(found) // per_page))
    page = min(max(1, asked.get("page", 1)), pages)
    return {
        "files": found[(page - 1) * per_page : page * per_page],
        "page": page,
        "per_page": per_page,
        "total_files": len(found),
        "total_pages": pages,
        "even_count": sum(1 for item in items if FILTERS["even"](item)),
        "cache_rebuilding": False,
    }


@settings(max_examples=60)
@given(items_of_a_list, items_of_a_list, st.lists(queries, min_size=1, max_size=6))
def test_every_answer_equals_model(first: list[Item], second: list[Item], asked: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        shelf = Shelf(Path(folder) / "cache")
        pager = shelf.pager(declare(**DECLARED), search_budget=60.0)
        for items in (first, second):  # the second rebuild reuses items of the first
            shelf.rebuild(items, **DECLARED)
            for query_arguments in asked:
                query = "&".join(f"{name}={quote_plus(str(value))}" for name, value in query_arguments.items())
                body = pager.body(pager.status.condition(), query.encode(), NO_DEFAULTS)
                assert json.loads(body.data) == expected(items, query_arguments)


keys = st.text(max_size=3) | st.integers(-3, 3)


@settings(max_examples=60)
@given(st.lists(st.lists(st.tuples(keys, st.integers(0, 2)), max_size=10), min_size=1, max_size=4), keys)
def test_every_rebuild_equals_model(rounds: list[list[tuple[str | int, int]]], sought: str | int) -> None:
    """After any rebuilds, the list is what the source gave last, and each item is found by its key."""
    with tempfile.TemporaryDirectory() as folder:
        shelf = Shelf(Path(folder) / "cache")
        for given_items in rounds:
            source = [{"path": key, "size": size} for key, size in given_items]
            shelf.rebuild(source, enrich=lambda item: {**item, "double": 2 * item["size"]}, max_shrink=1)
            unique: dict[tuple[type, str | int], Item] = {}
            for item in source:
                unique.setdefault((type(item["path"]), item["path"]), {**item, "double": 2 * item["size"]})
            assert shelf.items() == list(unique.values())
            snapshot = shelf.snapshot()
            position = snapshot.find(sought, "path")
            hit = unique.get((type(sought), sought))
            assert (None if position is None else snapshot.item(position)) == hit
