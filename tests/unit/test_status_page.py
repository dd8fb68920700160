"""The status page: what everybody sees, what needs a permission, and that hostile text stays text."""

from __future__ import annotations

import json
import logging
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_warmcache import WarmCache
from flask_warmcache.rebuild.tally import DURATIONS_KEPT
from flask_warmcache.status.progress import RUNNING
from flask_warmcache.web import status_page as page
from tests.support.apps import Shop, make_app
from tests.support.shelf import Shelf, files
from tests.support.waiting import until

SECRET = "/srv/secret/library is not mounted"
HOSTILE = "<script>alert(1)</script>\" onload='x"


class Page(HTMLParser):
    """A page as a browser parses it."""

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
    """A shop and a client that opens its status page."""

    def __init__(self, folder: Path, *, allowed: tuple[str, ...] = (), **config: Any) -> None:
        super().__init__(folder, **config)
        if allowed:
            self.warmcache.authorize(lambda action, name: action in allowed)

    def look(self, query: str = "") -> Page:
        return look(self.app, query)


def look(app: Flask, query: str = "") -> Page:
    answer = app.test_client().get("/api/cache/" + query)
    assert answer.status_code == 200
    return Page(answer.text)


@pytest.fixture
def window(tmp_path: Path) -> Window:
    return Window(tmp_path)


@pytest.fixture
def detailed(tmp_path: Path) -> Window:
    """Return a window for somebody who may see details."""
    return Window(tmp_path, allowed=("details",))


def test_cold_list_is_shown(window: Window) -> None:
    shown = window.look()
    assert "files cold not built yet Items 0" in shown.text
    (region,) = shown.all("article")
    assert (region["data-warmcache"], region["data-warmcache-state"]) == ("files", "cold")
    assert region["data-warmcache-src"] == "/api/cache/"


def test_fresh_list_shows_its_last_rebuild(window: Window) -> None:
    window.tick()
    text = window.look().text
    assert "fresh up to date Items 1 Age" in text
    assert "Enriched 1 Reused 0 Dropped 0 Failed items 0" in text
    assert re.search(r"Next rebuild in (5 min|4 min|\d+ s)", text)
    assert re.search(r"Last success \(UTC\) \d{4}-\d\d-\d\d \d\d:\d\d Duration \d+ ms", text)


def test_value_shows_no_items(tmp_path: Path) -> None:
    app = make_app(tmp_path)
    warmcache = WarmCache(app)
    warmcache.value("dashboard")(dict)
    with app.app_context():
        warmcache["dashboard"].rebuild_now()
    text = look(app).text
    assert "dashboard fresh" in text and "Items" not in text and "Enriched" not in text


def test_app_without_lists_has_page(tmp_path: Path) -> None:
    app = make_app(tmp_path)
    WarmCache(app)
    assert "This app declares no list." in look(app).text


def test_failed_list_shows_error_class_and_next_attempt(tmp_path: Path) -> None:
    window = Window(tmp_path, retry_min=20.0)
    window.error = OSError(SECRET)
    window.tick()
    text = window.look().text
    assert re.search(r"files failed the last rebuild failed .* Last error OSError Next attempt in \d+ s", text)
    assert "/srv" not in text


@pytest.mark.parametrize("allowed", [(), ("details",)], ids=["", "with details"])
def test_running_rebuild_shows_its_progress(tmp_path: Path, allowed: tuple[str, ...]) -> None:
    window = Window(tmp_path, allowed=allowed)
    lock = window.state.store.try_lock("files")
    assert lock is not None
    report = {"phase": "enrich", "done": 4000, "total": 10300, "rate": 100.0, "pid": 4711, "started": time.time()}
    window.state.store.write_progress("files", report)
    shown = window.look()
    assert "Enriching: 4,000 of 10,300, about 63 s left" in shown.text
    assert ("Process 4711, thread" in shown.text) == ("4711" in shown.text) == bool(allowed)
    (bar,) = shown.all("progress")
    assert (bar["value"], bar["max"]) == ("4000", "10300")
    window.state.store.write_progress("files", {**report, "phase": "source", "total": None, "rate": None})
    shown = window.look()
    assert "Reading the source: 4,000" in shown.text
    assert "value" not in shown.all("progress")[0]
    lock.close()


def test_script_gets_words_for_every_phase_and_state(window: Window) -> None:
    (main,) = window.look().all("main")
    words = json.loads(str(main["data-words"]))
    assert set(words["phases"]) == set(RUNNING)
    assert set(words["states"]) == {"cold", "partial", "fresh", "stale", "failed"}


# The app's own sections


def section_of(window: Window, facts: Any) -> str:
    """Return the text of the only section, with these facts."""
    window.warmcache.stats_section("markers")(lambda: facts)
    return window.look().text.partition(" markers ")[2]


def test_section_shows_numbers_and_short_words(window: Window) -> None:
    facts = {"marked": 12345, "is_open": True, "none": None, "parts": {"a": [1]}, "storage": "markers.sqlite3"}
    text = 'marked 12,345 is_open true none null parts {"a": [1]} storage markers.sqlite3'
    assert section_of(window, facts) == text


