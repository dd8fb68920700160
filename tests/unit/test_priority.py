"""How a rebuilding child stands back: real processes, real processors."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from flask_warmcache.host import priority
from flask_warmcache.host.priority import NICE, Priority, lower
from tests.benchmarks.load import pinned
from tests.support.waiting import until

# Looks ten times a second beside its main thread, and says of which class this and the looking one are.
COMPUTING = """
import os, sys, threading, time
from flask_warmcache.host.priority import Priority

def look():
    looking, has_seen = Priority(), False
    while True:
        time.sleep(0.1)
        has_seen = has_seen or looking.look()
        print(os.sched_getscheduler(main), os.sched_getscheduler(0), flush=True)

main = threading.get_native_id()
threading.Thread(target=look, daemon=True).start()
any(False for _ in iter(int, 1))
"""
STRANGER = "while True: pass"
pytestmark = pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="this system has no idle class")


@contextmanager
def process(code: str, core: int | None = None) -> Iterator[subprocess.Popen[str]]:
    command = [*pinned(core), sys.executable, "-c", code]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


def classes(running: subprocess.Popen[str]) -> tuple[int, int]:
    """Those of the main thread and of the one that looks."""
    assert running.stdout is not None
    main, looking = running.stdout.readline().split()
    return int(main), int(looking)


def test_with_room_all_threads_become_idle() -> None:
    with process(COMPUTING) as running:
        until(lambda: classes(running) == (os.SCHED_IDLE, os.SCHED_IDLE))


def test_what_began_beside_processes_that_never_rest_does_not_become_idle_behind_them() -> None:
    core = min(os.sched_getaffinity(0))
    with ExitStack() as strangers:
        for _ in range(4):
            strangers.enter_context(process(STRANGER, core=core))
        with process(COMPUTING, core=core) as running:
            assert [classes(running) for _ in range(4)] == [(os.SCHED_OTHER, os.SCHED_OTHER)] * 4
            strangers.close()
            assert [classes(running) for _ in range(4)] == [(os.SCHED_OTHER, os.SCHED_OTHER)] * 4


FIRST, SECOND = 1_000_001, 1_000_002


class Kernel:
    """Says what it is told of two threads, and takes down which were to become idle: there is no
    way back for the one that runs the tests.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.asked: list[int] = []
        self.refusals: list[OSError] = []
        for task in (FIRST, SECOND):
            self.say(task, 0, 0)
        monkeypatch.setattr(priority, "PROC", folder)
        monkeypatch.setattr(os, "sched_setscheduler", self._set)

    def say(self, task: int, ran: int, waited: int) -> None:
        """Milliseconds."""
        self.write(task, f"{ran * 1_000_000} {waited * 1_000_000} 7\n")

    def write(self, task: int, text: str) -> None:
        (self.folder / str(task)).mkdir(exist_ok=True)
        (self.folder / str(task) / "schedstat").write_text(text)

    def end(self, task: int) -> None:
        shutil.rmtree(self.folder / str(task))

    def _set(self, task: int, policy: int, how: object) -> None:
        self.asked.append(task)
        if self.refusals:
            raise self.refusals.pop()


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(tmp_path, monkeypatch)


@pytest.mark.parametrize(("waited", "asked"), [(0, 2), (100, 2), (101, 0)])
def test_only_what_has_waited_for_half_of_its_time_at_most_becomes_idle(
    kernel: Kernel, waited: int, asked: int
) -> None:
    looking = Priority()
    kernel.say(SECOND, 100, waited)
    assert looking.look()
    assert len(kernel.asked) == asked


def test_too_little_decides_nothing(kernel: Kernel) -> None:
    looking = Priority()
    kernel.say(FIRST, 15, 0)
    assert not looking.look()
    assert kernel.asked == []
    kernel.say(SECOND, 0, 15)
    assert looking.look()
    assert sorted(kernel.asked) == [FIRST, SECOND]


def test_what_an_ended_thread_had_waited_is_not_taken_off(kernel: Kernel) -> None:
    kernel.say(SECOND, 200, 2000)
    looking = Priority()
    kernel.say(FIRST, 50, 450)
    kernel.end(SECOND)
    looking.look()
    assert kernel.asked == []


def test_what_a_process_did_since_its_first_moment_tells_at_once(kernel: Kernel) -> None:
    kernel.say(FIRST, 40, 10)
    assert not Priority().look()
    assert Priority({}).look()
    assert sorted(kernel.asked) == [FIRST, SECOND]


@pytest.mark.parametrize("says", ["", "nothing", "1"])
def test_where_the_kernel_does_not_say_how_long_was_waited_nothing_is_changed(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, says: str
) -> None:
    looking = Priority()
    for task in (FIRST, SECOND):
        kernel.write(task, says)
    looking.look()
    monkeypatch.setattr(priority, "PROC", kernel.folder / "nowhere")
    looking.look()
    assert kernel.asked == []


@pytest.mark.parametrize(("refusal", "asked"), [(PermissionError(), 1), (ProcessLookupError(), 2)])
def test_what_is_refused_is_left_and_a_thread_that_has_ended_is_passed_over(
    kernel: Kernel, refusal: OSError, asked: int
) -> None:
    looking = Priority()
    kernel.say(FIRST, 100, 0)
    kernel.refusals = [refusal]
    assert looking.look()
    assert len(kernel.asked) == asked


def test_where_there_is_no_idle_class_nothing_is_changed(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "SCHED_IDLE")
    looking = Priority()
    kernel.say(FIRST, 100, 0)
    looking.look()
    assert kernel.asked == []


def test_what_may_not_be_niced_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def refuse(by: int) -> None:
        asked.append(by)
        raise PermissionError

    monkeypatch.setattr(os, "nice", refuse)
    lower()
    assert asked == [NICE]
