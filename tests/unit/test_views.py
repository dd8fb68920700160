"""Filters and sorts are computed once, and one odd item does not sink the list."""

from __future__ import annotations

import logging
from array import array
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from flask_warmcache import ViewError, WarmCache
from flask_warmcache.declaration import Item
from flask_warmcache.index.views import ViewBuilder
from flask_warmcache.store import format as fmt
from tests.support.apps import make_app
from tests.support.shelf import Shelf, breathe, declare, files, positions


def order(shelf: Shelf, values: list[Any], backwards: bool = False, **declared: Any) -> list[Any]:
    """Return the values in the order of a list that is sorted by them."""
    declared.setdefault("sorts", {"value": lambda item: item["value"]})
    shelf.rebuild([{"path": number, "value": value} for number, value in enumerate(values)], **declared)
    snapshot = shelf.snapshot()
    places = positions(snapshot, "all", "value")[:: -1 if backwards else 1]
    return [snapshot.item(position)["value"] for position in places]


def test_equal_keys_keep_source_order_and_minus_reverses_everything(shelf: Shelf) -> None:
    pairs = [["b", 1], ["a", 1], ["a", 2], ["b", 2]]
    by_letter = {"value": lambda item: item["value"][0]}
    assert order(shelf, pairs, sorts=by_letter) == [["a", 1], ["a", 2], ["b", 1], ["b", 2]]
    assert order(shelf, pairs, backwards=True, sorts=by_letter) == [["b", 2], ["b", 1], ["a", 2], ["a", 1]]


