"""The stats: facts for programs, without anything private."""

from __future__ import annotations

import re
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, abort, render_template_string, url_for
from werkzeug.routing import Rule

from flask_warmcache import WarmCache
from flask_warmcache.settings import KEY
from flask_warmcache.status import stats
from flask_warmcache.store.snapshot import Snapshot
from flask_warmcache.web import sections
from tests.support.apps import Shop, make_app

LIST_KEYS = set(
    "runner dropped_items file_count age_seconds poll_after_ms is_populated rebuild_in_progress cache_rebuilding "
    "state complete generation progress last_success_at last_error last_duration_seconds next_attempt_at "
    "reused_items enriched_items failed_items view_errors lock_held".split()
)


class Site(Shop):
    """An app with a list, a value and a section."""

    NAMES = ("a", "b")
    OPTIONS = {"unit": "file"}

    def __init__(self, folder: Path, **config: Any) -> None:
        super().__init__(folder, **config)
        self.markers: Any = {"marked": 5}
        self.calls = 0
        self.warmcache.value("dashboard")(dict)
        self.warmcache.stats_section("markers")(self.section)

    def section(self) -> Any:
        self.calls += 1
        if isinstance(self.markers, Exception):
            raise self.markers
        return self.markers

    def stats(self, name: str = "") -> Any:
        return self.client.get("/api/cache/stats" + (name and f"/{name}")).get_json()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_section_of_cold_list(site: Site) -> None:
    section = site.stats("files")
    assert set(section) == LIST_KEYS
    assert section.pop("runner")["mode"] == "auto"
    assert {key: value for key, value in section.items() if value is not None} == {
        "file_count": 0,
        "state": "cold",
        "cache_rebuilding": True,
        "is_populated": False,
        "rebuild_in_progress": False,
        "lock_held": False,
        "complete": False,
    }


def test_section_of_warm_list(site: Site) -> None:
    site.rebuild()
    section = site.stats("files")
    assert set(section) == LIST_KEYS
    assert (section["file_count"], section["state"]) == (2, "fresh")
    assert (section["is_populated"], section["complete"]) == (True, True)
    assert (section["reused_items"], section["enriched_items"], section["failed_items"]) == (0, 2, 0)
    assert (section["rebuild_in_progress"], section["cache_rebuilding"]) == (False, False)
    assert section["progress"] is None
    assert 0 <= section["age_seconds"] < 60 and 0 <= section["last_duration_seconds"] < 60
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", section["last_success_at"])
    stamp = datetime.fromisoformat(section["last_success_at"].replace("Z", "+00:00")).timestamp()
    assert abs(stamp - time.time()) < 60
    assert re.fullmatch("[0-9a-f]+", section["generation"])


def test_section_counts_items_on_which_filter_fails(site: Site) -> None:
    site.list.declaration = site.list.declaration.with_functions(filters={"odd": lambda item: item["/srv/secret"]})
    site.rebuild()
    assert site.stats("files")["view_errors"] == {"filter odd: KeyError": 2}


def test_section_of_value_has_no_count(site: Site) -> None:
    site.rebuild("dashboard")
    section = site.stats("dashboard")
    assert set(section) == LIST_KEYS - {"file_count"}
    assert section["state"] == "fresh"


def test_stats_have_every_section(site: Site) -> None:
    answer = site.stats()
    assert list(sorted(answer)) == ["cache_rebuilding", "dashboard", "files", "markers"]
    assert answer["cache_rebuilding"] is True
    assert answer["markers"] == {"marked": 5}
    site.rebuild()
    assert site.stats()["cache_rebuilding"] is True  # the value is still cold
    site.rebuild("dashboard")
    assert site.stats()["cache_rebuilding"] is False


def test_failed_list_has_error_class_and_next_attempt(site: Site) -> None:
    site.rebuild()
    site.error = ValueError("/srv/secret/path is gone")
    with pytest.raises(ValueError, match="secret"):
        site.rebuild()
    section = site.stats("files")
    assert (section["state"], section["last_error"], section["is_populated"]) == ("failed", "ValueError", True)
    assert section["next_attempt_at"] > section["last_success_at"]
    site.error = None
    site.rebuild()
    section = site.stats("files")
    assert (section["state"], section["last_error"], section["next_attempt_at"]) == ("fresh", None, None)


