"""Apps under test, with the cache disabled, and with a known start of their server."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask

from flask_warmcache import WarmCache, gunicorn_conf, state
from flask_warmcache.host.server import SERVER_STARTED, server_started
from tests.support.apps import make_app, state_of
from tests.support.processes import run_python
from tests.support.shelf import files


def test_app_under_test_has_a_private_temporary_folder() -> None:
    script = """
import os
from flask import Flask
from flask_warmcache import WarmCache
folders = []
for _ in range(2):
    app = Flask("shop")
    app.testing = True
    warmcache = WarmCache(app, enabled=False)
    warmcache.warm_list("files", key="path", source=lambda: [{"path": "a"}])
    with app.app_context():
        assert len(warmcache["files"].get()) == 1
    folders.append(str(app.extensions["warmcache"].store.folder))
child = os.fork()
if child == 0:
    raise SystemExit  # the exit of a child must remove nothing
os.waitpid(child, 0)
print(*folders, *[oct(os.stat(folder).st_mode & 0o777) for folder in folders])
"""
    done = run_python(script)
    first, second, *modes = done.stdout.split()
    assert (modes, done.stderr) == (["0o700", "0o700"], "")
    assert first != second
    assert not os.path.exists(first) and not os.path.exists(second)


def test_keeper_does_not_recreate_the_private_folder(tmp_path: Path) -> None:
    script = """
import atexit, os, sys, time
from flask_warmcache.keeper import keeper
keeper.TICK_EVERY = 0.01
def look():  # registered first, so it runs last, while daemon threads still run
    deadline = time.monotonic() + 0.3  # wait for thirty ticks: that nothing happens has no other sign
    while time.monotonic() < deadline and not os.path.exists(folder):
        time.sleep(0.01)
    print(os.path.exists(folder))
atexit.register(look)
from flask import Flask
from flask_warmcache import WarmCache
app = Flask("shop")
app.testing = True
warmcache = WarmCache(app)
warmcache.warm_list("files", key="path", source=lambda: [{"path": "a"}])
with app.app_context():
    warmcache["files"].get()
    folder = str(app.extensions["warmcache"].store.folder)
    deadline = time.monotonic() + 20
    status = app.extensions["warmcache"].statuses["files"]
    while (status.condition().state != "fresh" or status.progress) and time.monotonic() < deadline:
        time.sleep(0.01)
