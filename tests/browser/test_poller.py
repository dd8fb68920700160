"""A real page with real requests, whose list is rebuilt: what its user sees."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from .conftest import EventRecorder, asks_nothing, open_page, publish
from .fake_server import STATUS, FakeServer, serve

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

ROWS = "#files li"


def shows(page: Page, *rows: str) -> None:
    """Wait until the region shows exactly these rows."""
    from playwright.sync_api import expect

    expect(page.locator(ROWS)).to_have_text(list(rows))


def attribute(page: Page, name: str) -> str | None:
    return page.locator("#files").get_attribute(name)


def test_cold_region_is_filled_without_a_reload(server: FakeServer, page: Page, recorder: EventRecorder) -> None:
    open_page(server, page, "cold")
    assert attribute(page, "aria-busy") == "true"
    page.evaluate("Warmcache.scan()")  # the script has done this already; a second scan has no effect
    server.wait_for_hits(STATUS, 2)
    server.become("fresh", "g2", ["one", "two"])
    shows(page, "one", "two")
    recorder.wait_for(page, "refreshed")
    assert recorder.types() == ["ready", "refreshed"]
    assert recorder.of("ready")[0]["generation"] == "g2"
    assert recorder.of("progress")[0]["ratio"] == 0.25
    assert attribute(page, "data-warmcache-state") == "fresh"
    assert attribute(page, "data-warmcache-generation") == "g2"
    assert attribute(page, "aria-busy") is None
    assert page.evaluate("performance.getEntriesByType('navigation').length") == 1
    assert server.count("/page") == 2  # the document and the swap


@pytest.mark.parametrize("exposed", [True, False], ids=["by the exposed header", "by its name"])
def test_json_of_another_origin_is_followed(server: FakeServer, page: Page, exposed: bool) -> None:
    options = {} if exposed else {"name": "files"}
    page.goto(f"{server.url}/page")
    with serve(FakeServer()) as other:
        other.headers = {"Access-Control-Allow-Origin": server.url}
        if exposed:
            other.headers["Access-Control-Expose-Headers"] = "X-Warmcache, Retry-After"
        other.become("cold", None, [], rebuilding=True)
        calls = """([url, options]) => {
            window.calls = [];
            Warmcache.configure({ statusUrl: `${url}/api/cache/stats` });
            const show = ({ files }, { rebuilding }) => calls.push([files.length, rebuilding]);
            const { done } = Warmcache.json(`${url}/api/files`, show, options);
            done.then(() => calls.push("done"), (error) => calls.push(`${error}`));
        }"""
        page.evaluate(calls, [other.url, options])
        for number, state in enumerate(("partial", "partial", "fresh"), 1):
            other.become(state, f"p{number}", ["row"] * number, rebuilding=state == "partial")
            page.wait_for_function(f"calls.some((call) => call[0] === {number})", timeout=60_000)
        page.wait_for_function("calls.includes('done')", timeout=60_000)
        # The first answer may come when the build has begun already.
        assert page.evaluate("calls.slice(-4)")[1:] == [[2, True], [3, False], "done"]


def test_cold_region_fills_during_the_first_rebuild(
    server: FakeServer, page: Page, recorder: EventRecorder
) -> None:
    open_page(server, page, "cold")
    server.become("partial", "p1", ["one"], rebuilding=True)
    shows(page, "one")
    server.become("partial", "p2", ["one", "two"], rebuilding=True)
    shows(page, "one", "two")
    seen = server.count(STATUS)
    server.wait_for_hits(STATUS, seen + 3)
    assert server.count("/page") == 3  # the document and one swap for each generation
    assert "ready" not in recorder.types()
    server.become("fresh", "g3", ["one", "two", "three"])
    shows(page, "one", "two", "three")
    recorder.wait_for(page, "ready")
    assert server.count("/page") == 4


def test_fresh_page_does_not_poll(server: FakeServer, page: Page) -> None:
    page.clock.install()
    page.goto(f"{server.url}/page")
    page.clock.run_for(60_000)
    page.evaluate("fetch('/end')")
    server.wait_for_hits("/end", 1)
    asked = [path for path in server.hits if path != "/favicon.ico"]
    assert asked == ["/page", "/warmcache.js", "/end"]


def test_stale_region_is_swapped_from_its_own_source(
    server: FakeServer, page: Page, recorder: EventRecorder
) -> None:
    server.attributes = {"data-warmcache-src": "/rows"}
    open_page(server, page)
    server.wait_for_hits(STATUS, 2)
    assert server.count("/rows") == 0
    publish(server, page, recorder)
    assert (server.count("/page"), server.count("/rows")) == (1, 1)
    assert attribute(page, "data-warmcache-rebuilding") == "false"


def test_focus_and_scroll_survive_a_swap(server: FakeServer, page: Page, recorder: EventRecorder) -> None:
    server.inside = '<button id="more" type="button">More</button>'
    server.become("stale", "g1", [f"row {i}" for i in range(200)], rebuilding=True)
    page.goto(f"{server.url}/page")
    page.focus("#more")
    page.evaluate("scrollTo(0, 1500)")
    server.become("fresh", "g2", [f"new {i}" for i in range(200)])
    recorder.wait_for(page, "refreshed")
    assert page.locator(ROWS).first.text_content() == "new 0"
    assert page.evaluate("document.activeElement.id") == "more"
    assert page.evaluate("scrollY") == 1500


def test_json_calls_on_data_twice(server: FakeServer, page: Page) -> None:
    server.page_state = "fresh"  # this test needs only the script of the page
    page.goto(f"{server.url}/page")
    server.become("stale", "g1", ["old"], rebuilding=True)
    page.evaluate(
        """() => {
          window.given = [];
          const onData = (data, info) => given.push([data.files[0].path, info.rebuilding]);
          window.job = Warmcache.json("/api/files", onData);
        }"""
    )
    server.wait_for_hits(STATUS, 2)
    server.become("fresh", "g2", ["new"])
    assert page.evaluate("job.done.then((data) => data.files[0].path)") == "new"
    assert page.evaluate("given") == [["old", True], ["new", False]]
    assert server.count("/api/files") == 2


def test_typed_text_is_not_lost(server: FakeServer, page: Page, recorder: EventRecorder) -> None:
    server.inside = '<input id="note" name="note">'
    open_page(server, page)
    page.fill("#note", "half a wo")
    page.evaluate("document.activeElement.blur()")
    server.become("fresh", "g2", ["new"])
    blocked = recorder.wait_for(page, "blocked")
    assert (blocked["name"], blocked["reason"]) == ("files", "editing")
    shows(page, "old")
    assert page.input_value("#note") == "half a wo"
    assert server.count("/page") == 1

    page.evaluate("proceed()")
    shows(page, "new")
    assert page.input_value("#note") == ""
    recorder.wait_for(page, "refreshed")


def test_unchanged_fields_do_not_block(server: FakeServer, page: Page, recorder: EventRecorder) -> None:
    server.inside = """
      <input value="a"><input type="checkbox" checked><input type="range"><input type="color">
      <input type="number" value="7"><input type="submit"><input type="hidden" value="t">
      <select><option disabled>choose</option><option>a</option></select>
      <select multiple><option>a</option></select><select size="3"><option>a</option></select>
      <select><option>a</option><option selected>b</option></select><textarea>
      text</textarea>"""
    open_page(server, page)
    publish(server, page, recorder)
    assert recorder.of("blocked") == []


def test_hanging_server_is_reported_and_polled_again(
    server: FakeServer, page: Page, recorder: EventRecorder
) -> None:
    server.script["timeout"] = "150"
    open_page(server, page)
    server.wait_for_hits(STATUS, 1)
    server.gate.clear()
    error = recorder.wait_for(page, "error")
    assert (error["code"], error["fatal"], error["failures"]) == ("timeout", False, 2)
    shows(page, "old")
    server.become("fresh", "g2", ["new"])
    server.gate.set()
    shows(page, "new")
    recorder.wait_for(page, "refreshed")
    assert [change["to"] for change in recorder.of("state")][-3:] == ["error", "ready", "fresh"]


def test_end_of_a_session_ends_polling(server: FakeServer, page: Page, recorder: EventRecorder) -> None:
    open_page(server, page)
    server.wait_for_hits(STATUS, 1)
    server.login = True
    error = recorder.wait_for(page, "error")
    assert (error["code"], error["fatal"]) == ("auth", True)
    shows(page, "old")
    assert page.locator("#files").get_attribute("data-warmcache-rebuilding") == "false"


def test_region_is_reloaded_once(server: FakeServer, page: Page, recorder: EventRecorder) -> None:
    server.refresh = "reload"
    open_page(server, page, "cold")
    server.wait_for_hits(STATUS, 1)
    server.become("fresh", "g2", ["new"])
    shows(page, "new")
    assert recorder.of("blocked") == []
    assert server.count("/page") == 2


def test_swap_with_old_content_prompts_after_five_attempts(
    server: FakeServer, page: Page, recorder: EventRecorder
) -> None:
    server.page_state = "cold"  # regardless of the status
    page.goto(f"{server.url}/page")
    blocked = recorder.wait_for(page, "blocked", within=20)
    assert blocked["reason"] == "prompt"
    assert server.count("/page") == 6
    assert len(recorder.of("ready")) == 1
    recorder.wait_for(page, "error", fatal=True)
    asks_nothing(server, page, 0.3)


# Replace the poller's own refresh of a region by the app's, for each strategy.
FETCHES = """
(name) => {
  const renew = async (element) => {
    const text = await (await fetch("/rows")).text();
    element.outerHTML = text;
    Warmcache.scan();
  };
  Warmcache.strategies.own = (status, watcher) => renew(watcher.element);
  if (name === "event") addEventListener("warmcache:ready", (event) => renew(event.target));
}
"""


@pytest.mark.parametrize(
    ("strategy", "state"),
    [
        *((strategy, "stale") for strategy in ("auto", "swap", "event", "own", "prompt", "reload")),
        *((strategy, "partial") for strategy in ("auto", "event")),
        ("reload", "cold"),
    ],
)
def test_every_strategy_loads_at_most_twice_if_page_and_status_disagree(
    server: FakeServer, page: Page, recorder: EventRecorder, strategy: str, state: str
) -> None:
    server.script["auto"] = "false"
    server.refresh, server.page_state = strategy, state  # each page has another generation
    page.goto(f"{server.url}/page")
    page.evaluate(FETCHES, strategy)
    page.evaluate("Warmcache.scan()")
    if strategy == "reload":
        page.wait_for_function(
            "performance.getEntriesByType('navigation')[0].type === 'reload' && document.readyState === 'complete'"
        )
        page.evaluate("Warmcache.scan()")
    if strategy in ("auto", "swap"):
        page.wait_for_function("document.getElementById('files').dataset.warmcacheRebuilding === 'false'")
    else:
        recorder.wait_for(page, "blocked", reason="prompt" if strategy == "prompt" else "loop")
    asks_nothing(server, page, 0.5)  # five intervals
    assert server.count("/page") + server.count("/rows") <= 2


def test_page_from_a_cache_polls_at_once(server: FakeServer, page: Page) -> None:
    server.script["interval"] = "60000"
    server.become("stale", "g1", ["old"], rebuilding=True)
    server.attributes = {"data-warmcache-at": str(round(1000 * (time.time() - 61)))}
    page.goto(f"{server.url}/page")
    server.wait_for_hits(STATUS, 1)
    server.attributes = {"data-warmcache-at": str(round(1000 * time.time()))}
    page.reload()
    asks_nothing(server, page, 0.3)
    assert server.count(STATUS) == 1


def test_listener_can_replace_the_refresh(server: FakeServer, page: Page, recorder: EventRecorder) -> None:
    open_page(server, page, "cold")
    page.evaluate("addEventListener('warmcache:ready', (event) => event.preventDefault())")
    server.become("fresh", "g2", ["new"])
    recorder.wait_for(page, "ready")
    page.wait_for_function("document.getElementById('files').dataset.warmcacheRebuilding === 'false'")
    assert page.locator(ROWS).count() == 0
    assert server.count("/page") == 1