def test_running_rebuild_has_progress(site: Site) -> None:
    store = site.state.store
    lock = store.try_lock("files")
    assert lock is not None
    report = {"phase": "enrich", "done": 40, "total": 100, "rate": 20.0, "pid": 4711, "started": time.time()}
    store.write_progress("files", report)
    section = site.stats("files")
    assert section["progress"] == {"phase": "enrich", "done": 40, "total": 100, "rate": 20.0, "eta_seconds": 3.0}
    assert section["rebuild_in_progress"] is True
    lock.close()
    store.write_progress("files", {**report, "phase": "finished"})
    assert site.stats("files")["progress"] is None


def test_stats_have_no_paths_pids_or_tracebacks(site: Site, tmp_path: Path) -> None:
    site.error = ValueError(f"{tmp_path}: traceback")
    site.markers = OSError(str(tmp_path))
    with pytest.raises(ValueError, match="traceback"):
        site.rebuild()
    for path in ("", "/files", "/markers", "/none"):
        text = site.client.get(f"/api/cache/stats{path}").text
        assert str(tmp_path) not in text and "/" not in text.replace("application/json", "")
        assert "raceback" not in text and "pid" not in text and ".py" not in text


def test_unknown_section_is_a_404_with_known_names(site: Site) -> None:
    answer = site.client.get("/api/cache/stats/none" + "x" * 500)
    assert (answer.status_code, answer.content_type) == (404, "application/json")
    assert answer.get_json()["allowed"] == ["files", "dashboard", "markers"]
    assert len(answer.get_json()["error"]) < 150


@pytest.mark.parametrize("path", ["/api/cache/stats", "/api/cache/stats/files", "/api/cache/stats/none"])
def test_stats_are_never_cached(site: Site, path: str) -> None:
    headers = site.client.get(path).headers
    assert headers["Cache-Control"] == "no-cache, private"
    assert "ETag" not in headers and "Last-Modified" not in headers and "Set-Cookie" not in headers


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic clock, which only the test moves."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_section_is_computed_at_most_once_a_second(site: Site, clock: list[float]) -> None:
    for _ in range(5):
        assert site.stats("markers") == {"marked": 5}
        site.stats()
    assert site.calls == 1
    clock[0] += 0.99
    site.stats("markers")
    assert site.calls == 1
    clock[0] += 0.02
    site.markers = {"marked": 6}
    assert site.stats("markers") == {"marked": 6}
    assert site.calls == 2


@pytest.mark.parametrize(
    ("markers", "error"),
    [
        (ValueError("secret"), "ValueError"),
        (None, "TypeError"),
        (5, "TypeError"),
        ({"a": object}, "TypeError"),
        ({"a": {1}}, "TypeError"),
    ],
    ids=repr,
)
def test_failing_section_shows_its_error_and_leaves_the_others(
    site: Site, caplog: pytest.LogCaptureFixture, markers: Any, error: str
) -> None:
    site.markers = markers
    answer = site.client.get("/api/cache/stats")
    assert answer.status_code == 200
    assert answer.get_json()["markers"] == {"error": error}
    assert "warmcache.section_failed: the stats section 'markers'" in caplog.text
    assert "secret" not in answer.text
    site.stats("markers")
    assert site.calls == 1  # a failing function is not called more often either


@pytest.mark.parametrize("path", ["/srv/app/x.db", r"C:\x", "~/x", "x" * 41, {"a": ["/srv"]}], ids=str)
def test_section_shows_paths_and_long_text_only_with_details(site: Site, path: Any) -> None:
    allowed: list[str] = []
    site.warmcache.authorize(lambda action, name: action in allowed)
    site.markers = {"path": path, str(path): 1, "marked": 5}
    assert site.stats("markers") == site.stats()["markers"] == {"marked": 5}
    allowed.append("details")
    assert site.stats("markers") == site.stats()["markers"] == site.markers


def test_abort_in_authorize_hides_details_and_no_more(site: Site) -> None:
    site.markers = {"path": "/srv", "marked": 5}
    site.warmcache.authorize(lambda action, name: abort(401))
    assert site.stats()["markers"] == {"marked": 5}


