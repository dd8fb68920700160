"""Where rebuilds run: in a thread, in a child that holds the lock, in one after the other, or elsewhere."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psutil
import pytest

from flask_warmcache.keeper.children import SAFE
from flask_warmcache.store.reader import Reader
from tests.support.places import Place
from tests.support.processes import is_running
from tests.support.servers import OUR_CONF, Server, gunicorn_server
from tests.support.threads import Repeated
from tests.support.waiting import stays_false, until

from .conftest import Make


def serving(
    place: Place, *arguments: str, uri: str = "app_runners:create_app()", workers: int = 1
) -> AbstractContextManager[Server]:
    """A gunicorn server of our app, with our configuration."""
    return gunicorn_server(place, *OUR_CONF, *arguments, app=uri, workers=workers)


def serving_site(
    place: Place, text: str, *arguments: str, uri: str = "site_of_mine:app"
) -> AbstractContextManager[Server]:
    """A server of a module that is only found in its folder; the worker's folder is another one at first."""
    (place.folder / "site_of_mine.py").write_text(text)
    return serving(place, "--chdir", os.fspath(place.folder), *arguments, uri=uri)


def configured(make_place: Make, *, config: dict[str, object], **options: object) -> Place:
    """A place whose apps have these ``WARMCACHE_*`` settings."""
    place = make_place(**options)
    place.env |= {f"TESTED_WARMCACHE_{name.upper()}": str(value) for name, value in config.items()}
    return place


def stats(server: Server, path: str = "/api/cache/stats/files") -> dict[str, Any]:
    section: dict[str, Any] = server.get(path).json
    return section


def built(server: Server) -> list[dict[str, Any]]:
    """The finished list's items."""

    def fresh() -> Any:
        page = server.get().json
        return page["files"] if page["files"] and not page["cache_rebuilding"] else None

    items: list[dict[str, Any]] = until(fresh, lambda: f"a list: {stats(server)}\n{server.log}")
    return items


def pids_of(items: list[dict[str, Any]]) -> set[int]:
    return {item["pid"] for item in items}


