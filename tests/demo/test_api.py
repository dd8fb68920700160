from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import requests

if TYPE_CHECKING:
    from tests.demo.conftest import Server

KEYS = {"path", "name", "relative_path", "size", "modified", "processed", "duplicate"}
MORE = {"web_modified", "series", "number", "title", "year", "pages", "width", "height", "cover", "error"}


@pytest.fixture
def comic(server: Server) -> dict[str, Any]:
    """Return the first comic with a cover."""
    return next(file for file in server.get("/api/files").json()["files"] if file["cover"])


def test_list_has_exactly_the_documented_keys(server: Server) -> None:
    answer = server.get("/api/files", page=2, per_page=10).json()
    names = {"files", "page", "per_page", "total_files", "total_pages", "cache_rebuilding"}
    assert set(answer) == names | {"marked_count", "unmarked_count", "duplicates_count"}
    assert (answer["page"], answer["per_page"], answer["total_files"], answer["total_pages"]) == (2, 10, 120, 12)
    assert (answer["marked_count"] + answer["unmarked_count"], answer["duplicates_count"]) == (120, 12)
    assert all(set(file) == KEYS | MORE for file in answer["files"])


def test_no_answer_contains_a_path_of_the_server(server: Server) -> None:
    for path in ("/api/files?per_page=120", "/api/cache/stats", "/api/files?page=x", "/api/files/mark"):
        assert str(server.data) not in server.get(path).text


def test_broken_comics_have_an_error_and_no_cover(server: Server) -> None:
    files = server.get("/api/files", per_page=120).json()["files"]
    broken = [file for file in files if file["error"]]
    assert len(broken) == 12
    assert not any(file["cover"] for file in broken)


def test_stats_have_the_sections_of_the_example(server: Server) -> None:
    stats = server.get("/api/cache/stats").json()
    assert set(stats) == {"enriched_file_cache", "file_list_cache", "markers", "cache_rebuilding"}
    assert set(stats["markers"]) == {
        "processed_files", "duplicate_files", "web_modified_files", "storage_location",
    }  # fmt: skip
    assert stats["markers"]["storage_location"] == "markers.sqlite3"
    for name in ("enriched_file_cache", "file_list_cache"):
        assert stats[name]["file_count"] == 120
        assert {"age_seconds", "is_populated", "rebuild_in_progress"} <= set(stats[name])


def test_cover_is_an_immutable_webp(server: Server, comic: dict[str, Any]) -> None:
    answer = server.get(comic["cover"])
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "image/webp")
    assert answer.content[8:12] == b"WEBP"
    assert {"immutable", "max-age=31536000"} <= set(answer.headers["Cache-Control"].split(", "))


@pytest.mark.parametrize("name", ["0" * 32, "..%2f..%2fmarkers.sqlite3", "A" * 32, "0", "%00"])
def test_other_cover_names_are_not_found(server: Server, name: str) -> None:
    assert server.get(f"/covers/{name}.webp").status_code == 404


def test_every_answer_has_the_security_headers(server: Server) -> None:
    for path in ("/", "/api/files", "/static/demo.css", "/nowhere"):
        headers = server.get(path).headers
        assert headers["Content-Security-Policy"].startswith("default-src 'self'")
        assert headers["X-Content-Type-Options"] == "nosniff"


def test_mark_is_stored_and_listed_at_once(server: Server, comic: dict[str, Any]) -> None:
    path, processed = comic["path"], not comic["processed"]
    before = server.marker_counts()
    answer = server.mark({"paths": [path], "processed": processed})
    assert answer.status_code == 200
    marker = {"processed": processed, "duplicate": comic["duplicate"], "web_modified": True}
    assert answer.json() == {"files": {path: marker}}
    assert server.marker_counts().web_modified == before.web_modified + 1
    listed = server.get("/api/files", search=comic["name"]).json()["files"]
    assert [file for file in listed if file["path"] == path] == [comic | marker]


def test_mark_needs_no_rebuild(server: Server, comic: dict[str, Any]) -> None:
    before = server.get("/api/cache/stats").json()
    server.mark({"paths": [comic["path"]], "duplicate": not comic["duplicate"]})
    after = server.get("/api/cache/stats").json()
    for name in ("file_list_cache", "enriched_file_cache"):
        assert after[name]["generation"] != before[name]["generation"]
        assert after[name]["last_success_at"] == before[name]["last_success_at"]
        assert (after[name]["state"], after[name]["cache_rebuilding"]) == ("fresh", False)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ([], "JSON object"),
        ({}, "paths"),
        ({"paths": "a.cbz", "processed": True}, "list of texts"),
        ({"paths": [1], "processed": True}, "list of texts"),
        ({"paths": [], "processed": True}, "1 to 500"),
        ({"paths": ["a.cbz"] * 501, "processed": True}, "1 to 500"),
        ({"paths": ["a.cbz"]}, "processed"),
        ({"paths": ["a.cbz"], "processed": 1}, "true or false"),
        ({"paths": ["a.cbz"], "duplicate": None}, "true or false"),
    ],
)
def test_wrong_mark_is_refused_with_a_reason(server: Server, body: object, reason: str) -> None:
    answer = server.mark(body)
    assert answer.status_code == 400
    assert reason in answer.json()["error"]


@pytest.mark.parametrize(
    "path", ["library/gone.cbz", "library/../markers.sqlite3", "/etc/passwd", "library/", "x"]
)
def test_mark_outside_the_library_is_refused(server: Server, comic: dict[str, Any], path: str) -> None:
    before = server.marker_counts()
    answer = server.mark({"paths": [comic["path"], path], "processed": not comic["processed"]})
    assert answer.status_code == 404
    assert "No comic" in answer.json()["error"]
    assert server.marker_counts() == before, "one of the paths was marked"


def test_mark_must_be_json(server: Server) -> None:
    url = server.url + "/api/files/mark"
    form = requests.post(url, data={"paths": "a.cbz"}, timeout=120)
    assert (form.status_code, "error" in form.json()) == (415, True)
    broken = requests.post(url, data="{", headers={"Content-Type": "application/json"}, timeout=120)
    assert (broken.status_code, "error" in broken.json()) == (400, True)
    assert server.get("/api/files/mark").status_code == 405
    too_long = requests.post(url, data=b" " * 2_100_000, headers={"Content-Type": "application/json"}, timeout=120)
    assert (too_long.status_code, "error" in too_long.json()) == (413, True)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 400),
        ({"Origin": "https://comics.example", "Host": "Comics.example:443"}, 400),  # TLS ends at a proxy
        ({"Origin": "https://comics.example", "Host": "comics.example:444"}, 403),
        ({}, 400),
    ],
)
def test_mark_from_another_site_is_refused(server: Server, headers: dict[str, str], status: int) -> None:
    assert server.mark({}, **headers).status_code == status
