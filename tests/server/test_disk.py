"""What builds that come to nothing leave on disk, and what they must not forget."""

from __future__ import annotations

import json
import os
import resource
import signal

import pytest

from tests.support.places import Place
from tests.support.processes import python
from tests.support.servers import Server, gunicorn_server
from tests.support.waiting import until

from .conftest import Make

LARGE: dict[str, object] = {"items": 200, "text": 1000, "runner": "thread"}  # 20 KB an item, 4 MB a list

KILLS = 12
ROOM = 2 << 20  # what need not be tidied away at once

NO_ROOM = """
import resource, signal, sys
import app_files
state = app_files.app.extensions["warmcache"]
state.open()
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
for _ in range(3):
    try:
        state.rebuilder.rebuild_now("files")
    except OSError as error:
        print(type(error).__name__)
"""

# The list is invalidated while it is being made, and its builder dies just behind the rename.
KILLED_BEHIND_THE_RENAME = """
import os, signal
import app_files
state = app_files.app.extensions["warmcache"]
state.open()
note = app_files.note
def invalidate_once(what):
    note(what)
    if what == "source":
        state.store.invalidate("files")
app_files.note = invalidate_once
replace = os.replace
def replace_and_die(source, target):
    replace(source, target)
    if str(target).endswith("files.index"):
        os.kill(os.getpid(), signal.SIGKILL)
os.replace = replace_and_die
state.rebuilder.rebuild_now("files")
"""


def kill_at_gate(server: Server, nth: int) -> None:
    """Have the nth build come to the gate, and kill its worker there."""

    def at_gate() -> bool:
        try:
            server.get("/invalidate", "POST")
        except OSError:
            pass  # the last worker's end
        return len(server.place.calls("waiting")) >= nth

    until(at_gate, f"build {nth}")
    builder = server.place.calls("waiting")[nth - 1].pid
    os.kill(builder, signal.SIGKILL)
    server.until_gone(builder)


def data_size(place: Place) -> int:
    return sum(path.stat().st_size for path in place.cache.glob("*.data"))


def test_builds_that_find_no_room_give_back_what_they_took(make_place: Make) -> None:
    place = make_place(**LARGE)
    assert place.flask("warmcache", "rebuild", "files").returncode == 0
    before = data_size(place)
    generation = json.loads(place.flask("warmcache", "status", "--json").stdout)["files"]["generation"]
    # As on a full disk, a file can grow to half a list and no further.
    ran = place.run(python("-c", NO_ROOM, before // 2))
    assert ran.stdout.split() == ["OSError"] * 3, ran.stderr
    section = json.loads(place.flask("warmcache", "status", "--json").stdout)["files"]
    assert section["state"] == "failed" and section["generation"] == generation
    assert section["is_populated"] is True
    print(f"\n{before} bytes before, {data_size(place)} after three builds that found no room")
    assert data_size(place) < before * 1.1, "the builds that failed keep the disk full"
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    assert place.flask("warmcache", "rebuild", "files").returncode == 0


@pytest.mark.parametrize("warm", [True, False], ids=["rebuilds", "first builds"])
def test_builds_that_are_killed_again_and_again_do_not_fill_the_disk(make_place: Make, warm: bool) -> None:
    place = make_place(**LARGE).with_gate()
    with gunicorn_server(place, workers=1) as server:
        if warm:
            place.gate.touch()
            server.warm_up()
            place.gate.unlink()
        before = len(place.calls("waiting"))
        for nth in range(KILLS):
            kill_at_gate(server, before + nth + 1)
        midway, files = data_size(place), len(list(place.cache.glob("*.data")))
        place.gate.touch()
        for _ in range(3):
            generation = server.warm_up().generation
            server.get("/invalidate", "POST")
            server.until_newer(generation)
        one_list = len(server.get().body)
        after = data_size(place)
        print(
            f"\na list of {one_list} bytes, {KILLS} killed builds: {midway} in {files} files, at the end {after}"
        )
        assert after < 3 * one_list + ROOM
        assert midway < 3 * one_list + ROOM, "each killed build leaves its part"
        assert files <= 3, "each killed build leaves a file"


def test_an_invalidation_is_not_lost_when_the_builder_dies_behind_the_rename(place: Place) -> None:
    assert place.flask("warmcache", "rebuild", "files").returncode == 0
    first = json.loads(place.flask("warmcache", "status", "--json").stdout)["files"]
    ran = place.run(python("-c", KILLED_BEHIND_THE_RENAME))
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    section = json.loads(place.flask("warmcache", "status", "--json").stdout)["files"]
    assert section["generation"] != first["generation"], "it was to die behind the rename"
    assert section["state"] == "stale", "what was invalidated during the build passes for fresh"