def is_locked(place: Place, name: str = "files") -> bool:
    """Whether somebody holds the list's lock; a shared one for a microsecond tells."""
    try:
        descriptor = os.open(place.cache / f"{name}.lock", os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def is_idle(pid: int) -> bool:
    return os.sched_getscheduler(pid) == os.SCHED_IDLE


def had_to_wait(pid: int, share: float = 0.3) -> bool:
    """Whether a child had cause to stay among those that are not idle: the machine was busy while it started."""
    ran, waited, _ = map(int, Path(f"/proc/{pid}/schedstat").read_text().split())
    return waited > share * (ran + waited)


# The child


def test_a_child_rebuilds_and_the_worker_only_serves(make_place: Make) -> None:
    place = configured(make_place, config={"runner": "process"})
    with serving(place) as server:
        pids = pids_of(built(server))
        assert len(pids) == 1 and not pids & (server.pids | {server.process.pid})
        assert stats(server)["runner"] == {"mode": "process", "child": "available"}
        until(lambda: not any(is_running(pid) for pid in pids), "the end of the child")
        assert len(place.calls("source")) == 1


@pytest.mark.parametrize("path", [None, "/nowhere"], ids=["with nice", "without nice"])
def test_the_child_is_niced_in_a_group_of_its_own_and_shows_no_orders(make_place: Make, path: str | None) -> None:
    place = configured(make_place, config={"runner": "process"}).with_gate()
    place.env |= {"LISTEN_FDS": "1", "NOTIFY_SOCKET": "/nowhere", "WERKZEUG_RUN_MAIN": "true"}
    if path is not None:
        place.env["PATH"] = path
    with serving(place) as server:
        child = psutil.Process(place.builder_at_gate().pid)
        (worker,) = server.pids
        assert child.nice() == psutil.Process(worker).nice() + 10
        until(lambda: is_idle(child.pid) or had_to_wait(child.pid), "the child to stand back")
        assert os.getpgid(child.pid) == child.pid
        assert os.getsid(child.pid) == os.getsid(worker)
        assert child.cmdline()[1:] == [SAFE, "-m", "flask_warmcache.child"]
        assert not {"SERVER_SOFTWARE", "LISTEN_FDS", "NOTIFY_SOCKET", "WERKZEUG_RUN_MAIN"} & child.environ().keys()
        opened = [os.path.realpath(f"/proc/{child.pid}/fd/{one}") for one in os.listdir(f"/proc/{child.pid}/fd")]
        assert not any("socket:" in one for one in opened), "the child has the server's sockets"
        place.gate.touch()
        built(server)


def test_child_yields_while_it_imports_the_app(make_place: Make) -> None:
    place = configured(make_place, config={"runner": "process"})
    place.env["TEST_IMPORT_GATE"] = os.fspath(place.gate)
    with serving(place):
        child = place.builder_at_gate().pid
        # It has looked at its first few milliseconds only.
        until(lambda: is_idle(child) or had_to_wait(child, 0.05), "the child to stand back")
        place.gate.touch()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_child_keeps_the_lock_and_publishes_after_its_worker_was_killed(make_place: Make, workers: int) -> None:
    place = configured(make_place, config={"runner": "process"}).with_gate()
    with serving(place, workers=workers) as server:
        child = place.builder_at_gate().pid
        worker = psutil.Process(child).ppid()
        assert worker in server.pids
        os.kill(worker, signal.SIGKILL)
        server.until_gone(worker)
        until(lambda: stats(server)["cache_rebuilding"], "the new worker to see the rebuild")
        assert is_locked(place) and is_running(child)
        place.gate.touch()
        assert pids_of(built(server)) == {child}
        assert len(place.calls("source")) == 1
        assert stats(server)["last_error"] is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT], ids=["TERM", "QUIT"])
def test_a_child_does_not_hold_up_a_stopping_server_and_publishes(make_place: Make, number: int) -> None:
    place = configured(make_place, config={"runner": "process"}).with_gate()
    with serving(place) as server:
        child = place.builder_at_gate().pid
        server.stop(number)
        assert is_locked(place) and is_running(child), "the server waited for its child"
        place.gate.touch()
        until(lambda: not is_running(child), "the end of the child")
    snapshot = Reader(place.cache, "files").current()
    assert snapshot is not None and snapshot.count == 60


# What becomes of a child that does not finish


def test_a_killed_child_is_a_failure_long_before_its_deadline_and_tried_again(make_place: Make) -> None:
    place = configured(make_place, config={"runner": "process", "retry_min": 1.0}).with_gate()
    with serving(place, workers=2) as server:
        child = place.builder_at_gate().pid
        os.kill(child, signal.SIGKILL)
        until(lambda: stats(server)["last_error"] == "ChildKilledError", lambda: f"a failure: {stats(server)}")
        place.gate.touch()
        assert pids_of(built(server)) - {child}, "nobody went on"  # what the child had finished is resumed
        assert len(place.calls("source")) == 2
        assert server.log.count("warmcache.rebuild_failed") == 1, "several workers counted one failure"


def test_a_child_that_ends_before_it_is_ready_is_reported_as_that(make_place: Make) -> None:
    place = configured(make_place, config={"runner": "process", "retry_min": 60.0})
    with serving_site(place, f"{A_SITE}{MADE_BY}{ITS_VIEWS}if threads.in_child: os._exit(7)") as server:
        until(lambda: stats(server)["state"] == "failed", lambda: f"a failure: {stats(server)}")
        assert stats(server)["last_error"] == "ChildError"
        assert "'files' ended with exit status 7 before it had imported the app" in server.log