"""
    done = run_python(script, env={"TMPDIR": str(tmp_path)})
    assert (done.stdout, done.stderr) == ("False\n", "")


def private_folder(monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Callable[[], None]]:
    """Return the folder of an app under test, and the function that removes it at exit."""
    at_exit: list[tuple[Any, ...]] = []
    monkeypatch.setattr("atexit.register", lambda *call: at_exit.append(call))
    app = Flask("shop")
    app.testing = True
    WarmCache(app)
    folder = state_of(app).store.folder
    ((remove, *arguments),) = at_exit
    return folder, lambda: remove(*arguments)


def test_only_its_process_removes_the_private_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, remove = private_folder(monkeypatch)
    monkeypatch.setattr(os, "getpid", lambda: 1)
    remove()
    assert folder.is_dir()
    monkeypatch.undo()
    remove()
    assert not folder.exists()


def test_late_report_does_not_keep_the_private_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    folder, remove = private_folder(monkeypatch)
    rmdir, late = os.rmdir, iter([folder / "files.progress"])

    def just_after_a_report(path: str, **named: Any) -> None:
        for report in late:
            report.write_text("{}")
            break
        rmdir(path, **named)

    monkeypatch.setattr(os, "rmdir", just_after_a_report)
    remove()
    try:
        assert not folder.exists()
    finally:
        monkeypatch.undo()
        shutil.rmtree(folder, ignore_errors=True)


def test_configured_folder_overrides_testing(tmp_path: Path) -> None:
    app = make_app(tmp_path)
    app.testing = True
    WarmCache(app)
    assert state_of(app).store.folder == tmp_path / "cache"


def test_relative_folder_is_resolved_at_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    app = Flask("shop")
    WarmCache(app, dir="warm")
    folder = state_of(app).store.folder
    monkeypatch.chdir("/")
    assert folder == tmp_path / "warm"


def test_default_folder_is_in_the_instance_folder(tmp_path: Path) -> None:
    app = Flask("my shop", instance_path=str(tmp_path / "instance"))
    WarmCache(app)
    assert state_of(app).store.folder == tmp_path / "instance" / "warmcache" / "my_shop"


# Disabled


class Inline:
    """An app with a disabled cache."""

    def __init__(self, folder: Path) -> None:
        self.app = make_app(folder, enabled=False)
        self.warmcache = WarmCache(self.app)
        self.builds = 0
        self.error: Exception | None = None
        self.list = self.warmcache.warm_list("files", key="path", source=self.source)
        self.warmcache.value("one", cold=0)(lambda: self.builds)
        self.app.add_url_rule("/files", "files", self.list.response)
        self.client = self.app.test_client()

    def source(self) -> list[dict[str, Any]]:
        self.builds += 1
        if self.error is not None:
            raise self.error
        return files("a")


@pytest.fixture
def inline(tmp_path: Path) -> Inline:
    return Inline(tmp_path)


def test_first_answer_is_complete_when_disabled(inline: Inline) -> None:
    answer = inline.client.get("/files").get_json()
    assert (answer["items"], answer["cache_rebuilding"]) == (files("a"), False)
    with inline.app.app_context():
        assert inline.warmcache["one"].get() == 1
        assert inline.list.find("a") == files("a")[0]
    assert inline.builds == 1


def test_next_read_sees_a_change_when_disabled(inline: Inline) -> None:
    inline.client.get("/files")
    with inline.app.app_context():
        inline.list.invalidate()
    answer = inline.client.get("/files").get_json()
    assert (answer["cache_rebuilding"], inline.builds) == (False, 2)


def test_failure_fails_no_request_when_disabled(inline: Inline, caplog: pytest.LogCaptureFixture) -> None:
    inline.error = ValueError("unmounted")
    for _ in range(5):
        assert inline.client.get("/files").status_code == 200
    assert inline.builds == 1  # the pause after a failure applies here, too
    assert "warmcache.rebuild_failed" in caplog.text


# When code changes


def test_list_older_than_the_server_is_stale_once(tmp_path: Path) -> None:
    first = Inline(tmp_path)
    first.client.get("/files")
    second = make_app(tmp_path)
    WarmCache(second).warm_list("files", key="path", source=lambda: files("a"))
    second.test_client().get("/nowhere")
    status = state_of(second).statuses["files"]
    assert (status.condition().state, status.condition().due) == ("stale", True)
    state_of(second).rebuilder.rebuild_now("files")
    second.test_client().get("/nowhere")
    assert status.condition().state == "fresh"


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    monkeypatch.delenv(SERVER_STARTED, raising=False)
    monkeypatch.delenv("SERVER_SOFTWARE", raising=False)
    yield monkeypatch


def test_gunicorn_conf_records_the_servers_start(environment: pytest.MonkeyPatch) -> None:
    environment.setenv(SERVER_STARTED, "")
    gunicorn_conf.on_starting(None)
    started = server_started(5)
    assert abs(started - time.time_ns()) < 60e9
    gunicorn_conf.on_reload(None)
    assert server_started(5) >= started


def test_other_gunicorn_uses_its_masters_start(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("SERVER_SOFTWARE", "gunicorn/27.0.1")
    started = server_started(5)
    assert 5 < started < time.time_ns()
    assert server_started(5) == pytest.approx(started, abs=2e9)


def test_unknown_start_makes_nothing_stale(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("SERVER_SOFTWARE", "gunicorn/27.0.1")
    environment.setattr(os, "getppid", lambda: 0)
    assert server_started(5) == 0


def test_other_process_uses_its_own_start(environment: pytest.MonkeyPatch) -> None:
    assert server_started(5) == 5
    environment.setenv(SERVER_STARTED, "yesterday")
    assert server_started(5) == 5
    environment.setenv("SERVER_SOFTWARE", "Werkzeug/3.1")
    assert server_started(5) == 5


def test_worker_survives_a_keeper_that_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[str] = []
    worker = SimpleNamespace(log=SimpleNamespace(exception=logged.append))

    def fails() -> None:
        raise OSError("no space left")

    monkeypatch.setattr(state, "start_keepers", fails)
    gunicorn_conf.post_worker_init(worker)
    assert logged == ["flask-warmcache: the keeper does not start with the worker"]
    logged.clear()
    monkeypatch.undo()
    gunicorn_conf.post_worker_init(worker)
    assert logged == []
