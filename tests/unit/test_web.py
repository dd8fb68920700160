"""The stats: facts for programs, and nothing that is nobody's business."""

from __future__ import annotations

import re
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from flask_warmcache import WarmCache
from flask_warmcache.status import stats
from flask_warmcache.store.snapshot import Snapshot
from flask_warmcache.web import sections

from .world import files, make_app, state_of

LIST_KEYS = {
    "runner",
    "dropped_items",
    "file_count",
    "age_seconds",
    "poll_after_ms",
    "is_populated",
    "rebuild_in_progress",
    "cache_rebuilding",
    "state",
    "complete",
    "generation",
    "progress",
    "last_success_at",
    "last_error",
    "last_duration_seconds",
    "next_attempt_at",
    "reused_items",
    "enriched_items",
    "failed_items",
}


class Site:
    """An app with a list, a value and a section."""

    def __init__(self, folder: Path, **config: Any) -> None:
        self.app: Flask = make_app(folder, **config)
        self.warmcache = WarmCache(self.app)
        self.error: Exception | None = None
        self.markers: Any = {"marked": 5}
        self.asked = 0
        self.warmcache.warm_list("files", key="path", unit="file", source=self.source)
        self.warmcache.value("dashboard")(dict)
        self.warmcache.stats_section("markers")(self.section)
        self.client: FlaskClient = self.app.test_client()

    def source(self) -> list[dict[str, Any]]:
        if self.error is not None:
            raise self.error
        return files("a", "b")

    def section(self) -> Any:
        self.asked += 1
        if isinstance(self.markers, Exception):
            raise self.markers
        return self.markers

    def rebuild(self, name: str = "files") -> None:
        with self.app.app_context():
            self.warmcache[name].rebuild_now()

    def stats(self, name: str = "") -> Any:
        return self.client.get("/api/cache/stats" + (name and f"/{name}")).get_json()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_cold_lists_section(site: Site) -> None:
    section = site.stats("files")
    assert set(section) == LIST_KEYS
    assert (section["file_count"], section["state"], section["cache_rebuilding"]) == (0, "cold", True)
    assert [section[key] for key in ("is_populated", "rebuild_in_progress", "complete")] == [False] * 3
    assert section["runner"]["mode"] == "auto"
    others = LIST_KEYS - {
        "runner",
        "file_count",
        "state",
        "cache_rebuilding",
        "is_populated",
        "rebuild_in_progress",
        "complete",
    }
    assert {section[key] for key in others} == {None}


def test_a_warm_lists_section(site: Site) -> None:
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


def test_a_values_section_counts_nothing(site: Site) -> None:
    site.rebuild("dashboard")
    section = site.stats("dashboard")
    assert set(section) == LIST_KEYS - {"file_count"}
    assert section["state"] == "fresh"


def test_all_sections_at_once(site: Site) -> None:
    answer = site.stats()
    assert list(sorted(answer)) == ["cache_rebuilding", "dashboard", "files", "markers"]
    assert answer["cache_rebuilding"] is True
    assert answer["markers"] == {"marked": 5}
    site.rebuild()
    assert site.stats()["cache_rebuilding"] is True  # the value is still cold
    site.rebuild("dashboard")
    assert site.stats()["cache_rebuilding"] is False


def test_a_failed_list_says_the_class_and_when_it_tries_again(site: Site) -> None:
    site.rebuild()
    site.error = ValueError("/srv/secret/path is gone")
    with site.app.app_context(), pytest.raises(ValueError, match="secret"):
        site.warmcache["files"].rebuild_now()
    section = site.stats("files")
    assert (section["state"], section["last_error"], section["is_populated"]) == ("failed", "ValueError", True)
    assert section["next_attempt_at"] > section["last_success_at"]
    site.error = None
    site.rebuild()
    section = site.stats("files")
    assert (section["state"], section["last_error"], section["next_attempt_at"]) == ("fresh", None, None)


def test_a_running_rebuild_shows_its_progress(site: Site) -> None:
    state = state_of(site.app)
    lock = state.store.try_lock("files")
    assert lock is not None
    report = {"phase": "enrich", "done": 40, "total": 100, "rate": 20.0, "pid": 4711, "started": time.time()}
    state.store.write_progress("files", report)
    section = site.stats("files")
    assert section["progress"] == {"phase": "enrich", "done": 40, "total": 100, "rate": 20.0, "eta_seconds": 3.0}
    assert section["rebuild_in_progress"] is True
    lock.close()
    state.store.write_progress("files", {**report, "phase": "finished"})
    assert site.stats("files")["progress"] is None