@pytest.mark.parametrize("how", [{"hangs": 1}, {"hog": 600}], ids=["sleeping", "in one C call"])
def test_a_child_past_its_deadline_is_ended(make_place: Make, how: dict[str, object]) -> None:
    place = configured(
        make_place, config={"runner": "process", "build_timeout": 8.0, "retry_min": 60.0}, items=3, **how
    )
    with serving(place) as server:
        began = until(lambda: place.calls("source"), "a build")[0]
        until(lambda: stats(server)["state"] == "failed", lambda: f"a failure: {stats(server)}")
        took = time.monotonic() - began.at
        print(f"\nended and shown {took:.2f} s after it began, the deadline being 8 s after its start")
        assert stats(server)["last_error"] == "BuildTimeoutError"
        until(lambda: not is_running(began.pid) and not is_locked(place), "the end of the child")


# Finding the app


@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["", "preload"])
@pytest.mark.parametrize("form", ["factory", "arguments", "attribute", "wrapped", "factory beside"])
def test_a_child_finds_the_app_as_gunicorn_does(make_place: Make, form: str, preload: tuple[str, ...]) -> None:
    place = configured(make_place, config={"runner": "process"})
    create = "from app_runners import create_app\n"
    text, uri = {
        "factory": ("", "app_runners:create_app()"),
        "arguments": ("", "app_runners:create_app('files', folder='cache')"),
        "attribute": (f"{create}app = create_app()", "site_of_mine:app"),
        "wrapped": (
            f"{create}from werkzeug.middleware.proxy_fix import ProxyFix\napplication = ProxyFix(create_app())",
            "site_of_mine",
        ),
        "factory beside": (f"{create}other = create_app()", "site_of_mine:create_app()"),
    }[form]
    with serving_site(place, text, *preload, uri=uri) as server:
        assert not pids_of(built(server)) & server.pids
        assert stats(server)["runner"]["child"] == "available"
        assert stats(server)["last_error"] is None


TWO_APPS = """
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from app_runners import create_app
app = DispatcherMiddleware(create_app(), {{'/other': {other}}})
"""


def test_folders_distinguish_two_apps_of_one_process(make_place: Make) -> None:
    place = configured(make_place, config={"runner": "process"})
    other = "create_app('others', folder='second')"
    with serving_site(place, TWO_APPS.format(other=other)) as server:
        ours = built(server)
        until(lambda: stats(server, "/other/api/cache/stats/others")["state"] == "fresh", "the other app's list")
        others = server.get("/other/api/files").json["files"]
        assert ({item["app"] for item in ours}, {item["app"] for item in others}) == ({"files"}, {"others"})
        assert not (pids_of(ours) | pids_of(others)) & server.pids


def test_an_app_served_twice_is_refused_by_name(make_place: Make) -> None:
    place = configured(make_place, config={"runner": "process", "retry_min": 60.0})
    with serving_site(place, TWO_APPS.format(other="create_app()")) as server:
        until(lambda: stats(server)["state"] == "failed", lambda: f"a refusal: {stats(server)}")
        assert stats(server)["last_error"] == "ChildError"
        assert "2 apps imported by 'site_of_mine:app' keep a list 'files'" in server.log
        until(lambda: not is_locked(place), "the end of the child")
        assert place.calls("source") == []


A_SITE = """
import logging, os
from flask import Flask
from flask_warmcache import WarmCache
from flask_warmcache.host import threads
from app_runners import note
app = Flask("site_of_mine")
app.config.from_prefixed_env("TESTED")
app.config["WARMCACHE_DIR"] = os.environ["WARMCACHE_DIR"]
warmcache = WarmCache(app)
"""
ITS_VIEWS = """
app.add_url_rule("/api/files", "files", files.response)
app.add_url_rule("/invalidate", "invalidate", lambda: source.invalidate() or "", methods=["POST"])
note("loaded")
"""
MADE_BY = """
files = source = warmcache.warm_list(
    "files", key="path", unit="file", source=lambda: [{"path": "a", "by": "THE_CODE"}]
)
"""


