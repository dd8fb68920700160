"""Flask's own development server, with and without its reloader."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from tests.support.answers import check_whole
from tests.support.places import Place
from tests.support.ports import free_port
from tests.support.servers import Server, running
from tests.support.waiting import until

RELOADER = pytest.mark.parametrize("options", [("--no-debug",), ("--debug",)], ids=["no reloader", "reloader"])


@contextmanager
def flask_run(place: Place, *options: str) -> Iterator[Server]:
    port = free_port()
    debug, *more = options
    command = place.flask_command(debug, "run", "--port", f"{port}", *more)
    with running(Server(place, command, port, workers=1, loads=1)) as server:
        yield server


@RELOADER
def test_the_development_server_serves_a_list_made_in_its_background(
    gated: Place, options: tuple[str, ...]
) -> None:
    with flask_run(gated, *options) as server:
        cold = server.get()
        assert cold.state == "cold" and cold.json["cache_rebuilding"] is True
        builder = gated.builder_at_gate()
        assert builder.pid == cold.pid
        for answer in server.ask_at_once("/api/files", 20):  # threaded: all at the same time
            assert answer.json["files"] == []
        gated.gate.touch()
        check_whole(server.warm_up())
        server.get("/invalidate", "POST")
        until(lambda: server.warm_up().generation > builder.at, "a newer list")
        assert len(gated.calls("source")) == 2
        assert "Traceback" not in server.log


@RELOADER
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["INT", "TERM"])
def test_the_development_server_stops_during_a_build(gated: Place, options: tuple[str, ...], number: int) -> None:
    with flask_run(gated, *options) as server:
        server.get()
        gated.builder_at_gate()
        parent = psutil.Process(server.process.pid)
        family = [parent.pid, *(child.pid for child in parent.children(recursive=True))]
        os.killpg(server.process.pid, number)  # as a terminal does
        server.process.wait(60)
        until(lambda: not any(psutil.pid_exists(pid) for pid in family), "the end of all its processes")
        assert "Fatal Python error" not in server.log


def test_a_reload_of_changed_code_serves_the_old_list_and_rebuilds_it(place: Place) -> None:
    extra = place.folder / "watched.py"
    extra.write_text("")
    with flask_run(place, "--debug", "--extra-files", os.fspath(extra), "--reload") as server:
        old = server.warm_up()
        first = old.pid
        extra.write_text("# changed")

        def reloaded() -> bool:
            try:
                return server.get("/who").pid != first
            except OSError:
                return False

        until(reloaded, lambda: f"a reload:\n{server.log}")
        until(lambda: server.get().generation > old.generation, "a list of the new code")
        assert len(place.calls("source")) == 2
