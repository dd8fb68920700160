"""A refresh must not lose a user's input; the tests use the browser's real fields."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.needs import node_module

from .conftest import EventRecorder, asks_nothing, open_page, publish
from .fake_server import STATUS, FakeServer

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

TONE = "data:audio/wav;base64,UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAIA+AAACABAAZGF0YQAAAAA="
# Markup, and an action of the user on it.
IN_USE = {
    "typed text": ("<input>", "one.value = 'half a wo'"),
    "a long text": ("<textarea>given</textarea>", "one.value = ''"),
    "a focused field": ("<input>", "one.focus()"),
    "a ticked box": ('<input type="checkbox">', "one.click()"),
    "another radio button": ('<input type="radio" name="a" checked><input type="radio" name="a">', "one.click()"),
    "a moved slider": ('<input type="range">', "one.value = 20"),
    "a number": ('<input type="number" value="7">', "one.value = 8"),
    "a changed drop-down": ("<select><option>a</option><option>b</option></select>", "one.selectedIndex = 1"),
    "a drop-down moved from its default": (
        "<select><option>a</option><option selected>b</option></select>",
        "one.selectedIndex = 0",
    ),
    "a second line of a list box": (
        "<select multiple><option selected>a</option><option>b</option></select>",
        "one.options[1].selected = true",
    ),
    "a text that is being edited": ("<p contenteditable>words</p>", "one.focus()"),
    "an open dialog": ("<dialog>Sure?</dialog>", "one.show()"),
    "what plays": (f'<audio loop src="{TONE}"></audio>', "Object.defineProperty(one, 'paused', { value: false })"),
    "what has the focus and no id": ('<p tabindex="0">words</p>', "one.focus()"),
    "details without an id": ("<details><summary>More</summary>words</details>", "one.firstChild.click()"),
    "a selection": ("<p>words</p>", "getSelection().selectAllChildren(one)"),
}


@pytest.mark.parametrize("name", IN_USE)
def test_region_in_use_is_not_refreshed(
    server: FakeServer, page: Page, recorder: EventRecorder, name: str
) -> None:
    server.inside, act = IN_USE[name]
    open_page(server, page)
    page.evaluate(f"{{ const one = [...document.querySelectorAll('#files > :not(ul)')].at(-1); {act} }}")
    server.become("fresh", "g2", ["new"])
    assert recorder.wait_for(page, "blocked")["reason"] == "editing"
    assert page.locator("#files li").text_content() == "old"


def test_answer_to_a_post_is_not_reloaded(server: FakeServer, page: Page, recorder: EventRecorder) -> None:
    server.refresh = "reload"
    server.become("cold", None, [], rebuilding=True)
    page.goto(f"{server.url}/posted")
    server.become("fresh", "g2", ["new"])
    assert recorder.wait_for(page, "blocked")["reason"] == "post"
    assert server.count("/posted") == 1


def test_page_without_session_storage_is_not_reloaded(
    server: FakeServer, page: Page, recorder: EventRecorder
) -> None:
    page.add_init_script(
        "delete window.sessionStorage; Object.defineProperty(window, 'sessionStorage', { get() { throw 1 } })"
    )
    server.refresh = "reload"
    open_page(server, page, "cold")
    server.become("fresh", "g2", ["new"])
    assert recorder.wait_for(page, "blocked")["reason"] == "storage"


KEPT = '<p id="notes"><input></p><div id="scroller"><p>tall</p></div>'
FOLDS = """
<details id="one"><summary>One</summary>1</details><details id="two" open><summary>Two</summary>2</details>
<details id="three"><summary>Three</summary>3</details><details><summary>Four</summary>4</details>"""
STYLE = "<style>#scroller { height: 50px; overflow: auto } #scroller p { height: 900px }</style>"


@pytest.fixture(params=[False, True], ids=["plain", "idiomorph"])
def morph(request: pytest.FixtureRequest, server: FakeServer) -> bool:
    """Serve a page without or with Idiomorph."""
    if request.param:
        server.files["/idiomorph.js"] = node_module("idiomorph") / "dist" / "idiomorph.min.js"
        server.head = '<script src="/idiomorph.js"></script>'
    return bool(request.param)


def test_kept_nodes_keep_their_typed_text(
    server: FakeServer, page: Page, recorder: EventRecorder, morph: bool
) -> None:
    server.inside, server.above, server.attributes = KEPT, STYLE, {"data-warmcache-keep": "notes"}
    open_page(server, page)
    assert page.evaluate("typeof Idiomorph") == ("object" if morph else "undefined")
    page.fill("#notes input", "half a wo")
    page.evaluate(
        "document.getElementById('notes').mine = true; document.getElementById('scroller').scrollTop = 300"
    )
    server.inside += "<script>window.ran = true</script>"
    publish(server, page, recorder)
    assert page.input_value("#notes input") == "half a wo"
    assert page.evaluate("document.getElementById('notes').mine")
    assert page.evaluate("document.getElementById('scroller').scrollTop") == 300
    assert page.evaluate("window.ran") is None


def test_details_stay_open_or_closed(server: FakeServer, page: Page, recorder: EventRecorder, morph: bool) -> None:
    server.inside = FOLDS
    open_page(server, page)
    page.click("#one summary")
    page.click("#two summary")
    page.evaluate("document.activeElement.blur()")
    server.inside = f'<details id="new"><summary>New</summary>0</details>{FOLDS}'
    publish(server, page, recorder)
    opened = "[...document.querySelectorAll('details')].map((one) => [one.id, one.open])"
    assert page.evaluate(opened) == [["new", False], ["one", True], ["two", False], ["three", False], ["", False]]


def test_kept_media_element_continues_to_play(server: FakeServer, page: Page, recorder: EventRecorder) -> None:
    server.inside = '<div id="player"><video muted loop></video></div>'
    server.attributes = {"data-warmcache-keep": "player"}
    open_page(server, page)
    page.evaluate(
        """async () => {
          const canvas = document.createElement("canvas");
          canvas.getContext("2d").fillRect(0, 0, 1, 1);
          const video = document.querySelector("video");
          video.srcObject = canvas.captureStream();
          await video.play();
        }"""
    )
    publish(server, page, recorder)
    assert page.evaluate("document.querySelector('video').paused") is False


def test_visible_content_does_not_move(server: FakeServer, page: Page, recorder: EventRecorder) -> None:
    server.become("stale", "g1", [f"row {i}" for i in range(300)], rebuilding=True)
    page.goto(f"{server.url}/page")
    page.evaluate("scrollTo(0, 2000)")
    place = "Math.round(document.querySelectorAll('#files li')[150].getBoundingClientRect().top)"
    before = page.evaluate(place)
    server.become("fresh", "g2", [f"new {i}" for i in range(300)])
    recorder.wait_for(page, "refreshed")
    assert page.evaluate(place) == before


def test_region_that_leaves_the_page_ends_its_polls(server: FakeServer, page: Page) -> None:
    open_page(server, page)
    server.wait_for_hits(STATUS, 2)
    page.evaluate("document.getElementById('files').remove()")
    page.wait_for_function("Warmcache.state('files') === 'idle'")
    asks_nothing(server, page, 0.4)


def test_second_copy_of_the_script_has_no_effect(server: FakeServer, page: Page, recorder: EventRecorder) -> None:
    server.head = '<script defer src="/warmcache.js" data-interval="100" data-spread="0"></script>'
    server.above = '<warmcache-status for="files"></warmcache-status>'
    open_page(server, page)
    server.wait_for_hits(STATUS, 1)
    publish(server, page, recorder)
    assert (len(recorder.of("ready")), server.count("/page")) == (1, 2)


def test_watches_leak_no_listener_and_no_memory(server: FakeServer, page: Page) -> None:
    page.goto(f"{server.url}/page")
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")

    def measure() -> dict[str, float]:
        page.evaluate(
            """() => {
              const control = new AbortController();
              for (let i = 0; i < 500; i += 1) Warmcache.watch("files", { signal: control.signal }).stop();
            }"""
        )
        session.send("HeapProfiler.collectGarbage")
        return {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}

    before, after = measure(), measure()
    assert after["JSEventListeners"] <= before["JSEventListeners"]
    assert after["JSHeapUsedSize"] - before["JSHeapUsedSize"] < 256 * 1024
