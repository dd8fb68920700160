"""The keeper's thread: it starts when it is needed, is replaced if it ends, and no request depends on it."""

from __future__ import annotations

import logging
import random
import threading
import time
from pathlib import Path

import pytest

from flask_warmcache import WarmCache, state
from flask_warmcache.declaration import Item
from flask_warmcache.keeper.keeper import Keeper
from flask_warmcache.state import start_keepers
from tests.support.apps import make_app, state_of, stop
from tests.support.processes import run_python
from tests.support.shelf import files
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("live")


def keepers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "warmcache-keeper"]


def test_the_first_request_starts_one_keeper_and_the_list_gets_warm(tmp_path: Path) -> None:
    app = make_app(tmp_path)
    listed = WarmCache(app).warm_list("files", key="path", source=lambda: files("a"))
    app.add_url_rule("/files", "files", listed.response)
    client = app.test_client()
    assert keepers() == []
    assert client.get("/files").get_json()["cache_rebuilding"] is True
    (keeper,) = keepers()
    assert keeper.daemon
    until(lambda: client.get("/files").get_json()["cache_rebuilding"] is False)
    assert client.get("/files").get_json()["items"] == files("a")
    assert keepers() == [keeper]


def test_many_first_requests_at_once_start_one_keeper(tmp_path: Path) -> None:
    app = make_app(tmp_path)
    builds: list[int] = []

    def source() -> list[dict[str, object]]:
        builds.append(1)
        return files("a")

    listed = WarmCache(app).warm_list("files", key="path", source=source)
    app.add_url_rule("/files", "files", listed.response)
    barrier = threading.Barrier(16)
    answers: list[int] = []

    def ask() -> None:
        barrier.wait()
        answers.append(app.test_client().get("/files").status_code)

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 16
    assert len(keepers()) == 1
    until(lambda: state_of(app).statuses["files"].condition().state == "fresh")
    assert len(builds) == 1


