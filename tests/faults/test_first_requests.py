"""The first requests of a cold server, all at once, and those that follow while a build is long."""

from __future__ import annotations

import pytest

from tests.support.answers import check_whole
from tests.support.servers import gunicorn_server

from .conftest import Make

CLIENTS = 100
ASKED = 300


@pytest.mark.parametrize(
    ("kind", "workers", "times"),
    [(("-k", "sync"), 4, 1), (("-k", "gthread", "--threads", "4"), 4, 1), (("-k", "sync"), 8, 8)],
    ids=["100 at sync workers", "100 at gthread workers", "800 at 8 workers"],
)
def test_first_requests_at_once_cause_one_build_and_none_waits(
    make_place: Make, kind: tuple[str, ...], workers: int, times: int
) -> None:
    place = make_place(items=250).with_gate()
    with gunicorn_server(place, *kind, workers=workers) as server:
        answers = [answer for _ in range(times) for answer in server.ask_at_once("/api/files", CLIENTS)]
        place.builder_at_gate()
        asked = {answer.pid for answer in answers}
        print(f"\n{len(answers)} first requests at {len(asked)} workers: {len(place.calls('source'))} build")
        assert len(answers) == times * CLIENTS and len(asked) >= (workers - 2 if times > 1 else 2)
        for answer in answers:
            assert answer.status == 200
            assert answer.json == {
                "files": [], "page": 1, "per_page": 500, "total_files": 0, "total_pages": 1, "odd_count": 0,
                "cache_rebuilding": True,
            }  # fmt: skip
        assert len(place.calls("source")) == 1
        place.gate.touch()
        server.warm_up()
        for pid, answer in server.next_of_each_worker().items():
            assert check_whole(answer) >= 250, f"worker {pid} serves an empty list"
            assert answer.state == "fresh"
        assert len(place.calls("source")) == 1, "more than one build was started"
        assert len(place.calls("enrich")) == answer.json["total_files"], "an item was enriched twice"
        assert len(server.pids) == workers


def test_no_request_waits_for_the_first_build(make_place: Make) -> None:
    place = make_place(items=1000).with_gate()
    with gunicorn_server(place, workers=2) as server:
        server.get("/plain")
        place.builder_at_gate()
        answers = [server.get() for _ in range(ASKED)]
        assert {(answer.status, answer.json["cache_rebuilding"]) for answer in answers} == {(200, True)}
        assert len(place.calls("source")) == 1
        assert (place.cache / "files.lock").exists()