def test_no_stats_tell_paths_pids_or_tracebacks(site: Site, tmp_path: Path) -> None:
    site.error = ValueError(f"{tmp_path}: traceback")
    site.markers = OSError(str(tmp_path))
    with site.app.app_context(), pytest.raises(ValueError, match="traceback"):
        site.warmcache["files"].rebuild_now()
    for path in ("", "/files", "/markers", "/none"):
        text = site.client.get(f"/api/cache/stats{path}").text
        assert str(tmp_path) not in text and "/" not in text.replace("application/json", "")
        assert "raceback" not in text and "pid" not in text and ".py" not in text


def test_an_unknown_section_is_a_404_that_names_the_known(site: Site) -> None:
    answer = site.client.get("/api/cache/stats/none" + "x" * 500)
    assert (answer.status_code, answer.content_type) == (404, "application/json")
    assert answer.get_json()["allowed"] == ["files", "dashboard", "markers"]
    assert len(answer.get_json()["error"]) < 150


@pytest.mark.parametrize("path", ["/api/cache/stats", "/api/cache/stats/files", "/api/cache/stats/none"])
def test_a_status_answer_is_never_kept(site: Site, path: str) -> None:
    headers = site.client.get(path).headers
    assert headers["Cache-Control"] == "no-cache, private"
    assert "ETag" not in headers and "Last-Modified" not in headers and "Set-Cookie" not in headers


