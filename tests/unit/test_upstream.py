"""Lists made of others: the source list is rebuilt first, and neither waits for the other in a loop."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_warmcache import DeclarationError, RebuildBusyError, RebuildError, WarmCache, WarmList
from flask_warmcache.declaration import Item
from flask_warmcache.store.files import FileStore
from tests.support.apps import make_app, state_of
from tests.support.shelf import files
from tests.support.waiting import stays_false, until


class Chain:
    """A list of scanned files, and a list made of it that adds titles."""

    def __init__(self, folder: Path, with_source: bool = True, **config: Any) -> None:
        self.app: Flask = make_app(folder, **config)
        warmcache = WarmCache(self.app)
        self.items = files("a")
        self.error: Exception | None = None
        self.scans = 0
        self.scan: WarmList = warmcache.warm_list("scan", key="path")
        if with_source:
            self.scan.source(self._scan)
        self.made: WarmList = warmcache.warm_list("made", key="path", source=self.scan)
        self.made.enrich(lambda item: {**item, "title": item["path"].upper()})

    def _scan(self) -> list[Item]:
        self.scans += 1
        if self.error is not None:
            raise self.error
        return list(self.items)

    def tick(self) -> None:
        """Tick twice: at the first tick both lists may try to rebuild the source list, and one yields."""
        for _ in range(2):
            state_of(self.app).keeper.tick()
            until(lambda: not any("-rebuild-" in thread.name for thread in threading.enumerate()))

    def titles(self) -> list[str]:
        with self.app.app_context():
            return [item["title"] for item in self.made.get()]

    def state(self, name: str) -> str:
        return state_of(self.app).statuses[name].condition().state


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    return Chain(tmp_path)


def test_one_scan_updates_both_lists(chain: Chain) -> None:
    chain.tick()
    assert (chain.titles(), chain.scans) == (["A"], 1)
    assert (chain.state("scan"), chain.state("made")) == ("fresh", "fresh")
    for _ in range(3):
        chain.tick()
    assert chain.scans == 1


def test_newer_source_list_makes_its_follower_stale(chain: Chain) -> None:
    chain.tick()
    chain.items = files("a", "b")
    with chain.app.app_context():
        chain.scan.rebuild_now()
        chain.tick()
    assert (chain.titles(), chain.scans) == (["A", "B"], 2)


def test_invalidated_follower_rebuilds_its_source_list(chain: Chain) -> None:
    chain.tick()
    chain.items = files("c")
    with chain.app.app_context():
        chain.made.invalidate()
    chain.tick()
    assert (chain.titles(), chain.scans) == (["C"], 2)


def test_rebuild_now_rebuilds_source_list_first(chain: Chain) -> None:
    with chain.app.app_context():
        chain.made.rebuild_now()
        chain.items = files("b")
        outcome = chain.made.rebuild_now()
    assert (chain.titles(), chain.scans, outcome.dropped) == (["B"], 2, 1)


def test_stale_follower_uses_fresh_source_list_as_it_is(chain: Chain) -> None:
    chain.tick()
    state_of(chain.app).statuses["made"].ttl = 1e-9
    chain.tick()
    assert chain.scans == 1
    assert state_of(chain.app).statuses["made"].condition().snapshot is not None


def test_failing_source_list_fails_its_follower_with_pause(chain: Chain) -> None:
    chain.tick()
    chain.error = ValueError("unmounted")
    with chain.app.app_context():
        chain.made.invalidate()
    for _ in range(10):
        chain.tick()
    assert (chain.titles(), chain.scans) == (["A"], 2)
    assert (chain.state("scan"), chain.state("made")) == ("failed", "failed")
    report = state_of(chain.app).statuses["made"].report
    assert report is not None and report.next_attempt_at is not None and report.next_attempt_at > time.time()


def test_follower_waits_for_source_list_that_another_process_rebuilds(chain: Chain) -> None:
    store = FileStore(state_of(chain.app).store.folder)
    lock = store.try_lock("scan")
    assert lock is not None
    chain.tick()
    assert (chain.state("made"), chain.scans) == ("cold", 0)
    with chain.app.app_context(), pytest.raises(RebuildBusyError, match="source list 'scan' is being rebuilt"):
        chain.made.rebuild_now()
    lock.close()
    chain.tick()
    assert chain.titles() == ["A"]


@pytest.mark.usefixtures("live")
@pytest.mark.parametrize("trouble", ["fails", "has no source", "is locked"])
def test_trouble_with_source_list_causes_few_attempts(tmp_path: Path, trouble: str) -> None:
    chain = Chain(tmp_path, with_source=trouble != "has no source")
    chain.error = ValueError("unmounted")
    state = state_of(chain.app)
    rebuild, attempts = state.rebuilder.rebuild, [0]

    def counted(*arguments: Any, **options: Any) -> Any:
        attempts[0] += 1
        return rebuild(*arguments, **options)

    state.rebuilder.rebuild = counted  # type: ignore[method-assign]
    lock = FileStore(state.store.folder).try_lock("scan") if trouble == "is locked" else None
    began = time.monotonic()
    with chain.app.app_context():
        chain.made.get()
        stays_false(lambda: attempts[0] > 20, 0.5)  # only time can show that nothing happens
    assert attempts[0] <= 3 + 5 * (time.monotonic() - began)
    if lock is not None:
        lock.close()


def test_source_list_without_source_fails_both(tmp_path: Path) -> None:
    chain = Chain(tmp_path, with_source=False)
    chain.tick()
    assert (chain.state("scan"), chain.state("made")) == ("failed", "failed")
    with chain.app.app_context(), pytest.raises(RebuildError, match="scan"):
        chain.made.rebuild_now()


def test_disabled_cache_notices_newer_source_list(tmp_path: Path) -> None:
    chain = Chain(tmp_path, enabled=False)
    assert chain.titles() == ["A"]
    chain.items = files("a", "b")
    with chain.app.app_context():
        chain.scan.invalidate()
        assert len(chain.scan.get()) == 2
    assert chain.titles() == ["A", "B"]


def test_cleared_source_list_is_rebuilt_first(chain: Chain) -> None:
    chain.tick()
    state = state_of(chain.app)
    lock = state.store.try_lock("scan")
    assert lock is not None
    state.store.publish_cold("scan")
    lock.close()
    with chain.app.app_context():
        chain.made.rebuild_now()
    assert (chain.scans, chain.titles()) == (2, ["A"])


def test_follower_with_another_key_field_follows_only_by_rebuild(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WARMCACHE_SERVER_STARTED", "1")
    app = make_app(tmp_path)
    warmcache = WarmCache(app)
    titles = {"a": "old", "b": "old"}
    plain = warmcache.warm_list("plain", key="path")
    plain.source(lambda: [{"path": path, "id": ord(path), "title": title} for path, title in titles.items()])
    plain.lookup(lambda path: {"path": path, "id": ord(path), "title": titles[path]} if path in titles else None)
    rich = warmcache.warm_list("rich", key="id", source=plain)
    with app.app_context():
        rich.rebuild_now()
        titles["a"] = "new"
        assert plain.refresh("a")
        with pytest.raises(DeclarationError, match="'rich' has no lookup"):
            rich.refresh(ord("a"))
        state_of(app).keeper.due.note_stale(state_of(app).statuses["rich"])
        assert rich.page().state == "stale"
        rich.rebuild_now()
        assert [item["title"] for item in rich.get()] == ["new", "old"]


def test_write_is_published_although_follower_is_cold(chain: Chain) -> None:
    chain.scan.lookup(lambda key: {"path": key, "size": 5})
    with chain.app.app_context():
        chain.scan.rebuild_now()
        assert chain.scan.refresh("a") and chain.scan.discard("a")
        assert (chain.state("scan"), chain.state("made")) == ("fresh", "cold")
        assert list(chain.scan.get()) == []
