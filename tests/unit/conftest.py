"""Keep keepers from running unless a test needs live ones, and clean up after each test."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from flask_warmcache import state
from flask_warmcache.keeper.keeper import Keeper
from tests.support.apps import Shop, stop
from tests.support.late_blueprints import calm_shop as calm_shop
from tests.support.late_blueprints import quick_shop as quick_shop
from tests.support.shelf import Shelf
from tests.support.waiting import until

settings.register_profile(
    "unit",
    database=None,  # it would leave a folder behind
    deadline=None,  # the machine may be busy
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("unit")


@pytest.fixture
def live() -> None:
    """Let keepers run as in a worker; other tests call ``tick`` themselves."""


@pytest.fixture(autouse=True)
def _nothing_stays(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep keepers from starting, or stop them after the test; check that no thread outlives it."""
    threads, interval = set(threading.enumerate()), sys.getswitchinterval()
    if "live" not in request.fixturenames:
        monkeypatch.setattr(Keeper, "ensure", lambda self: None)
    yield
    for one in list(state._states):
        if one._opened:
            stop(one.keeper)
    state._states.clear()
    left = {thread for thread in threading.enumerate() if thread not in threads}
    until(lambda: not any(thread.is_alive() for thread in left), lambda: left)
    assert sys.getswitchinterval() == interval


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """Return an app with one list; the test moves its keeper."""
    return Shop(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a cache folder that does not exist yet."""
    return tmp_path / "cache"


@pytest.fixture
def shelf(folder: Path) -> Shelf:
    """Return a list in that folder, without Flask."""
    return Shelf(folder)
