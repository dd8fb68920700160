"""``flask warmcache`` beside a running server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import AbstractContextManager

from tests.support.answers import check_whole
from tests.support.places import Place
from tests.support.servers import Server, gunicorn_server
from tests.support.waiting import until


def command(place: Place, *arguments: str) -> AbstractContextManager[subprocess.Popen[str]]:
    """Run a command beside the block."""
    return place.started(place.flask_command("warmcache", *arguments), stderr=subprocess.PIPE)


def rebuilding(server: Server) -> list[bool]:
    """Return what each worker knows about a rebuild of the list."""
    return [section["rebuild_in_progress"] for section in server.stats().values()]


def invalidated(place: Place) -> None:
    ran = place.flask("warmcache", "invalidate", "files")
    assert (ran.returncode, ran.stdout) == (0, "files is invalidated.\n"), ran.stderr


def test_rebuild_wait_follows_a_rebuild_in_a_worker(gated: Place) -> None:
    gated.gate.touch()
    with gunicorn_server(gated) as server:
        old = server.warm_up()
        gated.gate.unlink()
        server.get("/invalidate", "POST")
        builder = gated.builder_at_gate(2)
        loaded = len(gated.calls("loaded"))
        with command(gated, "rebuild", "files", "--wait") as follower:
            until(lambda: len(gated.calls("loaded")) > loaded, "the command")
            busy = gated.flask("warmcache", "rebuild", "files")  # longer than the follower needs
            assert busy.returncode == 3, busy.stderr
            assert "--wait" in busy.stderr
            assert follower.poll() is None, "it did not wait"
            gated.gate.touch()
            out, err = follower.communicate(timeout=120)
        assert follower.returncode == 0, err
        new = server.warm_up()
        assert new.generation > old.generation
        assert out.startswith(f"files: {new.json['total_files']} items, {new.json['total_files']} enriched, ")
        assert [call.pid for call in gated.calls("source")][1:] == [builder.pid], "the command has rebuilt, too"


def test_rebuild_wait_reports_no_success_when_the_builder_is_killed(gated: Place) -> None:
    gated.gate.touch()
    assert gated.flask("warmcache", "rebuild", "files").returncode == 0
    generation = json.loads(gated.flask("warmcache", "status", "--json").stdout)["files"]["generation"]
    gated.gate.unlink()
    with command(gated, "rebuild", "files") as builder:
        gated.builder_at_gate(2)
        loaded = len(gated.calls("loaded"))
        with command(gated, "rebuild", "files", "--wait") as follower:
            until(lambda: len(gated.calls("loaded")) > loaded, "the follower")
            assert gated.flask("warmcache", "rebuild", "files").returncode == 3
            assert follower.poll() is None
            os.kill(builder.pid, signal.SIGKILL)
            builder.wait(120)
            gated.gate.touch()  # if the follower rebuilds the list itself, it does not wait
            out, err = follower.communicate(timeout=120)
    now = json.loads(gated.flask("warmcache", "status", "--json").stdout)["files"]["generation"]
    assert follower.returncode != 0 or now != generation, f"success without a new list: {out}"


def test_workers_see_that_a_command_is_rebuilding(gated: Place) -> None:
    gated.gate.touch()
    with gunicorn_server(gated) as server:
        old = server.warm_up()
        server.next_of_each_worker()
        gated.gate.unlink()
        with command(gated, "rebuild", "files") as builder:
            gated.builder_at_gate(2)
            until(lambda: all(rebuilding(server)), "a rebuild in every worker")
            assert all(answer.json["cache_rebuilding"] for answer in server.next_of_each_worker().values())
            os.kill(builder.pid, signal.SIGINT)  # Ctrl-C
            builder.communicate(timeout=120)
        assert builder.returncode != 0
        until(lambda: not any(rebuilding(server)), "no rebuild in any worker")
        answer = server.get()
        assert answer.generation == old.generation and answer.state == "fresh"
        assert answer.json["cache_rebuilding"] is False


def test_clear_makes_every_worker_cold_and_the_list_is_rebuilt_from_scratch(gated: Place) -> None:
    gated.gate.touch()
    with gunicorn_server(gated) as server:
        old = server.warm_up()
        server.next_of_each_worker()
        gated.gate.unlink()
        ran = gated.flask("warmcache", "clear", "files")
        assert (ran.returncode, ran.stdout) == (0, "files is cleared.\n"), ran.stderr
        answers = server.next_of_each_worker()
        assert len(answers) == 4
        for answer in answers.values():
            assert answer.state == "cold" and answer.json["files"] == []
            assert answer.json["cache_rebuilding"] is True
        gated.builder_at_gate(2)
        assert gated.flask("warmcache", "clear", "files").returncode == 3
        gated.gate.touch()
        new = server.warm_up()
        assert check_whole(new) and new.generation > old.generation
        assert len(gated.calls("source")) == 2
        assert len(list(gated.cache.glob("*.data"))) == 1


def test_invalidate_makes_every_worker_stale_and_one_rebuilds(gated: Place) -> None:
    gated.gate.touch()
    with gunicorn_server(gated) as server:
        old = server.warm_up()
        server.next_of_each_worker()
        gated.gate.unlink()
        invalidated(gated)
        for answer in server.next_of_each_worker().values():
            assert answer.state == "stale" and answer.generation == old.generation
            assert answer.json["cache_rebuilding"] is True
        gated.gate.touch()
        assert server.warm_up().generation > old.generation
        assert len(gated.calls("source")) == 2


def test_status_prints_the_stats_of_the_workers(place: Place) -> None:
    cold = place.flask("warmcache", "status")
    assert cold.returncode == 1 and "cold" in cold.stdout
    assert not place.cache.exists(), "the command creates no folder"
    with gunicorn_server(place) as server:
        server.warm_up()
        ran = place.flask("warmcache", "status", "--json")
        assert ran.returncode == 0, ran.stderr
        printed = json.loads(ran.stdout)["files"]
        answered = server.get("/api/cache/stats").json["files"]
        assert 0 <= printed.pop("age_seconds") <= answered.pop("age_seconds")
        assert printed == answered
        assert len(place.calls("source")) == 1
