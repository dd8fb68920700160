"""A source that suddenly gives far fewer items is refused: an unmounted share looks like an empty folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flask_warmcache import WarmCache
from flask_warmcache.declaration import Item
from flask_warmcache.errors import DeclarationError, SourceShrunkError
from tests.support.apps import make_app, state_of
from tests.support.shelf import Shelf, declare, files


def numbered(count: int, begin: int = 0) -> list[Item]:
    return files(*(f"item {number}" for number in range(begin, begin + count)))


@pytest.mark.parametrize(
    ("max_shrink", "before", "after", "fits"),
    [
        (None, 10, 5, True),
        (None, 10, 4, False),
        (None, 11, 6, True),
        (None, 11, 5, False),
        (None, 100, 50, True),
        (None, 100, 49, False),
        (None, 100, 0, False),
        (None, 9, 0, True),  # a short list may lose everything
        (None, 9, 1, True),
        (0, 10, 10, True),
        (0, 10, 11, True),
        (0, 10, 9, False),
        (0, 9, 8, True),
        (1, 1000, 0, True),
        (1, 10, 1, True),
        (0.1, 100, 90, True),
        (0.1, 100, 89, False),
        (0.9, 100, 10, True),
        (0.9, 100, 9, False),
        (0.3, 10, 7, True),
        (0.7, 10, 3, True),  # though 10 * (1 - 0.7) is a little more than 3
        (0.7, 10, 2, False),
        (0.29, 100, 71, True),
    ],
)
def test_max_shrink_is_the_share_of_items_that_may_go(
    shelf: Shelf, max_shrink: float | None, before: int, after: int, fits: bool
) -> None:
    shelf.rebuild(numbered(before))
    generation = shelf.snapshot().generation
    if fits:
        shelf.rebuild(numbered(after), max_shrink=max_shrink)
        assert shelf.items() == numbered(after)
        return
    for _ in range(2):  # it is refused again
        with pytest.raises(SourceShrunkError, match=f"source gave {after} items where the list has {before}"):
            shelf.rebuild(numbered(after), max_shrink=max_shrink)
        assert shelf.snapshot().generation == generation
    shelf.rebuild(numbered(before), max_shrink=max_shrink)
    assert shelf.items() == numbered(before)


def test_only_the_number_of_items_is_compared(shelf: Shelf) -> None:
    shelf.rebuild(numbered(20))
    outcome = shelf.rebuild(numbered(20, 100))
    assert (outcome.count, outcome.dropped) == (20, 20)


def test_message_says_what_to_do(shelf: Shelf) -> None:
    shelf.rebuild(numbered(20))
    with pytest.raises(SourceShrunkError, match="run 'flask warmcache clear files' once, or declare it with max"):
        shelf.rebuild([])


def test_cleared_list_may_be_smaller(shelf: Shelf) -> None:
    shelf.rebuild(numbered(20))
    lock = shelf.lock()
    shelf.store.publish_cold(shelf.name)
    lock.close()
    shelf.rebuild(numbered(2))
    assert shelf.items() == numbered(2)


def test_nothing_is_enriched_for_a_refused_source(shelf: Shelf) -> None:
    shelf.rebuild(numbered(20))

    def enrich(item: Item) -> Item:
        raise AssertionError

    with pytest.raises(SourceShrunkError):
        shelf.rebuild(numbered(3, 100), enrich=enrich)
    assert len(list(shelf.folder.glob("*.data"))) == 1


def test_builder_without_keys_is_checked_too(shelf: Shelf) -> None:
    shelf.rebuild(numbered(20), kind="builder", key=None)
    with pytest.raises(SourceShrunkError, match="source gave 9 items where the list has 20"):
        shelf.rebuild(numbered(9), kind="builder", key=None)
    assert shelf.items() == numbered(20)
    assert shelf.rebuild([], kind="builder", key=None, max_shrink=1).dropped == 0
    assert shelf.items() == []


def test_builder_may_declare_max_shrink(tmp_path: Path) -> None:
    app = make_app(tmp_path)
    warmcache = WarmCache(app)
    made = numbered(40)
    warmcache.builder("files", max_shrink=0.8)(lambda: made)
    with app.app_context():
        warmcache["files"].rebuild_now()
        del made[10:]
        assert warmcache["files"].rebuild_now().count == 10
        del made[:]
        with pytest.raises(SourceShrunkError):
            warmcache["files"].rebuild_now()


@pytest.mark.parametrize("wrong", [-0.1, 1.1, "half", type(None)])
def test_wrong_max_shrink_is_refused(wrong: Any) -> None:
    with pytest.raises(DeclarationError, match="max_shrink"):
        declare(max_shrink=wrong)


def test_stats_and_log_report_a_refused_source(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    app = make_app(tmp_path)
    items = numbered(20)
    listed = WarmCache(app).warm_list("files", key="path", source=lambda: list(items))
    with app.app_context():
        listed.rebuild_now()
        del items[3:]
        with pytest.raises(SourceShrunkError):
            listed.rebuild_now()
        assert len(listed.get()) == 20
        assert listed.get().state == "failed"
        condition = state_of(app).statuses["files"]
        assert condition.report is not None
        assert (condition.report.error, condition.report.failures) == ("SourceShrunkError", 1)
    assert "warmcache.rebuild_failed" in caplog.text
    assert "source gave 3 items where the list has 20" in caplog.text
    stats = app.test_client().get("/api/cache/stats/files").get_json()
    assert (stats["state"], stats["last_error"], stats["item_count"]) == ("failed", "SourceShrunkError", 20)