def test_a_dead_keeper_is_replaced_by_the_next_request(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    app = make_app(tmp_path)
    WarmCache(app).warm_list("files", key="path", source=lambda: files("a"))
    client = app.test_client()
    client.get("/nowhere")
    keeper = state_of(app).keeper
    stop(keeper)
    assert keepers() == []
    with caplog.at_level(logging.ERROR, "flask_warmcache"):
        client.get("/nowhere")
    assert len(keepers()) == 1
    assert "warmcache.keeper_died" in caplog.text
    until(lambda: state_of(app).statuses["files"].condition().state == "fresh")


def test_a_keeper_survives_its_own_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(tmp_path)
    WarmCache(app)
    keeper = state_of(app).keeper
    turns: list[int] = []

    def fails(self: Keeper) -> None:
        turns.append(1)
        raise ValueError("unforeseen")

    monkeypatch.setattr(Keeper, "tick", fails)
    app.test_client().get("/nowhere")

    def woken() -> bool:
        keeper.wake()
        return len(turns) >= 3

    until(woken)
    assert "warmcache.keeper_error: the keeper goes on" in caplog.text
    assert len(keepers()) == 1


def test_a_request_is_answered_if_no_thread_can_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(tmp_path)
    listed = WarmCache(app).warm_list("files", key="path", source=lambda: files("a"))
    app.add_url_rule("/files", "files", listed.response)
    client = app.test_client()

    def none_left(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", none_left)
        assert client.get("/files").status_code == 200
    assert "warmcache.keeper_not_started" in caplog.text
    assert client.get("/files").status_code == 200
    assert len(keepers()) == 1


def test_a_read_of_a_due_list_wakes_the_keeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The keeper takes its turn once a minute, so anything sooner happens because it was woken.
    monkeypatch.setattr("flask_warmcache.keeper.keeper.TICK_EVERY", 60.0)
    app = make_app(tmp_path)
    listed = WarmCache(app).warm_list("files", key="path", source=lambda: files("a"))
    with app.app_context():
        listed.get()
        until(lambda: listed.get().state == "fresh")
        before = listed.get().generation
        listed.invalidate()
        until(lambda: listed.get().generation != before)


def test_workers_that_start_together_begin_their_work_at_different_moments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_a_request_for_a_cold_list_has_it_rebuilt_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flask_warmcache.keeper.keeper.random.uniform", lambda low, high: 60.0)
    app = make_app(tmp_path)
    listed = WarmCache(app).warm_list("files", key="path", source=lambda: files("a"))
    start_keepers()
    (keeper,) = keepers()
    with app.app_context():
        assert listed.get().state == "cold"  # the answer comes at once
        until(lambda: listed.get().state == "fresh")
    assert keepers() == [keeper]


def test_the_worker_hook_starts_the_keeper_of_every_app(tmp_path: Path) -> None:
    apps = [make_app(tmp_path / which) for which in ("a", "b")]
    for app in apps:
        WarmCache(app).warm_list("files", key="path", source=lambda: files("a"))
    start_keepers()
    assert len(keepers()) == 2
    until(lambda: [state_of(app).statuses["files"].condition().state for app in apps] == ["fresh"] * 2)


def test_a_disabled_cache_has_no_keeper(tmp_path: Path) -> None:
    app = make_app(tmp_path, enabled=False)
    WarmCache(app).warm_list("files", key="path", source=lambda: files("a"))
    app.test_client().get("/nowhere")
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
def test_a_forked_child_starts_a_keeper_of_its_own(tmp_path: Path, parent: str) -> None:
    done = run_python(FORK, tmp_path / "cache", tmp_path / "names", parent)
    assert (done.stdout, done.stderr) == ("0 2\n", "")


def test_what_a_fork_resets_is_usable_at_once(tmp_path: Path) -> None:
    app = make_app(tmp_path)
    listed = WarmCache(app).warm_list("files", key="path", source=lambda: files("a"))
    opened = state_of(app)
    with opened.keeper._guard, opened.rebuilder.locks.guard, opened.cache._guard, opened._opening:
        stop(opened.keeper)
        state._after_fork()
        with app.app_context():
            until(lambda: listed.get().state == "fresh")


def test_an_unopened_app_can_be_forked(tmp_path: Path) -> None:
    app = make_app(tmp_path)
    listed = WarmCache(app).warm_list("files", key="path", source=lambda: files("a"))
    state._after_fork()
    with app.app_context():
        until(lambda: listed.get().state == "fresh")


def test_a_script_rebuilds_no_fresh_list_and_runs_no_task(tmp_path: Path) -> None:
    builds: list[str] = []
    runs: list[str] = []
    for process in ("server", "script"):
        app = make_app(tmp_path)
        warmcache = WarmCache(app)

        def scan(process: str = process) -> list[Item]:
            builds.append(process)
            return files("a")

        def prepare(process: str = process) -> None:
            runs.append(process)

        listed = warmcache.warm_list("files", key="path", source=scan)
        warmcache.once("prepare", version=process)(prepare)
        if process == "server":
            with app.test_request_context():
                until(lambda: listed.page().state == "fresh")  # noqa: B023
                until(lambda: runs == ["server"])
        else:
            with app.app_context():
                assert [listed.page().state for _ in range(3)] == ["fresh"] * 3
                keeper = state_of(app).keeper
                until(lambda: keeper._thread is not None and keeper._thread.is_alive())  # noqa: B023
                keeper.tick()
                state_of(app)._tick_tasks()
    assert (builds, runs) == (["server"], ["server"])


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


def test_a_process_can_exit_while_a_thread_imports() -> None:
    # Without keeper.py's exit handler Python 3.10 and 3.11 always hang here; 3.13 never does.
    done = run_python(LEAVE)
    assert done.stdout == "left\n" and "ResourceWarning: unclosed <socket" in done.stderr
