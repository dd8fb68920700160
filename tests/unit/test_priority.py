"""How a rebuilding child stands back: real processes, real processors."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from flask_warmcache.rebuild import priority
from flask_warmcache.rebuild.priority import NICE, Priority, lower

from .world import until

# Looks ten times a second beside its main thread, and says of which class this and the looking one are.
COMPUTING = """
import os, sys, threading, time
from flask_warmcache.rebuild.priority import Priority

def look():
    looking = Priority()
    while True:
        time.sleep(0.1)
        looking.look()
        print(os.sched_getscheduler(main), os.sched_getscheduler(0), flush=True)

main = threading.get_native_id()
threading.Thread(target=look, daemon=True).start()
threading.Event().wait() if "resting" in sys.argv else [None for _ in iter(int, 1)]
"""
STRANGER = "while True: pass"
pytestmark = pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="this system has no idle class")


@contextmanager
def process(code: str, *arguments: str, core: int | None = None) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", code, *arguments]
    if core is not None:
        command = ["taskset", "--cpu-list", str(core), *command]
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


@pytest.mark.parametrize("does", ["computing", "resting"])
def test_with_room_all_threads_but_the_one_that_looks_become_idle(does: str) -> None:
    with process(COMPUTING, does) as running:
        assert until(lambda: classes(running) == (os.SCHED_IDLE, os.SCHED_OTHER))


def test_beside_processes_that_never_rest_it_steps_back_only_when_they_are_gone() -> None:
    core = min(os.sched_getaffinity(0))
    with ExitStack() as strangers:
        for _ in range(4):
            strangers.enter_context(process(STRANGER, core=core))
        with process(COMPUTING, core=core) as running:
            assert [classes(running) for _ in range(8)] == [(os.SCHED_OTHER, os.SCHED_OTHER)] * 8
            strangers.close()
            assert until(lambda: classes(running)[0] == os.SCHED_IDLE)


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the kernel's with two threads that need not wait, and this one."""
    for task in ("1", "2", str(threading.get_native_id())):
        (tmp_path / task).mkdir()
        (tmp_path / task / "schedstat").write_text("10 0 1\n")
    monkeypatch.setattr(priority, "PROC", tmp_path)
    return tmp_path


def test_a_process_is_lowered_if_it_still_lives() -> None:
    with process(STRANGER) as gone:
        pass
    lower(gone.pid)
    with process(STRANGER) as running:
        before = os.getpriority(os.PRIO_PROCESS, running.pid)
        lower(running.pid)
        assert os.getpriority(os.PRIO_PROCESS, running.pid) == before + NICE


class Kernel:
    """Takes down which threads were to become idle: there is no way back for the one that runs the tests."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[int] = []
        self.refusal: OSError | None = None
        monkeypatch.setattr(os, "sched_setscheduler", self._set)

    def _set(self, task: int, policy: int, how: object) -> None:
        self.asked.append(task)
        if self.refusal is not None:
            raise self.refusal


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(monkeypatch)


@pytest.mark.parametrize(("waited", "asked"), [(0, 2), (1000, 2), (1001, 0)])
def test_it_steps_back_that_has_waited_for_half_of_its_time_at_most(
    tasks: Path, kernel: Kernel, waited: int, asked: int
) -> None:
    looking = Priority()
    (tasks / "2" / "schedstat").write_text(f"1010 {waited} 7\n")
    looking.look()
    assert len(kernel.asked) == asked


@pytest.mark.parametrize("says", [None, "", "nothing", "1"])
def test_where_the_kernel_does_not_say_how_long_was_waited_nothing_is_changed(
    tasks: Path, kernel: Kernel, says: str | None
) -> None:
    (tasks / "1" / "schedstat").unlink()
    if says is not None:
        (tasks / "1" / "schedstat").write_text(says)
    Priority().look()
    assert kernel.asked == []


def test_where_it_is_not_allowed_it_is_tried_once(tasks: Path, kernel: Kernel) -> None:
    looking = Priority()
    kernel.refusal = PermissionError()
    looking.look()
    looking.look()
    assert len(kernel.asked) == 1


def test_when_a_thread_ends_meanwhile_the_next_look_sees_to_the_others(tasks: Path, kernel: Kernel) -> None:
    looking = Priority()
    kernel.refusal = ProcessLookupError()
    looking.look()
    kernel.refusal = None
    looking.look()
    assert sorted(kernel.asked[1:]) == [1, 2]
    looking.look()
    assert len(kernel.asked) == 3
