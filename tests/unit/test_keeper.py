"""The keeper, one look at a time: what is due is rebuilt, once, and nothing ends it."""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_warmcache import RebuildBusyError, WarmCache
from flask_warmcache.declare import Item
from flask_warmcache.lists import Warm
from flask_warmcache.rebuild.keeper import Keeper
from flask_warmcache.rebuild.status import ListStatus
from flask_warmcache.state import AppState
from flask_warmcache.store.files import FileStore

from .world import files, make_app, state_of, until


class Shop:
    """An app with one list, whose source the test steers."""

    def __init__(self, folder: Path, **config: Any) -> None:
        self.app = make_app(folder, **config)
        self.warmcache = WarmCache(self.app)
        self.items: list[Item] = files("a")
        self.error: BaseException | None = None
        self.builds = 0
        self.gate = threading.Event()
        self.gate.set()
        self.list = self.warmcache.warm_list("files", key="path", source=self.source)

    def source(self) -> list[Item]:
        self.builds += 1
        self.gate.wait(20)
        if self.error is not None:
            raise self.error
        return self.items

    @property
    def state(self) -> AppState:
        return state_of(self.app)

    @property
    def keeper(self) -> Keeper:
        return self.state.keeper

    @property
    def status(self) -> ListStatus:
        return self.state.statuses["files"]

    def tick(self) -> None:
        """One look, and what it started to its end."""
        self.keeper.tick()
        assert until(lambda: not any(one.progress for one in self.state.statuses.values()))
        assert until(lambda: not any("-rebuild-" in thread.name for thread in threading.enumerate()))

    def names(self) -> list[str]:
        with self.app.app_context():
            return [item["path"] for item in self.list.get()]


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def test_a_cold_list_is_built_and_a_fresh_one_left_alone(shop: Shop) -> None:
    shop.tick()
    assert shop.names() == ["a"]
    for _ in range(3):
        shop.tick()
    assert shop.builds == 1
    assert shop.status.condition().state == "fresh"


