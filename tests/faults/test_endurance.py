"""Half an hour of mixed faults: what holds after a minute must hold then.

``TEST_MINUTES=2`` with ``--long`` is a run by hand.
"""

from __future__ import annotations

import http.client
import os
import random
import signal
import statistics
import time
from collections import Counter

import psutil
import pytest

from tests.support.answers import check_whole
from tests.support.servers import Server, gunicorn_server
from tests.support.threads import Repeated
from tests.support.waiting import until

from .cache_files import YOUNG, litter
from .conftest import Make
from .test_meddling import KINDS, Meddler

MINUTES = float(os.environ.get("TEST_MINUTES", "30"))
FAULTS = 80  # a minute, at least; a busy machine takes longer for them
WARM_UP = 0.2  # of the time, in which caches fill
GROWTH = 0.05  # of a worker's memory
LEAK = 4  # descriptors or threads; a build that runs has some of its own, and a leak grows with every fault


class Veteran:
    """A worker that is left alive, and what it takes in the course of time."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self.descriptors: list[int] = []
        self.threads: list[int] = []
        self.memory: list[int] = []

    def look(self) -> None:
        with self._process.oneshot():
            self.descriptors.append(self._process.num_fds())
            self.threads.append(self._process.num_threads())
            self.memory.append(self._process.memory_info().rss)

    def grown(self) -> tuple[float, float, float]:
        """Compare the medians of both halves: descriptors and threads more, and by which share its memory grew."""
        half = len(self.memory) // 2
        before, after = (
            [statistics.median(one[part]) for one in (self.descriptors, self.threads, self.memory)]
            for part in (slice(half), slice(half, None))
        )
        return after[0] - before[0], after[1] - before[1], after[2] / before[2] - 1


class Visitors(Repeated):
    """Clients that ask again and again, and keep only counts and wrong answers."""

    def __init__(self, server: Server, clients: int) -> None:
        super().__init__(clients)
        self._server = server
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []

    def turn(self) -> None:
        self.stopped.wait(0.01)
        try:
            answer = self._server.get()
        except (OSError, http.client.HTTPException):
            self.counts["cut by a kill"] += 1
            return
        try:
            if answer.json["files"]:
                check_whole(answer)
            self.counts[f"{answer.status} {answer.state}"] += 1
        except Exception as error:
            self.wrong.append(f"{error!r}: {answer.headers} {answer.body[-200:]!r}")


@pytest.mark.long
def test_mixed_faults_for_half_an_hour_cost_no_descriptor_no_thread_and_no_memory(
    make_place: Make, chance: random.Random
) -> None:
    signal.alarm(int(MINUTES * 60 * 4) + 180)
    place = make_place(items=40, sleep=0.05, retry_min=0.1, retry_max=0.5, refresh_interval=0).with_failing()
    faults: Counter[str] = Counter()
    with gunicorn_server(place) as server:
        server.warm_up()
        server.next_of_each_worker()
        veterans = {pid: Veteran(pid) for pid in sorted(server.pids)[:2]}
        meddler = Meddler(place.cache, place.cache, place.cache, chance)
        meddling = [
            kind for kind in KINDS if not kind.startswith(("restores", "brings")) and "in_place" not in kind
        ]

        def kill_a_worker() -> None:
            os.kill(chance.choice(sorted(server.pids - set(veterans))), signal.SIGKILL)

        def kill_the_builder() -> None:
            builder = place.calls("source")[-1].pid
            if builder in veterans or builder not in server.pids:
                return kill_a_worker()
            os.kill(builder, signal.SIGKILL)

        def fail_for_a_while() -> None:
            place.failing.touch()
            server.get("/invalidate", "POST")
            time.sleep(chance.uniform(0.1, 1.0))
            place.failing.unlink()

        def delete_the_lock() -> None:
            (place.cache / "files.lock").unlink(missing_ok=True)

        def meddle() -> None:
            getattr(meddler, chance.choice(meddling))()

        def invalidate() -> None:
            server.get("/invalidate", "POST")

        def refresh() -> None:
            server.get("/api/files?refresh=true")

        kinds = [kill_a_worker, kill_the_builder, fail_for_a_while, delete_the_lock, meddle, invalidate, refresh]
        began = time.monotonic()
        end = began + MINUTES * 60
        with Visitors(server, 3) as visitors:
            while time.monotonic() < end or faults.total() < FAULTS * MINUTES:
                fault = chance.choice(kinds)
                try:
                    fault()
                    faults[fault.__name__] += 1
                except (OSError, http.client.HTTPException, IndexError):
                    pass  # what it was to hurt is being exchanged
                time.sleep(chance.uniform(0.0, 0.5))
                if time.monotonic() > began + WARM_UP * (end - began):
                    for veteran in veterans.values():
                        veteran.look()
        place.failing.unlink(missing_ok=True)
        until(lambda: len(server.pids) == 4, "four workers")
        server.get("/invalidate", "POST")
        check_whole(server.warm_up())
        settled = time.monotonic() + YOUNG
        until(lambda: time.monotonic() > settled, "the drafts' age")
        newest = server.get().generation
        server.get("/invalidate", "POST")
        server.until_newer(newest)
        grown = {pid: veteran.grown() for pid, veteran in veterans.items()}
        print(
            f"{MINUTES} minutes: {faults.total()} faults {dict(faults)}, {len(place.calls('source'))} builds, "
            f"{dict(visitors.counts)}; grown by descriptors, threads, memory: {list(grown.values())}"
        )
        assert visitors.wrong[:1] == []
        assert set(faults) == {kind.__name__ for kind in kinds}
        assert visitors.counts.total() >= 2 * faults.total(), "too few requests to show anything"
        assert {key.split()[0] for key in visitors.counts} <= {"200", "cut"}
        assert set(veterans) <= server.pids, "a worker died that nobody killed"
        for descriptors, threads, memory in grown.values():
            assert max(descriptors, threads) < LEAK
            assert memory < GROWTH
        assert litter(place.cache) == []
