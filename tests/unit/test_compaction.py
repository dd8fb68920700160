"""The data file: it grows by what changed, and is rewritten when most of it is dead."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from flask_warmcache import ViewError
from flask_warmcache.declaration import Item
from flask_warmcache.rebuild import job as job_module
from tests.support.apps import Shop
from tests.support.shelf import Shelf

# A time with a zone cannot be compared with one without.
FAILING = {"time": lambda item: datetime(2000, 1, 1, tzinfo=UTC if item["path"] == "0" else None)}


def big(*sizes: int) -> list[Item]:
    return [{"path": str(number), "text": "x" * size} for number, size in enumerate(sizes)]


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compact small files, too, and mend small lists."""
    monkeypatch.setattr("flask_warmcache.store.sweeping.COMPACT_FROM", 0)
    monkeypatch.setattr(job_module, "PATCH_SHARE", 1)


@pytest.mark.usefixtures("soon")
def test_mostly_dead_file_is_rewritten(shelf: Shelf) -> None:
    shelf.rebuild(big(1000, 1000, 10))
    first = shelf.data.name
    shelf.rebuild(big(1000, 1001, 10))  # a third is dead
    assert shelf.data.name == first
    shelf.rebuild(big(1002, 1001, 10))
    shelf.rebuild(big(1003, 1001, 10))  # now more than half of it is
    assert shelf.data.name == first
    outcome = shelf.rebuild(big(1003, 1001, 10))
    assert shelf.data.name != first
    assert outcome.reused == 3
    assert shelf.items() == big(1003, 1001, 10)
    assert shelf.data.stat().st_size < 2300
    outcome = shelf.rebuild(big(1003, 1001, 10))
    assert (outcome.reused, outcome.enriched) == (3, 0), "the rewritten file has no fingerprints"


def test_small_file_is_not_rewritten(shelf: Shelf) -> None:
    shelf.rebuild(big(1000, 1))
    first = shelf.data.name
    for size in range(1001, 1010):
        shelf.rebuild(big(size, 1))
    assert shelf.data.name == first


@pytest.mark.usefixtures("soon")
def test_failing_rebuilds_keep_finished_items_once(shelf: Shelf) -> None:
    shelf.rebuild(big(1000))
    live = shelf.data.stat().st_size
    for size in range(2000, 2010):
        with pytest.raises(ViewError):
            shelf.rebuild(big(size, 2), sorts=FAILING)
        # The published file, and the items that the failed rebuild finished.
        assert sum(path.stat().st_size for path in shelf.folder.glob("*.data")) < 2 * live + 5000
    assert shelf.items() == big(1000)
    outcome = shelf.rebuild(big(2009, 2))
    assert (outcome.reused, outcome.enriched, shelf.items()) == (2, 0, big(2009, 2))
    assert len(list(shelf.folder.glob("*.data"))) == 1


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """Return an app that looks up an item in its source; its server started long ago."""
    monkeypatch.setenv("WARMCACHE_SERVER_STARTED", "1")
    shop = Shop(tmp_path)
    shop.list.lookup(lambda key: next(item for item in shop.items if item["path"] == key))
    return shop


def test_many_writes_cause_rebuild_before_writes_get_slow(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flask_warmcache.store.sweeping.WRITES_FROM", 1000)
    shop.items = big(*[1] * 300)
    listed = shop.list
    with shop.app.app_context():
        listed.rebuild_now()
        written = 0
        while listed.page().state == "fresh":
            shop.items[written]["text"] = "y"
            assert listed.refresh(str(written))
            written += 1
        assert 30 < written < 100
        assert listed.page().rebuilding
        assert listed.rebuild_now().reused == 300
        assert listed.page().state == "fresh"
        assert [item["text"] for item in listed.get()] == ["y"] * written + ["x"] * (300 - written)


@pytest.mark.usefixtures("soon")
def test_fresh_list_with_mostly_dead_file_is_rebuilt(shop: Shop) -> None:
    shop.items = big(1000)
    with shop.app.app_context():
        shop.list.rebuild_now()
        for number in range(3):
            shop.items[0]["text"] = f"{number}" * 1000
            assert shop.list.refresh("0")
        assert shop.list.page().state == "stale"
        shop.list.rebuild_now()
        assert shop.list.page().state == "fresh"