def test_numbers_and_short_words_are_public(site: Site) -> None:
    at = "2026-01-01 10:00:00"
    site.markers = {"share": 0.5, "open": True, "none": None, "at": at, "by": {"day": [1, "two"]}}
    site.warmcache.authorize(lambda action, name: 1 // 0 == 1)  # it is not called
    assert site.stats("markers") == site.markers


def test_own_sections_are_complete(site: Site) -> None:
    site.warmcache.defer_blueprint("no_such_module_anywhere:bp", url_prefix="/reports")
    (blueprint,) = site.stats("blueprints")["blueprints"]
    assert blueprint["url_prefix"] == "/reports"
    assert site.state.blueprints is not None
    site.state.blueprints.stop()


def test_two_apps_have_separate_sections(tmp_path: Path) -> None:
    sites = [Site(tmp_path / which) for which in "ab"]
    for site in sites:
        site.stats("markers")
    assert [site.calls for site in sites] == [1, 1]


def test_app_that_matches_hosts_has_our_routes_on_all(tmp_path: Path) -> None:
    app = Flask("shop", host_matching=True, static_host="static.test")
    app.config["WARMCACHE_DIR"] = str(tmp_path / "cache")
    warmcache = WarmCache(app)
    listed = warmcache.warm_list("files", key="path", source=list)
    app.add_url_rule("/files", "files", listed.response, host="a.test")
    app.add_url_rule("/page", "page", lambda: render_template_string("{{ warmcache_script() }}"), host="a.test")
    warmcache.authorize(lambda action, name: True)
    with app.app_context():
        listed.rebuild_now()
    client = app.test_client()
    for host in ("http://a.test", "http://B.test:8000", "https://[::1]:81"):
        for path in ("stats", "stats/files", "livez", "readyz", "static/warmcache.js", ""):
            assert client.get(f"/api/cache/{path}", base_url=host).status_code == 200
        assert client.post("/api/cache/livez", base_url=host).status_code == 405
        asked = client.post("/api/cache/rebuild/files", base_url=host, headers={"Accept": "text/html"})
        assert (asked.status_code, asked.location.partition("?")[0]) == (303, "/api/cache/")
    assert client.get("/files", base_url="http://a.test").status_code == 200
    page = client.get("/page", base_url="http://a.test").text
    assert 'data-status-url="/api/cache/stats"' in page and 'src="/api/cache/static/warmcache.js?v=' in page
    app.url_map.add(Rule("/<path:rest>", endpoint="everything", host="b.test"))
    assert ("/api/cache/stats", "everything", "warmcache.stats") in app.extensions[KEY].shadowed_routes()
    app.config["SERVER_NAME"] = "c.test"
    with app.app_context():
        assert url_for("warmcache.stats") == "http://c.test/api/cache/stats"


def test_prefix_can_be_set(tmp_path: Path) -> None:
    site = Site(tmp_path, api_prefix="/warm")
    assert site.client.get("/warm/stats/files").status_code == 200
    assert site.client.get("/api/cache/stats").status_code == 404


def test_nothing_can_be_changed_over_http_by_default(site: Site) -> None:
    for path in ("/api/cache/stats", "/api/cache/stats/files", "/api/cache/rebuild/files", "/api/cache/"):
        for method in (site.client.post, site.client.put, site.client.delete):
            assert method(path).status_code in (403, 404, 405)


def test_single_section_equals_the_one_in_all_stats(site: Site) -> None:
    for rebuild in (False, True):
        if rebuild:
            site.rebuild()
        alone, in_all = site.stats("files"), site.stats()["files"]
        assert {**alone, "age_seconds": 0} == {**in_all, "age_seconds": 0}


def test_encoded_section_is_up_to_date(site: Site) -> None:
    assert site.stats("files")["state"] == "cold"
    site.rebuild()
    first = site.stats("files")
    assert first["state"] == "fresh"
    with site.app.app_context():
        site.list.invalidate()
    stale = site.stats("files")
    assert (stale["state"], stale["generation"]) == ("stale", first["generation"])
    site.rebuild()
    second = site.stats("files")
    assert second["generation"] > first["generation"] and second["state"] == "fresh"
    site.status.ttl = 1e-9  # only time has passed
    assert site.stats("files")["state"] == "stale"


def test_poll_reads_no_item(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("files", "dashboard"):
        site.rebuild(name)

    def refuse(*_: object) -> None:
        raise AssertionError("a poll must not read items")

    for reads in ("item", "encoded", "slot_at", "find", "view"):
        monkeypatch.setattr(Snapshot, reads, refuse)
    for path in ("/files", "/dashboard", ""):
        assert site.client.get(f"/api/cache/stats{path}").status_code == 200
    assert site.client.get("/api/cache/").status_code == 200


def test_poll_after_is_next_attempt_of_failed_list(tmp_path: Path) -> None:
    site = Site(tmp_path, retry_min=8.0)
    assert site.stats("files")["poll_after_ms"] is None
    site.error = ValueError()
    with pytest.raises(ValueError):
        site.rebuild()
    assert 1000 <= site.stats("files")["poll_after_ms"] <= 10_000
    report = site.status.report
    assert report is not None and report.next_attempt_at is not None
    report.next_attempt_at = time.time() + 500
    assert site.stats("files")["poll_after_ms"] == 30_000  # somebody may ask for a rebuild earlier
    report.next_attempt_at = time.time() - 1
    assert site.stats("files")["poll_after_ms"] is None


def test_polls_of_unusable_list_are_rare(tmp_path: Path) -> None:
    app = make_app(tmp_path)
    WarmCache(app).warm_list("files", key="path")  # no source
    section = app.test_client().get("/api/cache/stats/files").get_json()
    assert (section["last_error"], section["poll_after_ms"]) == ("DeclarationError", 30_000)


def test_spread_can_be_set(tmp_path: Path) -> None:
    assert "spread_ms" not in Site(tmp_path / "a").stats("files")
    site = Site(tmp_path / "b", spread=2.5)
    assert site.stats("files")["spread_ms"] == 2500
    assert site.stats()["files"]["spread_ms"] == 2500


def test_time_outside_of_calendar_is_no_error() -> None:
    assert stats.iso(0) == "1970-01-01T00:00:00Z"
    assert stats.iso(1e30) == stats.iso(float("nan")) == ""


class SlowSection:
    """A site with a section whose function waits until the test lets it continue."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.entered, self.go_on = threading.Event(), threading.Event()
        self.calls = 0
        self.error: BaseException | None = None
        self.answers: list[Any] = []
        site.warmcache.stats_section("slow")(self.section)

    def section(self) -> dict[str, int]:
        self.calls += 1
        self.entered.set()
        assert self.go_on.wait(120)
        if self.error is not None:
            raise self.error
        return {"calls": self.calls}

    def ask_in_thread(self) -> threading.Thread:
        """Start a request in a thread, and wait until it is inside the function."""
        self.entered.clear()
        self.go_on.clear()
        thread = threading.Thread(target=self._ask)
        thread.start()
        assert self.entered.wait(120)
        return thread

    def _ask(self) -> None:
        try:
            self.answers.append(self.site.app.test_client().get("/api/cache/stats/slow").get_json())
        except SystemExit as error:
            self.answers.append(error)


def test_section_runs_once_for_simultaneous_requests(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sections, "SECTION_EVERY", 0.0)
    slow = SlowSection(site)
    first = slow.ask_in_thread()
    assert site.stats("slow") == {"cache_rebuilding": True}  # the request does not wait
    assert site.stats()["slow"] == {"cache_rebuilding": True}
    assert site.stats("markers") == {"marked": 5}  # requests for another section do not wait either
    slow.go_on.set()
    first.join(120)
    assert slow.answers == [{"calls": 1}]
    second = slow.ask_in_thread()
    assert site.stats("slow") == {"calls": 1}  # the earlier section
    slow.go_on.set()
    second.join(120)
    assert slow.answers == [{"calls": 1}, {"calls": 2}]


def test_section_of_ended_request_is_computed_by_next(site: Site) -> None:
    slow = SlowSection(site)
    slow.error = SystemExit(1)  # as at a worker's time limit
    thread = slow.ask_in_thread()
    slow.go_on.set()
    thread.join(120)
    assert isinstance(slow.answers[0], SystemExit)
    slow.error = None
    assert site.stats("slow") == {"calls": 2}


def test_section_that_takes_longer_than_a_second_pauses_for_one(site: Site, clock: list[float]) -> None:
    def take_five_seconds() -> dict[str, int]:
        clock[0] += 5
        site.calls += 1
        return {}

    site.warmcache.stats_section("long")(take_five_seconds)
    site.stats("long")
    clock[0] += 0.9
    site.stats("long")
    assert site.calls == 1