@pytest.mark.parametrize("fact", ["/srv/app/markers.sqlite3", "cannot open 'x'", "x" * 9999, {"file": "/srv/app"}])
def test_other_facts_need_details(tmp_path: Path, fact: Any) -> None:
    assert section_of(Window(tmp_path / "a"), {"where": fact, "marked": 5}) == "marked 5"
    hidden = Window(tmp_path / "c")
    assert section_of(hidden, {"where": fact}) == "" and "markers" not in hidden.look().text
    allowed = section_of(Window(tmp_path / "b", allowed=("details",)), {"where": fact})
    assert allowed.startswith("where ") and len(allowed) < 700


def test_failing_section_shows_class_of_its_error(window: Window) -> None:
    window.warmcache.stats_section("markers")(lambda: {"x": 1 // 0})
    text = window.look().text
    assert "files cold" in text and text.endswith("markers error ZeroDivisionError")


def test_hostile_section_stays_text(detailed: Window) -> None:
    assert section_of(detailed, {HOSTILE: HOSTILE}).count("onload='x") == 2
    check_harmless(detailed.look())


def check_harmless(shown: Page) -> None:
    assert len(shown.all("script")) == 2 and not any("onload" in attributes for _, attributes in shown.tags)


# The last durations


def test_only_last_durations_are_kept(shelf: Shelf) -> None:
    for number in range(DURATIONS_KEPT + 3):
        shelf.rebuild(files("a", *(str(number),)))
        header = shelf.snapshot().header
        assert len(header["durations"]) == min(number + 1, DURATIONS_KEPT)
        assert header["durations"][-1] == header["duration"]


def test_write_keeps_durations(window: Window) -> None:
    for _ in range(3):
        window.rebuild()
    snapshot = window.status.reader.current()
    assert snapshot is not None
    with window.app.app_context():
        assert window.list.discard("a")
    written = window.status.reader.current()
    assert written is not None and written.generation > snapshot.generation
    assert written.header["durations"] == snapshot.header["durations"]


def test_plot_scales_durations_to_bars() -> None:
    assert page.Plot.of([]) is None
    assert page.Plot.of([3.0]) is None
    plot = page.Plot.of([1.0, 4.0, 0.0])
    assert plot is not None
    assert [height for _, height in plot.bars] == [12.0, 48.0, 2.0]  # the smallest bar is visible
    assert [left for left, _ in plot.bars] == [204, 216, 228]
    assert plot.caption == "The last 3 rebuilds took 0 ms to 4.0 s"
    full = page.Plot.of([1.0] * DURATIONS_KEPT)
    assert full is not None and full.bars[0][0] == 0
    assert page.Plot.of([0.0, 0.0]) is not None


def test_plot_has_label(window: Window) -> None:
    for _ in range(4):
        window.rebuild()
    shown = window.look()
    (picture,) = shown.all("svg")
    assert picture["role"] == "img" and "The last 4 rebuilds took" in str(picture["aria-label"])
    assert len(shown.all("rect")) == 4


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 ms"), (0.0144, "14 ms"), (1, "1.0 s"), (9.94, "9.9 s"), (12.3, "12 s"), (89.9, "90 s"),
        (90, "2 min"), (3000, "50 min"), (5399, "90 min"), (5400, "2 h"), (172_799, "48 h"), (172_800, "2 days"),
        (float("inf"), "for ever"), (float("nan"), "for ever"),
    ],
)  # fmt: skip
def test_durations_are_rounded_to_words(seconds: float, words: str) -> None:
    assert page.spoken(seconds) == words


# Who may see and do what


def test_page_without_details_has_no_paths_or_messages(window: Window, tmp_path: Path) -> None:
    window.error = ValueError(SECRET)
    window.tick()
    answer = window.client.get("/api/cache/").text
    for secret in ("/srv", str(tmp_path), "Traceback", ".py"):
        assert secret not in answer
    shown = Page(answer)
    assert shown.all("form") == [] and shown.all("details") == []


def test_details_show_message_and_folder(detailed: Window, tmp_path: Path) -> None:
    detailed.error = ValueError(SECRET)
    detailed.tick()
    shown = detailed.look()
    assert f"Last error ValueError: {SECRET}" in shown.text
    assert str(tmp_path / "cache") in shown.text
    assert shown.all("form") == []


@pytest.mark.parametrize("allowed", [(), ("details",)], ids=["", "with details"])
def test_failing_filter_is_shown(tmp_path: Path, allowed: tuple[str, ...]) -> None:
    window = Window(tmp_path, allowed=allowed)
    window.list.declaration = window.list.declaration.with_functions(filters={"odd": lambda item: item[SECRET]})
    window.tick()
    text = window.look().text
    assert "Failed on 1 filter odd: KeyError" in text
    assert (f"Filter odd 'a': KeyError: '{SECRET}'" in text) == bool(allowed)
    assert (SECRET in text) == bool(allowed)


