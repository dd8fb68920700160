"""What loading the app and forking workers cost: nothing is done before it is needed, and we never fork."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.needs import need_program
from tests.support.places import FAKED, Place
from tests.support.processes import python, run_python
from tests.support.servers import OUR_CONF, gunicorn_server
from tests.support.waiting import until

from .conftest import Make

APPS = 50

# Says what init_app did besides looking at files. How long it takes is measured by tests/benchmarks/run.
MEASURE = """
import json, os, sys, threading
from flask import Flask
from flask_warmcache import WarmCache
apps = [Flask("app_files") for _ in range(50)]
for app in apps:
    app.config["WARMCACHE_DIR"] = os.environ["WARMCACHE_DIR"]
warm = WarmCache()
warm.warm_list("files", key="path").source(lambda: [])
events = []
QUIET = {"os.listdir", "os.scandir", "open", "os.mkdir", "os.rename", "os.remove", "os.utime", "os.chmod"}
QUIET |= {"os.fork", "fcntl.flock", "_thread.start_new_thread", "subprocess.Popen", "socket.connect"}
on = False
def note(event, arguments):
    if on and event in QUIET:
        events.append((event, str(arguments[:1])))
sys.addaudithook(note)
on = True
for app in apps:
    warm.init_app(app)
on = False
inited = sum("warmcache" in app.extensions for app in apps)
print(json.dumps({"apps": inited, "events": events, "threads": threading.active_count()}))
"""


def missing(place: Place) -> None:
    place.cache = place.folder / "no" / "such" / "folder"
    place.env["WARMCACHE_DIR"] = os.fspath(place.cache)


def a_file(place: Place) -> None:
    place.cache.write_text("not a folder")


def unreadable(place: Place) -> None:
    place.cache.mkdir(mode=0o000)


def damaged(place: Place) -> None:
    place.cache.mkdir(mode=0o700)
    for name in ("files.index", "files.lock", "files.progress", "files.invalidated"):
        (place.cache / name).write_bytes(b"\0" * 10_000)


FOLDERS = pytest.mark.parametrize("prepare", [missing, a_file, unreadable, damaged])


@FOLDERS
def test_init_app_starts_nothing_and_looks_at_nothing(place: Place, prepare: Callable[[Place], None]) -> None:
    prepare(place)
    ran = place.run(python("-c", MEASURE))
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout)
    assert said == {"apps": APPS, "events": [], "threads": 1}


@FOLDERS
def test_loading_the_app_makes_no_system_call_on_the_folder(
    place: Place, prepare: Callable[[Place], None], tmp_path: Path
) -> None:
    """So a store that is slow, or hangs, cannot delay a server's boot."""
    need_program("strace")
    prepare(place)
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-y", "-s", "200", "-e", "trace=file,desc", "-o", os.fspath(trace)]
    ran = place.run([*command, sys.executable, "-c", "import app_files"])
    assert ran.returncode == 0, ran.stderr
    lines = trace.read_text(errors="replace").splitlines()
    assert len(lines) > 500, "nothing was traced"
    assert any("app_files.py" in line for line in lines)
    ours = [line for line in lines if str(place.cache) in line and "stat" not in line]
    assert ours == []


def test_a_boot_with_an_unusable_folder_answers(place: Place) -> None:
    a_file(place)
    with gunicorn_server(place, *OUR_CONF, workers=2) as server:
        for answer in server.next_of_each_worker().values():
            assert answer.status == 200 and answer.json["files"] == []
        until(lambda: server.get().state == "failed", "failed")
        assert server.get("/plain").body == b"plain"


# Forks


@pytest.mark.parametrize("preload", [False, True], ids=["", "preload"])
def test_no_worker_forks_through_builds_refreshes_and_failures(make_place: Make, preload: bool) -> None:
    place = make_place(ttl=0.4, retry_min=0.1, retry_max=0.2).with_failing()
    seen = place.folder / "forks"
    place.env |= {"TEST_FORKS_SEEN": os.fspath(seen), "PYTHONWARNINGS": "error::DeprecationWarning"}
    place.add_path(FAKED)
    with gunicorn_server(place, preload=preload, workers=2) as server:
        server.warm_up()
        until(lambda: len(place.calls("source")) >= 6, "six builds")
        place.failing.touch()
        until(lambda: server.get().state == "failed", "a failed build")
        place.failing.unlink()
        server.get("/invalidate", "POST")
        server.warm_up()
        forked_by = [int(line) for line in seen.read_text().split()]
        print(f"\n{len(place.calls('source'))} builds, {len(forked_by)} forks by the arbiter")
        assert len(forked_by) >= 2, "not even gunicorn's forks were seen"
        assert set(forked_by) == {server.process.pid}
        assert "DeprecationWarning" not in server.log
        assert "multi-threaded" not in server.log


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python warns of a fork beside threads from 3.12 on")
def test_this_python_warns_of_a_fork_beside_threads() -> None:
    """Else the warnings looked for above would show nothing."""
    script = "import os, threading, time; threading.Thread(target=time.sleep, args=(1,)).start(); os.fork()"
    ran = run_python(script)
    if "DeprecationWarning" not in ran.stderr:
        pytest.skip(
            "this Python, or this kernel, warns of no fork beside threads: the claim above shows nothing here"
        )
