"""Builders that die by SIGKILL, in the middle of their work."""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flask_warmcache.store.reader import Reader
from tests.support.waiting import until

from .world import HERE, Place, Readers, backwards, check_items, check_whole, gunicorn_server


def test_another_worker_takes_over_when_the_building_one_is_killed(gated: Place) -> None:
    gated.env["TEST_RUNNER"] = (
        "thread"  # auto would go on in a child, which these readers leave little to run with
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
        assert max(takeovers) < 1.0
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


def test_a_first_build_that_is_killed_is_begun_again_and_leaves_no_litter(gated: Place) -> None:
    with gunicorn_server(gated, workers=2) as server:
        assert server.get().json["cache_rebuilding"] is True
        for nth in (1, 2, 3):
            os.kill(gated.builder_at_gate(nth).pid, signal.SIGKILL)

            def somebody_builds(nth: int = nth) -> bool:
                server.get("/plain")  # a replacement has no keeper until its first request
                return len(gated.calls("source")) > nth

            until(somebody_builds, "another builder")
        gated.gate.touch()
        check_whole(server.warm_up())
        names = sorted(entry.name for entry in gated.cache.iterdir())
        assert len([name for name in names if name.endswith(".data")]) == 1, names
        assert not [name for name in names if name.endswith(".tmp")], names


class Nursery:
    """Processes that all always want to rebuild one small list, born by fork so that a kill costs little."""

    def __init__(self, place: Place) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "nursery.py"], cwd=HERE, env=place.env, text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        self._events = place.folder / "events"

    def bear(self) -> int:
        """A new process; returns its pid."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("bear\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def events(self) -> list[dict[str, int | str]]:
        return [json.loads(line) for line in self._events.read_text().splitlines()]

    def end(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate(timeout=20)


@contextmanager
def nursery(place: Place) -> Iterator[Nursery]:
    place.env["TEST_EVENTS"] = os.fspath(place.folder / "events")
    one = Nursery(place)
    try:
        yield one
    finally:
        one.end()


class Witness:
    """Reads the list without a pause, as a worker would, and checks every snapshot it sees."""

    def __init__(self, folder: Path) -> None:
        self._reader = Reader(folder, "files")
        self._stop = threading.Event()
        self.reads = 0
        self.generations: list[int] = []
        self.faults: list[str] = []
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._stop.is_set():
            snapshot = self._reader.current()
            self.reads += 1
            if snapshot is None or (self.generations and self.generations[-1] == snapshot.generation):
                self._stop.wait(0.001)
                continue
            if self.generations and snapshot.generation < self.generations[-1]:
                self.faults.append(f"from {self.generations[-1]} back to {snapshot.generation}")
            self.generations.append(snapshot.generation)
            try:
                check_items(json.loads(b"[%b]" % snapshot.items_json(snapshot.view("all", ""))))
            except Exception as error:
                self.faults.append(f"generation {snapshot.generation}: {error!r}")

    def __enter__(self) -> Witness:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(20)


KILLS = 300
AT_MOST = 25.0  # seconds of killing


def test_three_hundred_kills_tear_nothing_and_publish_nothing_twice(make_place: Callable[..., Place]) -> None:
    seed = int(os.environ.get("TEST_SEED", time.time_ns() % 1_000_000))
    print(f"\nTEST_SEED={seed}")
    chance = random.Random(seed)
    place = make_place(items=40)
    kills: dict[int, float] = {}
    with nursery(place) as mother, Witness(place.cache) as witness:
        alive = [mother.bear() for _ in range(4)]
        until(lambda: witness.generations, "a first list", 30)
        end = time.monotonic() + AT_MOST
        while len(kills) < KILLS and time.monotonic() < end:
            time.sleep(chance.uniform(0.0, 0.06))  # the random moment
            victim = alive.pop(chance.randrange(len(alive)))
            kills[victim] = time.monotonic()
            os.kill(victim, signal.SIGKILL)
            alive.append(mother.bear())
        published = len(witness.generations)
        until(lambda: len(witness.generations) > published + 2, "builds after the last kill")
        for survivor in alive:
            os.kill(survivor, signal.SIGTERM)  # ends after the build it is at
        until(lambda: all(not os.path.exists(f"/proc/{pid}") for pid in alive), "the end of the last builders")
        events = mother.events()

    begins = sorted((int(event["at"]) / 1e9, int(event["pid"])) for event in events if event["what"] == "begin")
    ends = sorted((int(event["at"]) / 1e9, int(event["pid"])) for event in events if event["what"] == "end")
    midway, takeovers, overlaps = 0, [], []
    for index, (begun, pid) in enumerate(begins):
        ended = min((at for at, who in ends if who == pid and at > begun), default=None)
        later_begin = min((at for at, who in begins[index + 1 :] if who == pid), default=None)
        assert later_begin is None or (ended is not None and ended < later_begin)
        if ended is None and pid in kills:
            midway += 1
            ended = kills[pid]
            if index + 1 < len(begins):
                takeovers.append(begins[index + 1][0] - kills[pid])
        if index + 1 < len(begins) and (ended is None or begins[index + 1][0] < ended):
            overlaps.append((pid, begins[index + 1]))
    finished = [int(event["generation"]) for event in events if event["what"] == "end" and event["generation"]]
    litter = sorted(path.name for path in place.cache.iterdir() if path.suffix == ".tmp")
    data = sorted(path.name for path in place.cache.glob("*.data"))
    takeover = statistics.median(takeovers)
    print(
        f"{len(kills)} kills, {midway} of builders midway, {len(begins)} builds, {len(finished)} finished, "
        f"{witness.reads} looks at {len(witness.generations)} snapshots, {len(overlaps)} overlaps, "
        f"takeover p50 {takeover * 1e3:.1f} ms, max {max(takeovers) * 1e3:.1f} ms, left: {litter} {data}"
    )
    assert midway >= 20, "too few builders were killed midway to show anything"
    assert witness.faults == []
    assert overlaps == [], "two builds at once"
    assert len(finished) == len(set(finished)), "a generation was published twice"
    assert finished == sorted(finished)
    assert takeover < 1.0
    assert len(litter) <= 2 and len(data) == 1
    refused = [event for event in events if event["what"] == "end" and not event["generation"]]
    assert refused == [], "a build failed for another reason than a kill"
