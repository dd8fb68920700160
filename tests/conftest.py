"""What every folder of tests shares: the long tests' option, the watchdog, and one browser."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NoReturn

import pytest

from .support.orphans import guard

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# In the background of a script an ignored Ctrl-C is inherited, and every server that a test interrupts would, too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
SWITCHES = [
    "--headless",
    "--no-sandbox",  # tests may run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP intranet.example 127.0.0.1",  # plain http on a name: no secure context
]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the tests that take long, and only those")


def pytest_configure() -> None:
    guard()  # each process of pytest-xdist has a watchdog of its own


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the long tests, or all others."""
    chosen = [item for item in items if bool(item.get_closest_marker("long")) == config.getoption("long")]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(chosen)])
    items[:] = chosen


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The system's Chromium; without one the tests are skipped, but fail where CI says that they count.

    One for the whole run: Playwright's synchronous API exists once in a process.
    """
    refuse: Callable[[str], NoReturn] = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        refuse("no Playwright: pip install playwright (without browsers of its own)")
    found = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if found is None:
        refuse("no Chromium on PATH. On Debian: apt-get install --no-install-recommends chromium")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=found, args=SWITCHES)
        yield running
        running.close()
