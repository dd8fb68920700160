"""The status page with lists in every state, with and without JavaScript."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flask_warmcache import WarmCache
from tests.conftest import page as page
from tests.support.apps import make_app, state_of, stop
from tests.support.shelf import files
from tests.support.waiting import until

from .axe import violations_in_every_look, without_javascript
from .fake_server import serving

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

RUNNING = {"phase": "enrich", "total": 10_300, "rate": 100.0, "runner": "thread"}
ITEMS = 1000  # of the list whose build the page follows


class Gallery:
    """An app with a list in each state; the test decides when they change."""

    def __init__(self, folder: Path) -> None:
        self.app = make_app(folder, runner="external", refresh_interval=0.0)
        warmcache = WarmCache(self.app)
        self.broken = False
        self.items = 2
        self.allowance = threading.Condition()  # guards allowed
        self.allowed = 0
        for name in ("cold", "partial", "fresh", "stale", "failed"):
            warmcache.warm_list(name, key="path", unit="file", source=self.source)
        warmcache["partial"].enrich(self.enrich)
        warmcache.authorize(lambda action, name: True)
        warmcache.stats_section("markers")(lambda: {"marked": 12_345, "storage": "/srv/app/markers.sqlite3"})
        warmcache.once("create-tables")(self.create_tables)
        self.warmcache = warmcache
        self.state = state_of(self.app)
        self.locks: dict[str, Any] = {}
        for name in ("fresh", "stale", "failed"):
            for _ in range(3):
                self.rebuild(name)
        self.items = ITEMS
        self.begin("partial", 150)
        self.invalidate("stale")
        self.report("stale", done=9000)
        self.broken = True
        with pytest.raises(OSError):
            self.rebuild("failed")
        self.broken = False

    def source(self) -> list[dict[str, Any]]:
        if self.broken:
            raise OSError("/srv/comics is not mounted")
        return files(*(f"{number:04}" for number in range(self.items)))

    def enrich(self, item: dict[str, Any]) -> dict[str, Any]:
        """Wait until the test allows this item."""
        with self.allowance:
            assert self.allowance.wait_for(lambda: int(item["path"]) < self.allowed, 60)
        return item

    def allow(self, number: int) -> None:
        """Let the build enrich this many items."""
        with self.allowance:
            self.allowed = number
            self.allowance.notify_all()

    def begin(self, name: str, number: int) -> None:
        """Start a build, let it enrich this many items, and wait until a part of the list is shown."""
        self.allow(number)
        self.build = threading.Thread(target=self.rebuild, args=(name,))
        self.build.start()
        assert until(lambda: self.state_of(name) == "partial")

    def state_of(self, name: str) -> str:
        with self.app.app_context():
            return str(self.warmcache[name].get().state)

    def create_tables(self) -> None:
        raise OSError("no database")

    def rebuild(self, name: str) -> None:
        with self.app.app_context():
            self.warmcache[name].rebuild_now()

    def invalidate(self, name: str) -> None:
        with self.app.app_context():
            self.warmcache[name].invalidate()

    def report(self, name: str, **facts: Any) -> None:
        """Write the report of a running rebuild."""
        lock = self.state.store.try_lock(name)
        if lock is not None:
            self.locks[name] = lock
        self.state.store.write_progress(name, RUNNING | {"pid": 4711, "started": time.time()} | facts)

    def finish(self, name: str) -> None:
        """End the rebuild that ``report`` began."""
        self.locks.pop(name).close()
        self.rebuild(name)

    def close(self) -> None:
        for lock in self.locks.values():
            lock.close()
        self.allow(ITEMS)
        self.build.join(120)
        stop(self.state.keeper)


@pytest.fixture
def gallery(tmp_path: Path) -> Iterator[Gallery]:
    gallery = Gallery(tmp_path)
    yield gallery
    gallery.close()


@pytest.fixture
def url(gallery: Gallery) -> Iterator[str]:
    with serving(gallery.app) as root:
        yield f"{root}/api/cache/"


def states(page: Page) -> list[str]:
    return page.locator(".state strong").all_inner_texts()


def ask_until(page: Page, name: str, condition: str, meanwhile: Callable[[], object] = bool) -> None:
    """Let the poller ask until something is true of a list's article; on its own it would wait longer."""
    article = page.locator(f"#warmcache-{name}")
    for _ in range(200):
        meanwhile()
        article.evaluate("(article) => article.warmcache.poll()")
        page.wait_for_timeout(50)  # the pause between two questions
        if article.evaluate(condition):
            return
    raise AssertionError(f"{name} never becomes {condition}")


def open_details(page: Page) -> None:
    page.locator("summary").evaluate_all("(all) => all.forEach((summary) => (summary.parentElement.open = true))")


def test_page_is_accessible_in_every_state(url: str, page: Page) -> None:
    page.goto(url + "?early=fresh")
    assert states(page) == ["cold", "partial", "fresh", "stale", "failed"]
    open_details(page)
    assert violations_in_every_look(page) == []


def test_page_is_accessible_without_javascript(url: str, page: Page) -> None:
    without_javascript(page, url)
    assert states(page) == ["cold", "partial", "fresh", "stale", "failed"]
    open_details(page)
    assert violations_in_every_look(page) == []


def test_open_details_stay_open_and_focused_when_a_list_is_published(
    gallery: Gallery, url: str, page: Page
) -> None:
    page.goto(url)
    article = page.locator("#warmcache-partial")
    summary = article.locator("summary")
    summary.press("Enter")
    article.locator("details[open]").wait_for()
    page.evaluate("window.sameDocument = true")
    old = article.get_attribute("data-warmcache-generation")
    # One item at a time, because the build publishes parts seldom, and none while it waits.
    numbers = iter(range(151, ITEMS))
    changed = f"(article) => article.dataset.warmcacheGeneration !== '{old}'"
    ask_until(page, "partial", changed, lambda: gallery.allow(next(numbers)))
    assert states(page)[1] == "partial" and page.evaluate("sameDocument")
    assert article.locator("details").get_attribute("open") is not None
    assert summary.evaluate("(summary) => summary === document.activeElement")
    assert page.locator("#warmcache-failed details").get_attribute("open") is None


def test_page_says_why_it_is_not_updated(url: str, page: Page) -> None:
    page.goto(url)
    trouble = page.locator("header [role=status]")
    height = page.locator("main").bounding_box()
    page.context.set_offline(True)
    trouble.get_by_text("You are offline").wait_for()
    assert page.locator("main").bounding_box() == height  # the message does not move the page
    page.context.set_offline(False)
    page.locator("header [role=status]:empty").wait_for(state="attached")


def test_page_says_that_a_list_with_a_selection_is_not_replaced(gallery: Gallery, url: str, page: Page) -> None:
    page.goto(url)
    page.evaluate("getSelection().selectAllChildren(document.querySelector('#warmcache-stale h2'))")
    gallery.finish("stale")
    ask_until(page, "stale", "(article) => article.warmcache.state === 'ready'")
    page.locator("header [role=status]", has_text="There is a newer version.").wait_for()
    assert states(page)[3] == "stale"
