"""The keeper's thread: it starts when it is needed, is replaced if it ends, and no request depends on it."""

from __future__ import annotations

import logging
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flask_warmcache import WarmCache, state
from flask_warmcache.keeper.keeper import Keeper
from flask_warmcache.state import start_keepers
from tests.support.apps import Site, make_app, state_of, stop
from tests.support.processes import run_python
from tests.support.threads import no_threads
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("live")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def until_fresh(site: Site) -> None:
    """Wait until the list is fresh, without a request that would wake the keeper."""
    until(lambda: site.status.condition().state == "fresh")


def keepers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "warmcache-keeper"]


def test_first_request_starts_one_keeper_and_list_gets_warm(site: Site) -> None:
    assert keepers() == []
    assert site.client.get("/files").get_json()["cache_rebuilding"] is True
    (keeper,) = keepers()
    assert keeper.daemon
    until(lambda: site.client.get("/files").get_json()["cache_rebuilding"] is False)
    assert site.client.get("/files").get_json()["files"] == site.items
    assert keepers() == [keeper]


def test_many_first_requests_at_once_start_one_keeper(site: Site) -> None:
    barrier = threading.Barrier(16)

    def ask(_: int) -> int:
        barrier.wait()
        return site.app.test_client().get("/files").status_code

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, range(16))) == [200] * 16
    assert len(keepers()) == 1
    until_fresh(site)
    assert site.builds == 1


