"""The private names of other packages that the code relies on; docs/internals.md says what each is used for."""

from __future__ import annotations

import fcntl
import mmap
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import filelock
import flask
import pytest
from flask import Blueprint, Flask, request
from flask.cli import ScriptInfo
from flask.globals import request_ctx
from werkzeug.routing import Map, Rule
from werkzeug.wrappers import Response

from flask_warmcache.startup.registering import COPIED
from tests.support.processes import CHECKOUT

# Flask


def test_flask_refuses_changes_by_got_first_request() -> None:
    app = Flask("app")
    assert vars(app)["_got_first_request"] is False
    vars(app)["_got_first_request"] = True
    with pytest.raises(AssertionError):
        app.register_blueprint(Blueprint("late", __name__))


def test_flask_creates_its_context_by_attribute_of_instance() -> None:
    app = Flask("app")
    create, paths = app.request_context, []

    def noted(environ: Any) -> Any:
        paths.append(environ["PATH_INFO"])
        return create(environ)

    app.request_context = noted  # type: ignore[method-assign]
    app.test_client().get("/here")
    assert paths == ["/here"]


def test_flask_keeps_what_blueprint_changes_in_attributes_of_app() -> None:
    assert set(COPIED) <= set(vars(Flask("app")))


def test_flasks_script_info_keeps_app_it_has_loaded() -> None:
    app = Flask("app")
    info = ScriptInfo(create_app=lambda: app)
    assert info._loaded_app is None
    assert info.load_app() is app
    assert info._loaded_app is app


def test_flasks_request_context_has_session_and_proxies_give_their_object() -> None:
    with Flask("app").test_request_context():
        context: Any = request_ctx._get_current_object()  # type: ignore[attr-defined]
        assert hasattr(context, "_session") or hasattr(context, "session")
        assert type(request._get_current_object()) is flask.Request  # type: ignore[attr-defined]


# Werkzeug


def test_bound_rule_moves_to_new_map_without_bind() -> None:
    rule, old = Rule("/a/<int:number>", endpoint="a"), Map(merge_slashes=False)
    old.add(rule)
    with pytest.raises(RuntimeError):
        Map().add(rule)
    new = Map()
    vars(new).update({name: value for name, value in vars(old).items() if not name.startswith("_")})
    new.merge_slashes = old.merge_slashes
    vars(rule)["bind"] = lambda url_map, rebind=False: None
    new.add(rule)
    del vars(rule)["bind"]
    rule.map = new
    assert new.bind("").match("/a/5") == ("a", {"number": 5})


def test_response_keeps_its_body_and_its_callbacks_in_known_attributes() -> None:
    assert {"response", "headers", "_on_close", "_status", "_status_code"} <= set(vars(Response(b"")))


# gunicorn


def test_gunicorns_worker_and_import_are_where_we_look() -> None:
    script = """
import inspect
from gunicorn.app.wsgiapp import WSGIApplication
from gunicorn.config import Config
from gunicorn.util import import_app
from gunicorn.workers.base import Worker
assert list(inspect.signature(import_app).parameters) == ["module"]
assert "self.wsgi = self.app.wsgi()" in inspect.getsource(Worker.load_wsgi)
assert "app_uri" in inspect.getsource(WSGIApplication)
config = Config()
assert {"paste", "chdir", "timeout", "threads"} <= set(config.settings)
assert config.parser().parse_known_args(config.get_cmd_args_from_env())[0] is not None
assert isinstance(config.env_orig, dict)
from flask_warmcache.host.server import LOGGING
assert set(LOGGING) <= set(config.settings)
config.set("logconfig_dict", {"root": {"level": "ERROR"}, "loggers": {}})
config.logger_class(config)
import logging
assert logging.root.level == logging.ERROR and logging.getLogger("gunicorn.error").handlers
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


# gevent, filelock, prometheus_client


def test_gevent_tells_what_it_has_patched_and_has_pool_of_real_threads() -> None:
    pytest.importorskip("gevent")
    script = """
from gevent import get_hub, monkey
assert not monkey.is_module_patched("threading")
monkey.patch_all()
import _thread
assert monkey.is_module_patched("threading")
assert callable(monkey.get_original("time", "sleep"))
real = monkey.get_original("threading", "get_ident")
assert get_hub().threadpool.apply(real) != real()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_prometheus_client_names_its_files_by_a_class_that_can_be_replaced(tmp_path: Path) -> None:
    pytest.importorskip("prometheus_client")
    script = """
import os
from prometheus_client import Counter, multiprocess, values
values.ValueClass = values.MultiProcessValue(lambda: "a.name")
Counter("made", "Lists").inc()
multiprocess.mark_process_dead("a.name")
print(os.listdir(os.environ["PROMETHEUS_MULTIPROC_DIR"]))
"""
    env = os.environ | {"PROMETHEUS_MULTIPROC_DIR": os.fspath(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("['counter_a.name.db']\n", "")


def test_filelock_locks_descriptor_of_ours(tmp_path: Path) -> None:
    first, second = (os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT) for _ in range(2))
    try:
        assert filelock.lock_descriptor(first, blocking=False)
        assert not filelock.lock_descriptor(second, blocking=False)
    finally:
        os.close(first)
    assert filelock.lock_descriptor(second, blocking=False)
    os.close(second)


# The standard library and the system


def test_held_import_lock_keeps_other_threads_from_importing() -> None:
    script = """
import _imp, threading
def load():
    begins.set()
    import colorsys
    ends.set()
begins, ends = threading.Event(), threading.Event()
_imp.acquire_lock()
threading.Thread(target=load).start()
begins.wait()
assert not ends.wait(0.2)  # a thread that did not need the lock would be done in a millisecond
_imp.release_lock()
assert ends.wait(30)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_main_threads_frames_can_be_read_from_another_thread() -> None:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(sys._current_frames()))
    thread.start()
    thread.join()
    assert threading.main_thread().ident in found[0]


def test_mapped_file_shows_overwritten_bytes_at_once(tmp_path: Path) -> None:
    path = tmp_path / "words"
    path.write_bytes(bytes(16))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 16, access=mmap.ACCESS_READ) as words:
        with path.open("r+b") as writer:
            writer.write(b"new")
            writer.flush()
            assert words[:3] == b"new"


def test_inherited_descriptor_keeps_lock(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    other = os.open(tmp_path / "lock", os.O_RDWR)
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[descriptor]
    ) as child:
        os.close(descriptor)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        child.communicate(b"\n", timeout=120)
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)


# The page


def test_files_that_page_names_exist() -> None:
    page = (CHECKOUT / "docs" / "internals.md").read_text()
    named = set(re.findall(r"`(\w+(?:/\w+)*\.py)`", page)) - {"tests/unit/test_internals.py"}
    assert len(named) > 10
    assert [name for name in sorted(named) if not (CHECKOUT / "flask_warmcache" / name).exists()] == []
