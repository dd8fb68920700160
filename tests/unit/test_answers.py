"""List answers in HTTP: status, headers and ETags, and what hooks of the app may change."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Response, request, session
from flask.testing import FlaskClient

from flask_warmcache import WarmCache
from tests.support.apps import Site, make_app


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_cold_answer_of_readme(tmp_path: Path) -> None:
    app = make_app(tmp_path)
    listed = WarmCache(app).warm_list(
        "enriched_file_cache",
        key="path",
        unit="file",
        filters={"unmarked": lambda item: not item["processed"]},
        counts=("unmarked",),
        source=list,
    )
    app.add_url_rule("/api/files", "files", listed.response)
    answer = app.test_client().get("/api/files")
    assert (answer.status_code, answer.content_type) == (200, "application/json")
    expected = (
        '{"files": [], "page": 1, "per_page": 100, "total_files": 0, "total_pages": 1, '
        '"unmarked_count": 0, "cache_rebuilding": true}'
    )
    assert answer.text == expected + "\n"


def test_headers_of_cold_answer(site: Site) -> None:
    headers = site.client.get("/files").headers
    assert headers["X-Warmcache"] == "files; gen=0; state=cold"
    assert headers["Cache-Status"] == "warmcache; fwd=miss; detail=cold"
    assert headers["Retry-After"] == "2"
    assert headers["Cache-Control"] == "private, no-cache"
    assert "Age" not in headers and "ETag" in headers


def test_headers_of_warm_answer(site: Site) -> None:
    site.rebuild()
    answer = site.client.get("/files")
    headers = answer.headers
    snapshot = site.status.reader.current()
    assert snapshot is not None
    assert headers["X-Warmcache"] == f"files; gen={snapshot.shown_generation}; state=fresh"
    assert re.fullmatch("warmcache; hit; ttl=(300|299); detail=fresh", headers["Cache-Status"])
    assert headers["Age"] in ("0", "1")
    assert int(headers["Content-Length"]) == len(answer.data)
    assert "Retry-After" not in headers and "Set-Cookie" not in headers and "Vary" not in headers
    head = site.client.head("/files")
    assert (head.data, head.status_code, head.headers["Content-Length"]) == (b"", 200, headers["Content-Length"])


def test_stale_answer_says_how_stale_it_is(site: Site) -> None:
    site.rebuild()
    site.status.ttl = -50.5
    headers = site.client.get("/files").headers
    assert headers["Cache-Status"].startswith("warmcache; hit; ttl=-5")
    assert headers["X-Warmcache"].endswith("state=stale")


@pytest.mark.parametrize("chosen", ["no-store", "private, no-cache", "public, max-age=60", "S-MaxAge=5"])
def test_app_chooses_cache_control_and_no_age_shortens_its_lifetime(tmp_path: Path, chosen: str) -> None:
    site = Site(tmp_path, cache_control=chosen)
    site.rebuild()
    headers = site.client.get("/files").headers
    assert (headers["Cache-Control"], "Age" in headers) == (chosen, "no-" in chosen)


# ETags


COMPRESSED = ['"{}-gzip"', 'W/"{}-br"', 'W/"{}:zstd"', '"{}--gzip"', '"{};gz"', '"x-gzip", W/"{}:deflate"']


@pytest.mark.parametrize("form", ['W/"{}"', '"{}"', '"x", "{}"', '"x" , W/"{}" , "y"', "*", *COMPRESSED])
def test_client_that_has_answer_gets_304_without_body(site: Site, form: str) -> None:
    site.rebuild()
    first = site.client.get("/files?page=1")
    tag = first.headers["ETag"].removeprefix("W/").strip('"')
    again = site.client.get("/files?page=1", headers={"If-None-Match": form.format(tag)})
    assert (again.status_code, again.data) == (304, b"")
    assert again.headers["ETag"] == first.headers["ETag"]
    assert again.headers["Cache-Control"] == "private, no-cache"
    assert "X-Warmcache" in again.headers and "Age" in again.headers
    assert "Content-Type" not in again.headers and "Content-Length" not in again.headers


OTHERS = ['"x"', 'W/"x"', "", '"', "garbage", '"a", "b"', "x" * 5000, '"-gzip"', '"{}-"', '"{}gzip"', '"{}-0"']


@pytest.mark.parametrize("form", OTHERS)
def test_client_that_has_another_answer_gets_this_one(site: Site, form: str) -> None:
    site.rebuild()
    tag = site.client.get("/files").headers["ETag"].removeprefix("W/").strip('"')
    assert site.client.get("/files", headers={"If-None-Match": form.format(tag)}).status_code == 200


def test_304_never_keeps_old_flag_alive(site: Site) -> None:
    cold = {"If-None-Match": site.client.get("/files").headers["ETag"]}
    assert site.client.get("/files", headers=cold).status_code == 304
    site.rebuild()
    warm = site.client.get("/files", headers=cold)
    assert warm.status_code == 200
    tag = warm.headers["ETag"]
    with site.app.app_context():
        site.list.invalidate()
    changed = site.client.get("/files", headers={"If-None-Match": tag})
    assert changed.status_code == 200
    assert changed.get_json()["cache_rebuilding"] is True
    flagged = changed.headers["ETag"]
    site.rebuild()
    renewed = site.client.get("/files", headers={"If-None-Match": flagged})
    assert (renewed.status_code, renewed.get_json()["cache_rebuilding"]) == (200, False)


# Together with the rest of the app


@pytest.mark.parametrize("refreshed", [False, True])
def test_session_is_left_alone(site: Site, refreshed: bool) -> None:
    site.app.secret_key = "x"
    site.app.config["SESSION_REFRESH_EACH_REQUEST"] = refreshed
    site.app.add_url_rule("/plain", "plain", lambda: "")

    @site.app.get("/login")
    def login() -> str:
        session.permanent = True
        session["user"] = 1
        return ""

    def touched(client: FlaskClient, path: str) -> list[str]:
        return [name for name in ("Set-Cookie", "Vary") if name in client.get(path).headers]

    site.rebuild()
    visitor, stranger = site.app.test_client(), site.app.test_client()
    touched(visitor, "/login")
    # Flask itself sends a permanent session with every answer, unless the setting is off.
    by_flask = touched(visitor, "/plain")
    assert ("Set-Cookie" in by_flask) == refreshed
    for path in ("/files", "/files?refresh=true", "/files?page=x"):
        assert touched(visitor, path) == by_flask
        assert touched(stranger, path) == []


@pytest.mark.parametrize("warm", [False, True])
def test_hooks_may_change_answer(site: Site, warm: bool) -> None:
    if warm:
        site.rebuild()
    change: Callable[[Response], Response]
    site.app.after_request(lambda response: change(response))

    def shorter(response: Response) -> Response:
        response.set_data(b"{}")
        response.headers["X-Own"] = "1"
        response.headers.add("X-Own", "2")
        del response.headers["Age" if warm else "Retry-After"]
        response.set_cookie("a", "b")
        return response

    def elsewhere(response: Response) -> Response:
        response.status_code, response.location = 302, "/other"
        return response

    def gone(response: Response) -> Response:
        response.status_code = 204
        return response

    def read(response: Response) -> Response:
        response.headers["X-Total"] = str(response.get_json()["total_files"])
        response.vary.add("Cookie")
        response.cache_control.max_age = 5
        return response

    def same(response: Response) -> Response:
        return response

    change = shorter
    answer = site.client.get("/files")
    assert (answer.data, answer.headers["Content-Length"]) == (b"{}", "2")
    assert answer.headers.getlist("X-Own") == ["1", "2"]
    assert "Set-Cookie" in answer.headers and "Age" not in answer.headers
    change = elsewhere
    answer = site.client.get("/files")
    assert (answer.status_code, answer.headers["Location"]) == (302, "/other")
    change = gone
    assert "Content-Length" not in site.client.get("/files").headers
    change = read
    headers = site.client.get("/files").headers
    assert (headers["X-Total"], headers["Vary"]) == ("3" if warm else "0", "Cookie")
    assert "max-age=5" in headers["Cache-Control"]
    change = same
    # A change of one answer does not reach the next: the bytes are shared, the headers are not.
    assert site.client.get("/files").headers["Cache-Control"] == "private, no-cache"


def test_hook_may_replace_all_headers_and_notice_end_of_answer(site: Site) -> None:
    site.rebuild()
    ended: list[str] = []

    @site.app.after_request
    def replace(response: Response) -> Response:
        response.call_on_close(lambda: ended.append(response.headers["X-Only"]))
        response.headers = {"X-Only": "this", "Content-Type": "application/json"}  # type: ignore[assignment]
        return response

    answer = site.client.get("/files")
    assert (answer.status_code, answer.headers["X-Only"]) == (200, "this")
    assert "ETag" not in answer.headers and json.loads(answer.data)["total_files"] == 3
    answer.close()
    assert ended == ["this"]


def test_response_class_of_app_is_respected(site: Site) -> None:
    sent: list[bytes] = []

    class Own(Response):
        def iter_encoded(self) -> Iterator[bytes]:
            for piece in super().iter_encoded():
                sent.append(piece)
                yield piece

        def get_wsgi_headers(self, environ: Any) -> Any:
            headers = super().get_wsgi_headers(environ)
            headers["X-Frame-Options"] = "DENY"
            return headers

    site.app.response_class = Own
    with site.app.test_request_context("/files"):
        assert isinstance(site.list.response(), Own)
    assert site.client.get("/files").data == b"".join(sent) != b""
    site.rebuild()
    for path in ("/files", "/files?filter=nope", "/api/cache/stats", "/api/cache/stats/files"):
        assert site.client.get(path).headers["X-Frame-Options"] == "DENY", path
    assert site.client.head("/files").headers["X-Frame-Options"] == "DENY"


def test_fresh_worker_parses_and_encodes_no_item(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.rebuild()
    worker = Site(site.state.store.folder.parent)
    assert worker.client.get("/files?page=9").status_code == 200  # maps the snapshot, whose header is JSON

    def forbidden(*arguments: Any, **options: Any) -> None:
        raise AssertionError("an item was parsed or encoded")

    with monkeypatch.context() as patched:
        patched.setattr(json, "loads", forbidden)
        patched.setattr(json, "dumps", forbidden)
        patched.setattr(json.JSONDecoder, "decode", forbidden)
        answers = [worker.client.get(f"/files?{query}") for query in ("", "sort=-name", "filter=short&page=2")]
        data = [(answer.status_code, answer.data) for answer in answers]
    assert [code for code, _ in data] == [200] * 3
    assert json.loads(data[0][1])["files"] == site.items
    assert worker.builds == 0


def test_view_sets_defaults_and_request_overrides_them(site: Site) -> None:
    site.rebuild()
    site.app.add_url_rule("/two", "two", lambda: site.list.response(per_page=2, filter="short", sort="-name"))
    answer = site.client.get("/two").get_json()
    assert (answer["per_page"], [item["path"] for item in answer["files"]]) == (2, ["c", "b"])
    answer = site.client.get("/two?per_page=1&sort=name").get_json()
    assert (answer["per_page"], [item["path"] for item in answer["files"]]) == (1, ["a"])


def test_only_get_and_head_can_be_answered_with_304(site: Site) -> None:
    site.rebuild()
    site.app.add_url_rule("/asked", "asked", site.list.response, methods=["GET", "POST"])
    known = {"If-None-Match": "*"}
    assert site.client.get("/asked", headers=known).status_code == 304
    assert site.client.post("/asked", headers=known).status_code == 200


# Views with a shape of their own


@pytest.fixture
def own(site: Site) -> Site:
    """Add a view that greets the user, and answers with the names that one page or the whole list has."""

    @site.app.get("/own")
    def view() -> Response:
        asked = {name: request.args.get(name) for name in ("page", "per_page", "filter", "sort", "search")}
        page = site.list.page(**asked)
        return page.response(
            {"user": request.headers.get("X-User"), "names": [item["path"] for item in page.items]}
        )

    @site.app.get("/all")
    def every() -> Response:
        files = site.list.get()
        return files.response(([item["path"] for item in files], {"Cache-Control": "public, max-age=9"}))

    return site


@pytest.mark.parametrize("query", ["filter=no", "sort=no", "page=x", "per_page=-7", "search=a", "per_page=x"])
def test_wrong_argument_from_request_is_400_of_view(own: Site, query: str) -> None:
    own.rebuild()
    wrong, ours = own.client.get(f"/own?{query}"), own.client.get(f"/files?{query}")
    assert (wrong.status_code, wrong.data) == (ours.status_code, ours.data) == (400, ours.data)
    assert wrong.headers["Content-Type"] == ours.headers["Content-Type"] == "application/json"
    assert wrong.headers["Cache-Control"] == ours.headers["Cache-Control"] == "no-store"
    assert "X-Warmcache" not in wrong.headers


def test_app_may_answer_wrong_argument_itself(own: Site) -> None:
    own.app.register_error_handler(400, lambda error: (f"{error.parameter}: {error.description}", 400))
    assert own.client.get("/own?page=x").text == "page: page must be a whole number."


def test_own_shape_has_headers_of_list_and_etag_of_its_body(own: Site) -> None:
    cold = own.client.get("/own")
    assert cold.headers["X-Warmcache"] == "files; gen=0; state=cold" and cold.headers["Retry-After"] == "2"
    own.rebuild()
    headers = dict(own.client.get("/files").headers)
    ann = own.client.get("/own?page=", headers={"X-User": "Ann"})
    assert ann.get_json() == {"user": "Ann", "names": ["a", "b", "c"]}
    for name in ("X-Warmcache", "Cache-Control"):
        assert ann.headers[name] == headers[name]
    assert {"Cache-Status", "Age"} <= set(ann.headers.keys()) and "Retry-After" not in ann.headers
    known = {"If-None-Match": ann.headers["ETag"][:-1] + '-gzip"'}
    again = own.client.get("/own", headers={"X-User": "Ann", **known})
    assert (again.status_code, again.data, "Content-Type" in again.headers) == (304, b"", False)
    assert again.headers["X-Warmcache"] == headers["X-Warmcache"]
    assert own.client.get("/own", headers={"X-User": "Ben", **known}).get_json()["user"] == "Ben"
    own.rebuild()
    renewed = own.client.get("/own", headers={"X-User": "Ann", **known})
    assert renewed.status_code == 304 and renewed.headers["X-Warmcache"] != headers["X-Warmcache"]
    every = own.client.get("/all")
    assert every.get_json() == ["a", "b", "c"] and "X-Warmcache" in every.headers
    assert every.headers["Cache-Control"] == "public, max-age=9" and "Age" not in every.headers


@pytest.mark.parametrize("kind", ["stream", "error"])
def test_stream_and_error_of_own_shape_have_no_etag(site: Site, kind: str) -> None:
    site.rebuild()
    answers: dict[str, Any] = {"stream": (iter(["a", "b"]), 200), "error": ("gone", 410)}
    site.app.add_url_rule("/odd", "odd", lambda: site.list.get().response(answers[kind]))
    answer = site.client.get("/odd", headers={"If-None-Match": "*"})
    assert (answer.text, answer.status_code) == {"stream": ("ab", 200), "error": ("gone", 410)}[kind]
    assert "X-Warmcache" in answer.headers and "ETag" not in answer.headers
