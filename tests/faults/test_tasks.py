"""One-time tasks among processes that race for them and are killed at any moment: never two runs at a time."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from tests.support.processes import CHECKOUT
from tests.support.waiting import until

TASKS = 20
PROCESSES = 6
STORM = 4.0  # seconds

# Ensures all tasks, in an order of its own, from the moment on that the file "go" is there. A task's run holds a
# lock of its own, which the kernel frees with the process: whoever finds it taken runs beside another.
PROCESS = """
import fcntl, os, random, sys, time
from flask import Flask
from flask_warmcache import TaskNotReadyError, WarmCache
folder, seconds = sys.argv[1], float(sys.argv[2])
app = Flask("shop")
app.config.update(WARMCACHE_DIR=f"{folder}/cache", WARMCACHE_RETRY_MIN=0.01, WARMCACHE_RETRY_MAX=0.02)
warmcache = WarmCache(app)
log = os.open(f"{folder}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def declare(name):
    @warmcache.once(name, version=name)
    def task():
        guard = os.open(f"{folder}/guard-{name}", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.write(log, f"beside {name}\\n".encode())
        os.write(log, f"begun {name}\\n".encode())
        time.sleep(random.uniform(0, seconds))
        os.write(log, f"done {name}\\n".encode())
        os.close(guard)

names = [f"task-{number}" for number in range(int(sys.argv[3]))]
for name in names:
    declare(name)
while not os.path.exists(f"{folder}/go"):
    time.sleep(0.001)
with app.app_context():
    for name in random.sample(names, len(names)):
        while True:
            try:
                warmcache.ensure(name, wait=15)
                break
            except TaskNotReadyError:
                time.sleep(0.01)
"""


def start(folder: Path, seconds: float) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", PROCESS, str(folder), str(seconds), str(TASKS)],
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
    )


def log(folder: Path) -> Counter[str]:
    """How often each line stands there."""
    path = folder / "log"
    return Counter(path.read_text().splitlines() if path.exists() else [])


def end(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.kill()
        process.wait(120)


def test_processes_that_race_for_tasks_run_each_of_them_once(tmp_path: Path) -> None:
    processes = [start(tmp_path, 0.01) for _ in range(PROCESSES)]
    try:
        (tmp_path / "go").touch()
        assert [process.wait(60) for process in processes] == [0] * PROCESSES
    finally:
        end(processes)
    assert log(tmp_path) == Counter(
        {f"{what} task-{number}": 1 for what in ("begun", "done") for number in range(TASKS)}
    )


def test_in_a_storm_of_kills_every_task_is_done_and_no_two_runs_are_beside_each_other(tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    chance = random.Random(5)
    processes = [start(tmp_path, 0.3) for _ in range(PROCESSES)]
    kills = 0
    try:
        until(lambda: log(tmp_path), "the first task")
        finish = time.monotonic() + STORM
        while time.monotonic() < finish:
            time.sleep(chance.uniform(0, 0.1))  # a kill at any moment
            victim = chance.choice(processes)
            if victim.poll() is None:
                victim.send_signal(signal.SIGKILL)
                kills += 1
            victim.wait(120)
            processes[processes.index(victim)] = start(tmp_path, 0.3)
        assert [process.wait(120) for process in processes] == [0] * PROCESSES
    finally:
        end(processes)
    told = log(tmp_path)
    assert kills > 5
    assert not [line for line in told if line.startswith("beside")], told
    assert {line for line in told if line.startswith("done")} == {f"done task-{number}" for number in range(TASKS)}
    left = {path.name for path in (tmp_path / "cache").iterdir()}
    assert not [name for name in left if name.endswith(".tmp")], "drafts of the dead"
