"""``flask warmcache`` beside a running server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.waiting import until

from .world import HERE, Place, check_whole, gunicorn_server


@contextmanager
def command(place: Place, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A command that runs beside what the test does; ended with the test."""
    process = subprocess.Popen(
        place.flask_command("warmcache", *arguments), cwd=HERE, env=place.env, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=20)


def invalidated(place: Place) -> None:
    ran = place.flask("warmcache", "invalidate", "files")
    assert (ran.returncode, ran.stdout) == (0, "files is invalidated.\n"), ran.stderr


def test_rebuild_wait_follows_a_rebuild_that_runs_in_a_worker(gated: Place) -> None:
    gated.gate.touch()
    with gunicorn_server(gated) as server:
        old = server.warm_up()
        gated.gate.unlink()
        server.get("/invalidate", "POST")
        builder = gated.builder_at_gate(2)
        loaded = len(gated.calls("loaded"))
        with command(gated, "rebuild", "files", "--wait") as follower:
            until(lambda: len(gated.calls("loaded")) > loaded, "the command")
            busy = gated.flask("warmcache", "rebuild", "files")  # longer than the follower needs to look
            assert busy.returncode == 3, busy.stderr
            assert "--wait" in busy.stderr
            assert follower.poll() is None, "it did not wait"
            gated.gate.touch()
            out, err = follower.communicate(timeout=20)
        assert follower.returncode == 0, err
        new = server.warm_up()
        assert new.generation > old.generation
        assert out.startswith(f"files: {new.json['total_files']} items, {new.json['total_files']} enriched, ")
        assert [call.pid for call in gated.calls("source")][1:] == [builder.pid], "the command built, too"


def test_rebuild_wait_does_not_report_success_when_the_builder_it_follows_is_killed(gated: Place) -> None:
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
            builder.wait(20)
            gated.gate.touch()  # should the follower take over, it need not wait
            out, err = follower.communicate(timeout=20)
    now = json.loads(gated.flask("warmcache", "status", "--json").stdout)["files"]["generation"]
    assert follower.returncode != 0 or now != generation, f"success without a new list: {out}"


def test_rebuild_here_is_seen_by_every_worker(place: Place) -> None:
    with gunicorn_server(place) as server:
        old = server.warm_up()
        ran = place.flask("warmcache", "rebuild", "files")
        assert ran.returncode == 0, ran.stderr
        for answer in server.next_of_each_worker().values():
            assert answer.generation > old.generation
            assert answer.state == "fresh"
            check_whole(answer)
        assert len(place.calls("source")) == 2


def test_workers_see_a_rebuild_that_a_command_makes(gated: Place) -> None:
    gated.gate.touch()
    with gunicorn_server(gated) as server:
        old = server.warm_up()
        server.next_of_each_worker()
        gated.gate.unlink()
        with command(gated, "rebuild", "files") as builder:
            gated.builder_at_gate(2)
            until(lambda: all(one["rebuild_in_progress"] for one in server.stats().values()), "all to know", 5)
            assert all(one.json["cache_rebuilding"] for one in server.next_of_each_worker().values())
            os.kill(builder.pid, signal.SIGINT)  # Ctrl-C
            builder.communicate(timeout=20)
        assert builder.returncode != 0
        until(lambda: not any(one["rebuild_in_progress"] for one in server.stats().values()), "all to know", 5)
        answer = server.get()
        assert answer.generation == old.generation and answer.state == "fresh"
        assert answer.json["cache_rebuilding"] is False


def test_clear_makes_every_worker_cold_and_they_rebuild_from_nothing(gated: Place) -> None:
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


def test_status_says_what_the_workers_say(place: Place) -> None:
    cold = place.flask("warmcache", "status")
    assert cold.returncode == 1 and "cold" in cold.stdout
    assert not place.cache.exists(), "a look makes no folder"
    with gunicorn_server(place) as server:
        server.warm_up()
        ran = place.flask("warmcache", "status", "--json")
        assert ran.returncode == 0, ran.stderr
        said = json.loads(ran.stdout)["files"]
        asked = server.get("/api/cache/stats").json["files"]
        assert said.pop("age_seconds") >= asked.pop("age_seconds") - 1
        assert said == asked
        assert len(place.calls("source")) == 1
