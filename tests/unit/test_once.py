"""One-time tasks in one process: declarations, deployments, runs and failures."""

from __future__ import annotations

import functools
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, current_app
from werkzeug.exceptions import HTTPException

from flask_warmcache import DeclarationError, SettingError, TaskNotReadyError, WarmCache
from flask_warmcache.host import threads
from flask_warmcache.startup.task import KEPT, Record, Task, TaskStatus
from flask_warmcache.startup.tasks import Tasks
from flask_warmcache.store.locks import HeldLock
from flask_warmcache.testing import inline_rebuilds
from tests.support.apps import make_app, state_of
from tests.support.processes import run_python
from tests.support.shelf import files
from tests.support.threads import no_threads
from tests.support.waiting import until


class Site:
    """An app with a task whose work a test can replace, and a view that needs the task."""

    def __init__(self, folder: Path, **config: Any) -> None:
        self.app: Flask = make_app(folder, **{"retry_min": 0.05, **config})
        self.folder = folder / "cache"
        self.warmcache = WarmCache(self.app)
        self.runs: list[str] = []
        self.work: Callable[[], None] = lambda: None
        self.wait = 5.0
        self.warmcache.once("prepare", timeout=10)(self.prepare)
        self.app.add_url_rule("/needs", "needs", self.needs)
        self.client = self.app.test_client()

    def prepare(self) -> None:
        self.runs.append(current_app.name)
        self.work()

    def needs(self) -> str:
        self.warmcache.ensure("prepare", wait=self.wait)
        return "ready"

    @property
    def tasks(self) -> Tasks:
        return state_of(self.app).tasks

    @property
    def status(self) -> TaskStatus:
        return self.tasks.status("prepare")

    def until_state(self, expected: str) -> TaskStatus:
        """Call ``tick``, as a keeper does, until the task is in the expected state."""

        def reached() -> bool:
            self.tasks.tick()
            return self.status.state == expected

        until(reached, lambda: self.status.record)
        return self.status

    def lock(self) -> HeldLock:
        lock = state_of(self.app).store.try_lock("prepare.once")
        assert lock is not None
        return lock

    def leave(self, **facts: Any) -> None:
        """Write the record of a process that is dead now."""
        lock, state = self.lock(), state_of(self.app)
        other = Tasks(self.app, self.warmcache._registry.tasks, state.store, state.settings)
        record = Record(**{"state": "running", "attempts": 1, "started": time.time(), **facts})
        other.status("prepare").write(record)
        lock.close()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Return an event that a task waits for; it is set after the test, so that no thread remains."""
    event = threading.Event()
    yield event
    event.set()


# Declaring


def generator() -> Iterator[int]:
    yield 1


def with_argument(what: str) -> None: ...


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda warm: warm.once("a b")(print), "cannot name a one-time task"),
        (lambda warm: warm.once(print), "cannot name a one-time task"),  # @warmcache.once without a call
        (lambda warm: warm.once("a", timeout=0)(print), "'a' has timeout=0"),
        (lambda warm: warm.once("a", timeout=float("inf"))(print), "a number of seconds above 0"),
        (lambda warm: warm.once("a", timeout=True)(print), "has timeout=True"),
        (lambda warm: warm.once("a")("print"), "must be a function, not 'print'"),
        (lambda warm: warm.once("a")(generator), "is a generator"),
        (lambda warm: warm.once("a")(with_argument), "has required parameters"),
        (lambda warm: [warm.once("a")(print), warm.once("a")(print)], "a one-time task named 'a' already"),
        (lambda warm: [warm.once("a")(print), warm.value("tasks")(dict)], "named 'tasks' already"),
        (lambda warm: [warm.value("tasks")(dict), warm.once("a")(print)], "named 'tasks' already"),
        (lambda warm: warm.value("degraded"), "cannot name a list"),
        (lambda warm: [warm._registry.close(), warm.once("a")(print)], "declared too late"),
    ],
)
def test_wrong_declaration_is_refused(declare: Callable[[WarmCache], Any], message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        declare(WarmCache())


def test_list_may_be_named_tasks_without_tasks() -> None:
    WarmCache().warm_list("tasks", key="path")


def test_ensure_refuses_unknown_tasks_and_long_waits(site: Site) -> None:
    with site.app.app_context():
        with pytest.raises(DeclarationError, match="No one-time task named 'other'. Declared: prepare."):
            site.warmcache.ensure("other")
        for wait in (16, -1, "2", float("nan")):
            with pytest.raises(DeclarationError, match=r"ensure\('prepare', wait=.*0 to 15 seconds"):
                site.warmcache.ensure("prepare", wait=wait)  # type: ignore[arg-type]
    assert site.runs == []


# Deployments


def deployment(function: Callable[..., Any], version: str = "", release: object = None) -> str:
    return Task("a", 20, version, function).deployment(release)


def test_deployment_depends_on_code_version_and_release() -> None:
    def one() -> Any:
        return {"a", "b"} | {len("x") for _ in range(3)}

    def other() -> Any:
        return {"a", "b"} | {len("y") for _ in range(3)}

    assert len({deployment(one), deployment(other), deployment(one, "1"), deployment(one, release="r1")}) == 4
    assert deployment(one, release="r1") == deployment(other, release="r1"), "a release replaces the code"
    assert len({deployment(one, "1", "r1"), deployment(one, "2", "r1"), deployment(one, "1", "r2")}) == 3


def test_deployment_depends_on_wrapped_code() -> None:
    def wrap(function: Callable[[], Any]) -> Callable[[], Any]:
        @functools.wraps(function)
        def wrapper() -> Any:
            return function()

        return wrapper

    def one() -> int:
        return 1

    def two() -> int:
        return 2

    assert deployment(wrap(one)) == deployment(one) != deployment(wrap(two))
    assert deployment(functools.partial(one)) == deployment(one)
    assert deployment(dict) != deployment(list), "classes and built-ins are identified by their names"


DIGEST = """
import sys
sys.path.insert(0, sys.argv[1])
import task
from flask_warmcache.startup.task import Task
print(Task("a", 20, "", task.prepare).deployment(None))
"""


def test_every_process_computes_same_deployment(tmp_path: Path) -> None:
    body = "def prepare():\n    return 'a' in {'a', 'b', 'c', 'd'}, [len(x) for x in ('e', 'f')]\n"
    (tmp_path / "task.py").write_text(body)
    (digest,) = {run_python(DIGEST, tmp_path, env={"PYTHONHASHSEED": seed}).stdout for seed in ("1", "2", "3")}
    assert len(digest.strip()) == 16
    (tmp_path / "task.py").write_text("import os\n\n# The function has moved and has a comment.\n" + body)
    assert run_python(DIGEST, tmp_path).stdout == digest
    (tmp_path / "task.py").write_text("import os\n\n" + body.replace("len(x)", "len(x + x)"))
    assert run_python(DIGEST, tmp_path).stdout != digest


def test_numeric_commit_is_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for commit in ("1234567", "1234e56", "1234e567", "abcdef0"):
        app = make_app(tmp_path)
        monkeypatch.setenv("FLASK_WARMCACHE_RELEASE", commit)
        app.config.from_prefixed_env()
        WarmCache(app)
    with pytest.raises(SettingError, match="WARMCACHE_RELEASE must be text that differs with each deployment"):
        WarmCache(make_app(tmp_path, release=""))


# Running


def test_keeper_runs_task_once_in_app_context(site: Site) -> None:
    assert site.status.state == "pending"
    site.until_state("done")
    site.tasks.tick()
    assert site.runs == ["shop"]
    assert site.client.get("/needs").text == "ready"
    assert site.runs == ["shop"]


@pytest.mark.usefixtures("live")
def test_first_request_starts_keeper_that_runs_task(site: Site) -> None:
    site.client.get("/nowhere")
    until(lambda: site.status.state == "done")
    assert site.runs == ["shop"]


def test_concurrent_requests_without_keeper_run_task_once(site: Site, gate: threading.Event) -> None:
    site.work = lambda: print(gate.wait(120))
    barrier = threading.Barrier(8)

    def ask(_: int) -> int:
        barrier.wait(120)
        return site.app.test_client().get("/needs").status_code

    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(ask, range(8))
        until(lambda: site.runs)
        gate.set()
    assert list(answers) == [200] * 8
    assert site.runs == ["shop"]


def test_task_may_ensure_another(site: Site) -> None:
    site.work = lambda: site.warmcache.ensure("tables", wait=10)
    site.warmcache.once("tables")(lambda: site.runs.append("tables"))
    site.until_state("done")
    assert site.runs == ["shop", "tables"]
    assert site.tasks.names == ["prepare", "tables"]


def test_late_task_does_not_block_next(
    tmp_path: Path, gate: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    app, runs = make_app(tmp_path), []
    warmcache = WarmCache(app)

    @warmcache.once("hangs", timeout=0.5)
    def hangs() -> None:
        runs.append("hangs")
        gate.wait(120)

    warmcache.once("next")(lambda: runs.append("next"))
    tasks = state_of(app).tasks
    tasks.tick()
    tasks.tick()
    until(lambda: runs == ["hangs"])
    assert tasks.status("next").state == "pending" or tasks.status("hangs").is_late

    def next_is_done() -> bool:
        tasks.tick()
        return tasks.status("next").state == "done"

    until(next_is_done)
    assert runs == ["hangs", "next"] and tasks.status("hangs").state == "late" and tasks.is_degraded
    assert caplog.text.count("warmcache.task_late") == 1
    gate.set()
    until(lambda: tasks.status("hangs").state == "done")
    assert not tasks.is_degraded


def test_rebuilding_child_starts_no_task(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "in_child", True)
    site.tasks.tick()
    site.wait = 0.1
    assert site.client.get("/needs").status_code == 503
    assert site.runs == []


def test_fork_discards_its_parents_run(site: Site, gate: threading.Event) -> None:
    site.work = lambda: print(gate.wait(120))
    site.tasks.tick()
    until(lambda: site.status.state == "running")
    site.tasks.after_fork()
    assert site.status.state == "running", "the parent still holds the lock"


# Failures


def test_success_clears_failure_and_its_pause(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    site = Site(tmp_path, retry_min=1.0)

    def fail() -> None:
        raise OSError("no network: secret")

    site.work = fail
    status = site.until_state("failed")
    assert "no network: secret" in caplog.text
    stats = site.client.get("/api/cache/stats").get_json()
    assert stats["degraded"] is True and stats["tasks"]["prepare"]["last_error"] == "OSError"
    assert "secret" not in json.dumps(stats)
    assert status.pause > 0
    site.work = lambda: None
    section = site.until_state("done").section()
    assert section["last_error"] is None and section["next_attempt_at"] is None
    assert section["attempts"] == len(site.runs) >= 2
    assert not site.tasks.is_degraded


def test_running_retry_is_still_degraded(site: Site, gate: threading.Event) -> None:
    site.leave(state="failed", attempts=1, error="OSError", ended=time.time())
    site.work = lambda: print(gate.wait(120))
    site.until_state("running")
    assert site.tasks.is_degraded and site.status.section()["last_error"] == "OSError"


def test_error_handler_may_replace_503(tmp_path: Path) -> None:
    site = Site(tmp_path, retry_min=40)
    site.leave(state="failed", error="OSError", next_attempt_at=time.time() + 40)
    answer = site.client.get("/needs")
    assert answer.status_code == 503 and answer.get_json() == {
        "error": "One-time task 'prepare' is not done yet: it has failed.",
        "task": "prepare",
        "state": "failed",
    }
    assert 30 <= int(answer.headers["Retry-After"]) <= 40
    assert answer.headers["Cache-Control"] == "no-store"

    site = Site(tmp_path)
    seen: list[HTTPException] = []

    def later(error: HTTPException) -> tuple[str, int]:
        seen.append(error)
        return "later", 503

    site.app.register_error_handler(HTTPException, later)
    site.wait, site.status.is_here = 0, True
    assert site.client.get("/needs").text == "later"
    assert isinstance(seen[0], TaskNotReadyError) and seen[0].task == "prepare"


def test_second_dead_process_causes_pause(site: Site) -> None:
    site.leave(attempts=1)
    assert site.status.state == "pending" and site.status.pause == 0
    site.leave(attempts=2, next_attempt_at=time.time() + 30)
    site.tasks.tick()
    assert site.status.state == "pending" and site.runs == []
    site.leave(attempts=2, next_attempt_at=time.time() - 1)
    site.until_state("done")
    assert site.runs == ["shop"] and site.status.section()["attempts"] == 3


def test_second_attempt_records_pause_for_third(tmp_path: Path, gate: threading.Event) -> None:
    site = Site(tmp_path, retry_min=30)
    site.leave(attempts=1)
    site.work = lambda: print(gate.wait(120))
    site.until_state("running")
    second = site.status.record
    assert second is not None and second.attempts == 2 and second.next_attempt_at is not None
    assert 20 < second.next_attempt_at - second.started < 40


def test_pause_ends_if_clock_was_set_back(site: Site) -> None:
    site.leave(state="failed", error="OSError", next_attempt_at=time.time() + 1e6)
    site.until_state("done")


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b'{"state": "done"}', b'{"state": 1, "attempts": 1, "started": 1}']
)
def test_damaged_record_is_ignored(site: Site, content: bytes) -> None:
    site.leave()
    (site.folder / f"prepare.{site.status.deployment}.once").write_bytes(content)
    site.until_state("done")
    assert site.runs == ["shop"]


def test_unusable_folder_causes_503(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "cache").write_text("not a folder")
    site = Site(tmp_path, retry_min=30)
    for _ in range(3):
        site.tasks.tick()
        assert site.client.get("/needs").status_code == 503
    assert site.status.section()["last_error"] == "StoreError"
    assert caplog.text.count("warmcache.task_failed") == 1, "it is retried without a pause"
    assert site.runs == []
    (tmp_path / "cache").unlink()
    with site.app.app_context():
        assert site.tasks.run_now("prepare") is True


def test_unrecorded_success_is_not_repeated_in_this_process(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    written: list[str] = []
    write = TaskStatus.write

    def fails_when_done(self: TaskStatus, record: Record) -> None:
        written.append(record.state)
        if record.state == "done":
            raise OSError("disk full")
        write(self, record)

    monkeypatch.setattr(TaskStatus, "write", fails_when_done)
    site.until_state("done")
    site.tasks.tick()
    assert "warmcache.task_unrecorded" in caplog.text
    assert site.runs == ["shop"] and written == ["running", "done"]


def test_failed_thread_start_releases_lock(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    with no_threads():
        site.tasks.tick()
    assert "can't start new thread" in caplog.text
    site.lock().close()
    site.until_state("done")


def test_old_records_and_temporary_files_are_removed(site: Site) -> None:
    site.leave()
    own = site.status.deployment
    for number in range(KEPT + 5):
        old = site.folder / f"prepare.{number:016x}.once"
        old.write_text("{}")
        os.utime(old, (number, number))
    (site.folder / f"prepare.{own}.once.1-abcdef12.tmp").touch()
    others = [
        site.folder / name for name in (f"prepare-2.{own}.once", "prepare.index", f"prepare-2.{own}.once.1-a.tmp")
    ]
    for other in others:
        other.touch()
    site.until_state("done")
    names = {path.name for path in site.folder.iterdir()}
    assert names >= {other.name for other in others} | {f"prepare.{own}.once", "prepare.once.lock"}
    records = {name for name in names if name.startswith("prepare.") and name.endswith(".once")}
    assert len(records) == KEPT and f"prepare.{0:016x}.once" not in records
    assert not any(name.startswith("prepare.") and name.endswith(".tmp") for name in names)


# Disabled, and in tests


def test_request_runs_task_when_disabled(tmp_path: Path) -> None:
    site = Site(tmp_path, enabled=False)
    threads: list[threading.Thread] = []
    site.work = lambda: threads.append(threading.current_thread())
    site.client.get("/nowhere")
    assert site.runs == []
    assert site.client.get("/needs").text == "ready"
    assert threads == [threading.current_thread()]


def test_inline_rebuilds_run_tasks_again(site: Site) -> None:
    for _ in range(2):
        with inline_rebuilds(site.app):
            assert site.client.get("/needs").text == "ready"
            assert site.client.get("/needs").text == "ready"
    assert len(site.runs) == 2


def test_stats_omit_tasks_if_none_is_declared(site: Site, tmp_path: Path) -> None:
    assert site.client.get("/api/cache/stats/tasks").get_json()["prepare"]["state"] == "pending"
    app = make_app(tmp_path)
    WarmCache(app).warm_list("files", key="path", source=lambda: files("a"))
    assert app.test_client().get("/api/cache/stats/tasks").status_code == 404
    assert "degraded" not in app.test_client().get("/api/cache/stats").get_json()


def test_task_runs_in_its_own_thread(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    names: list[str] = []
    site.work = lambda: names.append(threading.current_thread().name)
    with caplog.at_level(logging.INFO, "flask_warmcache"):
        site.until_state("done")
        until(lambda: "warmcache.task_finished: 'prepare' took" in caplog.text)
    assert names == ["warmcache-task-prepare"]
    assert "warmcache.task_started: 'prepare', attempt 1" in caplog.text
