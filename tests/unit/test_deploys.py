"""A deployment's changes of filters, sorts and enrich functions take effect in any process that rebuilds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flask_warmcache import WarmCache
from flask_warmcache.bytecode import digest_of
from tests.support.apps import make_app
from tests.support.shelf import Shelf, files, positions

NAMES = [f"{'x' * number}{number}" for number in range(60)]


def larger_than(limit: int) -> Callable[[dict[str, Any]], object]:
    return lambda item: item["size"] > limit


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (lambda item: item["size"] > 5, lambda item: item["size"] > 50),
        (larger_than(5), larger_than(50)),
    ],
    ids=["body", "closure"],
)
def test_changed_filter_affects_unchanged_items(shelf: Shelf, before: Any, after: Any) -> None:
    shelf.rebuild(files(*NAMES), filters={"large": before})
    outcome = shelf.rebuild(files(*NAMES), filters={"large": after})
    assert outcome.reused == len(NAMES)
    snapshot = shelf.snapshot()
    assert [snapshot.item(slot)["size"] for slot in snapshot.order("large", "")] == [
        len(name) for name in NAMES if len(name) > 50
    ]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (lambda item: item["size"], lambda item: -item["size"]),
        (lambda item, factor=1: factor * item["size"], lambda item, factor=-1: factor * item["size"]),
    ],
    ids=["body", "default"],
)
def test_changed_sort_affects_unchanged_items(shelf: Shelf, before: Any, after: Any) -> None:
    shelf.rebuild(files(*NAMES), sorts={"size": before})
    assert positions(shelf.snapshot(), "all", "size") == list(range(60))
    shelf.rebuild(files(*NAMES), sorts={"size": after})
    assert positions(shelf.snapshot(), "all", "size") == list(range(60))[::-1]


def test_new_enrich_enriches_published_items(shelf: Shelf) -> None:
    shelf.rebuild(files("a", "b"))
    outcome = shelf.rebuild(files("a", "b"), enrich=lambda item: {**item, "title": item["path"].upper()})
    assert outcome.enriched == 2
    assert [item["title"] for item in shelf.items()] == ["A", "B"]
    outcome = shelf.rebuild(files("a", "b"))
    assert (outcome.reused, [item.get("title") for item in shelf.items()]) == (0, [None, None])


def test_changed_filter_makes_list_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WARMCACHE_SERVER_STARTED", "1")  # otherwise each app's start makes the list stale, too
    conditions = []
    for limit in (1, 1, 2):
        app = make_app(tmp_path)
        listed = WarmCache(app).warm_list(
            "files", key="path", source=lambda: files("a", "bb"), filters={"large": larger_than(limit)}
        )
        with app.app_context():
            conditions.append(listed.page().state)
            if conditions[-1] != "fresh":
                listed.rebuild_now()
    assert conditions == ["cold", "fresh", "stale"]


def test_digest_ignores_names_of_arguments() -> None:
    assert digest_of([lambda item: item["a"]]) == digest_of([lambda file: file["a"]])
    assert digest_of([lambda item: item["a"]]) != digest_of([lambda item: item["b"]])
    assert digest_of([larger_than(5)]) == digest_of([larger_than(5)]) != digest_of([larger_than(6)])


def test_digest_ignores_values_that_differ_between_processes() -> None:
    def holding(held: object) -> Callable[[], object]:
        return lambda: held

    assert digest_of([holding(object())]) == digest_of([holding(object())])
    assert digest_of([holding((1, object()))]) == digest_of([holding((2, object()))])
    assert digest_of([holding((1, "a"))]) != digest_of([holding((2, "a"))])