def made_by(code: str) -> str:
    """A site whose list of one item names its code."""
    return A_SITE + MADE_BY.replace("THE_CODE", code) + ITS_VIEWS


def test_a_child_that_would_run_other_code_than_its_worker_is_refused_until_the_server_is_reloaded(
    make_place: Make,
) -> None:
    place = configured(make_place, config={"runner": "process", "retry_min": 0.1, "retry_max": 0.3})
    with serving_site(place, made_by("old code")) as server:
        assert [file["by"] for file in built(server)] == ["old code"]
        newer = made_by("the code of a deployment that has not reloaded the server")
        (place.folder / "site_of_mine.py").write_text(newer)
        server.get("/invalidate", "POST")
        until(lambda: stats(server)["state"] == "failed", lambda: f"a refusal: {stats(server)}")
        assert stats(server)["last_error"] == "ChildError"
        assert "If the app's code has changed since the server started, reload the server" in server.log
        assert [file["by"] for file in server.get().json["files"]] == ["old code"]
        server.send(signal.SIGHUP)
        until(lambda: server.get().json["files"][0]["by"].startswith("the code of a deployment"), "a newer list")


def test_a_child_takes_no_module_of_the_app_for_a_standard_one(make_place: Make) -> None:
    place = configured(make_place, config={"runner": "process"})
    with serving_site(place, made_by("code")) as server:
        built(server)
        old = server.get().generation
        for name in ("logging", "json"):
            (place.folder / f"{name}.py").write_text("raise RuntimeError('imported')")
        server.get("/invalidate", "POST")
        until(lambda: server.get().generation > old, lambda: f"a newer list: {stats(server)}\n{server.log}")
        doctor = place.flask_command("warmcache", "doctor", "--json", "--pid", str(server.process.pid))
        report = json.loads(place.run([doctor[0], SAFE, *doctor[1:]]).stdout)
        assert {"gunicorn.in_force", "folder.locks", "imports.time"} <= {
            finding["check"] for finding in report["findings"] if finding["level"] == "ok"
        }


LOG_CONFIG = """
[loggers]
keys = root
[handlers]
keys = file
[formatters]
keys = short
[logger_root]
level = INFO
handlers = file
[handler_file]
class = FileHandler
formatter = short
args = ("own.log",)
[formatter_short]
format = %(process)d %(levelname)s %(message)s
"""
CONFIGURED_BY_HOOK = """
import logging
from flask_warmcache.gunicorn_conf import compose
def post_fork(server, worker):
    logging.basicConfig(level=logging.INFO, format="%(process)d %(levelname)s %(message)s")
compose(globals())
"""
LOGS = """
app.logger.handlers = logging.getLogger("gunicorn.error").handlers
app.logger.setLevel(logging.INFO)
app.logger.propagate = False
app.logger.info("loaded by the child: %s", threads.in_child)
"""


@pytest.mark.parametrize(
    ("file", "text", "arguments", "log", "line"),
    [
        (
            "log.ini",
            LOG_CONFIG,
            ("--log-config", "log.ini"),
            "own.log",
            r"(\d+) INFO warmcache.rebuild_finished: ",
        ),
        ("own.py", CONFIGURED_BY_HOOK, ("-c", "own.py"), None, r"\[(\d+)\] \[INFO\] warmcache.rebuild_finished: "),
        ("own.py", "", (), None, r"\[(\d+)\] \[INFO\] loaded by the child: True"),
        ("own.py", "", ("--log-file", "own.log"), "own.log", r"\[(\d+)\] \[INFO\] loaded by the child: True"),
    ],
    ids=["log-config", "hook of gunicorn", "handlers of gunicorn", "its log file"],
)
def test_a_child_logs_where_its_worker_does(
    make_place: Make, file: str, text: str, arguments: tuple[str, ...], log: str | None, line: str
) -> None:
    place = configured(make_place, config={"runner": "process"})
    (place.folder / file).write_text(text)
    with serving_site(place, f"{A_SITE}{MADE_BY}{ITS_VIEWS}{LOGS}", *arguments) as server:
        built(server)

        def logged() -> set[int]:
            text = server.log if log is None else (place.folder / log).read_text()
            return {int(found[1]) for found in re.finditer(line, text)} - server.pids

        until(logged, lambda: f"the child's line:\n{server.log}")


