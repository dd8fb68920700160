"""What a child process needs: the app's location, memory, time limits, and a hand-over."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import types
from collections.abc import Callable
from contextlib import ExitStack
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pytest

from flask_warmcache import WarmCache, child
from flask_warmcache.errors import ChildError, ItemTimeoutError, SettingError
from flask_warmcache.host import resources, server
from flask_warmcache.host import threads as host_threads
from flask_warmcache.keeper import hand_over
from flask_warmcache.keeper.children import DROPPED, Children, Location, locate
from flask_warmcache.keeper.hand_over import Relay
from flask_warmcache.keeper.process import ITEM_SIGNAL, ItemTimeLimit
from flask_warmcache.settings import KEY, Settings
from flask_warmcache.store.files import FileStore
from tests.benchmarks.load import pinned
from tests.support.apps import Shop, make_app, state_of
from tests.support.processes import no_descriptors, python, read_line, run, started
from tests.support.shelf import declare, files
from tests.support.waiting import until

# Where the app is


class Worker:
    """The part of gunicorn's worker that location.py reads."""

    def __init__(self, uri: str | None, wsgi: object) -> None:
        self.app = types.SimpleNamespace(app_uri=uri)
        self.cfg = types.SimpleNamespace(chdir="/srv", paste=None)
        self.wsgi = wsgi


@pytest.fixture(autouse=True)
def _no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_noted_worker", None)


def test_setting_locates_app_and_without_it_gunicorn() -> None:
    app = object()
    assert locate(app, "shop:create_app('x')") == Location("shop:create_app('x')", os.getcwd())
    server.note_worker(Worker("shop:app", app))
    assert locate(app, None) == Location("shop:app", "/srv", served=True)
    server.note_worker(Worker("shop:app", object()))
    assert locate(app, None) == Location("shop:app", "/srv", served=False)


@pytest.mark.parametrize("wrong", ["shop", 5])
def test_setting_needs_module_and_attribute(tmp_path: Path, wrong: object) -> None:
    with pytest.raises(SettingError, match="^WARMCACHE_APP must be text like 'module:app'"):
        WarmCache(make_app(tmp_path, app=wrong))


