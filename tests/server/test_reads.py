"""Readers in four workers while another process publishes without a pause."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.answers import backwards, check_whole
from tests.support.places import Place
from tests.support.processes import python
from tests.support.servers import Readers, gunicorn_server
from tests.support.waiting import until

LEAST = 2_000

# Only rebuilds; it has no keeper and serves nobody.
WRITER = """
import app_files
state = app_files.app.extensions["warmcache"]
state.open()
while True:
    print(state.rebuilder.rebuild_now("files").generation, flush=True)
"""


@contextmanager
def writer(place: Place) -> Iterator[list[int]]:
    """A process that publishes one generation after another; afterwards the list holds them."""
    published: list[int] = []
    path = place.folder / "published"
    with path.open("wb") as output, place.started(python("-c", WRITER), stdout=output) as process:
        yield published
        assert process.poll() is None, "the writer ended by itself"
    text = path.read_text()
    published += [int(line) for line in text[: text.rfind("\n") + 1].split()]


@pytest.mark.parametrize("worker_class", ["sync", "gthread"])
def test_every_answer_is_whole_and_none_goes_back_while_lists_are_published_without_a_pause(
    place: Place, worker_class: str
) -> None:
    threads = ("-k", "gthread", "--threads", "4") if worker_class == "gthread" else ()
    with gunicorn_server(place, *threads) as server:
        server.warm_up()
        server.next_of_each_worker()
        before = len(place.calls("source"))
        began = time.monotonic()
        with writer(place) as published, Readers(server, clients=6) as readers:
            until(lambda: len(place.calls("source")) > before + 5, "the writer")
            readers.wait_for(LEAST, 60)
            until(lambda: len(place.calls("source")) > before + 60, "sixty publications")
        took = time.monotonic() - began
        workers = {answer.pid for answer in readers.answers}
        seen = {answer.generation for answer in readers.answers}
        pairs = backwards(readers.answers)
        own = [pair for pair in pairs if pair[0].pid == pair[1].pid]
        print(
            f"\n{worker_class}: {len(readers.answers)} reads by {len(workers)} workers in {took:.1f} s, "
            f"{len(published)} published, {len(seen)} seen; went back: {len(own)} in one worker, "
            f"{len(pairs) - len(own)} across workers"
        )
        assert len(readers.answers) >= LEAST
        assert readers.errors == []
        for answer in readers.answers:
            assert check_whole(answer) >= 60
            assert answer.json["files"][0]["version"] <= answer.generation
        assert own == [], "a worker's list went backwards"
        assert len(workers) == 4
        assert len(published) >= 50 and len(seen) >= 50
        assert len(seen - {*published}) <= 2, "generations that nobody published"
        assert "Traceback" not in server.log and "snapshot_refused" not in server.log
        # Whatever the four had open: what was replaced is not kept on disk.
        newest = server.get()
        assert newest.generation >= max(published)
        assert len(list(place.cache.glob("*.data"))) <= 2
        for pid in server.pids:
            maps = Path(f"/proc/{pid}/maps").read_text()
            # The newest, what its requests are reading, and what a rebuild has open.
            assert maps.count("files.index") <= 10, f"worker {pid} keeps old snapshots mapped"


def test_each_publication_is_seen_by_the_next_request_of_every_worker(place: Place) -> None:
    with gunicorn_server(place) as server:
        old = server.warm_up().generation
        for _ in range(3):
            ran = place.flask("warmcache", "rebuild", "files")
            assert ran.returncode == 0, ran.stderr
            published = time.monotonic()
            answers = server.next_of_each_worker()
            generations = {answer.generation for answer in answers.values()}
            assert len(generations) == 1
            assert check_whole(answers[min(answers)])
            assert min(generations) > old
            old = max(generations)
            assert min(answer.begin for answer in answers.values()) > published
        assert len({call.pid for call in place.calls("source")}) == 4
