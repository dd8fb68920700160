"""Apps under test, with the cache disabled, and with a known start of their server."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask

from flask_warmcache import WarmCache, gunicorn_conf, state
from flask_warmcache.host.server import SERVER_STARTED, server_started
from tests.support import processes
from tests.support.apps import Site, make_app, state_of
from tests.support.processes import run_python
from tests.support.waiting import until

# The function imports late, so that what a script registers before its call runs last at exit.
UNDER_TEST = """
import atexit, os, time
def app_under_test(**options):
    from flask import Flask
    from flask_warmcache import WarmCache
    app = Flask("shop")
    app.testing = True
    warmcache = WarmCache(app, **options)
    warmcache.warm_list("files", key="path", source=lambda: [{"path": "a"}])
    with app.app_context():
        warmcache["files"].get()
    return app.extensions["warmcache"]
"""


def test_app_under_test_has_private_temporary_folder() -> None:
    script = """
folders = [str(app_under_test(enabled=False).store.folder) for _ in range(2)]
assert all(map(os.listdir, folders))
child = os.fork()
if child == 0:
    raise SystemExit  # the exit of a child must remove nothing
os.waitpid(child, 0)
print(*folders, *[oct(os.stat(folder).st_mode & 0o777) for folder in folders])
"""
    done = run_python(UNDER_TEST + script)
    first, second, *modes = done.stdout.split()
    assert (modes, done.stderr) == (["0o700", "0o700"], "")
    assert first != second
    assert not os.path.exists(first) and not os.path.exists(second)


def test_keeper_does_not_recreate_private_folder(tmp_path: Path) -> None:
    script = """
from flask_warmcache.keeper import keeper
keeper.TICK_EVERY = 0.01
def look():  # registered first, so it runs last, while daemon threads still run
    deadline = time.monotonic() + 0.3  # wait for thirty ticks: that nothing happens has no other sign
    while time.monotonic() < deadline and not os.path.exists(folder):
        time.sleep(0.01)
    print(os.path.exists(folder))
atexit.register(look)
state = app_under_test()
folder, status = str(state.store.folder), state.statuses["files"]
deadline = time.monotonic() + 20
while (status.condition().state != "fresh" or status.progress) and time.monotonic() < deadline:
    time.sleep(0.01)
"""
    done = run_python(UNDER_TEST + script, env={"TMPDIR": str(tmp_path)})
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


def test_only_its_process_removes_private_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, remove = private_folder(monkeypatch)
    monkeypatch.setattr(os, "getpid", lambda: 1)
    remove()
    assert folder.is_dir()
    monkeypatch.undo()
    remove()
    assert not folder.exists()


def test_late_report_does_not_keep_private_folder(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_folder_is_configured_or_in_instance_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    configured, relative = make_app(tmp_path), Flask("shop")
    configured.testing = True
    WarmCache(configured)
    assert state_of(configured).store.folder == tmp_path / "cache"
    WarmCache(relative, dir="warm")
    folder = state_of(relative).store.folder
    monkeypatch.chdir("/")
    assert folder == tmp_path / "warm"
    default = Flask("my shop", instance_path=str(tmp_path / "instance"))
    WarmCache(default)
    assert state_of(default).store.folder == tmp_path / "instance" / "warmcache" / "my_shop"


# Disabled


@pytest.fixture
def inline(tmp_path: Path) -> Site:
    """An app with a disabled cache."""
    return Site(tmp_path, enabled=False)


def test_first_answer_is_complete_when_disabled(inline: Site) -> None:
    inline.warmcache.value("one", cold=0)(lambda: inline.builds)
    answer = inline.client.get("/files").get_json()
    assert (answer["files"], answer["cache_rebuilding"]) == (inline.items, False)
    with inline.app.app_context():
        assert inline.warmcache["one"].get() == 1
        assert inline.list.find("a") == inline.items[0]
        inline.list.invalidate()
    assert inline.builds == 1
    answer = inline.client.get("/files").get_json()
    assert (answer["cache_rebuilding"], inline.builds) == (False, 2), "the next read did not see the change"


def test_failure_fails_no_request_when_disabled(inline: Site, caplog: pytest.LogCaptureFixture) -> None:
    inline.error = ValueError("unmounted")
    for _ in range(5):
        assert inline.client.get("/files").status_code == 200
    assert inline.builds == 1  # the pause after a failure applies here, too
    assert "warmcache.rebuild_failed" in caplog.text


# When code changes


def test_list_older_than_server_is_stale_once(inline: Site, tmp_path: Path) -> None:
    inline.client.get("/files")
    second = Site(tmp_path)
    second.client.get("/nowhere")
    assert (second.status.condition().state, second.status.condition().due) == ("stale", True)
    second.rebuild()
    second.client.get("/nowhere")
    assert second.status.condition().state == "fresh"


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.delenv(SERVER_STARTED, raising=False)
    monkeypatch.delenv("SERVER_SOFTWARE", raising=False)
    return monkeypatch


def test_gunicorn_conf_records_start_of_server(environment: pytest.MonkeyPatch) -> None:
    environment.setenv(SERVER_STARTED, "")
    gunicorn_conf.on_starting(None)
    started = server_started(5)
    assert abs(started - time.time_ns()) < 60e9
    gunicorn_conf.on_reload(None)
    assert server_started(5) >= started


def test_other_gunicorn_uses_start_of_master(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment.setenv("SERVER_SOFTWARE", "gunicorn/27.0.1")
    started = server_started(5)
    assert 5 < started < time.time_ns()
    assert server_started(5) == pytest.approx(started, abs=2e9)
    odd = shutil.copy(shutil.which("sleep") or "", tmp_path / os.fsdecode(b"caf\xe9 ) x"))
    with processes.started([os.fspath(odd), "60"]) as process:
        environment.setattr(os, "getppid", lambda: process.pid)
        until(lambda: b"caf\xe9" in Path(f"/proc/{process.pid}/stat").read_bytes())
        assert server_started(5) > started
    environment.setattr(os, "getppid", lambda: 0)
    assert server_started(5) == 0, "an unknown start must make nothing stale"


def test_other_process_uses_its_own_start(environment: pytest.MonkeyPatch) -> None:
    assert server_started(5) == 5
    environment.setenv(SERVER_STARTED, "yesterday")
    assert server_started(5) == 5
    environment.setenv("SERVER_SOFTWARE", "Werkzeug/3.1")
    assert server_started(5) == 5


def test_worker_survives_keeper_that_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
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