COUNTED = """
from prometheus_client import Counter, Gauge
made, busy = Counter("made", "Lists made"), Gauge("busy", "Builders", multiprocess_mode="livesum")

def scan():
    made.inc()
    busy.set(1)
    return [{"path": "a"}]

files = source = warmcache.warm_list("files", key="path", unit="file", source=scan)
"""


def test_children_of_a_list_share_their_files_of_metrics(make_place: Make) -> None:
    pytest.importorskip("prometheus_client")
    place = configured(make_place, config={"runner": "process"})
    metrics = place.folder / "metrics"
    metrics.mkdir()
    place.env["PROMETHEUS_MULTIPROC_DIR"] = os.fspath(metrics)

    def of_children() -> list[str]:
        return sorted(path.name for path in metrics.iterdir() if path.stem.split("_")[-1] not in known)

    with serving_site(place, f"{A_SITE}{COUNTED}{ITS_VIEWS}") as server:
        known = {f"{pid}" for pid in server.pids}
        built(server)
        seen = {server.get().generation}
        while len(seen) < 3:
            server.get("/invalidate", "POST")
            until(lambda: server.get().generation not in seen, lambda: f"a newer list: {server.log}")
            seen.add(server.get().generation)
        until(lambda: len(of_children()) == 1, of_children)
        (name,) = of_children()
        assert re.fullmatch(r"counter_warmcache-[0-9a-f]{8}-files\.db", name)
        script = "from prometheus_client.multiprocess import MultiProcessCollector as M; print(*M(None).collect())"
        assert "value=3.0" in place.run([sys.executable, "-c", script]).stdout


# From the thread to a child


