"""A reader against a writer that publishes without a pause."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from contextlib import ExitStack

import pytest

from tests.support.launcher import Launcher
from tests.support.processes import python

from .cache_files import published

READERS = 2


@pytest.mark.parametrize("generations", [60, pytest.param(2000, marks=pytest.mark.long)])
def test_no_read_is_torn_or_goes_backwards(launcher: Launcher, generations: int) -> None:
    assert launcher.rebuild().code == 0
    pid = launcher.start_child(do="rebuild", times=10**6)
    os.kill(pid, signal.SIGUSR1)
    with ExitStack() as stack:
        stack.callback(os.kill, pid, signal.SIGKILL)
        command = python("-m", "tests.faults.reading", generations)
        readers = [stack.enter_context(launcher.place.started(command)) for _ in range(READERS)]
        counts = [json.loads(reader.communicate(timeout=60 + generations)[0]) for reader in readers]
    writer = launcher.wait(pid)
    print(f"\n{len(writer.out.split())} published: {counts}")
    assert [count["faults"] for count in counts] == [[]] * READERS
    assert min(count["reads"] for count in counts) >= 2 * generations, "too few reads to show anything"
    assert published(launcher.place.cache) is not None


@pytest.mark.parametrize("times", [100, pytest.param(3000, marks=pytest.mark.long)])
def test_each_look_sees_the_newest_of_publications_back_to_back(
    launcher: Launcher, times: int, chance: random.Random
) -> None:
    began = time.monotonic()
    done = launcher.run(do="publish and read", times=times, seed=chance.randrange(10**6))
    assert done.code == 0, done.err
    counts = json.loads(done.out)
    print(f"{counts} in {time.monotonic() - began:.1f} s")
    assert counts["published"] == times
    assert counts["reads"] >= times // 4
    assert counts["missed"] == 0
