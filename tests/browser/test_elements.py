"""<warmcache-status> and <warmcache-progress>: what they show, and what a screen reader announces."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from .axe import violations
from .conftest import EventRecorder, open_page
from .fake_server import WIDGET, FakeServer

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

LINE = "warmcache-status [role=status]"
SPOKEN = """
window.spoken = [];
const line = document.querySelector("warmcache-status [role=status]");
new MutationObserver(() => spoken.push(line.textContent))
  .observe(line, { subtree: true, childList: true, characterData: true });
"""


def says(page: Page, text: str) -> None:
    page.locator(LINE, has_text=text).wait_for()


def test_widget_is_accessible_in_every_state(server: FakeServer, page: Page, recorder: EventRecorder) -> None:
    server.above, server.refresh = WIDGET, "prompt"
    page.goto(f"{server.url}/page")
    assert violations(page) == []
    server.become("stale", "g1", ["old"], rebuilding=True)
    page.reload()
    says(page, "Updating")
    assert violations(page) == []
    server.become("fresh", "g2", ["new"])
    says(page, "Update available")
    assert violations(page) == []
    button = page.get_by_role("button", name="Refresh")
    button.focus()
    page.keyboard.press("Enter")
    says(page, "Up to date")
    assert page.locator("#files li").text_content() == "new"
    # The focus does not move: a focused button disappears only after it has lost the focus.
    assert page.evaluate("document.activeElement.localName") == "button"
    page.keyboard.press("Tab")
    button.wait_for(state="hidden")


def test_only_a_cold_region_is_busy(server: FakeServer, page: Page, recorder: EventRecorder) -> None:
    open_page(server, page)
    assert page.locator("#files").get_attribute("aria-busy") is None
    server.become("cold", None, [], rebuilding=True)
    page.reload()
    assert page.locator("#files").get_attribute("aria-busy") == "true"


def test_a_hundred_steps_are_announced_by_few_texts(
    server: FakeServer, page: Page, recorder: EventRecorder
) -> None:
    server.above, server.refresh = WIDGET, "event"
    open_page(server, page)
    page.evaluate(SPOKEN)
    page.evaluate(
        """async () => {
          const status = (done) => new Response(JSON.stringify(done < 100
            ? { state: "stale", generation: "g1", cache_rebuilding: true, progress: { done, total: 100 } }
            : { state: "fresh", generation: "g2", cache_rebuilding: false, progress: null }));
          let done = 0;
          await new Promise((resolve) => {
            Warmcache.env.fetch = async () => status((done += 1));
            Warmcache.env.setTimeout = (call, delay) => setTimeout(call, delay / 10);
            addEventListener("warmcache:ready", resolve);
          });
        }"""
    )
    says(page, "Up to date")
    spoken = page.evaluate("spoken")
    assert len(spoken) <= 6 and len(set(spoken)) == len(spoken), spoken


def test_late_element_reads_the_state(server: FakeServer, page: Page) -> None:
    open_page(server, page)
    page.wait_for_function("Warmcache.state('files') === 'stale'")
    page.evaluate(
        """() => {
          const late = document.createElement("warmcache-status");
          late.setAttribute("for", "files");
          document.body.append(late);
        }"""
    )
    says(page, "Updating")


def test_texts_come_from_attributes_also_in_a_copy(server: FakeServer, page: Page) -> None:
    texts = {"text-stale": "Wird erneuert", "label": "Fortschritt"}
    attributes = " ".join(f"{name}={json.dumps(text)}" for name, text in texts.items())
    server.above = f'<warmcache-status for="files" {attributes}><span role="status"></span></warmcache-status>'
    open_page(server, page)
    says(page, "Wird erneuert")
    assert page.get_by_role("progressbar", name="Fortschritt").count() == 1
    # Turbo does this with a page that it shows again from its cache.
    page.evaluate("(one) => one.replaceWith(one.cloneNode(true))", page.query_selector("warmcache-status"))
    says(page, "Wird erneuert")
    assert page.locator("warmcache-status > *").count() == 3


def test_widget_respects_reduced_motion_and_forced_colours(server: FakeServer, page: Page) -> None:
    server.above = WIDGET
    server.become("stale", "g1", ["old"], rebuilding=True)
    page.emulate_media(reduced_motion="reduce", forced_colors="active")
    page.goto(f"{server.url}/page")
    says(page, "Updating")
    assert page.evaluate("document.getAnimations().length") == 0
    colour = "getComputedStyle(document.querySelector('{}')).color"
    assert page.evaluate(colour.format(LINE)) == page.evaluate(colour.format("h1"))
    assert violations(page) == []