class Probe(Repeated):
    """Looks, as often as it can, whether the lock is free."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self._place = place
        self.looks = self.free = 0

    def turn(self) -> None:
        locked = is_locked(self._place)
        # After the lock, because it may be free as soon as the list is published.
        if (self._place.cache / "files.index").exists():
            self.stopped.set()
        else:
            self.looks += 1
            self.free += not locked


def test_computing_rebuild_continues_in_a_child_under_the_same_lock_and_repeats_nothing(make_place: Make) -> None:
    place = configured(make_place, config={"runner": "auto"}, items=300, compute=2, awaits_child=1)
    with serving(place) as server:
        (worker,) = server.pids
        until(lambda: place.calls("enrich"), "the first item")
        with Probe(place) as probe:
            items = built(server)
        in_thread = sum(item["pid"] == worker for item in items)
        print(f"\n{in_thread} of {len(items)} items in the thread; {probe.looks} looks at the lock")
        assert probe.looks > 100 and probe.free == 0
        assert stats(server)["last_error"] is None
        assert len(pids_of(items) - {worker}) == 1
        enriched = [call.pid for call in place.calls("enrich")]
        assert len(enriched) == 300 and set(enriched) == pids_of(items) and worker in enriched


def test_a_quick_rebuild_stays_in_its_thread(make_place: Make) -> None:
    place = configured(make_place, config={"runner": "auto"}, compute=0.01)
    with serving(place) as server:
        assert pids_of(built(server)) == server.pids
        assert len(place.calls("loaded")) == 1, "a child was started"


def test_a_worker_killed_before_its_child_was_ready_leaves_the_list_to_it(make_place: Make) -> None:
    place = configured(make_place, config={"runner": "auto"}, items=300, compute=2, awaits_child=1)
    with serving(place) as server:
        (worker,) = server.pids

        def child() -> list[psutil.Process]:
            children = [
                one for one in psutil.Process(worker).children() if "flask_warmcache.child" in one.cmdline()
            ]
            return [one for one in children if os.getpgid(one.pid) == one.pid]

        (started,) = until(child, "a child that has its orders")
        os.kill(worker, signal.SIGKILL)
        assert is_locked(place)
        items = built(server)
        assert started.pid in pids_of(items) and pids_of(items) <= {started.pid, worker}
        assert len(place.calls("source")) == 2


def test_a_long_computing_list_starts_in_the_child_the_next_time(make_place: Make) -> None:
    place = configured(make_place, config={"runner": "auto"}, items=300, compute=1.5)
    with serving(place) as server:
        built(server)
        known = len(place.calls("enrich"))
        for left in place.cache.glob("*.data"):
            left.unlink()  # so that all is done again
        server.get("/invalidate", "POST")
        until(lambda: len(place.calls("enrich")) > known, "the next build")
        assert place.calls("enrich")[known].pid not in server.pids


def test_an_interrupted_list_starts_in_the_child_the_next_time(make_place: Make) -> None:
    place = configured(make_place, config={"runner": "auto"}).with_gate()
    with serving(place) as server:
        worker = place.builder_at_gate().pid
        assert worker in server.pids
        os.kill(worker, signal.SIGKILL)
        second = place.builder_at_gate(2).pid
        assert second not in server.pids | {worker}
        assert stats(server)["last_error"] is None, "an interruption is no failure"
        place.gate.touch()
        assert second in pids_of(built(server))


# No worker is stopped


@pytest.mark.parametrize("worker_class", ["sync", "gthread", "gevent"])
def test_one_c_call_in_a_child_does_not_cost_the_worker_its_life(make_place: Make, worker_class: str) -> None:
    if worker_class == "gevent":
        pytest.importorskip("gevent")
    place = configured(make_place, config={"runner": "process"}, items=3, hog=6)
    with serving(place, "--timeout", "4", "-k", worker_class) as server:
        until(lambda: place.calls("hogging"), "the call")
        while not place.calls("hogged"):
            server.get()
        items = built(server)
        took = place.calls("hogged")[0].at - place.calls("hogging")[0].at
        print(f"\n{worker_class}: a call of {took:.1f} s")
        assert took > 5, "the call was too short to show anything"
        assert "WORKER TIMEOUT" not in server.log and len(place.calls("source")) == 1
        assert not pids_of(items) & server.pids


# gevent


@pytest.mark.parametrize("runner", ["auto", "thread"])
def test_a_computing_rebuild_stops_no_other_request_under_gevent(make_place: Make, runner: str) -> None:
    pytest.importorskip("gevent")
    place = configured(make_place, config={"runner": runner}, items=300, compute=1.5)
    with serving(place, "-k", "gevent") as server:
        took: list[float] = []
        start = time.monotonic()

        def is_published() -> bool:
            began = time.monotonic()
            server.get("/plain")
            took.append(time.monotonic() - began)
            return (place.cache / "files.index").exists()

        until(is_published, lambda: f"a list: {stats(server)}\n{server.log}")
        items, whole = built(server), time.monotonic() - start
        print(f"\n{runner}: {len(took)} requests in {whole:.1f} s, the slowest {max(took) * 1000:.0f} ms")
        assert len(took) > 20
        assert max(took) < whole / 3, "a request waited for the rebuild"
        assert (pids_of(items) == server.pids) == (runner == "thread")
        assert stats(server)["last_error"] is None


PATCHED = """
from gevent import monkey
monkey.patch_all()
from app_runners import create_app
app = create_app()
"""


def test_a_child_finds_an_app_that_patches_itself_as_it_is_imported(make_place: Make) -> None:
    pytest.importorskip("gevent")
    place = configured(make_place, config={"runner": "process"})
    (place.folder / "patched.py").write_text(PATCHED)
    with serving(place, "-k", "gevent", "--pythonpath", os.fspath(place.folder), uri="patched:app") as server:
        assert not pids_of(built(server)) & server.pids
        assert stats(server)["last_error"] is None


# external


def command_of(place: Place, *arguments: str) -> list[str]:
    place.app = "app_runners:create_app()"
    return place.flask_command("warmcache", *arguments)


def test_external_workers_only_read_and_watch_rebuilds(make_place: Make) -> None:
    place = configured(make_place, config={"runner": "external"})
    with serving(place) as server:
        for _ in range(20):
            page = server.get().json
        assert page["files"] == []
        assert stats(server)["runner"] == {"mode": "external"}
        assert place.calls("source") == []
        with place.started(command_of(place, "watch"), stderr=subprocess.PIPE) as watching:
            assert pids_of(built(server)) == {watching.pid}
            server.get("/invalidate", "POST")
            until(lambda: len(place.calls("source")) == 2, "a second build")
            built(server)
            watching.send_signal(signal.SIGTERM)
            assert watching.wait(60) == 0
        server.get("/invalidate", "POST")
        assert server.get().state == "stale"
        assert {call.pid for call in place.calls("source")} == {watching.pid}


def test_a_restarted_server_does_not_call_stale_what_only_another_process_can_rebuild(make_place: Make) -> None:
    place = configured(make_place, config={"runner": "external"})
    place.run(command_of(place, "rebuild", "files"), check=True)
    with serving(place) as server:
        assert server.get().state == "fresh"


# What a child knows


@pytest.mark.parametrize("restart", ["stop and start", "HUP"])
def test_after_a_restart_one_child_rebuilds_what_the_old_server_made(make_place: Make, restart: str) -> None:
    place = configured(make_place, config={"runner": "process"})
    with serving(place) as server:
        built(server)
        old = server.get().generation
        if restart == "HUP":
            (worker,) = server.pids
            server.send(signal.SIGHUP)
            server.until_gone(worker)
            check_one_more_build(place, server, old)
    if restart != "HUP":
        with serving(place) as server:
            check_one_more_build(place, server, old)


def check_one_more_build(place: Place, server: Server, old: int) -> None:
    until(lambda: server.get().generation > old and not server.get().json["cache_rebuilding"], "a newer list")
    loaded = len(place.calls("loaded"))
    # Five ticks of the keeper.
    stays_false(lambda: len(place.calls("source")) > 2 or len(place.calls("loaded")) > loaded, 1.0)


FOLLOWING = """
number = os.path.join(os.path.dirname(os.environ["WARMCACHE_DIR"]), "number")

def scan():
    with open(number) as file:
        return [{"path": "a", "number": int(file.read())}]

def complete(item):
    note("enrich")
    return {**item, "pid": os.getpid()}

source = warmcache.warm_list("plain", key="path", unit="file", source=scan)
files = warmcache.warm_list("files", key="path", unit="file", source=source, enrich=complete)
"""


def test_a_list_that_is_behind_its_source_list_is_brought_up_by_one_child(make_place: Make) -> None:
    place = configured(make_place, config={"runner": "process"})
    (place.folder / "number").write_text("1")
    with serving_site(place, A_SITE + FOLLOWING + ITS_VIEWS) as server:
        assert [file["number"] for file in built(server)] == [1]
        (place.folder / "number").write_text("2")
        server.get("/invalidate", "POST")
        until(lambda: [file["number"] for file in server.get().json["files"]] == [2], "the newer number")
        built(server)
        loaded = len(place.calls("loaded"))
        # Five ticks of the keeper.
        stays_false(lambda: len(place.calls("enrich")) > 2 or len(place.calls("loaded")) > loaded, 1.0)
