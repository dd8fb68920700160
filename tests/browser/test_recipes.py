"""Run the recipes of docs/recipes.md unchanged, with the real libraries."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.docs.pages import DOCS, section
from tests.support.needs import node_module

from .conftest import EventRecorder, open_page
from .fake_server import STATUS, FakeServer

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

RECIPES = DOCS / "recipes.md"


def recipe(heading: str, language: str) -> str:
    """Return the code under a heading of the page."""
    found = re.search(rf"```{re.escape(language)}\n(.*?)```", section(RECIPES, f"## {heading}"), re.DOTALL)
    assert found is not None, f"no {language} under {heading}"
    return found[1]


def serve_script(server: FakeServer, folder: Path, path: str, text: str) -> None:
    (folder / "recipe.js").write_text(text)
    server.files[path] = folder / "recipe.js"


def test_a_json_list(server: FakeServer, page: Page, recorder: EventRecorder, tmp_path: Path) -> None:
    serve_script(server, tmp_path, "/list.js", recipe("A JSON list that the app renders", "js"))
    server.page_state = "fresh"  # the region of the test page is not used here
    server.become("stale", "g1", ["old"], rebuilding=True)
    server.foot = '<script defer src="/list.js"></script>'
    server.above = recipe("A JSON list that the app renders", "html")
    page.goto(f"{server.url}/page")
    page.locator("#rows li", has_text="old").wait_for()
    server.wait_for_hits(STATUS, 1)
    server.become("fresh", "g2", ["<b>new</b>"])
    page.locator("#rows li", has_text="<b>new</b>").wait_for()
    assert server.count("/api/files") == 2


def test_htmx(server: FakeServer, page: Page, recorder: EventRecorder, tmp_path: Path) -> None:
    server.files["/htmx.js"] = node_module("htmx.org") / "dist" / "htmx.min.js"
    serve_script(server, tmp_path, "/recipe.js", recipe("htmx", "js"))
    server.head = '<script defer src="/htmx.js"></script><script defer src="/recipe.js"></script>'
    server.refresh, server.attributes = (
        "event",
        dict(re.findall(r'(hx-[\w-]+)="([^"]*)"', recipe("htmx", "html+jinja"))),
    )
    assert server.attributes["hx-get"] == "/files/rows"
    server.attributes["hx-get"] = "/rows"
    open_page(server, page)
    server.wait_for_hits(STATUS, 2)
    assert server.count("/rows") == 0
    server.become("stale", "g2", ["new"], rebuilding=False)
    page.locator("#files li", has_text="new").wait_for()
    assert server.count("/rows") == 1
    # A waiting region that htmx has inserted is attached again.
    page.wait_for_function("!document.querySelector('.htmx-added, .htmx-settling')")
    server.become("stale", "g2", ["new"], rebuilding=True)
    page.evaluate(
        "document.getElementById('files').dispatchEvent(new CustomEvent('warmcache:ready', { detail: {} }))"
    )
    server.wait_for_hits("/rows", 2)
    seen = server.count(STATUS)
    server.wait_for_hits(STATUS, seen + 1)
    server.become("fresh", "g3", ["newest"])
    page.locator("#files li", has_text="newest").wait_for()
    assert server.count("/rows") == 3


def test_turbo(server: FakeServer, page: Page, recorder: EventRecorder, tmp_path: Path) -> None:
    server.files["/turbo.js"] = node_module("@hotwired/turbo") / "dist" / "turbo.es2017-umd.js"
    serve_script(server, tmp_path, "/recipe.js", recipe("Turbo", "js"))
    server.head = (
        '<meta name="turbo-refresh-method" content="morph"><meta name="turbo-refresh-scroll" content="preserve">'
        '<script defer src="/turbo.js"></script><script defer src="/recipe.js"></script>'
    )
    server.refresh = "event"
    widget = '<warmcache-status id="line" data-turbo-permanent for="files"></warmcache-status>'
    server.above = f'<a href="/other">Other</a>{widget}'
    open_page(server, page)
    page.evaluate("window.sameDocument = true")
    server.wait_for_hits(STATUS, 2)
    page.click("a")  # Turbo replaces the body, and the new region is attached
    page.wait_for_url("**/other")
    seen = server.count(STATUS)
    server.wait_for_hits(STATUS, seen + 2)
    server.become("fresh", "g2", ["new"])
    page.locator("#files li", has_text="new").wait_for()
    assert page.evaluate("sameDocument")
    page.wait_for_function("Warmcache.state('files') === 'fresh'")
    assert page.locator("warmcache-status > *").count() == 3
