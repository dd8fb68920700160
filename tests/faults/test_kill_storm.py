"""Hundreds of SIGKILLs over eight processes that all always want to rebuild one list."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from flask_warmcache.store.reader import Reader
from tests.support.answers import check_items
from tests.support.launcher import Launcher, launcher_for
from tests.support.places import Place
from tests.support.processes import is_running
from tests.support.threads import Repeated
from tests.support.waiting import until

from .cache_files import YOUNG, litter, published
from .conftest import Make

PROCESSES = 8
TAKEOVER = 20.0  # seconds; a lock that had to expire would be free much later


class Witness(Repeated):
    """Reads the list without a pause, as a worker would, and checks every snapshot it sees."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._reader = Reader(folder, "files")
        self.reads = 0
        self.generations: list[int] = []
        self.faults: list[str] = []

    def turn(self) -> None:
        snapshot = self._reader.current()
        self.reads += 1
        if snapshot is None or (self.generations and self.generations[-1] == snapshot.generation):
            self.stopped.wait(0.001)
            return
        if self.generations and snapshot.generation < self.generations[-1]:
            self.faults.append(f"from {self.generations[-1]} back to {snapshot.generation}")
        self.generations.append(snapshot.generation)
        try:
            check_items(json.loads(b"[%b]" % snapshot.items_json(snapshot.view("all", ""))))
        except Exception as error:
            self.faults.append(f"generation {snapshot.generation}: {error!r}")


@dataclass
class Storm:
    """What the builders noted, and who was killed when."""

    kills: dict[int, float] = field(default_factory=dict)
    unlinked: int = 0
    midway: int = 0  # builders killed between the beginning and the end of their build
    published: list[int] = field(default_factory=list)
    refused: int = 0
    builds: int = 0
    overlaps: int = 0
    takeovers: list[float] = field(default_factory=list)

    def killed_midway(self, events: list[dict[str, int | str]]) -> int:
        """Count the kills after which a build has begun and not ended."""
        last = {event["pid"]: event["what"] for event in events if event["what"] in ("begin", "end")}
        return sum(last.get(victim) == "begin" for victim in self.kills)

    def sum_up(self, events: list[dict[str, int | str]]) -> None:
        """Of each build: when it began, and when it ended or was killed."""
        begins = sorted(
            (int(event["at"]) / 1e9, int(event["pid"])) for event in events if event["what"] == "begin"
        )
        ends: dict[int, list[float]] = {}
        published: list[tuple[float, int]] = []
        for event in events:
            pid = int(event["pid"])
            if event["what"] == "end":
                ends.setdefault(pid, []).append(int(event["at"]) / 1e9)
            elif event["what"] == "published":
                published.append((ends[pid][-1], int(event["generation"])))
            elif event["what"] == "refused":
                self.refused += 1
        self.published = [generation for _, generation in sorted(published)]
        self.builds = len(begins)
        self.midway = self.killed_midway(events)
        for index, (begun, pid) in enumerate(begins):
            following = begins[index + 1][0] if index + 1 < len(begins) else None
            ended = min((at for at in ends.get(pid, []) if at > begun), default=None)
            if ended is None and pid in self.kills:
                ended = self.kills[pid]
                if following is not None and following > ended:
                    self.takeovers.append(following - ended)
            if following is not None and (ended is None or following < ended):
                self.overlaps += 1

    def quantile(self, share: float) -> float:
        return sorted(self.takeovers)[int(share * (len(self.takeovers) - 1))]


def builder_of(events: list[dict[str, int | str]], alive: list[int]) -> int | None:
    """Who builds now, as far as the last event tells."""
    last = next((event for event in reversed(events) if event["what"] in ("begin", "end")), None)
    return int(last["pid"]) if last and last["what"] == "begin" and int(last["pid"]) in alive else None


def rage(
    launcher: Launcher, witness: Witness, place: Place, kills: int, chance: random.Random, *, unlink_every: int = 0
) -> Storm:
    """Kill so many, half of them at random and half of them at their build, and a sixth of them midway; then let
    the others end in peace.
    """
    storm = Storm()
    lock = place.cache / "files.lock"
    alive = [launcher.start_builder() for _ in range(PROCESSES)]
    until(lambda: witness.generations, "a first list")
    while len(storm.kills) < kills or storm.killed_midway(launcher.events()) < kills // 6:
        time.sleep(chance.uniform(0.0, 0.06))  # the random moment
        victim = builder_of(launcher.events(), alive) if chance.random() < 0.5 else None
        victim = victim or chance.choice(alive)
        alive.remove(victim)
        storm.kills[victim] = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        alive.append(launcher.start_builder())
        if unlink_every and len(storm.kills) % unlink_every == 0:
            lock.unlink(missing_ok=True)
            storm.unlinked += 1
    published = len(witness.generations)
    until(lambda: len(witness.generations) > published + 2, "builds after the last kill")
    for survivor in alive:
        os.kill(survivor, signal.SIGTERM)  # ends after the build it is at
    until(lambda: not any(is_running(pid) for pid in alive), "the end of the last builders")
    storm.sum_up(launcher.events())
    print(
        f"{len(storm.kills)} kills, {storm.midway} midway, {storm.unlinked} times the lock file deleted: "
        f"{storm.builds} builds, {len(storm.published)} published, {storm.refused} refused, {storm.overlaps} "
        f"overlapping, {witness.reads} looks at {len(witness.generations)} snapshots, takeover p50 "
        f"{storm.quantile(0.5) * 1e3:.1f} ms, p99 {storm.quantile(0.99) * 1e3:.1f}, max "
        f"{max(storm.takeovers) * 1e3:.1f}"
    )
    assert witness.faults == [], "torn, or backwards"
    assert len(storm.published) == len(set(storm.published)), "a generation was published twice"
    return storm


