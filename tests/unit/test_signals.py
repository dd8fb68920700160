"""Signals tell an app what happens to its lists, and a receiver cannot harm a rebuild."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from blinker import NamedSignal
from flask import Flask, current_app, g

from flask_warmcache import Outcome, signals
from flask_warmcache.signals import rebuild_failed, rebuild_finished, rebuild_progressed, rebuild_started
from flask_warmcache.status import progress as progress_module
from tests.support.apps import Shop
from tests.support.shelf import files

from .test_upstream import Chain

ALL = (rebuild_started, rebuild_progressed, rebuild_finished, rebuild_failed)
Heard = list[tuple[str, dict[str, Any]]]


def listen(stack: ExitStack, app: Flask) -> Heard:
    heard: Heard = []

    def receiver_of(signal: NamedSignal) -> Any:
        def receiver(sender: Flask, **facts: Any) -> None:
            assert sender is app and current_app._get_current_object() is app  # type: ignore[attr-defined]
            heard.append((signal.name, facts))

        return receiver

    for signal in ALL:
        stack.enter_context(signal.connected_to(receiver_of(signal), app))
    return heard


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def names(heard: Heard) -> list[str]:
    return [name for name, facts in heard if name != "rebuild_progressed"]


def test_rebuild_sends_signals_from_beginning_to_end(shop: Shop, stack: ExitStack) -> None:
    heard = listen(stack, shop.app)
    shop.tick()
    assert names(heard) == ["rebuild_started", "rebuild_finished"]
    assert heard[0] == ("rebuild_started", {"name": "files"})
    outcome = heard[-1][1]["outcome"]
    assert isinstance(outcome, Outcome) and (outcome.count, outcome.enriched) == (1, 1)
    assert set(heard[-1][1]) == {"name", "outcome"}
    progressed = [facts for name, facts in heard if name == "rebuild_progressed"]
    assert {tuple(sorted(facts)) for facts in progressed} == {("done", "eta", "name", "phase", "rate", "total")}
    phases = list(dict.fromkeys(facts["phase"] for facts in progressed))
    assert phases == [phase for phase in progress_module.RUNNING if phase in phases] and "enrich" in phases


def test_end_is_announced_after_lock_is_released(shop: Shop, stack: ExitStack) -> None:
    seen: list[tuple[list[str], bool]] = []

    def read(sender: Flask, **facts: Any) -> None:
        condition = shop.status.condition()
        seen.append(([item["path"] for item in shop.list.get()], condition.rebuilding))
        shop.list.rebuild_now() if len(seen) == 1 else None

    stack.enter_context(rebuild_finished.connected_to(read, shop.app))
    shop.tick()
    assert seen == [(["a"], False)] * 2


def test_failure_is_announced_with_its_error(shop: Shop, stack: ExitStack) -> None:
    heard = listen(stack, shop.app)
    shop.error = ValueError("unmounted")
    shop.tick()
    assert names(heard) == ["rebuild_started", "rebuild_failed"]
    assert heard[-1] == ("rebuild_failed", {"name": "files", "error": shop.error})


def test_rebuild_that_cannot_begin_is_announced_as_failed(shop: Shop, stack: ExitStack, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")  # a file where the folder should be
    heard = listen(stack, shop.app)
    shop.tick()
    assert names(heard) == ["rebuild_failed"]
    assert "WARMCACHE_DIR" in str(heard[0][1]["error"])


def test_source_list_is_announced_before_list_made_of_it(tmp_path: Path, stack: ExitStack) -> None:
    chain = Chain(tmp_path)
    heard = listen(stack, chain.app)
    with chain.app.app_context():
        chain.made.rebuild_now()
    order = [f"{facts['name']} {name.removeprefix('rebuild_')}" for name, facts in heard]
    expected = [f"{name} {what}" for name in ("scan", "made") for what in ("started", "progressed", "finished")]
    assert list(dict.fromkeys(order)) == expected


@pytest.mark.parametrize("signal", ALL, ids=lambda signal: signal.name)
def test_receiver_that_raises_affects_neither_rebuild_nor_other_receivers(
    shop: Shop, stack: ExitStack, caplog: pytest.LogCaptureFixture, signal: NamedSignal
) -> None:
    shop.error = OSError("away") if signal is rebuild_failed else None

    def broken(sender: Flask, **facts: Any) -> None:
        raise ZeroDivisionError(signal.name)

    stack.enter_context(signal.connected_to(broken, shop.app))
    heard = listen(stack, shop.app)
    shop.tick()
    assert signal.name in [name for name, facts in heard]  # the other receivers are called nevertheless
    assert shop.status.condition().state == ("failed" if signal is rebuild_failed else "fresh")
    assert f"warmcache.receiver_failed: a receiver of {signal.name}" in caplog.text
    assert "ZeroDivisionError" in caplog.text
    lock = shop.state.store.try_lock("files")
    assert lock is not None
    lock.close()


def test_receiver_runs_where_rebuild_runs(shop: Shop, stack: ExitStack) -> None:
    threads: list[threading.Thread] = []

    def note(sender: Flask, **facts: Any) -> None:
        threads.append(threading.current_thread())

    for signal in ALL:
        stack.enter_context(signal.connected_to(note, shop.app))
    with shop.app.app_context():
        shop.list.rebuild_now()
    assert set(threads) == {threading.current_thread()}
    threads.clear()
    shop.state.store.invalidate("files")
    shop.tick()
    assert threads and threading.current_thread() not in threads


def test_receiver_between_two_items_uses_their_app_context(shop: Shop, stack: ExitStack) -> None:
    ended: list[object] = []
    inside: list[bool] = []
    shop.app.teardown_appcontext(ended.append)

    def note(sender: Flask, **facts: Any) -> None:
        if facts["phase"] == "enrich" and facts["done"]:
            inside.append("session" in g)

    def enrich(item: dict[str, Any]) -> dict[str, Any]:
        g.session = "open"
        return item

    shop.list.enrich(enrich)
    shop.items = files(*(str(number) for number in range(50)))
    stack.enter_context(rebuild_progressed.connected_to(note, shop.app))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress_module, "WRITE_EVERY", 0.0)
        shop.tick()
    assert len(inside) > 40 and all(inside)


def test_progress_is_announced_at_most_ten_times_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]

    class Clock:
        monotonic = staticmethod(lambda: now[0])
        time = staticmethod(lambda: now[0])

    monkeypatch.setattr(progress_module, "time", Clock)
    announced: list[int] = []
    progress = progress_module.Progress(lambda report: None, None)
    progress.announce_to(lambda facts: announced.append(facts["done"]))
    progress.begin("enrich", 10_000)
    for done in range(10_000):
        now[0] += 0.001
        progress.advance(done)
        progress.beat()  # the keeper does not announce, since it is another thread
    assert 90 <= len(announced) <= 101
    assert announced == sorted(announced)


def test_receiver_may_be_coroutine(shop: Shop, stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    def ensure_sync(function: Any) -> Any:  # as flask[async] does it
        return lambda *senders, **facts: asyncio.run(function(*senders, **facts))

    monkeypatch.setattr(shop.app, "ensure_sync", ensure_sync)
    heard: list[str] = []

    async def receiver(sender: Flask, **facts: Any) -> None:
        heard.append(facts["name"])

    stack.enter_context(rebuild_finished.connected_to(receiver, shop.app))
    shop.tick()
    assert heard == ["files"]


def test_muted_signal_is_not_sent(shop: Shop, stack: ExitStack) -> None:
    heard = listen(stack, shop.app)
    with rebuild_started.muted():
        shop.tick()
    assert names(heard) == ["rebuild_finished"]


def test_without_receiver_no_context_is_pushed(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    pushed: list[int] = []
    announce = signals.announcer(shop.app)
    monkeypatch.setattr(shop.app, "app_context", lambda: pushed.append(1))
    announce("rebuild_started", {"name": "files"})
    assert pushed == []