def test_keys_are_ordered_by_kind_and_none_comes_last(shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:
    values = [None, {"a": 1}, [2, "x"], "x", 2, None, [None], True, "B", 1.5, [2], [2, 1], []]
    ordered = [True, 1.5, 2, "B", "x", [], [2], [2, 1], [2, "x"], [None], None, {"a": 1}, None]
    assert order(shelf, values) == ordered
    assert "warmcache.view_failed: sort value: TypeError on 1 items of 'files'" in caplog.text
    assert shelf.snapshot().header["view_errors"] == 1
    assert order(shelf, values, backwards=True) == ordered[::-1]


def test_item_whose_sort_fails_comes_last(shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "flask_warmcache"):
        sorts = {"value": lambda item: 10 / item["value"]}
        assert order(shelf, [1, 0, 5, 0], sorts=sorts) == [5, 1, 0, 0]
    assert "sort value: ZeroDivisionError on 2 items of 'files', first on 1: ZeroDivisionError" in caplog.text


def test_sort_that_always_fails_keeps_source_order(shelf: Shelf) -> None:
    assert order(shelf, [3, 1, 2], sorts={"value": lambda item: item["none"]}) == [3, 1, 2]


def test_incomparable_keys_fail_rebuild_and_keep_old_list(shelf: Shelf) -> None:
    order(shelf, [1, 2])
    times = {"value": lambda item: datetime(2000, 1, 1, tzinfo=UTC if item["value"] else None)}
    message = "Sort 'value' gives keys that cannot be compared .*one type, numbers or text"
    with pytest.raises(ViewError, match=message):
        order(shelf, [0, 1, 2], sorts=times)
    assert [item["value"] for item in shelf.items()] == [1, 2]


def test_item_whose_filter_fails_does_not_pass(shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:
    items: list[Item] = [
        {"path": "a", "done": True},
        {"path": "b"},
        {"path": "c", "done": 0},
        {"path": "d", "done": "yes"},
    ]
    with caplog.at_level(logging.WARNING, "flask_warmcache"):
        shelf.rebuild(items, filters={"done": lambda item: item["done"], "open": lambda item: not item["done"]})
    snapshot = shelf.snapshot()
    assert positions(snapshot, "done", "") == [0, 3]
    assert positions(snapshot, "open", "") == [2]
    assert (snapshot.filter_count("done"), snapshot.filter_count("open")) == (2, 1)
    assert "filter done: KeyError on 1 items" in caplog.text


def test_filters_and_sorts_see_items_decoded_from_json(shelf: Shelf) -> None:
    seen: list[Any] = []
    filters = {"any": lambda item: seen.append(item["pair"])}
    shelf.rebuild([{"path": "a", "pair": (1, 2)}], filters=filters)
    # The declaration changes, so that all views are computed.
    shelf.rebuild([{"path": "a", "pair": (1, 2)}], filters=filters, search=("path",))
    assert seen == [[1, 2], [1, 2]]


def test_views_of_reused_items_equal_those_of_new_items(shelf: Shelf) -> None:
    views: dict[str, Any] = {
        "filters": {"even": lambda item: item["size"] % 2 == 0},
        "sorts": {"size": lambda item: -item["size"]},
        "search": ("path",),
    }
    items = [{"path": f"p{number}", "size": number % 7} for number in range(50)]
    shelf.rebuild(items, **views)
    fresh = _sections(shelf)
    outcome = shelf.rebuild(items, **views)
    assert outcome.reused == 50
    assert {**_sections(shelf)} == fresh


def _sections(shelf: Shelf) -> dict[str, bytes]:
    index = shelf.index.read_bytes()
    header, base = fmt.read_header(index, len(index))
    return {
        name: index[base + offset : base + offset + length]
        for name, (offset, length, _) in header["sections"].items()
    }


def test_list_without_views_needs_no_decoded_items() -> None:
    builder = ViewBuilder(declare())
    builder.add(None)
    assert builder.needs_items is False
    assert builder.sections(array("I", [0, 9]), breathe) == {}
    assert ViewBuilder(declare(search=("path",))).needs_items is True


def test_progress_moves_while_views_are_made(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flask_warmcache.status.progress.WRITE_EVERY", 0)
    views = {name: lambda item: item["path"] for name in ("a", "b")}
    shelf.rebuild(files(*map(str, range(100))), sorts=views, filters=views)
    done = [report["done"] for report in shelf.reports if report["phase"] == "views"]
    assert done == [0, *(100 * step // 12 for step in range(1, 13))]


def test_changed_declaration_updates_views_of_unchanged_items(shelf: Shelf) -> None:
    items = [{"path": "b"}, {"path": "a"}]
    shelf.rebuild(items)
    assert not shelf.snapshot().has_view("all", "name")
    shelf.rebuild(items, sorts={"name": lambda item: item["path"]})
    assert positions(shelf.snapshot(), "all", "name") == [1, 0]


def test_sort_errors_are_counted_once_however_often_sections_are_made() -> None:
    """The sections of a partial list are made again and again."""
    builder = ViewBuilder(declare(sorts={"value": lambda item: item["value"]}))
    places = array("I")
    for number, value in enumerate([{}, "a", "b", "c", {}]):
        builder.add({"path": number, "value": value})
        places.extend([9 * number, 9 * number + 8])
        builder.sections(places, breathe)
    assert dict(builder.errors) == {"sort value: TypeError": 2}


@pytest.mark.parametrize(
    "odd", [float("nan"), float("-nan"), (float("nan"), 1), (1, float("nan")), [1, (2, float("nan"))]]
)
def test_nan_as_sort_key_comes_last(shelf: Shelf, odd: Any) -> None:
    """It comes last inside of a tuple, too, and moves no other item."""
    others: Any = tuple if isinstance(odd, (tuple, list)) else lambda pair: pair[0]
    sorts = {"value": lambda item: odd if item["value"] == 2 else others((item["value"], 1))}
    assert order(shelf, [3, 2, 1, 2, 0], sorts=sorts) == [0, 1, 3, 2, 2]
    assert shelf.snapshot().view_faults["sort value: ValueError"][:2] == [2, "1"]


@pytest.mark.parametrize("values", [[None, None], [5, None, None], [None] * 50 + [5], [None, [1], [None]]])
def test_none_as_sort_key_comes_last_however_frequent(shelf: Shelf, values: list[Any]) -> None:
    expected = sorted(values, key=lambda value: (value is None, value == [None]))
    assert order(shelf, values) == expected
    for number in range(3):  # these rebuilds patch
        values = [*values, None]
        assert order(shelf, values) == [*expected, *[None] * (number + 1)]


def test_none_in_tuple_comes_last(shelf: Shelf) -> None:
    years = [*range(2000, 2300), None]
    by_year = {"value": lambda item: (item["value"], item["path"])}
    assert order(shelf, years[::-1], sorts=by_year) == years


def test_filter_that_fails_on_refreshed_item_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    app = make_app(tmp_path)
    filters = {"odd": lambda item: 1 // item["size"]}
    listed = WarmCache(app).warm_list("files", key="path", source=lambda: files("a"), filters=filters)
    with app.app_context():
        listed.rebuild_now()
        assert listed.refresh({"path": "b", "size": 0})
    assert "view_failed: filter odd: ZeroDivisionError on 1 items of 'files', first on 'b': Zero" in caplog.text
    assert app.test_client().get("/api/cache/stats/files").get_json()["view_errors"] == {
        "filter odd: ZeroDivisionError": 1
    }
