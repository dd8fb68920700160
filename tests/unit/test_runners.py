"""How a rebuild in a thread lets requests have the interpreter, and restores its settings afterwards."""

from __future__ import annotations

import sys
import threading

import pytest

from flask_warmcache.host import threads
from flask_warmcache.host.threads import SWITCH_INTERVAL, polite, run_in_thread
from tests.support.waiting import until


def interval() -> float:
    return round(sys.getswitchinterval(), 6)


def test_switch_interval_is_short_only_during_rebuilds() -> None:
    before = interval()
    first, second = polite(), polite()
    with first:
        second.__enter__()
    assert interval() == SWITCH_INTERVAL
    second.__exit__(None, None, None)
    assert interval() == before


def test_switch_interval_of_app_is_restored_after_error() -> None:
    before = sys.getswitchinterval()
    try:
        sys.setswitchinterval(0.02)
        with pytest.raises(ZeroDivisionError), polite():
            assert interval() == SWITCH_INTERVAL
            raise ZeroDivisionError
        assert interval() == 0.02
    finally:
        sys.setswitchinterval(before)


def test_fork_restores_switch_interval_in_child() -> None:
    before = interval()
    with polite():
        threads.after_fork()  # as in the child, where no rebuild runs
        assert interval() == before
        assert threads._polite_threads == 0
        threads._polite_threads = 1  # back in the parent
    assert interval() == before
    threads.after_fork()
    assert interval() == before


def test_rebuild_yields_by_time_and_not_by_item(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    now = [0.0]

    class Clock:
        @staticmethod
        def perf_counter() -> float:
            now[0] += 0.0001
            return now[0]

        @staticmethod
        def sleep(seconds: float) -> None:
            slept.append(seconds)

    monkeypatch.setattr(threads, "time", Clock)
    with polite() as breathe:
        for _ in range(1000):
            breathe()
    assert 100 < len(slept) < 250
    assert set(slept) == {0}


def test_rebuild_thread_does_not_keep_worker_alive() -> None:
    go = threading.Event()
    seen: list[threading.Thread] = []

    def work() -> None:
        seen.append(threading.current_thread())
        go.wait(120)

    run_in_thread(work, "files")
    until(lambda: seen)
    assert (seen[0].daemon, seen[0].name) == (True, "warmcache-rebuild-files")
    go.set()
    seen[0].join()
