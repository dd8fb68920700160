"""How a rebuilding child stands back: real processes, real processors."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest

from flask_warmcache.host import priority
from flask_warmcache.host.priority import NICE, Priority, lower
from tests.benchmarks.load import pinned
from tests.support.processes import line_of, python, started
from tests.support.waiting import until

# Computes in its main thread and looks ten times a second in another; says when a look has told enough.
COMPUTING = """
import sys, threading, time
from flask_warmcache.host import priority

priority.MOST_WAITED = float(sys.argv[1])

def look():
    looking = priority.Priority()
    while True:
        time.sleep(0.1)
        if looking.decide():
            print("told", flush=True)

threading.Thread(target=look, daemon=True).start()
any(False for _ in iter(int, 1))
"""
STRANGER = "while True: pass"
pytestmark = pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="this system has no idle class")


def process(
    code: str, *arguments: object, core: int | None = None
) -> AbstractContextManager[subprocess.Popen[str]]:
    return started([*pinned(core), *python("-c", code, *arguments)])


def classes(running: subprocess.Popen[str]) -> set[int]:
    """The scheduling classes of its threads; asked from here, since idle threads may hardly get to answer."""
    return {os.sched_getscheduler(int(task)) for task in os.listdir(f"/proc/{running.pid}/task")}


def wait_for_looks(running: subprocess.Popen[str], number: int) -> None:
    assert [line_of(running) for _ in range(number)] == ["told"] * number


def test_all_threads_become_idle() -> None:
    with process(COMPUTING, 1.0) as running:  # however long it had to wait: other processes may keep the CPUs busy
        until(lambda: classes(running) == {os.SCHED_IDLE})


def test_what_began_beside_processes_that_never_rest_does_not_become_idle_behind_them() -> None:
    core = min(os.sched_getaffinity(0))
    with ExitStack() as strangers:
        for _ in range(4):
            strangers.enter_context(process(STRANGER, core=core))
        with process(COMPUTING, priority.MOST_WAITED, core=core) as running:
            wait_for_looks(running, 4)
            assert classes(running) == {os.SCHED_OTHER}
            strangers.close()
            wait_for_looks(running, 4)
            assert classes(running) == {os.SCHED_OTHER}


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
    assert looking.decide()
    assert len(kernel.asked) == asked


def test_too_little_decides_nothing(kernel: Kernel) -> None:
    looking = Priority()
    kernel.say(FIRST, 15, 0)
    assert not looking.decide()
    assert kernel.asked == []
    kernel.say(SECOND, 0, 15)
    assert looking.decide()
    assert sorted(kernel.asked) == [FIRST, SECOND]


def test_what_an_ended_thread_had_waited_is_not_taken_off(kernel: Kernel) -> None:
    kernel.say(SECOND, 200, 2000)
    looking = Priority()
    kernel.say(FIRST, 50, 450)
    kernel.end(SECOND)
    looking.decide()
    assert kernel.asked == []


def test_what_a_process_did_since_its_first_moment_tells_at_once(kernel: Kernel) -> None:
    kernel.say(FIRST, 40, 10)
    assert not Priority().decide()
    assert Priority({}).decide()
    assert sorted(kernel.asked) == [FIRST, SECOND]


@pytest.mark.parametrize("says", ["", "nothing", "1"])
def test_where_the_kernel_does_not_say_how_long_was_waited_nothing_is_changed(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, says: str
) -> None:
    looking = Priority()
    for task in (FIRST, SECOND):
        kernel.write(task, says)
    looking.decide()
    monkeypatch.setattr(priority, "PROC", kernel.folder / "nowhere")
    looking.decide()
    assert kernel.asked == []


@pytest.mark.parametrize(("refusal", "asked"), [(PermissionError(), 1), (ProcessLookupError(), 2)])
def test_what_is_refused_is_left_and_a_thread_that_has_ended_is_passed_over(
    kernel: Kernel, refusal: OSError, asked: int
) -> None:
    looking = Priority()
    kernel.say(FIRST, 100, 0)
    kernel.refusals = [refusal]
    assert looking.decide()
    assert len(kernel.asked) == asked


def test_where_there_is_no_idle_class_nothing_is_changed(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "SCHED_IDLE")
    looking = Priority()
    kernel.say(FIRST, 100, 0)
    looking.decide()
    assert kernel.asked == []


def test_what_may_not_be_niced_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def refuse(by: int) -> None:
        asked.append(by)
        raise PermissionError

    monkeypatch.setattr(os, "nice", refuse)
    lower()
    assert asked == [NICE]