def check_the_next_build_tidies(place: Place) -> None:
    left = [name for name in litter(place.cache) if name.endswith(".tmp")]
    end = time.monotonic() + YOUNG
    until(lambda: time.monotonic() > end, "the drafts' age")
    with launcher_for(place) as launcher:
        done = launcher.rebuild()
        assert done.code == 0, done.err
    print(f"{len(left)} drafts before the next build, then {litter(place.cache)}")
    assert litter(place.cache) == []


@pytest.mark.parametrize("kills", [60, pytest.param(1000, marks=pytest.mark.long)])
def test_kills_tear_nothing_and_publish_nothing_twice(make_place: Make, chance: random.Random, kills: int) -> None:
    place = make_place(items=40)
    with launcher_for(place) as launcher, Witness(place.cache) as witness:
        storm = rage(launcher, witness, place, kills, chance)
    assert storm.overlaps == 0, "two builds at once"
    assert storm.published == sorted(storm.published)
    assert storm.refused == 0, "a build failed for another reason than a kill"
    assert max(storm.takeovers) < TAKEOVER
    check_the_next_build_tidies(place)


@pytest.mark.parametrize("kills", [40, pytest.param(300, marks=pytest.mark.long)])
def test_a_deleted_lock_file_may_waste_a_build_but_publishes_nothing_over_a_newer_list(
    make_place: Make, chance: random.Random, kills: int
) -> None:
    place = make_place(items=40)
    with launcher_for(place) as launcher, Witness(place.cache) as witness:
        storm = rage(launcher, witness, place, kills, chance, unlink_every=5)
    assert storm.unlinked == kills // 5
    # Who had lost its lock is refused, so no two that ran at once both published.
    assert storm.overlaps <= 2 * storm.unlinked
    assert storm.overlaps == 0 or storm.refused + storm.midway > 0
    check_the_next_build_tidies(place)


def await_draft(cache: Path, most: float) -> None:
    """A publication lasts a millisecond, which chance alone seldom meets."""
    end = time.monotonic() + most
    while time.monotonic() < end and not any(name.endswith(".tmp") for name in os.listdir(cache)):
        pass


@pytest.mark.parametrize("kills", [30, pytest.param(100, marks=pytest.mark.long)])
def test_many_killed_builds_leave_nothing_after_the_next(
    make_place: Make, chance: random.Random, kills: int
) -> None:
    place = make_place(items=300)
    midway, worst, drafts = 0, 0, 0
    with launcher_for(place) as launcher:
        began = time.monotonic()
        assert launcher.rebuild().code == 0
        usual = time.monotonic() - began
        while midway < kills or not drafts:  # without a draft, nothing had to be tidied
            pid = launcher.start_child(do="rebuild")
            os.kill(pid, signal.SIGUSR1)
            if midway % 3:
                time.sleep(chance.uniform(0, usual))  # the random moment
            else:
                await_draft(place.cache, usual)
            os.kill(pid, signal.SIGKILL)
            done = launcher.wait(pid)
            midway += done.code == -signal.SIGKILL and not done.out
            worst = max(worst, len(litter(place.cache)))
            drafts += any(name.endswith(".tmp") for name in litter(place.cache))
    print(f"{midway} builds killed, {drafts} times a draft was left, at most {worst} files at once")
    assert worst <= 4, "killed builds heap up files"
    check_the_next_build_tidies(place)
    assert json.loads(place.flask("warmcache", "status", "--json").stdout)["files"]["state"] == "fresh"


@pytest.mark.parametrize("warm", [True, False], ids=["replacement", "first"])
def test_a_builder_that_has_lost_its_lock_touches_nothing_that_the_next_has_published(
    make_place: Make, warm: bool
) -> None:
    place = make_place(items=40).with_gate()
    open_gate = {name: value for name, value in place.env.items() if name != "TEST_GATE"}
    quick = Place(place.folder, items=40)
    quick.env = open_gate
    if warm:
        assert quick.flask("warmcache", "rebuild", "files").returncode == 0
    for nth in range(1, 3):
        place.gate.unlink(missing_ok=True)
        command = place.flask_command("warmcache", "rebuild", "files")
        with place.started(command, stderr=subprocess.PIPE) as slow:
            place.builder_at_gate(nth)
            (place.cache / "files.lock").unlink()
            ran = quick.flask("warmcache", "rebuild", "files")
            assert ran.returncode == 0, ran.stderr
            newest = published(place.cache)
            place.gate.touch()
            said = slow.communicate(timeout=120)[1]
        assert slow.returncode != 0, "it published without its lock"
        assert "lock file" in said
        assert published(place.cache) == newest
        check_the_next_build_tidies(quick)
