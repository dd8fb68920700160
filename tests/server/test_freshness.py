"""Stale, invalidated, asked for, failed: what every worker of a server says of it."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest

from tests.support.answers import backwards, check_whole
from tests.support.places import Place
from tests.support.servers import OUR_CONF, Readers, gunicorn_server
from tests.support.waiting import until

from .conftest import Make


def test_a_list_is_rebuilt_when_its_ttl_is_over_without_any_request(make_place: Make) -> None:
    place = make_place(ttl=0.6)
    with gunicorn_server(place) as server:
        first = server.get()  # one worker has a keeper now
        assert first.state == "cold"
        until(lambda: len(place.calls("source")) >= 4, "three rebuilds")
        builds = [call.at for call in place.calls("source")]
        pauses = [after - before for before, after in zip(builds, builds[1:], strict=False)]
        print(f"\nttl 0.6 s: builds {[round(pause, 2) for pause in pauses]} s apart")
        assert min(pauses) > 0.55
        check_whole(server.get())


def test_an_invalidation_in_one_worker_is_seen_by_the_next_request_of_every_other(gated: Place) -> None:
    gated.gate.touch()
    with gunicorn_server(gated) as server:
        server.warm_up()
        server.next_of_each_worker()
        for nth in range(2, 5):
            gated.gate.unlink()
            invalidated = server.get("/invalidate", "POST")
            answers = server.next_of_each_worker()
            assert len(answers) == 4
            for pid, answer in answers.items():
                assert answer.begin > invalidated.end
                assert answer.state == "stale", f"worker {pid} is not the one that invalidated, {invalidated.pid}"
                assert answer.json["cache_rebuilding"] is True
                check_whole(answer)
            gated.builder_at_gate(nth)
            gated.gate.touch()
            server.warm_up()
            assert len(gated.calls("source")) == nth


def test_a_write_in_one_worker_is_seen_by_the_next_request_of_every_other(gated: Place) -> None:
    gated.gate.touch()
    with gunicorn_server(gated) as server:
        server.warm_up()
        server.next_of_each_worker()
        for number in range(1000, 1004):
            written = server.get(f"/refresh/f00003/{number}", "POST")
            assert written.json == {"done": True}
            answers = server.next_of_each_worker()
            assert len(answers) == 4
            for answer in answers.values():
                assert answer.begin > written.end
                assert answer.json["files"][3]["number"] == number
                assert answer.json["odd_count"] == sum(item["number"] % 2 for item in answer.json["files"])
                assert answer.state == "fresh" and answer.json["cache_rebuilding"] is False
        assert server.get("/discard/f00003", "POST").json == {"done": True}
        for answer in server.next_of_each_worker().values():
            assert "f00003" not in [item["path"] for item in answer.json["files"]]
        assert len(gated.calls("source")) == 1


def test_an_invalidation_during_a_build_is_followed_by_another_build(gated: Place) -> None:
    gated.gate.touch()
    with gunicorn_server(gated) as server:
        server.warm_up()
        gated.gate.unlink()
        server.get("/invalidate", "POST")
        gated.builder_at_gate(2)
        server.get("/invalidate", "POST")  # what changed now may be behind what the build has read
        gated.gate.touch()
        until(lambda: len(gated.calls("source")) == 3, "the build that follows")
        server.warm_up()
        server.next_of_each_worker()
        assert len(gated.calls("source")) == 3


@pytest.mark.parametrize("worker_class", ["sync", "gthread"])
def test_many_clients_that_refresh_at_once_cause_one_rebuild(make_place: Make, worker_class: str) -> None:
    place = make_place(refresh_interval=0, sleep=0.3).with_gate()
    place.gate.touch()
    threads = ("-k", "gthread", "--threads", "4") if worker_class == "gthread" else ()
    with gunicorn_server(place, *threads) as server:
        server.warm_up()
        server.next_of_each_worker()
        counts: list[int] = []
        shared = 0  # rounds in which several workers were asked; the kernel may give all to one
        while shared < 4 and len(counts) < 16:
            before = len(place.calls("source"))
            place.gate.unlink()
            answers = server.ask_at_once("/api/files?refresh=true", 32)
            shared += len({answer.pid for answer in answers}) >= 2
            for answer in answers:
                check_whole(answer)
                assert answer.json["cache_rebuilding"] is True
            place.until_built(before + 1)
            place.gate.touch()
            server.warm_up()
            server.warm_up()
            counts.append(len(place.calls("source")) - before)
        print(f"\n{worker_class}: rebuilds for 32 refreshing clients: {counts}, {shared} times by several workers")
        assert set(counts) == {1}
        assert shared >= 2


def test_a_refresh_of_a_list_newer_than_the_interval_rebuilds_nothing(place: Place) -> None:
    with gunicorn_server(place) as server:
        server.warm_up()
        for answer in server.ask_at_once("/api/files?refresh=true", 16):
            assert answer.state == "fresh" and answer.json["cache_rebuilding"] is False
        server.next_of_each_worker()
        assert len(place.calls("source")) == 1


def test_a_failing_source_leaves_the_old_list_and_is_tried_by_one_worker_at_a_time(make_place: Make) -> None:
    place = make_place(retry_min=0.4, retry_max=60).with_failing()
    with gunicorn_server(place, *OUR_CONF) as server:
        old = server.warm_up()
        server.next_of_each_worker()
        place.failing.touch()
        server.get("/invalidate", "POST")
        until(lambda: len(place.calls("source")) >= 2, "the first failure")

        def all_know() -> bool:
            # A worker that tries again at this moment has no next attempt.
            return all(
                stats["state"] == "failed" and stats["next_attempt_at"] for stats in server.stats().values()
            )

        until(all_know, lambda: f"failed in every worker, only {server.stats()}")
        for stats in server.stats().values():
            assert stats["last_error"] == "OSError"
            assert stats["is_populated"] is True
        with Readers(server, clients=2) as readers:
            until(lambda: len(place.calls("source")) >= 4, "three failures")
            readers.wait_for(50)
        tries = [call.at for call in place.calls("source")][1:]
        pauses = [after - before for before, after in zip(tries, tries[1:], strict=False)]
        workers = {call.pid for call in place.calls("source")}
        print(f"\ntried again after {[round(pause, 2) for pause in pauses]} s, by {len(workers)} workers")
        for nth, pause in enumerate(pauses):
            assert pause >= 0.4 * 2**nth * 0.75 - 0.01, "tried sooner than planned"
        for answer in readers.answers:
            assert answer.generation == old.generation
            check_whole(answer)
            # A retry shows as a rebuild of a stale list while it runs.
            assert answer.state == "failed" or answer.json["cache_rebuilding"]
        assert readers.answers[-1].state == "failed"

        place.failing.unlink()
        until(lambda: server.get().generation > old.generation, "a list after the trouble")
        answers = server.next_of_each_worker()
        until(lambda: {one["state"] for one in server.stats().values()} == {"fresh"}, "fresh in every worker")
        assert {answer.generation for answer in answers.values()} != {old.generation}
        assert {stats["last_error"] for stats in server.stats().values()} == {None}


def test_failing_first_build_answers_as_failed_and_is_retried(make_place: Make) -> None:
    place = make_place(retry_min=0.3).with_failing()
    place.failing.touch()
    with gunicorn_server(place) as server:
        server.get()
        until(lambda: server.get().state == "failed", "failed")
        for answer in server.next_of_each_worker().values():
            assert answer.status == 200
            assert answer.json["files"] == []
            assert answer.json["cache_rebuilding"] is True
        place.failing.unlink()
        check_whole(server.warm_up())


def test_every_worker_says_that_one_of_them_is_rebuilding(gated: Place) -> None:
    gated.gate.touch()
    with gunicorn_server(gated) as server:
        server.warm_up()
        until(lambda: {stats["rebuild_in_progress"] for stats in server.stats().values()} == {False}, "its end")
        gated.gate.unlink()
        server.get("/invalidate", "POST")
        gated.builder_at_gate(2)
        sections = server.stats()
        assert len(sections) == 4
        for pid, stats in sections.items():
            assert stats["rebuild_in_progress"] is True, f"worker {pid} does not know"
            assert stats["progress"]["phase"] == "enrich"
            assert stats["state"] == "stale"

        def all_know_how_far() -> bool:
            progress = [stats["progress"] for stats in server.stats().values()]
            return all(0 < one["done"] < one["total"] for one in progress)

        until(all_know_how_far, "how far it is, within a heartbeat")
        assert {stats["rebuild_in_progress"] for stats in server.stats().values()} == {True}
        until(
            lambda: gated.cache.joinpath("files.progress").stat().st_mtime > time.time() - 1,
            "a heartbeat while one item takes long",
        )
        gated.gate.touch()
        server.warm_up()
        for stats in server.stats().values():
            assert stats["rebuild_in_progress"] is False
            assert stats["state"] == "fresh" and stats["progress"] is None


def test_a_killed_builder_is_not_taken_for_one_at_work(gated: Place) -> None:
    with gunicorn_server(gated, workers=1) as server:
        server.get()
        builder = gated.builder_at_gate()
        assert server.stats()[builder.pid]["rebuild_in_progress"] is True
        os.kill(builder.pid, signal.SIGKILL)
        # The new worker has no keeper before its first request: nobody rebuilds, and this process only reads.
        ran = gated.flask("warmcache", "status", "--json")
        assert ran.returncode == 1  # cold
        stats = json.loads(ran.stdout)["files"]
        report = json.loads((gated.cache / "files.progress").read_text())
        assert report["phase"] == "enrich", "the dead builder's report was to mislead"
        assert stats["rebuild_in_progress"] is False and stats["progress"] is None
        assert len(gated.calls("source")) == 1


def test_the_flag_never_turns_false_before_the_new_list_is_there(gated: Place) -> None:
    gated.gate.touch()
    with gunicorn_server(gated) as server:
        server.warm_up()
        server.next_of_each_worker()
        with Readers(server, clients=4) as readers:
            for nth in range(2, 8):
                gated.gate.unlink()
                invalidated = server.get("/invalidate", "POST").end
                old = server.get().generation
                gated.builder_at_gate(nth)
                readers.wait_for(20)
                gated.gate.touch()
                server.until_newer(old)
                readers.wait_for(20)
                for answer in list(readers.answers):
                    if answer.begin > invalidated and answer.generation == old:
                        assert answer.json["cache_rebuilding"] is True
        assert backwards(readers.answers) == []
        fresh = [answer for answer in readers.answers if answer.state == "fresh"]
        late = [answer for answer in fresh if answer.json["cache_rebuilding"]]
        print(f"\n{len(readers.answers)} reads, {len(late)} of {len(fresh)} fresh ones with the flag still up")
        # Where it is still up, then only for as long as a worker takes to look again, a fifth of a second.
        until(
            lambda: {one.json["cache_rebuilding"] for one in server.next_of_each_worker().values()} == {False},
            "rest",
        )
