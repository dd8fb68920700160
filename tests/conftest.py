"""What every folder of tests shares: the long tests' option, the watchdog, one browser, and its pages."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.support.needs import CHROMIUM_SWITCHES, need_chromium, need_module
from tests.support.orphans import guard

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

# In the background of a script an ignored Ctrl-C is inherited, and every server that a test interrupts would, too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the tests that take long, and only those")


def pytest_configure() -> None:
    guard()  # each process of pytest-xdist has a watchdog of its own


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the long tests, or all others."""
    chosen = [item for item in items if bool(item.get_closest_marker("long")) == config.getoption("long")]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(chosen)])
    # pytest-xdist cuts the list into a piece for each of its processes.  A process that has run its piece takes
    # tests from the end of another's.  So each piece begins with its part of the tests that take seconds.
    short = [item for item in chosen if item.path.parent.name == "unit"]
    other = [item for item in chosen if item.path.parent.name != "unit"]
    pieces = getattr(config, "workerinput", {}).get("workercount", 1)
    items[:] = [
        item
        for piece in range(pieces)
        for part in (other, short)
        for item in part[len(part) * piece // pieces : len(part) * (piece + 1) // pieces]
    ]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Return the system's Chromium.

    There is one for the whole run: Playwright's synchronous API exists once in a process.
    """
    need_module("playwright")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=need_chromium(), args=CHROMIUM_SWITCHES)
        yield running
        running.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """Open a browser context without stored data."""
    with browser.new_context(locale="en-GB", viewport={"width": 1280, "height": 900}) as fresh:
        fresh.set_default_timeout(20_000)
        yield fresh


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """Open a tab in which no script, console line or content policy may report a problem."""
    trouble: list[str] = []
    tab = context.new_page()
    tab.on("pageerror", lambda error: trouble.append(f"uncaught: {error}"))
    tab.on("console", lambda line: trouble.append(line.text) if line.type in ("error", "warning") else None)
    tab.add_init_script(
        "addEventListener('securitypolicyviolation',"
        " (event) => console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`))"
    )
    yield tab
    assert trouble == []