def test_module_attribute_locates_app_without_gunicorn(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = types.ModuleType("shop_of_mine")
    module.app = app = types.SimpleNamespace(import_name="shop_of_mine")
    monkeypatch.setitem(sys.modules, "shop_of_mine", module)
    server.note_worker(Worker(None, app))
    assert locate(app, None) == Location("shop_of_mine:app", os.getcwd(), served=True)


def test_app_in_script_cannot_be_located(monkeypatch: pytest.MonkeyPatch) -> None:
    main: Any = types.ModuleType("__main__")
    main.__spec__ = None
    main.app = app = object()
    monkeypatch.setitem(sys.modules, "__main__", main)
    assert locate(app, None) == "no module attribute holds the app; set WARMCACHE_APP"


def test_without_location_stats_say_so_and_thread_rebuilds(tmp_path: Path) -> None:
    shop = Shop(tmp_path, runner="process")
    shop.keeper.rebuild_due()
    section = shop.client.get("/api/cache/stats/files").get_json()
    assert section["runner"] == {
        "mode": "process",
        "child": "unavailable: no module attribute holds the app; set WARMCACHE_APP",
    }
    assert (section["state"], section["item_count"]) == ("fresh", 1)


def test_child_does_not_inherit_variables_of_server() -> None:
    names = ["SERVER_SOFTWARE", "WERKZEUG_RUN_MAIN", "LISTEN_FDS", "NOTIFY_SOCKET", "GUNICORN_FD", "GUNICORN_PID"]
    assert all(DROPPED.fullmatch(name) for name in names)
    assert not any(DROPPED.fullmatch(name) for name in ("PATH", "GUNICORN_CMD_ARGS", "MY_LISTEN_FDS"))


# Which of the apps


def orders(app: Any, **changed: Any) -> dict[str, Any]:
    opened = state_of(app)
    usual = {
        "app": "shop:app",
        "served": False,
        "name": "files",
        "code": opened.statuses["files"].declaration.code,
        "cache": os.path.realpath(opened.store.folder),
    }
    return {**usual, **changed}


def test_child_finds_app_by_its_folder_and_declaration(tmp_path: Path) -> None:
    apps = [make_app(tmp_path / which) for which in ("a", "b", "a")]
    for number, app in enumerate(apps):
        search = ("path",) if number == 2 else ()
        WarmCache(app).warm_list("files", key="path", search=search, source=lambda: files("a"))
    for app in apps:
        assert child._find_state(orders(app), None).app is app
    with pytest.raises(ChildError, match="^No apps imported by 'shop:app' keep a list 'files'"):
        child._find_state(orders(apps[0], cache="/elsewhere"), None)
    with pytest.raises(ChildError, match="^list 'files' is declared differently here .* reload the server"):
        child._find_state(orders(apps[0], code="of other code"), None)


def test_descriptors_that_run_out_leave_none_open_and_no_lock_held(folder: Path) -> None:
    store = FileStore(folder)
    children = Children(lambda: Location("nowhere:app", "/"), Settings(), folder, 1)
    children.problem()  # what is read now is not read again

    def opened() -> list[str]:
        return sorted(os.listdir("/proc/self/fd"))

    failures = 0
    for spare in range(20):
        locks = {name: lock for name in "ab" if (lock := store.try_lock(name)) is not None}
        before = opened()
        try:
            with no_descriptors(spare):
                child = children.start(declare("a"), locks, {}, only_if_due=True, wait=True)
        except OSError:
            failures += 1
        else:
            child.kill()
            until(child.has_ended)
            children.abandon()
        assert opened() == before, spare
        for lock in locks.values():
            lock.close()
        assert (len(locks), store.is_locked("a"), store.is_locked("b")) == (2, False, False), spare
    assert 5 <= failures < 20


def test_several_matching_apps_are_refused_unless_one_is_served(tmp_path: Path) -> None:
    apps = [shop.app for shop in (Shop(tmp_path), Shop(tmp_path))]
    with pytest.raises(ChildError, match="^2 apps imported by .*; set WARMCACHE_APP"):
        child._find_state(orders(apps[0]), apps[0])
    for app in apps:
        assert child._find_state(orders(app, served=True), app).app is app


def test_app_under_test_has_no_child(tmp_path: Path) -> None:
    shop = Shop(tmp_path, dir=None)
    shop.app.testing = True
    assert shop.app.extensions[KEY]._locate() == "an app under test has a temporary cache folder"


# Memory


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Write control groups for the code to find, on a machine with eight cores."""
    monkeypatch.setattr(resources, "PROC", tmp_path / "proc")
    monkeypatch.setattr(resources, "CGROUPS", tmp_path / "groups")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    (tmp_path / "proc").mkdir()

    def write(membership: str, texts: dict[str, str]) -> None:
        (tmp_path / "proc" / "cgroup").write_bytes(os.fsencode(membership))
        for name, text in texts.items():
            path = tmp_path / "groups" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return write


STRICT_GROUP = {
    "outer/app/memory.max": "1000",
    "outer/app/memory.current": "900",
    "outer/app/memory.stat": "anon 100\ninactive_file 50\n",
    "outer/memory.max": "5000",
    "outer/memory.current": "4900",
}
MEMORY_V1 = {
    "memory/app/memory.limit_in_bytes": "1000",
    "memory/app/memory.usage_in_bytes": "700",
    "memory/memory.limit_in_bytes": str(1 << 62),
    "memory/memory.usage_in_bytes": "900",
}
CORES_V1 = {
    "cpu/app/cpu.cfs_quota_us": "400000\n",
    "cpu/app/cpu.cfs_period_us": "100000\n",
    "cpu/cpu.cfs_quota_us": "-1\n",
    "cpu/cpu.cfs_period_us": "100000\n",
}


@pytest.mark.parametrize(
    ("membership", "texts", "free"),
    [
        ("0::/app\n", {"app/memory.max": "max\n", "app/memory.current": "5\n"}, None),
        ("0::/outer/app\n", STRICT_GROUP, 100),
        ("0::/outer/app/caf\udce9\x0cjob\n", STRICT_GROUP, 100),
        ("4:cpu:/x\n3:memory:/app\n", MEMORY_V1, 300),
    ],
    ids=["no limit", "strictest group, without file pages", "name that is not UTF-8", "cgroup v1"],
)
def test_free_memory_is_that_of_strictest_group(
    groups: Callable[..., None], membership: str, texts: dict[str, str], free: int | None
) -> None:
    assert resources.free() is None
    groups(membership, texts)
    assert resources.free() == free


@pytest.mark.parametrize(
    ("membership", "texts", "cores"),
    [
        ("0::/outer/app\n", {"outer/app/cpu.max": "max 100000\n", "outer/cpu.max": "250000 100000\n"}, 3),
        ("0::/outer/app\n", {"outer/app/cpu.max": "50000 100000\n"}, 1),
        ("4:cpu,cpuacct:/app\n", CORES_V1, 4),
    ],
    ids=["of an outer group, rounded up", "at least one", "cgroup v1"],
)
def test_strictest_group_limits_cores(
    groups: Callable[..., None], membership: str, texts: dict[str, str], cores: int
) -> None:
    assert resources.cores() == 8
    groups(membership, texts)
    assert resources.cores() == cores


def test_memory_is_that_of_machine_or_of_strictest_group(groups: Callable[..., None]) -> None:
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert resources.memory() == machine
    groups("0::/app\n", {"app/memory.max": "512000000", "app/memory.current": "5"})
    assert resources.memory() == 512_000_000


def test_without_memory_for_second_copy_there_is_no_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "free", lambda: 1000)
    shop = Shop(tmp_path, runner="process", app="shop:app")
    section = shop.client.get("/api/cache/stats/files").get_json()
    assert section["runner"]["child"] == "unavailable: no memory for a second copy of the app"
    assert resources.resident() > 1000


# Time limits


@pytest.fixture
def limits() -> Any:
    before = signal.getsignal(ITEM_SIGNAL)
    made = ItemTimeLimit()
    yield made
    made.close()
    signal.signal(ITEM_SIGNAL, before)


def compute(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


@pytest.mark.parametrize("work", [time.sleep, compute])
def test_only_item_that_takes_too_long_is_ended(limits: ItemTimeLimit, work: Callable[[float], None]) -> None:
    began = time.monotonic()
    with pytest.raises(ItemTimeoutError), limits.limit(0.1):
        work(20)
    assert time.monotonic() - began < 20
    with limits.limit(20):
        work(0.2)
    with limits.limit(None):
        work(0.1)


@pytest.mark.parametrize("orders", ["", '{"cache":'])
def test_child_whose_worker_died_before_its_orders_ends_without_traceback(orders: str) -> None:
    done = run(python("-m", "flask_warmcache.child"), input=orders)
    assert (done.returncode, done.stderr) == (child.FAILED, "")


# From the thread to a child

BUSY = "print(flush=True)\nwhile True: pass"


def answering(*answers: str | None) -> Any:
    """Return a child that gives these answers, the last one for ever."""
    return types.SimpleNamespace(answer=chain(answers, repeat(answers[-1])).__next__)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Wall clock, processor time of the thread and of the others, and the time that all waited for a processor."""
    now = types.SimpleNamespace(wall=0.0, processor=0.0, others=0.0, waited=0.0)
    monkeypatch.setattr(hand_over, "time", types.SimpleNamespace(perf_counter=lambda: now.wall))
    monkeypatch.setattr(host_threads.Stopwatch, "_readings", lambda _: tuple(vars(now).values()))
    return now


def is_handed_over(clock: Any, relay: Relay, seconds: float, share: float, **shares: float) -> bool:
    """Work for that long, with that share of a processor; return whether a child got ready meanwhile."""
    for _ in range(round(seconds * 100)):
        clock.wall += 0.01
        clock.processor += 0.01 * share
        for name, other_share in shares.items():
            setattr(clock, name, getattr(clock, name) + 0.01 * other_share)
        if relay.is_child_ready():
            return True
    return False


def test_long_computing_rebuild_is_handed_over_when_child_is_ready(clock: Any) -> None:
    started: list[float] = []

    def start() -> Any:
        started.append(clock.wall)
        return answering(None, None, "ready")

    relay = Relay(start, lambda: True)
    assert not is_handed_over(clock, relay, 0.9, share=1.0)
    assert started == []
    assert is_handed_over(clock, relay, 1.0, share=1.0)
    assert len(started) == 1 and 1.0 <= started[0] < 1.1


def test_rebuild_that_waits_stays_in_its_thread_until_it_computes(clock: Any) -> None:
    relay = Relay(lambda: answering("ready"), lambda: True)
    assert not is_handed_over(clock, relay, 5, share=0.3)
    assert is_handed_over(clock, relay, 2.5, share=0.9)


@pytest.mark.parametrize("shares", [{"waited": 0.9}, {"others": 0.9}, {"waited": 2.0, "others": 0.9}], ids=str)
def test_computing_rebuild_is_handed_over_from_busy_machine_or_worker(
    clock: Any, shares: dict[str, float]
) -> None:
    relay = Relay(lambda: answering("ready"), lambda: True)
    assert not is_handed_over(clock, relay, 9, share=0.1, **shares)
    assert is_handed_over(clock, relay, 3, share=0.1, **shares)


def test_rebuild_that_waits_stays_in_its_thread_on_busy_machine(clock: Any) -> None:
    relay = Relay(lambda: answering("ready"), lambda: True)
    assert not is_handed_over(clock, relay, 60, share=0.05, waited=0.4, others=0.4)


@pytest.mark.parametrize("rivals", ["processes", "threads"])
def test_time_in_which_others_compute_is_not_taken_for_waiting(rivals: str) -> None:
    core, is_over = min(os.sched_getaffinity(0)), threading.Event()
    found: list[tuple[float, float]] = []

    def measure() -> None:
        os.sched_setaffinity(0, {core})  # of this thread alone
        stopwatch, end = host_threads.Stopwatch(), time.thread_time() + 0.3
        while time.thread_time() < end:
            pass
        found.append(stopwatch.elapsed())

    def compute_on() -> None:
        while not is_over.is_set():
            pass

    with ExitStack() as others:
        others.callback(is_over.set)
        for _ in range(3):
            if rivals == "threads":
                threading.Thread(target=compute_on, daemon=True).start()
            else:
                rival = others.enter_context(started([*pinned(core), *python("-c", BUSY)]))
                read_line(rival)
        began, thread = time.perf_counter(), threading.Thread(target=measure)
        thread.start()
        thread.join(60)
        wall = time.perf_counter() - began
    ((computed, elapsed),) = found
    assert computed > hand_over.COMPUTING * elapsed and computed < hand_over.COMPUTING * wall


@pytest.mark.parametrize("answer", ["gone", "refused: no app"])
def test_thread_works_on_if_child_does_not_get_ready(clock: Any, answer: str) -> None:
    children = iter([answering(None, answer)])  # there is no second one
    relay = Relay(lambda: next(children), lambda: True)
    assert not is_handed_over(clock, relay, 10, share=1.0)
    assert (list(children), relay.answer) == ([], answer)


def test_rebuild_is_handed_over_only_where_child_can_continue(clock: Any) -> None:
    relay = Relay(lambda: answering("ready"), lambda: False)
    assert not is_handed_over(clock, relay, 10, share=1.0)


# uWSGI


@pytest.mark.parametrize(
    ("options", "runs"),
    [
        ({}, False),
        ({"enable-threads": True}, True),
        ({b"enable-threads": b"true"}, True),
        ({"threads": b"2"}, True),
    ],
)
def test_uwsgi_without_threads_is_reported_and_logged(
    options: dict[Any, Any],
    runs: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    live: None,
) -> None:
    monkeypatch.setitem(sys.modules, "uwsgi", types.SimpleNamespace(opt=options))
    shop = Shop(tmp_path)
    for _ in range(2):
        section = shop.client.get("/api/cache/stats/files").get_json()
    assert ("problem" not in section["runner"]) == runs
    assert caplog.text.count("warmcache.no_threads") == (0 if runs else 1)