def test_a_stale_list_is_rebuilt(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.tick()
    shop.items = files("b")
    shop.state.store.invalidate("files")
    shop.tick()
    assert (shop.names(), shop.builds) == (["b"], 2)
    now = time.time() + 301
    monkeypatch.setattr(time, "time", lambda: now)
    shop.tick()
    assert shop.builds == 3


def test_a_list_that_another_holds_is_left_to_it(shop: Shop) -> None:
    lock = FileStore(shop.state.store.folder).try_lock("files")
    assert lock is not None
    shop.tick()
    assert shop.builds == 0
    lock.close()
    shop.tick()
    assert shop.builds == 1


def test_the_second_look_sees_that_another_has_just_built_it(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Shop(shop.state.store.folder.parent)
    try_lock = shop.state.store.try_lock

    def after_the_other(name: str) -> Any:
        if not other.builds:
            other.tick()
        return try_lock(name)

    monkeypatch.setattr(shop.state.store, "try_lock", after_the_other)
    shop.tick()
    assert (other.builds, shop.builds) == (1, 0)
    assert not shop.state.store.is_locked("files")


def test_a_probe_that_holds_the_lock_for_a_moment_costs_one_more_try(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[str] = []
    try_lock = shop.state.store.try_lock

    def first_fails(name: str) -> Any:
        tries.append(name)
        return None if len(tries) == 1 else try_lock(name)

    monkeypatch.setattr(shop.state.store, "try_lock", first_fails)
    shop.tick()
    assert (len(tries), shop.builds) == (2, 1)


def test_a_failure_is_reported_logged_and_paused_for(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    shop.tick()
    shop.error = ValueError("a secret")
    shop.state.store.invalidate("files")
    shop.tick()
    assert "warmcache.rebuild_failed: the rebuild of 'files' failed (1 in a row)" in caplog.text
    assert shop.status.condition().state == "failed"
    for _ in range(3):
        shop.tick()
    assert (shop.builds, shop.names()) == (2, ["a"])


def test_the_pause_grows_with_jitter_up_to_its_bound(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.error = ValueError()
    now = [time.time()]
    monkeypatch.setattr(time, "time", lambda: now[0])
    pauses = []
    for _ in range(12):
        shop.tick()
        report = shop.status.report
        assert report is not None and report.next_attempt_at is not None
        pauses.append(report.next_attempt_at - now[0])
        now[0] = report.next_attempt_at - 0.01
        builds = shop.builds
        shop.tick()
        assert shop.builds == builds
        now[0] += 0.02
    for number, pause in enumerate(pauses):
        expected = min(300, 2 * 2**number)
        assert 0.75 * expected <= pause <= 1.25 * expected
    assert len({round(pause / min(300, 2 * 2**number), 4) for number, pause in enumerate(pauses)}) > 1
    shop.error = None
    now[0] += 1000
    shop.tick()
    assert shop.status.report is not None
    assert (shop.status.report.failures, shop.status.report.next_attempt_at) == (0, None)


def test_a_failure_is_not_forgotten_while_the_next_attempt_runs(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.error = ValueError()
    shop.tick()
    shop.gate.clear()
    now = time.time() + 10  # the pause is over
    monkeypatch.setattr(time, "time", lambda: now)
    shop.keeper.tick()
    assert until(lambda: shop.builds == 2)
    assert shop.status.condition().state == "failed"
    shop.error = None
    shop.gate.set()
    assert until(lambda: shop.status.condition().state == "fresh")


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), GeneratorExit(), MemoryError()], ids=repr)
def test_whatever_the_apps_code_raises_is_a_failure_with_a_pause(shop: Shop, error: BaseException) -> None:
    shop.error = error
    for _ in range(5):
        shop.tick()
    assert shop.builds == 1
    assert shop.status.report is not None
    assert (shop.status.report.error, shop.status.report.failures) == (type(error).__name__, 1)
    assert not shop.state.store.is_locked("files")


def test_rebuild_now_builds_a_fresh_list_and_returns_what_it_did(shop: Shop) -> None:
    with shop.app.app_context():
        shop.list.rebuild_now()
        shop.items = files("a", "b")
        outcome = shop.list.rebuild_now()
    assert (outcome.count, outcome.reused, outcome.enriched, shop.builds) == (2, 1, 1, 2)
    assert 0 < outcome.duration < 10


def test_rebuild_now_does_not_wait_for_another(shop: Shop) -> None:
    shop.gate.clear()
    shop.keeper.tick()
    assert until(lambda: shop.builds == 1)
    with shop.app.app_context():
        with pytest.raises(RebuildBusyError, match="'files' is being rebuilt already"):
            shop.list.rebuild_now()
        shop.gate.set()
        assert until(lambda: shop.status.progress is None)
    lock = FileStore(shop.state.store.folder).try_lock("files")
    assert lock is not None
    with shop.app.app_context(), pytest.raises(RebuildBusyError):
        shop.list.rebuild_now()
    lock.close()


def test_rebuild_now_raises_what_the_app_raised_and_counts_it(shop: Shop) -> None:
    shop.error = ValueError("why")
    with shop.app.app_context(), pytest.raises(ValueError, match="why"):
        shop.list.rebuild_now()
    assert shop.status.report is not None and shop.status.report.failures == 1


def test_the_builder_beats_while_it_is_deep_in_one_item(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.gate.clear()
    shop.keeper.tick()
    assert until(lambda: shop.builds == 1)
    report = shop.state.store.folder / "files.progress"
    before = report.stat().st_ino
    monotonic = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: monotonic + 5)
    shop.keeper.tick()
    monkeypatch.undo()
    assert report.stat().st_ino != before
    assert shop.builds == 1
    shop.gate.set()
    assert until(lambda: shop.status.progress is None)


def test_a_damaged_section_is_found_and_the_list_built_from_nothing(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    shop.tick()
    index = shop.state.store.folder / "files.index"
    for _ in range(2):  # the second time the keeper has looked at this generation's successor before
        shop.tick()
        damaged = bytearray(index.read_bytes())
        damaged[-5] ^= 1
        index.write_bytes(damaged)
        caplog.clear()
        shop.tick()
        assert "warmcache.snapshot_damaged: the files of 'files' fail their checksums" in caplog.text
        assert until(lambda: shop.status.condition().state == "fresh")
        snapshot = shop.status.reader.current()
        assert snapshot is not None
        assert (snapshot.header["reused"], snapshot.header["enriched"]) == (0, 1)
    assert shop.builds == 3


def test_one_lists_trouble_does_not_starve_the_others(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.warmcache.warm_list("other", key="path", source=lambda: files("b"))

    def unreadable() -> None:
        raise OSError("too many open files")

    monkeypatch.setattr(shop.status, "look", unreadable)
    shop.tick()
    assert shop.builds == 0
    assert shop.state.statuses["other"].condition().state == "fresh"
    assert shop.status.condition().state == "failed"


def test_an_unusable_folder_is_failed_and_says_what_to_change(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    shop.state.store.folder.mkdir(mode=0o755)
    shop.state.store.folder.chmod(0o755)
    shop.tick()
    assert shop.status.condition()[1:4] == (shop.status.condition().state, True, 0.0)
    assert shop.status.condition().state == "failed"
    assert "Run 'chmod 700' on it, or set WARMCACHE_DIR" in caplog.text
    with shop.app.test_client() as client:
        section = client.get("/api/cache/stats/files").get_json()
    assert (section["state"], section["last_error"]) == ("failed", "StoreError")


def test_no_thread_to_be_had_is_a_failure_that_frees_the_lock(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", none_left)
        shop.keeper.tick()
    assert shop.status.report is not None and shop.status.report.error == "RuntimeError"
    assert (shop.status.progress, shop.state.store.is_locked("files")) == (None, False)


def test_a_success_is_logged_with_its_list(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "flask_warmcache"):
        shop.tick()
    (record,) = [one for one in caplog.records if "rebuild_finished" in one.message]
    assert "'files' has 1 items, 1 enriched, 0 reused, 0 failed, in" in record.message
    assert record.__dict__["warmcache_list"] == "files"


def test_a_removed_folder_is_made_again(shop: Shop) -> None:
    shop.tick()
    assert shop.names() == ["a"]
    for path in shop.state.store.folder.iterdir():
        path.unlink()
    os.rmdir(shop.state.store.folder)
    assert shop.names() == ["a"]
    shop.tick()
    assert (shop.names(), shop.status.condition().state) == (["a"], "fresh")
    assert shop.builds == 2


def test_an_invalidation_whose_builder_died_behind_the_rename_is_seen(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = shop.state.store
    # The rebuild is invalidated midway, publishes, and is killed before it can mark what it published.
    monkeypatch.setattr(store, "mark_if_invalidated", lambda name, token: None)
    shop.gate.clear()
    shop.keeper.tick()
    assert until(lambda: shop.builds == 1)
    store.invalidate("files")
    shop.gate.set()
    assert until(lambda: shop.status.progress is None)
    monkeypatch.undo()
    shop.tick()
    assert shop.builds == 2


def test_apps_and_lists_are_told_apart_in_one_process(tmp_path: Path) -> None:
    shops = [Shop(tmp_path / which) for which in ("a", "b")]
    shops[1].items = files("b")
    for shop in shops:
        shop.tick()
    assert [shop.names() for shop in shops] == [["a"], ["b"]]
    assert isinstance(shops[0].app, Flask) and isinstance(shops[0].list, Warm)
