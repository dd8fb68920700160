"""The keeper, one tick at a time: it rebuilds what is due, once, and survives any failure."""

from __future__ import annotations

import gc
import logging
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flask_warmcache import RebuildBusyError
from tests.support.apps import Shop
from tests.support.shelf import Shelf, files
from tests.support.waiting import until


def test_cold_list_is_rebuilt_and_fresh_one_is_not(shop: Shop) -> None:
    shop.tick()
    assert shop.names() == ["a"]
    for _ in range(3):
        shop.tick()
    assert shop.builds == 1
    assert shop.status.condition().state == "fresh"


def test_stale_list_is_rebuilt(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.tick()
    shop.items = files("b")
    shop.state.store.invalidate("files")
    shop.tick()
    assert (shop.names(), shop.builds) == (["b"], 2)
    now = time.time() + 301
    monkeypatch.setattr(time, "time", lambda: now)
    shop.tick()
    assert shop.builds == 3


def test_list_locked_by_another_process_is_not_rebuilt(shop: Shop) -> None:
    lock = Shelf(shop.state.store.folder).lock()
    shop.tick()
    assert shop.builds == 0
    lock.close()
    shop.tick()
    assert shop.builds == 1


def test_list_just_rebuilt_elsewhere_is_not_rebuilt_again(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_lock_held_for_moment_is_tried_again(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[str] = []
    try_lock = shop.state.store.try_lock

    def first_fails(name: str) -> Any:
        tries.append(name)
        return None if len(tries) == 1 else try_lock(name)

    monkeypatch.setattr(shop.state.store, "try_lock", first_fails)
    shop.tick()
    assert (len(tries), shop.builds) == (2, 1)


def test_failure_is_logged_and_followed_by_pause(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    shop.tick()
    assert "warmcache.rebuild_started: the rebuild of 'files' begins in a thread" in caplog.text
    shop.error = ValueError("a secret")
    shop.state.store.invalidate("files")
    shop.tick()
    failed = (
        "warmcache.rebuild_failed: the rebuild of 'files' failed (1 in a row); the old snapshot stays, the next"
    )
    assert failed in caplog.text
    assert shop.status.condition().state == "failed"
    for _ in range(3):
        shop.tick()
    assert (shop.builds, shop.names()) == (2, ["a"])


def test_failure_without_list_does_not_speak_of_an_old_one(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    shop.error = ValueError("a secret")
    shop.tick()
    assert "'files' failed (1 in a row); there is no snapshot yet, the next attempt is in" in caplog.text
    shop.error = None
    shop.rebuild()
    shop.state.store.publish_cold("files")
    shop.error = ValueError("a secret")
    with pytest.raises(ValueError, match="secret"):
        shop.rebuild()
    assert "old snapshot" not in caplog.text


def test_the_pause_grows_with_jitter_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Shop(tmp_path, retry_min=2.0)
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


def test_list_stays_failed_while_next_attempt_runs(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.error = ValueError()
    shop.tick()
    shop.gate.clear()
    now = time.time() + 500  # the pause is over
    monkeypatch.setattr(time, "time", lambda: now)
    shop.keeper.tick()
    until(lambda: shop.builds == 2)
    assert shop.status.condition().state == "failed"
    shop.error = None
    shop.gate.set()
    until(lambda: shop.status.condition().state == "fresh")


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), GeneratorExit(), MemoryError()], ids=repr)
def test_whatever_apps_code_raises_is_failure_with_pause(shop: Shop, error: BaseException) -> None:
    shop.error = error
    for _ in range(5):
        shop.tick()
    assert shop.builds == 1
    assert shop.status.report is not None
    assert (shop.status.report.error, shop.status.report.failures) == (type(error).__name__, 1)
    assert not shop.state.store.is_locked("files")


def test_rebuild_now_rebuilds_fresh_list_and_returns_its_outcome(shop: Shop) -> None:
    with shop.app.app_context():
        shop.list.rebuild_now()
        shop.items = files("a", "b")
        outcome = shop.list.rebuild_now()
    assert (outcome.count, outcome.reused, outcome.enriched, shop.builds) == (2, 1, 1, 2)
    assert 0 < outcome.duration < 10


def test_rebuild_now_waits_for_own_background_and_starts_none(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.gate.clear()
    shop.keeper.tick()
    until(lambda: shop.builds == 1)
    shop.items = files("a", "b")

    def sleep(seconds: float, sleep: Callable[[float], None] = time.sleep) -> None:
        shop.gate.set()
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", sleep)
    with shop.app.app_context():
        assert (shop.list.rebuild_now().count, shop.builds) == (2, 2)
    assert not shop.state.is_started


def test_rebuild_now_does_not_wait_in_request_or_for_another_process(shop: Shop) -> None:
    shop.gate.clear()
    shop.keeper.tick()
    until(lambda: shop.builds == 1)
    with shop.app.test_request_context():
        with pytest.raises(RebuildBusyError, match="'files' is being rebuilt already"):
            shop.list.rebuild_now()
        shop.gate.set()
        until(lambda: not shop.state.store.is_locked("files"))
    lock = Shelf(shop.state.store.folder).lock()
    with shop.app.app_context(), pytest.raises(RebuildBusyError):
        shop.list.rebuild_now()
    lock.close()


def test_rebuild_now_raises_error_of_app_and_counts_it(shop: Shop) -> None:
    shop.error = ValueError("why")
    with shop.app.app_context(), pytest.raises(ValueError, match="why"):
        shop.list.rebuild_now()
    assert shop.status.report is not None and shop.status.report.failures == 1


@pytest.mark.usefixtures("live")
def test_keeper_ends_when_its_app_is_collected(tmp_path: Path) -> None:
    def use() -> tuple[weakref.ref[Any], Any]:
        shop = Shop(tmp_path)
        shop.client.get("/api/cache/stats")
        until(lambda: shop.status.condition().state == "fresh")
        return weakref.ref(shop.app), shop.state.keeper._thread

    app, thread = use()
    until(lambda: gc.collect() >= 0 and app() is None)
    until(lambda: not thread.is_alive())
