"""Several tabs of one browser, online and offline, on a page without a secure context."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from .conftest import EventRecorder, asks_nothing, open_page
from .fake_server import STATUS, FakeServer

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

COUNTER = """
window.refreshes = 0;
addEventListener("warmcache:refreshed", () => (window.refreshes += 1));
"""


def open_tabs(server: FakeServer, page: Page, number: int, host: str) -> list[Page]:
    url = server.url.replace("127.0.0.1", host)
    page.context.add_init_script(COUNTER)
    tabs = [page, *(page.context.new_page() for _ in range(number - 1))]
    for tab in tabs:
        tab.goto(f"{url}/page")
    return tabs


def test_ten_tabs_poll_hardly_more_than_one(server: FakeServer, page: Page) -> None:
    server.script["interval"] = "1500"  # long beside the time in which a busy machine runs ten tabs' scripts
    server.become("stale", "g1", ["old"], rebuilding=True)
    tabs = open_tabs(server, page, 10, "intranet.example")
    assert page.evaluate("isSecureContext") is False
    before, began = server.count(STATUS), time.monotonic()
    page.evaluate("new Promise((resolve) => setTimeout(resolve, 6000))")
    asked, intervals = server.count(STATUS) - before, (time.monotonic() - began) / 1.5
    assert asked <= 4 * intervals + 2, "without sharing each tab would ask in each interval"
    server.become("fresh", "g2", ["new"])
    for tab in tabs:
        tab.locator("#files li", has_text="new").wait_for()
    page.evaluate("new Promise((resolve) => setTimeout(resolve, 500))")
    assert [tab.evaluate("refreshes") for tab in tabs] == [1] * 10
    assert server.count("/page") == 20


def test_offline_is_shown_and_online_polls_soon(server: FakeServer, page: Page, recorder: EventRecorder) -> None:
    server.above = '<warmcache-status for="files"></warmcache-status>'
    open_page(server, page)
    server.wait_for_hits(STATUS, 2)
    page.context.set_offline(True)
    page.locator("warmcache-status[state=offline]", has_text="Offline").wait_for()
    seen = server.count(STATUS)
    server.become("fresh", "g2", ["new"])
    asks_nothing(server, page, 0.5)
    page.context.set_offline(False)
    server.wait_for_hits(STATUS, seen + 1, within=20)
    recorder.wait_for(page, "refreshed")
    assert page.locator("#files li").text_content() == "new"


def test_stalled_list_can_be_checked_by_hand(server: FakeServer, page: Page, recorder: EventRecorder) -> None:
    server.above = '<warmcache-status for="files"></warmcache-status>'
    server.script["max-wait"] = "500"
    open_page(server, page)
    recorder.wait_for(page, "stalled")
    server.become("fresh", "g2", ["new"])
    asks_nothing(server, page, 0.3)
    page.get_by_role("button", name="Check again").click()
    recorder.wait_for(page, "refreshed")
    assert page.locator("#files li").text_content() == "new"


def test_refresh_waits_for_the_servers_spread(server: FakeServer, page: Page, recorder: EventRecorder) -> None:
    server.more = {"spread_ms": 1000}
    page.add_init_script("Math.random = () => 0.99")
    open_page(server, page)
    server.wait_for_hits(STATUS, 1)
    server.become("fresh", "g2", ["new"])
    page.wait_for_function("Warmcache.state('files') === 'ready'")
    assert server.count("/page") == 1
    recorder.wait_for(page, "refreshed")
    assert server.count("/page") == 2
