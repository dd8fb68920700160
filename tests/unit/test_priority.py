"""How a rebuilding child yields to requests: with real processes on real processors."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest

from flask_warmcache.host import child_priority
from flask_warmcache.host.child_priority import NICE, Priority, lower
from tests.benchmarks.load import pinned
from tests.support.processes import python, read_line, started
from tests.support.waiting import until

# Computes in its main thread, and tries to decide ten times a second in another; prints lines once it could.
COMPUTING = """
import sys, threading, time
from flask_warmcache.host import child_priority

child_priority.MOST_WAITED = float(sys.argv[1])

def measure():
    measured, is_decided = child_priority.Priority(), False
    while True:
        time.sleep(0.1)
        is_decided = is_decided or measured.decide()  # once, as in the child
        if is_decided:
            print("decided", flush=True)

threading.Thread(target=measure, daemon=True).start()
any(False for _ in iter(int, 1))
"""
BUSY = "print(flush=True)\nwhile True: pass"
pytestmark = pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="this system has no idle class")


def process(
    code: str, *arguments: object, core: int | None = None
) -> AbstractContextManager[subprocess.Popen[str]]:
    return started([*pinned(core), *python("-c", code, *arguments)])


def classes(running: subprocess.Popen[str]) -> set[int]:
    """Return the scheduling classes of its threads; idle threads might hardly get time to tell them."""
    return {os.sched_getscheduler(int(task)) for task in os.listdir(f"/proc/{running.pid}/task")}


def wait_for_decisions(running: subprocess.Popen[str], number: int) -> None:
    assert [read_line(running) for _ in range(number)] == ["decided"] * number


def test_all_threads_become_idle() -> None:
    with process(COMPUTING, 1.0) as running:  # however long it has waited, since this machine may be busy
        until(lambda: classes(running) == {os.SCHED_IDLE})


def test_process_that_began_on_busy_core_never_becomes_idle() -> None:
    core = min(os.sched_getaffinity(0))
    with ExitStack() as others:
        for _ in range(4):
            read_line(others.enter_context(process(BUSY, core=core)))
        with process(COMPUTING, child_priority.MOST_WAITED, core=core) as running:
            wait_for_decisions(running, 4)
            assert classes(running) == {os.SCHED_OTHER}
            others.close()
            wait_for_decisions(running, 4)
            assert classes(running) == {os.SCHED_OTHER}


FIRST, SECOND = 1_000_001, 1_000_002


class Kernel:
    """Pretends that two threads have run and waited, and notes which are moved to the idle class.

    The process that runs the tests could not leave that class again.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.moved: list[int] = []
        self.refusals: list[OSError] = []
        for task in (FIRST, SECOND):
            self.schedule(task, 0, 0)
        monkeypatch.setattr(child_priority, "PROC", folder)
        monkeypatch.setattr(os, "sched_setscheduler", self._set)

    def schedule(self, task: int, ran: int, waited: int) -> None:
        """Let a thread have run and waited for so many milliseconds."""
        self.write(task, f"{ran * 1_000_000} {waited * 1_000_000} 7\n")

    def write(self, task: int, text: str) -> None:
        (self.folder / str(task)).mkdir(exist_ok=True)
        (self.folder / str(task) / "schedstat").write_text(text)

    def end(self, task: int) -> None:
        shutil.rmtree(self.folder / str(task))

    def _set(self, task: int, policy: int, how: object) -> None:
        self.moved.append(task)
        if self.refusals:
            raise self.refusals.pop()


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(tmp_path, monkeypatch)


@pytest.mark.parametrize(("waited", "moved"), [(0, 2), (100, 2), (101, 0)])
def test_threads_that_waited_no_longer_than_they_ran_become_idle(kernel: Kernel, waited: int, moved: int) -> None:
    measured = Priority()
    kernel.schedule(SECOND, 100, waited)
    assert measured.decide()
    assert len(kernel.moved) == moved


def test_short_measurement_decides_nothing(kernel: Kernel) -> None:
    measured = Priority()
    kernel.schedule(FIRST, 15, 0)
    assert not measured.decide()
    assert kernel.moved == []
    kernel.schedule(SECOND, 0, 15)
    assert measured.decide()
    assert sorted(kernel.moved) == [FIRST, SECOND]


def test_ended_thread_does_not_reduce_measured_waiting(kernel: Kernel) -> None:
    kernel.schedule(SECOND, 200, 2000)
    measured = Priority()
    kernel.schedule(FIRST, 50, 450)
    kernel.end(SECOND)
    measured.decide()
    assert kernel.moved == []


def test_time_since_start_of_process_can_decide_at_once(kernel: Kernel) -> None:
    kernel.schedule(FIRST, 40, 10)
    assert not Priority().decide()
    assert Priority({}).decide()
    assert sorted(kernel.moved) == [FIRST, SECOND]


@pytest.mark.parametrize("says", ["", "nothing", "1"])
def test_without_schedstat_nothing_is_changed(kernel: Kernel, monkeypatch: pytest.MonkeyPatch, says: str) -> None:
    measured = Priority()
    for task in (FIRST, SECOND):
        kernel.write(task, says)
    measured.decide()
    monkeypatch.setattr(child_priority, "PROC", kernel.folder / "nowhere")
    measured.decide()
    assert kernel.moved == []


@pytest.mark.parametrize(("refusal", "moved"), [(PermissionError(), 1), (ProcessLookupError(), 2)])
def test_refusal_ends_change_and_ended_thread_is_skipped(kernel: Kernel, refusal: OSError, moved: int) -> None:
    measured = Priority()
    kernel.schedule(FIRST, 100, 0)
    kernel.refusals = [refusal]
    assert measured.decide()
    assert len(kernel.moved) == moved


def test_without_idle_class_nothing_is_changed(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "SCHED_IDLE")
    measured = Priority()
    kernel.schedule(FIRST, 100, 0)
    measured.decide()
    assert kernel.moved == []


def test_process_that_may_not_be_niced_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def refuse(by: int) -> None:
        asked.append(by)
        raise PermissionError

    monkeypatch.setattr(os, "nice", refuse)
    lower()
    assert asked == [NICE]
