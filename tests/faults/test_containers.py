"""Two servers in PID namespaces of their own, as two containers with one volume have it."""

from __future__ import annotations

import os
import re
import signal
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import psutil

from tests.support.answers import check_whole
from tests.support.needs import need_program, need_root
from tests.support.places import Place
from tests.support.servers import Server, gunicorn_server
from tests.support.waiting import until

from .conftest import Make

WORKERS = 2


def container(place: Place) -> AbstractContextManager[Server]:
    """A server whose processes count their pids from 1."""
    prefix = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    return gunicorn_server(place, workers=WORKERS, prefix=prefix)


def kill_inside(server: Server, inner_pid: int) -> None:
    """Kill by the pid that the process knows itself by."""
    for process in psutil.Process(server.process.pid).children(recursive=True):
        status = Path(f"/proc/{process.pid}/status").read_text()
        found = re.search(r"^NSpid:.*\s(\d+)$", status, re.MULTILINE)
        if found is not None and int(found.group(1)) == inner_pid:
            os.kill(process.pid, signal.SIGKILL)
            return
    raise AssertionError(f"no process calls itself {inner_pid}")


def test_two_containers_with_one_folder_build_once(make_place: Make) -> None:
    need_root()
    need_program("unshare")
    place = make_place(sleep=0.3).with_gate()
    with ExitStack() as stack:
        one, two = (stack.enter_context(container(place)) for _ in range(2))
        answers = [answer for server in (one, two) for answer in server.ask_at_once("/api/files", 20)]
        assert len(answers) == 40
        pids = [{answer.pid for answer in answers[at : at + 20]} for at in (0, 20)]
        assert pids[0] & pids[1], f"the processes have pids of their own, so nothing is shown: {pids}"
        place.builder_at_gate()
        for server in (one, two):
            for answer in server.ask_at_once("/api/cache/stats", 8):
                section = answer.json["files"]
                assert section["rebuild_in_progress"] is True and section["state"] == "cold"
        assert len(place.calls("source")) == 1
        place.gate.touch()
        until(lambda: check_whole(one.warm_up()) and check_whole(two.warm_up()), "the list in both")
        assert one.get().generation == two.get().generation
        assert len(place.calls("source")) == 1, "both built"

        # Again and again, from either side.
        for nth, server in enumerate((one, two, one, two), start=2):
            before = one.get().generation
            server.get("/invalidate", "POST")
            for other in (one, two):
                assert other.until_newer(before).generation > before
            assert len(place.calls("source")) == nth
        assert one.get().generation == two.get().generation


def test_a_builder_killed_in_one_container_is_followed_by_one_of_the_other(make_place: Make) -> None:
    """Its pid may be alive over there, as another process: nobody may conclude anything from a pid."""
    need_root()
    need_program("unshare")
    place = make_place().with_gate()
    with container(place) as one:
        one.get()
        builder = place.builder_at_gate()
        with container(place) as two:
            two.get()
            taken = {answer.pid for answer in two.ask_at_once("/api/files", 16)}
            assert builder.pid in taken, f"no worker of the other container calls itself {builder.pid}: {taken}"
            assert len(place.calls("source")) == 1
            kill_inside(one, builder.pid)
            place.builder_at_gate(2)
            place.gate.touch()
            check_whole(one.warm_up())
            check_whole(two.warm_up())
            assert len(place.calls("source")) == 2
