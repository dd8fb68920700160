"""Run the recipes of docs/recipes.md unchanged, with the real libraries."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.docs.pages import DOCS, section
from tests.support.needs import node_module

from .conftest import EventRecorder
from .world import World

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

STATUS = "/api/cache/stats/files"
RECIPES = DOCS / "recipes.md"


def recipe(heading: str, language: str) -> str:
    """Return the code under a heading of the page."""
    found = re.search(rf"```{re.escape(language)}\n(.*?)```", section(RECIPES, f"## {heading}"), re.DOTALL)
    assert found is not None, f"no {language} under {heading}"
    return found[1]


def serve_script(world: World, folder: Path, path: str, text: str) -> None:
    (folder / "recipe.js").write_text(text)
    world.files[path] = folder / "recipe.js"


def test_a_json_list(world: World, page: Page, recorder: EventRecorder, tmp_path: Path) -> None:
    serve_script(world, tmp_path, "/list.js", recipe("A JSON list that the app renders", "js"))
    world.page_state = "fresh"  # the region of the test page is not used here
    world.become("stale", "g1", ["old"], rebuilding=True)
    world.foot = '<script defer src="/list.js"></script>'
    world.above = recipe("A JSON list that the app renders", "html")
    page.goto(f"{world.url}/page")
    page.locator("#rows li", has_text="old").wait_for()
    world.wait_for_hits(STATUS, 1)
    world.become("fresh", "g2", ["<b>new</b>"])
    page.locator("#rows li", has_text="<b>new</b>").wait_for()
    assert world.count("/api/files") == 2


def test_htmx(world: World, page: Page, recorder: EventRecorder, tmp_path: Path) -> None:
    world.files["/htmx.js"] = node_module("htmx.org") / "dist" / "htmx.min.js"
    serve_script(world, tmp_path, "/recipe.js", recipe("htmx", "js"))
    world.head = '<script defer src="/htmx.js"></script><script defer src="/recipe.js"></script>'
    world.refresh, world.attributes = (
        "event",
        dict(re.findall(r'(hx-[\w-]+)="([^"]*)"', recipe("htmx", "html+jinja"))),
    )
    assert world.attributes["hx-get"] == "/files/rows"
    world.attributes["hx-get"] = "/rows"
    world.become("stale", "g1", ["old"], rebuilding=True)
    page.goto(f"{world.url}/page")
    world.wait_for_hits(STATUS, 2)
    assert world.count("/rows") == 0
    world.become("stale", "g2", ["new"], rebuilding=False)
    page.locator("#files li", has_text="new").wait_for()
    assert world.count("/rows") == 1
    # A waiting region that htmx has inserted is attached again.
    page.wait_for_function("!document.querySelector('.htmx-added, .htmx-settling')")
    world.become("stale", "g2", ["new"], rebuilding=True)
    page.evaluate(
        "document.getElementById('files').dispatchEvent(new CustomEvent('warmcache:ready', { detail: {} }))"
    )
    world.wait_for_hits("/rows", 2)
    seen = world.count(STATUS)
    world.wait_for_hits(STATUS, seen + 1)
    world.become("fresh", "g3", ["newest"])
    page.locator("#files li", has_text="newest").wait_for()
    assert world.count("/rows") == 3


def test_turbo(world: World, page: Page, recorder: EventRecorder, tmp_path: Path) -> None:
    world.files["/turbo.js"] = node_module("@hotwired/turbo") / "dist" / "turbo.es2017-umd.js"
    serve_script(world, tmp_path, "/recipe.js", recipe("Turbo", "js"))
    world.head = (
        '<meta name="turbo-refresh-method" content="morph"><meta name="turbo-refresh-scroll" content="preserve">'
        '<script defer src="/turbo.js"></script><script defer src="/recipe.js"></script>'
    )
    world.refresh = "event"
    widget = '<warmcache-status id="line" data-turbo-permanent for="files"></warmcache-status>'
    world.above = f'<a href="/other">Other</a>{widget}'
    world.become("stale", "g1", ["old"], rebuilding=True)
    page.goto(f"{world.url}/page")
    page.evaluate("window.sameDocument = true")
    world.wait_for_hits(STATUS, 2)
    page.click("a")  # Turbo replaces the body, and the new region is attached
    page.wait_for_url("**/other")
    seen = world.count(STATUS)
    world.wait_for_hits(STATUS, seen + 2)
    world.become("fresh", "g2", ["new"])
    page.locator("#files li", has_text="new").wait_for()
    assert page.evaluate("sameDocument")
    page.wait_for_function("Warmcache.state('files') === 'fresh'")
    assert page.locator("warmcache-status > *").count() == 3
