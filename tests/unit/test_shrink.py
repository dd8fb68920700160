"""A source that suddenly gives far fewer items is refused: an unmounted share looks like an empty folder."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from flask_warmcache import WarmCache
from flask_warmcache.declaration import Item
from flask_warmcache.errors import DeclarationError, SourceShrunkError
from tests.support.apps import Shop, make_app
from tests.support.shelf import Shelf, declare, files


def numbered(count: int, begin: int = 0) -> list[Item]:
    return files(*(f"item {number}" for number in range(begin, begin + count)))


@pytest.mark.parametrize(
    ("max_shrink", "before", "fewest"),
    [
        (None, 10, 5),
        (None, 11, 6),
        (None, 100, 50),
        (None, 9, 0),  # a short list may lose everything
        (0, 10, 10),
        (0, 9, 0),
        (1, 1000, 0),
        (0.1, 100, 90),
        (0.9, 100, 10),
        (0.3, 10, 7),
        (0.7, 10, 3),  # though 10 * (1 - 0.7) is a little more than 3
        (0.29, 100, 71),
    ],
)
def test_max_shrink_is_share_of_items_that_may_go(
    shelf: Shelf, max_shrink: float | None, before: int, fewest: int
) -> None:
    generation = shelf.rebuild(numbered(before)).generation
    for too_few in {0, fewest - 1} if fewest else ():
        for _ in range(2):  # it is refused again
            with pytest.raises(
                SourceShrunkError, match=f"source gave {too_few} items where the list has {before}"
            ):
                shelf.rebuild(numbered(too_few), max_shrink=max_shrink)
            assert shelf.snapshot().generation == generation
    for count in (before, fewest, before + 1):
        shelf.rebuild(numbered(count), max_shrink=max_shrink)
        assert shelf.items() == numbered(count)


def test_only_number_of_items_is_compared(shelf: Shelf) -> None:
    shelf.rebuild(numbered(20))
    outcome = shelf.rebuild(numbered(20, 100))
    assert (outcome.count, outcome.dropped) == (20, 20)


def test_cleared_list_may_be_smaller(shelf: Shelf) -> None:
    shelf.rebuild(numbered(20))
    with closing(shelf.lock()):
        shelf.store.publish_cold(shelf.name)
    shelf.rebuild(numbered(2))
    assert shelf.items() == numbered(2)


def test_refused_source_is_not_enriched_and_message_says_what_to_do(shelf: Shelf) -> None:
    shelf.rebuild(numbered(20))

    def enrich(item: Item) -> Item:
        raise AssertionError

    with pytest.raises(SourceShrunkError, match="run 'flask warmcache clear files' once, or declare it with max"):
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


def test_stats_and_log_report_refused_source(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shop = Shop(tmp_path)
    shop.items = numbered(20)
    shop.rebuild()
    del shop.items[3:]
    with pytest.raises(SourceShrunkError):
        shop.rebuild()
    with shop.app.app_context():
        assert (len(shop.list.get()), shop.list.get().state) == (20, "failed")
    assert shop.status.report is not None
    assert (shop.status.report.error, shop.status.report.failures) == ("SourceShrunkError", 1)
    assert "warmcache.rebuild_failed" in caplog.text
    assert "source gave 3 items where the list has 20" in caplog.text
    stats = shop.client.get("/api/cache/stats/files").get_json()
    assert (stats["state"], stats["last_error"], stats["item_count"]) == ("failed", "SourceShrunkError", 20)
