"""A deadline on every test, and a place of its own for each."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.conftest import Make as Make
from tests.server.conftest import make_place as make_place
from tests.server.conftest import place as place
from tests.support.launcher import Launcher, launcher_for
from tests.support.places import Place

DEADLINE, LONG_DEADLINE = 300, 1800  # seconds; a test that needs more says so with its own alarm


@pytest.fixture(autouse=True)
def _deadline(request: pytest.FixtureRequest) -> Iterator[None]:
    """A fault that makes something wait for ever must not make the run wait for ever."""

    def over(*_: object) -> None:
        raise AssertionError("the test's time is over")

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(LONG_DEADLINE if request.node.get_closest_marker("long") else DEADLINE)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def chance() -> random.Random:
    """Chance that can be repeated with ``TEST_SEED``."""
    seed = int(os.environ.get("TEST_SEED", time.time_ns() % 1_000_000))
    print(f"\nTEST_SEED={seed}")
    return random.Random(seed)


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[Launcher]:
    """A launcher of processes that rebuild a small list."""
    with launcher_for(Place(tmp_path, items=40)) as started:
        yield started
