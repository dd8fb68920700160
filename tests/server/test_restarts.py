"""Servers that are stopped, started again and reloaded; workers that are retired, or killed while they build."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest

from flask_warmcache.store.reader import Reader
from tests.support.answers import backwards, check_items, check_whole
from tests.support.places import Place
from tests.support.servers import OUR_CONF, Readers, gunicorn_server
from tests.support.waiting import until

from .conftest import Make

CONFS = pytest.mark.parametrize("conf", [(), OUR_CONF], ids=["plain", "our conf"])


def check_readable(place: Place, generation: int) -> None:
    """What was published last can be read by anybody who comes now."""
    snapshot = Reader(place.cache, "files").current()
    assert snapshot is not None and snapshot.generation == generation
    check_items(json.loads(b"[%b]" % snapshot.items_json(snapshot.view("all", ""))))


@CONFS
def test_a_new_server_serves_the_old_list_as_stale_and_rebuilds_it_once(
    gated: Place, conf: tuple[str, ...]
) -> None:
    gated.gate.touch()
    with gunicorn_server(gated, *conf) as server:
        old = server.warm_up()
        server.stop()
    gated.gate.unlink()
    with gunicorn_server(gated, *conf) as server:
        for answer in server.next_of_each_worker().values():
            assert answer.generation == old.generation
            assert answer.json["files"] == old.json["files"]
            assert answer.state == "stale"
            assert answer.json["cache_rebuilding"] is True
        gated.builder_at_gate(2)
        gated.gate.touch()
        new = server.warm_up()
        assert new.generation > old.generation
        assert {answer.state for answer in server.next_of_each_worker().values()} == {"fresh"}
        assert len(gated.calls("source")) == 2


@CONFS
def test_recycled_workers_rebuild_nothing(place: Place, conf: tuple[str, ...]) -> None:
    # sync: before gunicorn 24 a gthread worker that ends may take a connection with it.
    with gunicorn_server(place, *conf, "-k", "sync", "--max-requests", "10", workers=2) as server:
        server.warm_up()
        born = server.pids
        states: list[str] = []
        errors: list[OSError] = []

        def recycled() -> bool:
            try:
                states.append(server.get().state)
            except OSError as error:  # the worker's last moment
                errors.append(error)
            return len({call.pid for call in place.calls("loaded")}) >= 6

        until(recycled, lambda: f"four new workers, only {place.calls('loaded')}")
        until(lambda: len(server.pids) == 2 and not server.pids & born, "only new workers")
        assert {answer.state for answer in server.next_of_each_worker().values()} == {"fresh"}
        assert set(states) == {"fresh"}
        assert len(place.calls("source")) == 1
        print(f"\n{len(states)} reads by {len(place.calls('loaded'))} workers, {len(errors)} cut")


@pytest.mark.parametrize("runner", ["thread", "auto"])
def test_a_list_gets_built_although_every_worker_is_retired_before_the_build_is_done(
    make_place: Make, runner: str
) -> None:
    """Polls count as requests; a build that each worker starts from scratch would never be done."""
    place = make_place(items=100, steps=1, stable=1, runner=runner)
    with gunicorn_server(place, "--max-requests", "15", workers=1) as server:

        def is_complete() -> bool:
            # One poll for each item, and one item for each poll, as long as there is a build.
            enriched, patience = len(place.calls("enrich")), time.monotonic() + 0.2
            try:
                return not server.get().json["cache_rebuilding"]
            except OSError:
                return False
            finally:
                until(lambda: len(place.calls("enrich")) > enriched or time.monotonic() > patience, "an item")

        until(is_complete, "the whole list", 180)
        interruptions, enriched = len(place.calls("source")) - 1, len(place.calls("enrich"))
        print(f"\n{interruptions} interruptions, {enriched} items enriched")
        assert server.get().json["total_files"] == 100
        if runner == "thread":
            assert interruptions >= 2, "too few to prove anything"
        assert 100 <= enriched <= 100 + interruptions


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT, signal.SIGINT], ids=["TERM", "QUIT", "INT"])
@pytest.mark.parametrize("worker_class", ["sync", "gthread"])
def test_a_build_does_not_hold_up_a_stopping_server(gated: Place, worker_class: str, number: int) -> None:
    gated.gate.touch()
    threads = ("-k", "gthread", "--threads", "4") if worker_class == "gthread" else ()
    with gunicorn_server(gated, *threads, workers=2) as server:
        old = server.warm_up()
        gated.gate.unlink()
        server.get("/invalidate", "POST")
        builder = gated.builder_at_gate(2)
        workers = server.pids
        assert builder.pid in workers
        server.stop(number)  # within less than the graceful timeout, 30 s, while the build stands at the gate
        assert "SIGKILL" not in server.log and "Fatal Python error" not in server.log
        check_readable(gated, old.generation)
    # And the next server takes up the work.
    gated.gate.touch()
    with gunicorn_server(gated, workers=1) as server:
        assert check_whole(server.warm_up())


@CONFS
def test_a_reload_during_a_build_answers_throughout_and_ends_in_a_new_list(
    gated: Place, conf: tuple[str, ...]
) -> None:
    gated.gate.touch()
    with gunicorn_server(gated, *conf, workers=2) as server:
        old = server.warm_up()
        gated.gate.unlink()
        server.get("/invalidate", "POST")
        gated.builder_at_gate(2)
        workers = server.pids
        with Readers(server, clients=2) as readers:
            readers.wait_for(20)
            server.send(signal.SIGHUP)
            until(lambda: len(server.pids) == 2 and not server.pids & workers, "new workers only")
            gated.builder_at_gate(3)
            readers.wait_for(20)
            check_readable(gated, old.generation)
            gated.gate.touch()
            until(lambda: readers.answers[-1].generation > old.generation, "the new list")
        for answer in readers.answers:
            check_whole(answer)
        assert backwards(readers.answers) == []
        server.warm_up()
        assert len(gated.calls("source")) == 3


def test_a_reload_with_our_conf_rebuilds_what_the_old_code_made_once(place: Place) -> None:
    with gunicorn_server(place, *OUR_CONF, workers=2) as server:
        old = server.warm_up()
        workers = server.pids
        server.send(signal.SIGHUP)
        until(lambda: len(server.pids) == 2 and not server.pids & workers, "new workers only")
        until(lambda: server.get().generation > old.generation, "a new list")
        server.warm_up()
        server.next_of_each_worker()
        assert len(place.calls("source")) == 2


def test_another_worker_takes_over_when_the_building_one_is_killed(gated: Place) -> None:
    gated.env["TEST_RUNNER"] = (
        "thread"  # auto would continue in a child, which these readers leave little to run with
    )
    gated.gate.touch()
    with gunicorn_server(gated) as server:
        old = server.warm_up()
        lock = gated.cache / "files.lock"
        inode = lock.stat().st_ino
        server.next_of_each_worker()
        gated.gate.unlink()
        with Readers(server, clients=3) as readers:
            server.get("/invalidate", "POST")
            takeovers = []
            for nth in (2, 3):  # the builder, then the one that took over
                builder = gated.builder_at_gate(nth)
                readers.wait_for(20)
                killed_at = time.monotonic()
                os.kill(builder.pid, signal.SIGKILL)
                successor = gated.until_built(nth + 1)
                takeovers.append(successor.at - killed_at)
                assert successor.pid != builder.pid
            gated.builder_at_gate(4)
            readers.wait_for(20)
            gated.gate.touch()
            until(lambda: readers.answers[-1].generation > old.generation, "the new list")
            readers.wait_for(40)
        print(f"\ntakeovers after {[round(seconds, 3) for seconds in takeovers]} s, {len(readers.answers)} reads")
        assert max(takeovers) < 20.0, "a lock had to expire"
        for answer in readers.answers:
            assert check_whole(answer) >= 60
            assert answer.generation >= old.generation
        assert backwards(readers.answers) == []
        assert len({answer.generation for answer in readers.answers}) == 2
        assert lock.stat().st_ino == inode, "the lock file was replaced"
        assert len(gated.calls("source")) == 4, "a killed build was followed by more than one"
        until(lambda: len(server.pids) == 4, "four workers again")
        assert {len(answer.json["files"]) for answer in server.next_of_each_worker().values()} == {
            check_whole(server.get())
        }


def test_a_process_that_the_killed_builder_had_forked_does_not_keep_the_lock(gated: Place) -> None:
    gated.env["TEST_FORKS"] = "1"
    with gunicorn_server(gated, workers=2) as server:
        server.next_of_each_worker()
        builder = gated.builder_at_gate()
        child = gated.calls("child")[0].pid
        os.kill(builder.pid, signal.SIGKILL)
        successor = gated.builder_at_gate(2)
        assert successor.pid != builder.pid
        assert os.path.exists(f"/proc/{child}"), "nothing was left that could have kept the lock"
        gated.gate.touch()
        check_whole(server.warm_up())
        # Nor when it was published: the children of the finished build live, too.
        server.get("/invalidate", "POST")
        until(lambda: len(gated.calls("source")) == 3, "another build")
        server.warm_up()
