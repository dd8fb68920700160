"""Drive the system's Chromium with Playwright; each test has a new profile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.waiting import until

from .fake_server import STATUS, FakeServer, serve

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

# This runs in every page before other scripts. Unlike an inline script, it is not subject to the CSP.
RECORDER = """
for (const type of ["state", "progress", "ready", "refreshed", "blocked", "error", "stalled"]) {
  addEventListener("warmcache:" + type, (event) => {
    if (type === "blocked") window.proceed = event.detail.proceed;
    heard([type, JSON.parse(JSON.stringify(event.detail))]);
  });
}
addEventListener("securitypolicyviolation", (event) => {
  heard(["violation", { directive: event.violatedDirective }]);
});
"""


class EventRecorder:
    """The events of a page, in order."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def types(self) -> list[str]:
        return [kind for kind, _ in self.events if kind not in ("progress", "state")]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [detail for heard, detail in self.events if heard == kind]

    def wait_for(self, page: Page, kind: str, within: float = 60.0, **facts: Any) -> dict[str, Any]:
        """Wait for the first event of a kind with these facts, and return it."""
        return until(
            lambda: [detail for detail in self.of(kind) if facts.items() <= detail.items()],
            lambda: f"{kind} {facts}, only {self.events}",
            within,
            pause=lambda seconds: page.wait_for_timeout(1000 * seconds),
        )[0]


def open_page(server: FakeServer, page: Page, state: str = "stale") -> None:
    """Open the page while its list is rebuilt: a stale one with one old row, or a cold one without any."""
    generation, rows = ("g1", ["old"]) if state == "stale" else (None, [])
    server.become(state, generation, rows, rebuilding=True)
    page.goto(f"{server.url}/page")


def publish(server: FakeServer, page: Page, recorder: EventRecorder) -> None:
    """Publish a new list, and wait until the page has refreshed its region and shows the new row."""
    server.become("fresh", "g2", ["new"])
    recorder.wait_for(page, "refreshed")
    assert page.locator("#files li").all_text_contents() == ["new"]


def asks_nothing(server: FakeServer, page: Page, seconds: float) -> None:
    """Check that the page asks for no status for so many seconds."""
    seen = server.count(STATUS)
    page.wait_for_timeout(1000 * seconds)
    assert server.count(STATUS) == seen


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with serve(FakeServer()) as server:
        yield server


@pytest.fixture
def recorder() -> EventRecorder:
    return EventRecorder()


@pytest.fixture
def page(browser: Browser, recorder: EventRecorder) -> Iterator[Page]:
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(5000)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.expose_function("heard", lambda event: recorder.events.append((event[0], event[1])))
    page.add_init_script(RECORDER)
    yield page
    context.close()
    assert not errors
