"""The first requests of a cold server, all at once, while the build takes ten seconds."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.waiting import until

from .world import Place, check_whole, gunicorn_server

REQUESTS = 100
PROMISED = 0.1  # seconds inside the app


@pytest.mark.parametrize("worker_class", ["sync", "gthread"])
def test_a_hundred_first_requests_cause_one_build_and_none_waits(
    make_place: Callable[..., Place], worker_class: str
) -> None:
    place = make_place(items=250, sleep=8, compute=2)
    threads = ("-k", "gthread", "--threads", "4") if worker_class == "gthread" else ("-k", "sync")
    with gunicorn_server(place, "--timeout", "5", *threads) as server:
        answers = server.ask_at_once("/api/files", REQUESTS)
        assert len(place.calls("source")) <= 1
        times = sorted(answer.app_time for answer in answers)
        for answer in answers:
            assert answer.status == 200
            assert answer.json == {
                "files": [], "page": 1, "per_page": 500, "total_files": 0, "total_pages": 1, "odd_count": 0,
                "cache_rebuilding": True,
            }  # fmt: skip
        own = sorted(answer.own_time for answer in answers)
        print(
            f"\n{worker_class}: {len({answer.pid for answer in answers})} workers, "
            f"median {times[REQUESTS // 2] * 1e3:.1f} ms, p95 {times[94] * 1e3:.1f}, max {times[-1] * 1e3:.1f}, "
            f"without what other processes took: max {own[-1] * 1e3:.1f}"
        )
        assert own[-1] < PROMISED, f"slowest answers: {own[-5:]}"
        assert times[-1] < 1.0, f"slowest answers, other processes included: {times[-5:]}"
        assert times[REQUESTS // 2] < PROMISED

        until(lambda: place.calls("source"), "the build")
        until(lambda: any(not answer.json["cache_rebuilding"] for answer in [server.get()]), "the list")
        for pid, answer in server.next_of_each_worker().items():
            assert check_whole(answer) >= 250, f"worker {pid} serves an empty list"
            assert answer.state == "fresh"
        assert len(place.calls("source")) == 1, "more than one build was started"
        assert len(place.calls("enrich")) == answer.json["total_files"], "an item was enriched twice"
        took = answer.json and server.stats()[answer.pid]["last_duration_seconds"]
        assert took >= 9.5, f"the build took only {took} s, so nothing was shown"
        assert "WORKER TIMEOUT" not in server.log
        assert len(server.pids) == 4
