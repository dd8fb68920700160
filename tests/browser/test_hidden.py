"""Hidden tabs and the back/forward cache, with Selenium, because Playwright keeps every page visible."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.support.needs import CHROMIUM_SWITCHES, need_chromium, need_module, need_program
from tests.support.waiting import until

from .fake_server import STATUS, FakeServer, serve

if TYPE_CHECKING:
    from selenium.webdriver.remote.webdriver import WebDriver

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebDriver]:
    need_module("selenium")
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = need_chromium()  # otherwise Selenium's manager would download one
    for switch in (*CHROMIUM_SWITCHES, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(switch)
    running = Chrome(options=options, service=Service(need_program("chromedriver", package="chromium-driver")))
    running.set_script_timeout(20)
    yield running
    running.quit()


@pytest.fixture
def server() -> Iterator[FakeServer]:
    server = FakeServer()
    server.become("stale", "g1", ["old"], rebuilding=True)
    with serve(server) as served:
        yield served


@pytest.fixture
def tab(driver: WebDriver, server: FakeServer) -> Iterator[WebDriver]:
    """Open the page in a new tab in the foreground."""
    before = driver.current_window_handle
    driver.switch_to.new_window("tab")
    driver.get(f"{server.url}/page")
    yield driver
    driver.close()
    driver.switch_to.window(before)


def is_hidden(tab: WebDriver) -> bool:
    return bool(tab.execute_script("return document.hidden"))


def asks_nothing(server: FakeServer, duration: float) -> None:
    """Wait a moment for running requests, then check that none follows within so many seconds."""
    time.sleep(0.2)
    seen = server.count(STATUS)
    time.sleep(duration)
    assert server.count(STATUS) == seen


def shows(tab: WebDriver, text: str) -> None:
    until(lambda: tab.execute_script("return document.querySelector('#files li').textContent") == text, text)


def test_background_tab_does_not_poll_until_it_is_shown(tab: WebDriver, server: FakeServer) -> None:
    server.wait_for_hits(STATUS, 2)
    front = tab.current_window_handle
    tab.switch_to.new_window("tab")
    asks_nothing(server, 1.5)  # fifteen intervals
    server.become("fresh", "g2", ["new"])
    seen = server.count(STATUS)
    tab.close()
    tab.switch_to.window(front)
    server.wait_for_hits(STATUS, seen + 1, within=30)
    shows(tab, "new")


def test_minimised_window_does_not_poll(tab: WebDriver, server: FakeServer) -> None:
    server.wait_for_hits(STATUS, 2)
    tab.minimize_window()
    until(lambda: is_hidden(tab), "hidden page")
    asks_nothing(server, 1.0)
    seen = server.count(STATUS)
    tab.set_window_rect(0, 0, 800, 600)
    until(lambda: not is_hidden(tab), "visible page")
    server.wait_for_hits(STATUS, seen + 1, within=30)


@pytest.mark.parametrize("other_tab_asks", [False, True], ids=["alone", "while another tab asks"])
def test_page_from_the_back_forward_cache_resumes_polling(
    tab: WebDriver, server: FakeServer, other_tab_asks: bool
) -> None:
    server.wait_for_hits(STATUS, 2)
    if other_tab_asks:
        # A message would evict a page from the cache. A page in another window stays visible meanwhile.
        first = tab.current_window_handle
        tab.switch_to.new_window("window")
        tab.get(f"{server.url}/page")
        second = tab.current_window_handle
        tab.switch_to.window(first)
    tab.execute_script("window.mark = 'the same document'")
    tab.get(f"{server.url}/login")
    if not other_tab_asks:
        asks_nothing(server, 0.5)
    seen = server.count(STATUS)
    if other_tab_asks:
        server.wait_for_hits(STATUS, seen + 3)
    tab.back()
    reasons = "return JSON.stringify(performance.getEntriesByType('navigation')[0].notRestoredReasons)"
    assert tab.execute_script("return window.mark") == "the same document", tab.execute_script(reasons)
    seen = server.count(STATUS)
    server.wait_for_hits(STATUS, seen + 1, within=30)
    server.become("fresh", "g2", ["new"])
    shows(tab, "new")
    if other_tab_asks:
        first = tab.current_window_handle
        tab.switch_to.window(second)
        shows(tab, "new")
        tab.close()
        tab.switch_to.window(first)