def test_dead_keeper_is_replaced_by_next_request(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.client.get("/nowhere")
    stop(site.keeper)
    assert keepers() == []
    with caplog.at_level(logging.ERROR, "flask_warmcache"):
        site.client.get("/nowhere")
    assert len(keepers()) == 1
    assert "warmcache.keeper_died" in caplog.text
    until_fresh(site)


def test_keeper_survives_its_own_errors(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    turns: list[int] = []

    def fails(self: Keeper) -> None:
        turns.append(1)
        raise ValueError("unforeseen")

    monkeypatch.setattr(Keeper, "tick", fails)
    site.client.get("/nowhere")

    def woken() -> bool:
        site.keeper.wake()
        return len(turns) >= 3

    until(woken)
    assert "warmcache.keeper_error: the keeper continues" in caplog.text
    assert len(keepers()) == 1


def test_request_is_answered_if_no_thread_can_start(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    with no_threads():
        assert site.client.get("/files").status_code == 200
    assert "warmcache.keeper_not_started" in caplog.text
    assert site.client.get("/files").status_code == 200
    assert len(keepers()) == 1


def test_read_of_due_list_wakes_keeper(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    # The keeper takes its turn once a minute, so anything sooner happens because it was woken.
    monkeypatch.setattr("flask_warmcache.keeper.keeper.TICK_EVERY", 60.0)
    with site.app.app_context():
        site.list.get()
        until(lambda: site.list.get().state == "fresh")
        before = site.list.get().generation
        site.list.invalidate()
        until(lambda: site.list.get().generation != before)


def test_workers_started_together_begin_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apps = [make_app(tmp_path / str(number)) for number in range(12)]
    drawn: dict[int, float] = {}
    began: dict[int, float] = {}
    uniform, tick = random.uniform, Keeper.tick

    def draw(low: float, high: float) -> float:
        return drawn.setdefault(threading.get_ident(), uniform(low, high))

    def note(self: Keeper) -> None:
        began.setdefault(threading.get_ident(), time.monotonic())
        tick(self)

    monkeypatch.setattr("flask_warmcache.keeper.keeper.random.uniform", draw)
    monkeypatch.setattr(Keeper, "tick", note)
    for app in apps:
        WarmCache(app)
        state_of(app)
    started = time.monotonic()
    start_keepers()
    until(lambda: len(began) == len(apps))
    assert began.keys() == drawn.keys()
    assert len(set(drawn.values())) == len(apps)
    assert all(began[keeper] >= started + drawn[keeper] for keeper in began)


def test_request_for_cold_list_has_it_rebuilt_at_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flask_warmcache.keeper.keeper.random.uniform", lambda low, high: 60.0)
    start_keepers()
    (keeper,) = keepers()
    with site.app.app_context():
        assert site.list.get().state == "cold"  # the answer comes at once
        until(lambda: site.list.get().state == "fresh")
    assert keepers() == [keeper]


def test_worker_hook_starts_keeper_of_every_app(tmp_path: Path) -> None:
    sites = [Site(tmp_path / which) for which in ("a", "b")]
    start_keepers()
    assert len(keepers()) == 2
    for site in sites:
        until_fresh(site)


def test_disabled_cache_has_no_keeper(tmp_path: Path) -> None:
    Site(tmp_path, enabled=False).client.get("/nowhere")
    start_keepers()
    assert keepers() == []


FORK = """
import os, pathlib, sys, time, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of a fork beside threads
from flask import Flask
from flask_warmcache import WarmCache
app = Flask("shop")
app.config["WARMCACHE_DIR"] = sys.argv[1]
warmcache = WarmCache(app)
names = pathlib.Path(sys.argv[2])  # both processes see the same items, so either may rebuild
names.write_text("a")
listed = warmcache.warm_list("files", key="path", source=lambda: [{"path": name} for name in names.read_text()])
app.add_url_rule("/files", "files", listed.response)
client = app.test_client()

def warm(names):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        answer = client.get("/files").get_json()
        if not answer["cache_rebuilding"] and [item["path"] for item in answer["items"]] == names:
            return True
        time.sleep(0.01)

assert warm(["a"])
state = app.extensions["warmcache"]
status = state.statuses["files"]
if sys.argv[3] == "alone":  # the parent's keeper can no longer do the child's work
    keeper = state.keeper._thread
    state.keeper.stop()
    keeper.join()
# The locks are held, as if the fork had happened while other threads were in their critical sections.
guards = [state.keeper._guard, state.rebuilder.locks.guard, state.cache._guard, status.reader._exchange]
for guard in guards: guard.acquire()
child = os.fork()
if child == 0:
    assert [thread.name for thread in threading.enumerate()] == ["MainThread"]
    names.write_text("ab")
    with app.app_context():
        listed.invalidate()
    assert warm(["a", "b"])
    assert "warmcache-keeper" in [thread.name for thread in threading.enumerate()]
    os._exit(0)
for guard in guards: guard.release()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), status.reader.current().count)
"""


@pytest.mark.parametrize("parent", ["at work", "alone"])
def test_forked_child_starts_keeper_of_its_own(tmp_path: Path, parent: str) -> None:
    done = run_python(FORK, tmp_path / "cache", tmp_path / "names", parent)
    assert (done.stdout, done.stderr) == ("0 2\n", "")


def test_what_fork_resets_is_usable_at_once(site: Site) -> None:
    opened = site.state
    with opened.keeper._guard, opened.rebuilder.locks.guard, opened.cache._guard, opened._opening:
        stop(opened.keeper)
        state._after_fork()
        with site.app.app_context():
            until(lambda: site.list.get().state == "fresh")


def test_unopened_app_can_be_forked(site: Site) -> None:
    state._after_fork()
    with site.app.app_context():
        until(lambda: site.list.get().state == "fresh")


def test_script_rebuilds_no_fresh_list_and_runs_no_task(tmp_path: Path) -> None:
    runs: list[str] = []
    server, script = Site(tmp_path), Site(tmp_path)
    server.warmcache.once("prepare", version="server")(lambda: runs.append("server"))
    script.warmcache.once("prepare", version="script")(lambda: runs.append("script"))
    with server.app.test_request_context():
        until(lambda: server.list.page().state == "fresh")
        until(lambda: runs == ["server"])
    with script.app.app_context():
        assert [script.list.page().state for _ in range(3)] == ["fresh"] * 3
        until(lambda: script.keeper._thread is not None and script.keeper._thread.is_alive())
        script.keeper.tick()
        script.state._tick_tasks()
    assert (server.builds, script.builds, runs) == (1, 0, ["server"])


LEAVE = """
import socket, sys, threading, types, warnings
import flask_warmcache.state
warnings.simplefilter("always")
begun = threading.Event()

def work():
    while True:
        begun.set()
        try:
            import nowhere_to_be_found
        except ImportError:
            pass

threading.Thread(target=work, daemon=True).start()
begun.wait()
# This is collected when the interpreter has nearly ended; it then imports to show a warning.
last = types.ModuleType("last")
sys.modules["last"] = last
last.itself, last.socket = last, socket.socket()
print("left")
"""


def test_process_can_exit_while_thread_imports() -> None:
    # Without keeper.py's exit handler Python 3.11 always hangs here; 3.13 never does.
    done = run_python(LEAVE)
    assert done.stdout == "left\n" and "ResourceWarning: unclosed <socket" in done.stderr
