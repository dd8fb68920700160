"""Measure the poller in Chromium against its limits: ``python -m tests.browser.bars``, in about two minutes.

Print a table, and exit with 1 if a limit is exceeded. The numbers of requests and loads do not depend on the
machine, but the other figures do.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from playwright.sync_api import Browser, Page, sync_playwright

from tests.support.needs import CHROMIUM_SWITCHES, need_chromium

from .fake_server import SCRIPT, STATUS, FakeServer, serve

POLLS = 2000
RUNS = 5
RECORDER = """
addEventListener("warmcache:refreshed", () => (window.refreshedAt ??= performance.timeOrigin + performance.now()));
"""
# Polls as fast as the page can, without a network; the browser's own timers count 1 ms at least.
RACE = """
(polls) => new Promise((resolve) => {
  const body = (done) => JSON.stringify({
    state: "stale", generation: "g1", cache_rebuilding: true, progress: { phase: "enrich", done, total: 1e6 },
  });
  let done = 0;
  Warmcache.configure({ maxWait: 86400000, maxInterval: 2000 });
  Warmcache.env.fetch = async () => {
    done += 1;
    if (done > polls) resolve();
    return done > polls ? new Promise(() => {}) : new Response(body(done));
  };
  Warmcache.env.setTimeout = (call, delay) => setTimeout(call, delay < 9000 ? 0 : delay);
  window.watcher = Warmcache.watch("files");
  watcher.poll();
})
"""


class Table:
    def __init__(self) -> None:
        self.missed = False

    def row(self, what: str, measured: float, bar: float, unit: str = "") -> None:
        missed = measured > bar
        self.missed = self.missed or missed
        print(f"{what:<58} {measured:>9.2f} {'>' if missed else '<='} {bar:g} {unit}", flush=True)


@contextmanager
def rebuilding(script: dict[str, str]) -> Iterator[FakeServer]:
    server = FakeServer(script=script)
    server.become("stale", "g1", ["old"], rebuilding=True)
    with serve(server) as served:
        yield served


def tabs(browser: Browser, stack: ExitStack, server: FakeServer, number: int, shared: bool) -> list[Page]:
    """Open tabs in one browser profile, or each in its own."""
    pages: list[Page] = []
    context = stack.enter_context(browser.new_context())
    for _ in range(number):
        if not shared and pages:
            context = stack.enter_context(browser.new_context())
        page = context.new_page()
        page.add_init_script(RECORDER)
        page.goto(f"{server.url}/page")
        pages.append(page)
    return pages


def a_minute(browser: Browser, table: Table) -> None:
    """Measure everything in the same minute, each part with its own server."""
    with ExitStack() as stack:
        one, ten, hidden, fresh = (stack.enter_context(rebuilding({})) for _ in range(4))
        fresh.become("fresh", "g1", ["old"])
        for server, number in ((one, 1), (ten, 10), (fresh, 1)):
            tabs(browser, stack, server, number, shared=True)
        page = stack.enter_context(browser.new_context()).new_page()
        page.add_init_script("Object.defineProperty(document, 'hidden', { value: true })")
        page.goto(f"{hidden.url}/page")
        before = {id(server): server.count(STATUS) for server in (one, ten, hidden, fresh)}
        page.wait_for_timeout(60_000)
        for what, server, bar in (
            ("status requests a minute, one tab", one, 41),
            ("… ten tabs of one browser", ten, 52),
            ("… a hidden tab", hidden, 0),
            ("… a fresh page", fresh, 0),
        ):
            table.row(what, server.count(STATUS) - before[id(server)], bar)


def delays(browser: Browser, spread: str, number: int, shared: bool) -> list[float]:
    """Return the seconds from a publication to the refreshed page for several tabs with the default interval."""
    with ExitStack() as stack:
        server = stack.enter_context(rebuilding({"spread": spread}))
        pages = tabs(browser, stack, server, number, shared)
        server.wait_for_hits(STATUS, number if not shared else 2, within=30)
        server.become("fresh", "g2", ["new"])
        published = time.time()
        for page in pages:
            page.wait_for_function("window.refreshedAt", timeout=30_000)
        assert server.count("/page") == 2 * number, "each tab fetches once"
        return [page.evaluate("refreshedAt") / 1000 - published for page in pages]


def p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[18]


def loads(browser: Browser) -> int:
    """Return the number of document loads if page and status always disagree."""
    with ExitStack() as stack:
        server = stack.enter_context(rebuilding({"interval": "100", "spread": "0"}))
        server.become("fresh", "g1", ["old"])
        server.refresh, server.page_state = "reload", "cold"
        (page,) = tabs(browser, stack, server, 1, shared=True)
        page.wait_for_timeout(5000)
        return server.count("/page")


def cost(browser: Browser) -> tuple[float, float, float, float]:
    """Measure the evaluation and each poll in ms of script and of task, and the heap of all polls in KB."""
    source = SCRIPT.read_text()
    evaluated = []
    with ExitStack() as stack:
        server = stack.enter_context(rebuilding({}))
        context = stack.enter_context(browser.new_context())
        for _ in range(RUNS):
            page = context.new_page()
            page.goto(f"{server.url}/login")
            evaluated.append(
                page.evaluate(
                    "(s) => { const at = performance.now(); (0, eval)(s); return performance.now() - at }", source
                )
            )
        session = context.new_cdp_session(page)
        session.send("Performance.enable")

        def measure() -> dict[str, float]:
            session.send("HeapProfiler.collectGarbage")
            return {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}

        page.evaluate(RACE, 200)  # create objects that exist only once
        page.evaluate("watcher.stop()")
        before = measure()
        page.evaluate(RACE, POLLS)
        after = measure()
    growth = {name: after[name] - before[name] for name in ("ScriptDuration", "TaskDuration", "JSHeapUsedSize")}
    return (
        statistics.median(evaluated),
        growth["ScriptDuration"] * 1000 / POLLS,
        growth["TaskDuration"] * 1000 / POLLS,
        growth["JSHeapUsedSize"] / 1024,
    )


def main() -> int:
    table = Table()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=need_chromium(), args=CHROMIUM_SWITCHES)
        evaluation, script, task, heap = cost(browser)
        table.row("evaluation of the script", evaluation, 5, "ms")
        table.row("script time per poll", script, 0.5, "ms")
        table.row("whole task per poll", task, 2, "ms")
        table.row(f"heap growth over {POLLS} polls", heap, 256, "KB")
        table.row("document loads when status and page disagree for ever", loads(browser), 2)
        alone = [delay for _ in range(3) for delay in delays(browser, "0", 15, shared=False)]
        table.row("publication to refreshed, p95, spread 0", p95(alone), 2.5, "s")
        spread = [delay for _ in range(3) for delay in delays(browser, "1000", 15, shared=False)]
        table.row("… spread 1 s", p95(spread), 3.5, "s")
        table.row(
            "… ten tabs of one browser, the last of them", max(delays(browser, "1000", 10, shared=True)), 4, "s"
        )
        a_minute(browser, table)
        browser.close()
    return int(table.missed)


if __name__ == "__main__":
    sys.exit(main())
