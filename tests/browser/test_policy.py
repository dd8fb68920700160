"""The poller works with strict content security policies: it needs no inline code and no eval."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .conftest import EventRecorder, open_page, publish
from .fake_server import WIDGET, FakeServer

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

POLICIES = {
    "self only": "default-src 'none'; script-src 'self'; connect-src 'self'",
    "nonce only": "default-src 'none'; script-src 'nonce-abc'; connect-src 'self'",
    "strict dynamic": "default-src 'none'; script-src 'nonce-abc' 'strict-dynamic'; connect-src 'self'",
    "Trusted Types": "script-src 'self'; require-trusted-types-for 'script'; trusted-types 'none'",
}


@pytest.mark.parametrize("name", POLICIES)
def test_nothing_violates_the_policy(server: FakeServer, page: Page, recorder: EventRecorder, name: str) -> None:
    complaints: list[str] = []
    page.on("console", lambda line: complaints.append(line.text) if line.type in ("error", "warning") else None)
    server.csp, server.above = f"{POLICIES[name]}; base-uri 'none'; img-src 'self'", WIDGET
    server.nonce = "abc" if "nonce" in POLICIES[name] else ""
    open_page(server, page, "cold")
    # Do not use wait_for_function: Playwright would evaluate it, which the policy refuses.
    page.locator('warmcache-progress progress[value="0.25"]').wait_for()
    publish(server, page, recorder)
    assert recorder.of("violation") == []
    assert [text for text in complaints if "404" not in text] == []  # the favicon is missing


def test_policy_without_requests_causes_a_message(server: FakeServer, page: Page, recorder: EventRecorder) -> None:
    server.csp, server.above = "default-src 'none'; script-src 'self'; connect-src 'none'", WIDGET
    open_page(server, page)
    assert recorder.wait_for(page, "error")["code"] == "network"
    page.locator("warmcache-status[state=error]", has_text="No news").wait_for()
    assert {one["directive"] for one in recorder.of("violation")} == {"connect-src"}
    assert page.locator("#files li").text_content() == "old"