def test_details_show_why_declaration_is_unusable(tmp_path: Path) -> None:
    app = make_app(tmp_path)
    warmcache = WarmCache(app)
    warmcache.warm_list("files", key="path")
    warmcache.authorize(lambda action, name: action == "details")
    assert re.search(r"Last error DeclarationError .*Declaration .*source", look(app).text)


def test_permission_to_rebuild_shows_button(tmp_path: Path) -> None:
    window = Window(tmp_path, allowed=("rebuild",), refresh_interval=0.0)
    window.tick()
    shown = window.look()
    (form,) = shown.all("form")
    assert (form["method"], form["action"]) == ("post", "/api/cache/rebuild/files")
    assert shown.all("details") == []
    assert shown.all("input") == []  # no CSRF protection, no token


def test_message_is_cut_and_survives_broken_str(tmp_path: Path) -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    window = Window(tmp_path, allowed=("details",), retry_min=0.001, retry_max=0.001)
    for error, words in ((ValueError("x" * 100_000), "ValueError: xxx"), (Broken(), "Broken")):
        window.error = error
        with pytest.raises(type(error)):
            window.rebuild()
        assert window.status.report is not None
        message = window.status.report.message
        assert message is not None and words in message and len(message) <= 1000


# Text stays text


def test_hostile_error_stays_text(detailed: Window) -> None:
    detailed.error = type(HOSTILE, (Exception,), {})(HOSTILE)
    detailed.tick()
    shown = detailed.look()
    assert HOSTILE.split()[0] in shown.text
    check_harmless(shown)


def test_error_with_file_name_that_is_not_utf8_is_shown(
    detailed: Window, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "flask_warmcache")  # pytest-xdist cannot transfer such a log
    detailed.error = RuntimeError("cannot read caf\udce9.cbz")  # a name from os.listdir
    detailed.tick()
    assert "cannot read caf\\udce9.cbz" in detailed.look().text


@pytest.mark.parametrize("query", ["?early=%3Cscript%3E", "?early=none", "?early=", "?early=" + "x" * 5000])
def test_unknown_list_in_address_is_not_shown(window: Window, query: str) -> None:
    shown = window.look(query)
    assert "notice" not in str(shown.tags) and len(shown.all("script")) == 2


def test_page_has_no_inline_code_and_is_not_cached(window: Window) -> None:
    window.tick()
    answer = window.client.get("/api/cache/")
    assert answer.headers["Cache-Control"] == "no-cache, private"
    assert "Set-Cookie" not in answer.headers
    policy = answer.headers["Content-Security-Policy"]
    assert answer.headers["Referrer-Policy"] == "same-origin"  # else the form's origin is "null"
    assert "default-src 'none'" in policy and "unsafe" not in policy and "*" not in policy
    shown = Page(answer.text)
    assert shown.all("style") == []
    assert all(script["src"] for script in shown.all("script"))
    for _, attributes in shown.tags:
        assert not any(name == "style" or name.startswith("on") for name in attributes)


def test_policy_of_app_replaces_own_policy(window: Window) -> None:
    @window.app.after_request
    def secure(response: Any) -> Any:
        response.headers["Content-Security-Policy"] = "default-src 'self'"
        return response

    assert window.client.get("/api/cache/").headers["Content-Security-Policy"] == "default-src 'self'"


def test_nonce_of_app_is_used(window: Window) -> None:
    window.app.context_processor(lambda: {"csp_nonce": lambda: "abc123"})
    shown = window.look()
    assert [script["nonce"] for script in shown.all("script")] == ["abc123"] * 2
    assert shown.all("link")[0]["nonce"] == "abc123"


def test_ids_are_unique_and_labels_exist(tmp_path: Path) -> None:
    window = Window(tmp_path, allowed=("rebuild", "details"))
    window.warmcache.warm_list("other-list_2", key="path", source=list)
    window.warmcache.value("value")(dict)
    shown = window.look()
    ids = [attributes["id"] for _, attributes in shown.tags if "id" in attributes]
    assert len(ids) == len(set(ids)) and len(shown.all("article")) == 3
    for _, attributes in shown.tags:
        for name in ("aria-labelledby", "aria-describedby"):
            assert set(str(attributes.get(name, "")).split()) <= set(ids)


def test_page_shows_one_time_tasks_and_deferred_blueprints(window: Window, tmp_path: Path) -> None:
    assert "Start-up" not in window.look().text and "markers" not in window.look().text
    other = Window(tmp_path / "other")

    @other.warmcache.once("create-tables")
    def create_tables() -> None:
        raise OSError(SECRET)

    other.warmcache.defer_blueprint("no_such_module_anywhere:bp", url_prefix="/reports")
    assert "Task create-tables pending" in other.look().text
    with pytest.raises(OSError):
        other.state.tasks.run_now("create-tables")
    until(lambda: "ModuleNotFoundError" in other.look().text)
    text = other.look().text
    assert other.state.blueprints is not None
    other.state.blueprints.stop()
    assert re.search(r"Task create-tables failed .* OSError Blueprint /reports failed", text), text
    assert SECRET not in text
    assert "deployment" not in text  # the sections of the stats are not shown besides the table
