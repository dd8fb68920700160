"""The status page and its button, with several workers of gunicorn and a browser."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.places import Place
from tests.support.servers import OUR_CONF, Server, gunicorn_server
from tests.support.waiting import until

from .conftest import Make

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

THREADS = ("--worker-class", "gthread", "--threads", "4", *OUR_CONF)
PATH = "/api/cache/"
ARTICLE = "#warmcache-files"


@pytest.fixture
def asking(make_place: Make) -> Place:
    """Return an app in which everybody may always ask for a rebuild; builds pause while there is no gate file."""
    return make_place(rebuild=1, refresh_interval=0).with_gate()


def test_asking_one_worker_rebuilds_the_list_once_for_all(asking: Place) -> None:
    asking.gate.touch()
    with gunicorn_server(asking) as server:
        before = server.warm_up().generation
        asking.gate.unlink()
        first = server.get("/api/cache/rebuild/files", "POST")
        assert (first.status, first.json["state"], first.json["cache_rebuilding"]) == (202, "stale", True)
        asking.builder_at_gate(2)
        assert {server.get("/api/cache/rebuild/files", "POST").status for _ in range(20)} == {202}
        assert all(section["rebuild_in_progress"] for section in server.stats().values())
        asking.gate.touch()
        server.until_newer(before)
        assert len(asking.calls("source")) == 2


def url(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}{PATH}"


def until_state(page: Page, word: str) -> None:
    """Wait until the page shows this state of the list."""
    page.locator(f"{ARTICLE} .state strong", has_text=re.compile(f"^{word}$")).wait_for()


@pytest.mark.browser
def test_page_follows_a_first_build_without_a_reload(gated: Place, page: Page) -> None:
    with gunicorn_server(gated, *THREADS, workers=2) as server:
        gated.builder_at_gate()
        page.goto(url(server))
        page.evaluate("window.sameDocument = true")
        page.locator(".doing p", has_text=re.compile(r"^Enriching: [1-9]\d* of \d+")).wait_for()
        bar = page.locator(f"{ARTICLE} progress")
        assert 0 < bar.evaluate("(bar) => bar.position") < 1
        gated.gate.touch()
        until_state(page, "fresh")
        assert page.evaluate("window.sameDocument")
        assert not bar.is_visible()
        assert page.locator(f"{ARTICLE} form").count() == 0


@pytest.mark.browser
def test_button_asks_for_a_rebuild_and_shows_the_page_again(asking: Place, page: Page) -> None:
    asking.gate.touch()
    with gunicorn_server(asking, *THREADS, workers=2) as server:
        before = server.warm_up().generation
        page.goto(url(server))
        asking.gate.unlink()
        with page.expect_navigation():
            page.get_by_role("button", name="Rebuild").press("Enter")
        assert page.url == url(server)
        asking.builder_at_gate(2)
        until_state(page, "stale")
        asking.gate.touch()
        until_state(page, "fresh")
        assert server.get().generation > before
        page.reload()  # the page is not the answer to the POST, so the browser does not send it again
        assert len(asking.calls("source")) == 2


@pytest.mark.browser
def test_page_with_fresh_lists_follows_a_later_rebuild(asking: Place, page: Page) -> None:
    asking.gate.touch()
    with gunicorn_server(asking, *THREADS, workers=2) as server:
        server.warm_up()
        page.goto(url(server))
        until_state(page, "fresh")
        shown = page.locator(ARTICLE).get_attribute("data-warmcache-generation")
        asking.gate.unlink()
        server.get("/api/cache/rebuild/files", "POST")
        until_state(page, "stale")
        page.locator(".doing p", has_text="Enriching").wait_for()
        asking.gate.touch()
        until_state(page, "fresh")
        assert page.locator(ARTICLE).get_attribute("data-warmcache-generation") != shown


@pytest.mark.browser
def test_page_works_without_javascript(asking: Place, browser: Browser) -> None:
    asking.gate.touch()
    with (
        gunicorn_server(asking, *THREADS, workers=2) as server,
        browser.new_context(java_script_enabled=False) as bare,
    ):
        before = server.warm_up().generation
        page = bare.new_page()
        page.goto(url(server))
        page.get_by_role("button", name="Rebuild").click()
        server.until_newer(before)
        page.get_by_role("link", name="Reload").click()
        until_state(page, "fresh")
        page.get_by_role("link", name="As JSON").click()
        assert "files" in page.inner_text("body")


@pytest.mark.browser
def test_page_of_another_site_cannot_ask_for_a_rebuild(asking: Place, context: BrowserContext) -> None:
    asking.gate.touch()
    with gunicorn_server(asking, *THREADS, workers=2) as server:
        before = server.warm_up().generation
        page = context.new_page()
        target = f"http://127.0.0.1:{server.port}/api/cache/rebuild/files"
        form = f'<form method="post" action="{target}"><button>Press me</button></form>'
        page.route("http://evil.example/", lambda route: route.fulfill(content_type="text/html", body=form))
        page.goto("http://evil.example/")
        with page.expect_response(target) as answer:
            page.get_by_role("button").click()
        assert answer.value.status == 403
        page.goto(url(server))  # no rebuild has begun by the next request
        assert server.get().generation == before and len(asking.calls("source")) == 1


@pytest.mark.browser
def test_page_fits_narrow_windows_and_colour_preferences(asking: Place, page: Page, tmp_path: Path) -> None:
    asking.gate.touch()
    with gunicorn_server(asking, *THREADS, workers=2) as server:
        server.warm_up()
        ground = "getComputedStyle(document.body).backgroundColor"
        page.goto(url(server))
        page.evaluate("window.sameDocument = true")
        light = page.evaluate(ground)
        for width in (320, 390, 700, 1400):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        page.emulate_media(color_scheme="dark")
        assert page.evaluate(ground) != light
        page.emulate_media(forced_colors="active")
        border = "(button) => getComputedStyle(button).borderTopWidth"
        assert page.get_by_role("button", name="Rebuild").evaluate(border) == "1px"
        page.emulate_media(forced_colors="none", reduced_motion="reduce")
        assert page.evaluate("document.getAnimations().length") == 0
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Reload"
        assert page.locator("h1").count() == 1 and page.locator("main").count() == 1
        until(lambda: page.locator(f"{ARTICLE} h2").inner_text() == "files", "the list's name")
