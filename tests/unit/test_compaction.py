"""The data file: it grows by what changed, and is rewritten when most of it is dead."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import pytest

from flask_warmcache import ViewError, WarmCache
from flask_warmcache.declaration import Item
from flask_warmcache.rebuild import job as job_module
from tests.support.apps import make_app
from tests.support.shelf import Shelf

# A time with a zone cannot be compared with one without.
FAILING = {"time": lambda item: datetime(2000, 1, 1, tzinfo=timezone.utc if item["path"] == "0" else None)}


def big(*sizes: int) -> list[Item]:
    return [{"path": str(number), "text": "x" * size} for number, size in enumerate(sizes)]


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compact small files, too, and mend small lists."""
    monkeypatch.setattr("flask_warmcache.store.sweeping.COMPACT_FROM", 0)
    monkeypatch.setattr(job_module, "MEND_SHARE", 1)


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


@pytest.mark.usefixtures("soon")
def test_rewritten_file_keeps_fingerprints(shelf: Shelf) -> None:
    for size in (1000, 1001, 1002, 1003, 1003, 1003):
        outcome = shelf.rebuild(big(size, 5))
    assert (outcome.reused, outcome.enriched) == (2, 0)


def test_small_file_is_not_rewritten(shelf: Shelf) -> None:
    shelf.rebuild(big(1000, 1))
    first = shelf.data.name
    for size in range(1001, 1010):
        shelf.rebuild(big(size, 1))
    assert shelf.data.name == first


@pytest.mark.usefixtures("soon")
def test_failing_rebuilds_do_not_fill_the_disk(shelf: Shelf) -> None:
    shelf.rebuild(big(1000))
    live = shelf.data.stat().st_size

    for size in range(2000, 2010):
        with pytest.raises(ViewError):
            shelf.rebuild(big(size, 2), sorts=FAILING)
        # The published file, and the items that the failed rebuild finished.
        assert sum(path.stat().st_size for path in shelf.folder.glob("*.data")) < 2 * live + 5000
    assert shelf.items() == big(1000)
    shelf.rebuild(big(1000, 1000))
    assert shelf.items() == big(1000, 1000)
    assert len(list(shelf.folder.glob("*.data"))) == 1


@pytest.mark.usefixtures("soon")
def test_finished_items_of_a_failed_rebuild_are_not_enriched_again(shelf: Shelf) -> None:
    shelf.rebuild(big(3000))
    with pytest.raises(ViewError):
        shelf.rebuild(big(4000, 4001), sorts=FAILING)
    assert shelf.items() == big(3000)
    outcome = shelf.rebuild(big(4000, 4001))
    assert (outcome.reused, outcome.enriched, shelf.items()) == (2, 0, big(4000, 4001))


def test_many_writes_cause_a_rebuild_before_writes_get_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WARMCACHE_SERVER_STARTED", "1")
    monkeypatch.setattr("flask_warmcache.store.sweeping.WRITES_FROM", 1000)
    app = make_app(tmp_path)
    items = {str(number): {"path": str(number), "text": "x"} for number in range(300)}
    listed = WarmCache(app).warm_list(
        "files", key="path", source=lambda: list(items.values()), lookup=lambda key: items[key]
    )
    with app.app_context():
        listed.rebuild_now()
        written = 0
        while listed.page().state == "fresh":
            items[str(written)] = {"path": str(written), "text": "y"}
            assert listed.refresh(str(written))
            written += 1
        assert 30 < written < 100
        assert listed.page().rebuilding
        assert listed.rebuild_now().reused == 300
        assert listed.page().state == "fresh"
        assert [item["text"] for item in listed.get()] == ["y"] * written + ["x"] * (300 - written)


@pytest.mark.usefixtures("soon")
def test_fresh_list_with_a_mostly_dead_file_is_rebuilt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WARMCACHE_SERVER_STARTED", "1")
    app = make_app(tmp_path)
    items = {"a": {"path": "a", "text": "x" * 1000}}
    listed = WarmCache(app).warm_list(
        "files", key="path", source=lambda: list(items.values()), lookup=lambda key: items[key]
    )
    with app.app_context():
        listed.rebuild_now()
        for number in range(3):
            items["a"]["text"] = f"{number}" * 1000
            assert listed.refresh("a")
        assert listed.page().state == "stale"
        listed.rebuild_now()
        assert listed.page().state == "fresh"
