"""The status page: what everybody may know, what only some may, and that it is text whatever it is."""

from __future__ import annotations

import json
import logging
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from flask_warmcache import WarmCache
from flask_warmcache.rebuild.job import DURATIONS_KEPT
from flask_warmcache.status.progress import RUNNING
from flask_warmcache.web import status_page as page
from tests.support.waiting import until

from .shop import Shop
from .world import Shelf, files, make_app

SECRET = "/srv/secret/library is not mounted"
HOSTILE = "<script>alert(1)</script>\" onload='x"


class Page(HTMLParser):
    """A page as a browser understands it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data.split()

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for found, attributes in self.tags if found == tag]

    @property
    def text(self) -> str:
        return " ".join(self.words)


class Window(Shop):
    """A shop whose status page is looked at."""

    def __init__(self, folder: Path, *, allowed: tuple[str, ...] = (), **config: Any) -> None:
        super().__init__(folder, **config)
        if allowed:
            self.warmcache.authorize(lambda action, name: action in allowed)
        self.client = self.app.test_client()

    def look(self, query: str = "") -> Page:
        answer = self.client.get("/api/cache/" + query)
        assert answer.status_code == 200
        return Page(answer.text)


@pytest.fixture
def window(tmp_path: Path) -> Window:
    return Window(tmp_path)


def test_a_cold_list_is_shown_before_there_is_anything(window: Window) -> None:
    shown = window.look()
    assert "files cold nothing to show yet Items 0" in shown.text
    (region,) = shown.all("article")
    assert (region["data-warmcache"], region["data-warmcache-state"]) == ("files", "cold")
    assert region["data-warmcache-src"] == "/api/cache/"


def test_a_fresh_list_tells_what_its_rebuild_did(window: Window) -> None:
    window.tick()
    text = window.look().text
    assert "fresh up to date Items 1 Age" in text
    assert "Enriched 1 Reused 0 Dropped 0 Failed items 0" in text
    assert re.search(r"Next rebuild in (5 min|4 min|\d+ s)", text)
    assert re.search(r"Last success \(UTC\) \d{4}-\d\d-\d\d \d\d:\d\d It took \d+ ms", text)


def test_a_value_has_no_items(tmp_path: Path) -> None:
    app = make_app(tmp_path)
    warmcache = WarmCache(app)
    warmcache.value("dashboard")(dict)
    with app.app_context():
        warmcache["dashboard"].rebuild_now()
    text = Page(app.test_client().get("/api/cache/").text).text
    assert "dashboard fresh" in text and "Items" not in text and "Enriched" not in text


def test_an_app_without_lists_has_a_page(tmp_path: Path) -> None:
    app = make_app(tmp_path)
    WarmCache(app)
    assert "No list is declared." in app.test_client().get("/api/cache/").text


def test_a_failed_list_says_the_class_and_when_it_is_tried_again(tmp_path: Path) -> None:
    window = Window(tmp_path, retry_min=20.0)
    window.error = OSError(SECRET)
    window.tick()
    text = window.look().text
    assert re.search(r"files failed the last rebuild failed .* Last error OSError Next attempt in \d+ s", text)
    assert "/srv" not in text


def test_a_running_rebuild_shows_how_far_it_is(window: Window) -> None:
    lock = window.state.store.try_lock("files")
    assert lock is not None
    report = {"phase": "enrich", "done": 4000, "total": 10300, "rate": 100.0, "pid": 4711, "started": time.time()}
    window.state.store.write_progress("files", report)
    shown = window.look()
    assert "Reading: 4,000 of 10,300, about 63 s left" in shown.text
    (bar,) = shown.all("progress")
    assert (bar["value"], bar["max"]) == ("4000", "10300")
    window.state.store.write_progress("files", {**report, "phase": "source", "total": None, "rate": None})
    shown = window.look()
    assert "Looking for what there is: 4,000" in shown.text
    assert "value" not in shown.all("progress")[0]
    lock.close()


def test_the_script_has_a_word_for_every_phase_and_state(window: Window) -> None:
    (main,) = window.look().all("main")
    words = json.loads(str(main["data-words"]))
    assert set(words["phases"]) == set(RUNNING)
    assert set(words["states"]) == {"cold", "partial", "fresh", "stale", "failed"}


# The app's own sections


def section_of(window: Window, facts: Any) -> str:
    """The text of the only section, which tells these facts."""
    window.warmcache.stats_section("markers")(lambda: facts)
    return window.look().text.partition(" markers ")[2]


def test_what_the_app_tells_in_a_section_is_shown(window: Window) -> None:
    facts = {
        "marked": 12345,
        "is_open": True,
        "none": None,
        "parts": {"a": [1]},
        "share": "3/4",
        "long": "x" * 9999,
    }
    text = section_of(window, facts)
    assert text.startswith('marked 12,345 is_open true none null parts {"a": [1]} share 3/4 long xxx')
    assert text.endswith("x…") and len(text) < 700


def test_a_section_that_fails_says_the_class_and_the_page_stays(window: Window) -> None:
    window.warmcache.stats_section("markers")(lambda: {"x": 1 // 0})
    text = window.look().text
    assert "files cold" in text and text.endswith("markers error ZeroDivisionError")


@pytest.mark.parametrize(
    "fact",
    ["/srv/app/markers.sqlite3", "sqlite:////srv/app/x.db", r"C:\Users\me", r"\\server\share", "~/x", "~me/x",
     {"file": "/srv/app"}, ["file:///srv"], "cannot open '/srv/app/x'", "path=/srv"],
)  # fmt: skip
def test_a_path_in_a_section_is_for_whom_the_app_allows_details(tmp_path: Path, fact: Any) -> None:
    assert section_of(Window(tmp_path / "a"), {"where": fact}) == "where a path, not shown"
    assert section_of(Window(tmp_path / "a2"), {str(fact): 1}) == "a path, not shown 1"
    told = section_of(Window(tmp_path / "b", allowed=("details",)), {"where": fact})
    assert not told.startswith("where a path") and (
        "srv" in told or "x" in told or "me" in told or "share" in told
    )


@pytest.mark.parametrize(
    "fact", ["12 km/h", "text/html", "a / b", "3/4", "https://example.org/a/b?c=/d", "1.5 GB"]
)
def test_what_is_no_path_is_shown(window: Window, fact: str) -> None:
    assert section_of(window, {"fact": fact}) == f"fact {fact}"


def test_a_hostile_section_stays_text(window: Window) -> None:
    assert section_of(window, {HOSTILE: HOSTILE}).count("onload='x") == 2
    shown = window.look()
    assert len(shown.all("script")) == 2 and not any("onload" in one for _, one in shown.tags)


# The last durations


def test_the_last_durations_are_kept_and_no_more(shelf: Shelf) -> None:
    for number in range(DURATIONS_KEPT + 3):
        shelf.rebuild(files("a", *(str(number),)))
        header = shelf.snapshot().header
        assert len(header["durations"]) == min(number + 1, DURATIONS_KEPT)
        assert header["durations"][-1] == header["duration"]


def test_a_write_keeps_the_durations(tmp_path: Path) -> None:
    window = Window(tmp_path)
    for _ in range(3):
        with window.app.app_context():
            window.list.rebuild_now()
    snapshot = window.status.reader.current()
    assert snapshot is not None
    with window.app.app_context():
        assert window.list.discard("a")
    written = window.status.reader.current()
    assert written is not None and written.generation > snapshot.generation
    assert written.header["durations"] == snapshot.header["durations"]


def test_durations_become_bars_of_one_scale() -> None:
    assert page.Plot.of([]) is None
    assert page.Plot.of([3.0]) is None
    plot = page.Plot.of([1.0, 4.0, 0.0])
    assert plot is not None
    assert [height for _, height in plot.bars] == [12.0, 48.0, 2.0]  # nothing is invisible
    assert [left for left, _ in plot.bars] == [204, 216, 228]
    assert plot.said == "The last 3 rebuilds took 0 ms to 4.0 s"
    full = page.Plot.of([1.0] * DURATIONS_KEPT)
    assert full is not None and full.bars[0][0] == 0
    assert page.Plot.of([0.0, 0.0]) is not None


def test_the_plot_is_a_picture_with_a_name(window: Window) -> None:
    for _ in range(4):
        with window.app.app_context():
            window.list.rebuild_now()
    shown = window.look()
    (picture,) = shown.all("svg")
    assert picture["role"] == "img" and "The last 4 rebuilds took" in str(picture["aria-label"])
    assert len(shown.all("rect")) == 4


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 ms"), (0.0144, "14 ms"), (1, "1.0 s"), (9.94, "9.9 s"), (12.3, "12 s"), (89.9, "90 s"),
        (90, "2 min"), (3000, "50 min"), (5399, "90 min"), (5400, "2 h"), (172_799, "48 h"), (172_800, "2 days"),
        (float("inf"), "for ever"), (float("nan"), "for ever"),
    ],
)  # fmt: skip
def test_lengths_of_time_are_said_in_words(seconds: float, said: str) -> None:
    assert page.spoken(seconds) == said


# Who may see and do what


def test_everybody_sees_facts_and_nobody_paths_pids_or_messages(tmp_path: Path) -> None:
    window = Window(tmp_path)
    window.error = ValueError(SECRET)
    window.tick()
    answer = window.client.get("/api/cache/").text
    for secret in ("/srv", str(tmp_path), "Traceback", ".py", "4711"):
        assert secret not in answer
    shown = Page(answer)
    assert shown.all("form") == [] and shown.all("details") == []


def test_details_are_for_whom_the_app_allows_them(tmp_path: Path) -> None:
    window = Window(tmp_path, allowed=("details",))
    window.error = ValueError(SECRET)
    window.tick()
    shown = window.look()
    assert f"Last error ValueError: {SECRET}" in shown.text
    assert str(tmp_path / "cache") in shown.text
    assert shown.all("form") == []


def test_details_name_the_process_that_rebuilds(tmp_path: Path) -> None:
    window = Window(tmp_path, allowed=("details",))
    lock = window.state.store.try_lock("files")
    assert lock is not None
    report = {"phase": "enrich", "done": 1, "total": 2, "rate": 1.0, "pid": 4711, "started": time.time()}
    window.state.store.write_progress("files", report)
    assert "Process 4711, thread" in window.look().text
    lock.close()


def test_details_say_why_a_declaration_cannot_be_rebuilt(tmp_path: Path) -> None:
    app = make_app(tmp_path)
    warmcache = WarmCache(app)
    warmcache.warm_list("files", key="path")
    warmcache.authorize(lambda action, name: action == "details")
    text = Page(app.test_client().get("/api/cache/").text).text
    assert re.search(r"Last error DeclarationError .*Declaration .*source", text)


def test_a_button_is_for_who_may_rebuild(tmp_path: Path) -> None:
    window = Window(tmp_path, allowed=("rebuild",), refresh_interval=0.0)
    window.tick()
    shown = window.look()
    (form,) = shown.all("form")
    assert (form["method"], form["action"]) == ("post", "/api/cache/rebuild/files")
    assert shown.all("details") == []
    assert shown.all("input") == []  # no CSRF protection, no token


def test_a_message_is_kept_short_and_survives_a_broken_exception(tmp_path: Path) -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    window = Window(tmp_path, allowed=("details",), retry_min=0.001, retry_max=0.001)
    for error, words in ((ValueError("x" * 100_000), "ValueError: xxx"), (Broken(), "Broken")):
        window.error = error
        with window.app.app_context(), pytest.raises(type(error)):
            window.list.rebuild_now()
        assert window.status.report is not None
        message = window.status.report.message
        assert message is not None and words in message and len(message) <= 1000


# Text stays text


def test_a_hostile_error_stays_text(tmp_path: Path) -> None:
    window = Window(tmp_path, allowed=("details",))
    window.error = type(HOSTILE, (Exception,), {})(HOSTILE)
    window.tick()
    shown = window.look()
    assert HOSTILE.split()[0] in shown.text
    assert len(shown.all("script")) == 2 and not any("onload" in one for _, one in shown.tags)


def test_an_error_that_names_a_file_whose_name_is_no_text_is_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "flask_warmcache")  # pytest-xdist cannot pass such a log on
    window = Window(tmp_path, allowed=("details",))
    window.error = RuntimeError("cannot read caf\udce9.cbz")  # as os.listdir gives what is not UTF-8
    window.tick()
    assert "cannot read caf\\udce9.cbz" in window.look().text


@pytest.mark.parametrize("query", ["?early=%3Cscript%3E", "?early=none", "?early=", "?early=" + "x" * 5000])
def test_what_the_address_says_is_not_shown(window: Window, query: str) -> None:
    shown = window.look(query)
    assert "notice" not in str(shown.tags) and len(shown.all("script")) == 2


def test_nothing_on_the_page_is_inline(window: Window) -> None:
    window.tick()
    answer = window.client.get("/api/cache/")
    policy = answer.headers["Content-Security-Policy"]
    assert answer.headers["Referrer-Policy"] == "same-origin"  # else the form's origin is "null"
    assert "default-src 'none'" in policy and "unsafe" not in policy and "*" not in policy
    shown = Page(answer.text)
    assert shown.all("style") == []
    assert all(script["src"] for script in shown.all("script"))
    for _, attributes in shown.tags:
        assert not any(name == "style" or name.startswith("on") for name in attributes)


def test_an_apps_own_policy_has_the_last_word(window: Window) -> None:
    @window.app.after_request
    def secure(response: Any) -> Any:
        response.headers["Content-Security-Policy"] = "default-src 'self'"
        return response

    assert window.client.get("/api/cache/").headers["Content-Security-Policy"] == "default-src 'self'"


def test_an_apps_nonce_stands_on_what_the_page_loads(window: Window) -> None:
    window.app.context_processor(lambda: {"csp_nonce": lambda: "abc123"})
    shown = window.look()
    assert [one["nonce"] for one in shown.all("script")] == ["abc123"] * 2
    assert shown.all("link")[0]["nonce"] == "abc123"


def test_the_page_is_not_kept(window: Window) -> None:
    headers = window.client.get("/api/cache/").headers
    assert headers["Cache-Control"] == "no-cache, private"
    assert "Set-Cookie" not in headers


def test_ids_are_unique_and_every_label_is_there(tmp_path: Path) -> None:
    window = Window(tmp_path, allowed=("rebuild", "details"))
    window.warmcache.warm_list("other-list_2", key="path", source=list)
    window.warmcache.value("value")(dict)
    shown = window.look()
    ids = [attributes["id"] for _, attributes in shown.tags if "id" in attributes]
    assert len(ids) == len(set(ids)) and len(shown.all("article")) == 3
    for _, attributes in shown.tags:
        for name in ("aria-labelledby", "aria-describedby"):
            assert set(str(attributes.get(name, "")).split()) <= set(ids)


def test_the_page_tells_of_one_time_tasks_and_deferred_blueprints_where_there_are_any(tmp_path: Path) -> None:
    window = Window(tmp_path)
    assert "Start-up" not in window.look().text and "markers" not in window.look().text
    other = Window(tmp_path / "other")

    @other.warmcache.once("create-tables")
    def create_tables() -> None:
        raise OSError(SECRET)

    other.warmcache.defer_blueprint("no_such_module_anywhere:bp", url_prefix="/reports")
    assert "Task create-tables pending" in other.look().text
    with pytest.raises(OSError):
        other.state.tasks.run_now("create-tables")
    until(lambda: "Blueprint /reports failed" in other.look().text)
    text = other.look().text
    assert other.state.blueprints is not None
    other.state.blueprints.stop()
    assert re.search(r"Task create-tables failed .* OSError Blueprint /reports", text), text
    assert "ModuleNotFoundError" in text and SECRET not in text
    assert "deployment" not in text  # as in the stats' sections of them, which are not shown beside the table
