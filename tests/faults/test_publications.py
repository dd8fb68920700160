"""A reader against a writer that publishes without a pause."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from .world import HERE, Mother, published

READERS = 2


@pytest.mark.parametrize("generations", [60, pytest.param(2000, marks=pytest.mark.long)])
def test_no_read_is_torn_or_goes_backwards(mother: Mother, generations: int) -> None:
    assert mother.rebuild().code == 0
    pid = mother.bear(do="rebuild", times=10**6)
    os.kill(pid, signal.SIGUSR1)
    env = mother.place.env | {"PYTHONPATH": os.fspath(HERE.parents[1])}
    readers = [
        subprocess.Popen(
            [sys.executable, "-W", "error", HERE / "reading.py", f"{generations}"], env=env, stdout=-1
        )
        for _ in range(READERS)
    ]
    try:
        counts = [json.loads(reader.communicate(timeout=60 + generations)[0]) for reader in readers]
    finally:
        for reader in readers:
            reader.kill()
        os.kill(pid, signal.SIGKILL)
    writer = mother.wait()
    print(f"\n{len(writer.out.split())} published: {counts}")
    assert [count["faults"] for count in counts] == [[]] * READERS
    assert min(count["reads"] for count in counts) >= 2 * generations, "too few reads to show anything"
    assert published(mother.place.cache) is not None


@pytest.mark.parametrize("times", [100, pytest.param(3000, marks=pytest.mark.long)])
def test_each_look_sees_the_newest_of_publications_back_to_back(
    mother: Mother, times: int, chance: random.Random
) -> None:
    began = time.monotonic()
    done = mother.run(do="look", times=times, seed=chance.randrange(10**6))
    assert done.code == 0, done.err
    counts = json.loads(done.out)
    print(f"{counts} in {time.monotonic() - began:.1f} s")
    assert counts["published"] == times
    assert counts["looks"] >= times // 4
    assert counts["missed"] == 0