def test_a_section_is_computed_once_a_second_at_most(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    for _ in range(5):
        assert site.stats("markers") == {"marked": 5}
        site.stats()
    assert site.asked == 1
    now[0] += 0.99
    site.stats("markers")
    assert site.asked == 1
    now[0] += 0.02
    site.markers = {"marked": 6}
    assert site.stats("markers") == {"marked": 6}
    assert site.asked == 2


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
def test_a_section_that_fails_says_so_and_leaves_the_others(
    site: Site, caplog: pytest.LogCaptureFixture, markers: Any, error: str
) -> None:
    site.markers = markers
    answer = site.client.get("/api/cache/stats")
    assert answer.status_code == 200
    assert answer.get_json()["markers"] == {"error": error}
    assert "warmcache.section_failed: the stats section 'markers'" in caplog.text
    assert "secret" not in answer.text
    site.stats("markers")
    assert site.asked == 1  # a failure, too, is asked for once a second


def test_sections_of_two_apps_are_their_own(tmp_path: Path) -> None:
    sites = [Site(tmp_path / which) for which in "ab"]
    for site in sites:
        site.stats("markers")
    assert [site.asked for site in sites] == [1, 1]


def test_the_prefix_is_the_apps_choice(tmp_path: Path) -> None:
    site = Site(tmp_path, api_prefix="/warm")
    assert site.client.get("/warm/stats/files").status_code == 200
    assert site.client.get("/api/cache/stats").status_code == 404


def test_nothing_can_be_changed_over_http(site: Site) -> None:
    for path in ("/api/cache/stats", "/api/cache/stats/files", "/api/cache/rebuild/files", "/api/cache/"):
        for method in (site.client.post, site.client.put, site.client.delete):
            assert method(path).status_code in (403, 404, 405)


def test_one_section_and_all_of_them_tell_the_same(site: Site) -> None:
    for rebuild in (False, True):
        if rebuild:
            site.rebuild()
        one, every = site.stats("files"), site.stats()["files"]
        assert {**one, "age_seconds": 0} == {**every, "age_seconds": 0}


def test_a_section_is_up_to_date_although_it_is_encoded_once(site: Site) -> None:
    assert site.stats("files")["state"] == "cold"
    site.rebuild()
    first = site.stats("files")
    assert first["state"] == "fresh"
    with site.app.app_context():
        site.warmcache["files"].invalidate()
    assert site.stats("files")["state"] == "stale"
    assert site.stats("files")["generation"] == first["generation"]
    site.rebuild()
    second = site.stats("files")
    assert second["generation"] > first["generation"] and second["state"] == "fresh"
    state = state_of(site.app)
    state.statuses["files"].ttl = 1e-9  # time alone has passed
    assert site.stats("files")["state"] == "stale"


def test_a_poll_reads_no_item(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("files", "dashboard"):
        site.rebuild(name)

    def refuse(*_: object) -> None:
        raise AssertionError("a poll must not read items")

    for reads in ("item", "encoded", "slot_at", "find", "view"):
        monkeypatch.setattr(Snapshot, reads, refuse)
    for path in ("/files", "/dashboard", ""):
        assert site.client.get(f"/api/cache/stats{path}").status_code == 200
    assert site.client.get("/api/cache/").status_code == 200


def test_polls_of_a_failed_list_wait_for_the_next_attempt(tmp_path: Path) -> None:
    site = Site(tmp_path, retry_min=8.0)
    assert site.stats("files")["poll_after_ms"] is None
    site.error = ValueError()
    with site.app.app_context(), pytest.raises(ValueError):
        site.warmcache["files"].rebuild_now()
    assert 1000 <= site.stats("files")["poll_after_ms"] <= 10_000
    state = state_of(site.app)
    report = state.statuses["files"].report
    assert report is not None and report.next_attempt_at is not None
    report.next_attempt_at = time.time() + 500
    assert site.stats("files")["poll_after_ms"] == 30_000  # somebody may ask for a rebuild meanwhile
    report.next_attempt_at = time.time() - 1
    assert site.stats("files")["poll_after_ms"] is None


def test_polls_of_a_list_that_cannot_be_rebuilt_are_rare(tmp_path: Path) -> None:
    app = make_app(tmp_path)
    WarmCache(app).warm_list("files", key="path")  # no source
    section = app.test_client().get("/api/cache/stats/files").get_json()
    assert (section["last_error"], section["poll_after_ms"]) == ("DeclarationError", 30_000)


def test_the_spread_of_refreshes_is_the_apps_choice(tmp_path: Path) -> None:
    assert "spread_ms" not in Site(tmp_path / "a").stats("files")
    site = Site(tmp_path / "b", spread=2.5)
    assert site.stats("files")["spread_ms"] == 2500
    assert site.stats()["files"]["spread_ms"] == 2500


def test_a_time_out_of_any_calendar_is_no_error() -> None:
    assert stats.iso(0) == "1970-01-01T00:00:00Z"
    assert stats.iso(1e30) == stats.iso(float("nan")) == ""


class SlowSection:
    """A site whose section waits in its function until it is told to go on."""

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
        assert self.go_on.wait(20)
        if self.error is not None:
            raise self.error
        return {"calls": self.calls}

    def ask_beside(self) -> threading.Thread:
        """A request in the function, in a thread of its own."""
        self.entered.clear()
        self.go_on.clear()
        thread = threading.Thread(target=self._ask)
        thread.start()
        assert self.entered.wait(20)
        return thread

    def _ask(self) -> None:
        try:
            self.answers.append(self.site.app.test_client().get("/api/cache/stats/slow").get_json())
        except SystemExit as error:
            self.answers.append(error)


def test_a_section_runs_once_for_all_who_ask_meanwhile(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sections, "SECTION_EVERY", 0.0)
    slow = SlowSection(site)
    first = slow.ask_beside()
    assert site.stats("slow") == {"cache_rebuilding": True}  # nobody knows it yet, and nobody waits
    assert site.stats()["slow"] == {"cache_rebuilding": True}
    assert site.stats("markers") == {"marked": 5}  # another section does not wait either
    slow.go_on.set()
    first.join(20)
    assert slow.answers == [{"calls": 1}]
    second = slow.ask_beside()
    assert site.stats("slow") == {"calls": 1}  # the last one known
    slow.go_on.set()
    second.join(20)
    assert slow.answers == [{"calls": 1}, {"calls": 2}]


def test_a_section_whose_request_was_ended_is_computed_by_the_next(site: Site) -> None:
    slow = SlowSection(site)
    slow.error = SystemExit(1)  # a worker's time limit, say
    thread = slow.ask_beside()
    slow.go_on.set()
    thread.join(20)
    assert isinstance(slow.answers[0], SystemExit)
    slow.error = None
    assert site.stats("slow") == {"calls": 2}


def test_a_section_that_takes_longer_than_a_second_rests_for_one(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def take_five_seconds() -> dict[str, int]:
        now[0] += 5
        site.asked += 1
        return {}

    site.warmcache.stats_section("long")(take_five_seconds)
    site.stats("long")
    now[0] += 0.9
    site.stats("long")
    assert site.asked == 1
