"""The first requests of a cold server, all at once, while the build stands at a gate."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.answers import check_whole
from tests.support.places import Place
from tests.support.servers import gunicorn_server

REQUESTS = 100


@pytest.mark.parametrize("worker_class", ["sync", "gthread"])
def test_a_hundred_first_requests_cause_one_build_and_none_waits(
    make_place: Callable[..., Place], worker_class: str
) -> None:
    place = make_place(items=250).with_gate()
    threads = ("-k", "gthread", "--threads", "4") if worker_class == "gthread" else ("-k", "sync")
    with gunicorn_server(place, *threads) as server:
        answers = server.ask_at_once("/api/files", REQUESTS)
        assert len({answer.pid for answer in answers}) > 1
        for answer in answers:
            assert answer.status == 200
            assert answer.json == {
                "files": [], "page": 1, "per_page": 500, "total_files": 0, "total_pages": 1, "odd_count": 0,
                "cache_rebuilding": True,
            }  # fmt: skip
        place.builder_at_gate()
        assert len(place.calls("source")) == 1
        place.gate.touch()
        server.warm_up()
        for pid, answer in server.next_of_each_worker().items():
            assert check_whole(answer) >= 250, f"worker {pid} serves an empty list"
            assert answer.state == "fresh"
        assert len(place.calls("source")) == 1, "more than one build was started"
        assert len(place.calls("enrich")) == answer.json["total_files"], "an item was enriched twice"
        assert len(server.pids) == 4
