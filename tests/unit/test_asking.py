"""POST /api/cache/rebuild/NAME: who may ask, what it does, and that many requests cause no more work."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import flask_wtf
import pytest
from flask import abort, redirect, request
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from flask_warmcache import DeclarationError, WarmCache
from tests.support.apps import Shop
from tests.support.waiting import until

PATH = "/api/cache/rebuild/files"
OWN = {"Sec-Fetch-Site": "same-origin"}
FORM = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8", **OWN}


class Counter(Shop):
    """A shop without an interval between rebuilds; requests with "X-Say: please" may ask for one."""

    def __init__(self, folder: Path, **config: Any) -> None:
        super().__init__(folder, **{"refresh_interval": 0.0, **config})
        self.questions: list[tuple[str, str | None]] = []
        self.warmcache.authorize(self.allow)
        self.client: FlaskClient = self.app.test_client()

    def allow(self, action: str, list_name: str | None) -> bool:
        self.questions.append((action, list_name))
        return request.headers.get("X-Say") == "please"

    def ask(self, path: str = PATH, **headers: str) -> TestResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post(path, headers={"X-Say": "please", **named})


@pytest.fixture
def shop(tmp_path: Path) -> Counter:
    shop = Counter(tmp_path)
    shop.tick()
    assert shop.builds == 1
    return shop


# What it does


def test_request_makes_list_due_wakes_keeper_and_does_not_rebuild(shop: Counter) -> None:
    before = shop.client.get("/api/cache/stats/files").get_json()["generation"]
    shop.keeper._wake.clear()
    answer = shop.ask()
    assert (answer.status_code, answer.content_type) == (202, "application/json")
    section = answer.get_json()
    assert (section["state"], section["cache_rebuilding"], section["generation"]) == ("stale", True, before)
    assert answer.headers["Cache-Control"] == "no-cache, private"
    assert shop.builds == 1
    assert shop.keeper._wake.is_set()
    shop.tick()
    assert shop.builds == 2
    assert shop.client.get("/api/cache/stats/files").get_json()["generation"] != before


def test_another_process_sees_that_list_is_due(shop: Counter, tmp_path: Path) -> None:
    other = Counter(tmp_path)
    assert other.status.condition().state == "fresh"
    shop.ask()
    assert other.status.condition().due
    other.tick()
    assert (shop.builds, other.builds) == (1, 1)
    assert shop.status.condition().state == "fresh"


def test_thousand_requests_start_one_rebuild(shop: Counter) -> None:
    shop.gate.clear()
    answers = [shop.ask().status_code for _ in range(300)]
    ticking = threading.Thread(target=shop.tick)
    ticking.start()
    until(lambda: shop.builds == 2)
    answers += [shop.ask().status_code for _ in range(700)]  # these join the running rebuild
    shop.gate.set()
    ticking.join(120)
    shop.tick()
    assert (set(answers), shop.builds) == ({202}, 2)


def test_refresh_interval_limits_rebuilds(tmp_path: Path) -> None:
    shop = Counter(tmp_path, refresh_interval=30.0)
    assert shop.ask().status_code == 202  # a list that was never built is due anyway
    shop.tick()
    answer = shop.ask()
    assert (answer.status_code, answer.content_type) == (429, "application/json")
    assert 1 <= int(answer.headers["Retry-After"]) <= 30
    assert "'files' can be rebuilt again in" in answer.get_json()["error"]
    shop.tick()
    assert shop.builds == 1


def test_request_keeps_pause_after_failure(tmp_path: Path) -> None:
    shop = Counter(tmp_path, retry_min=100.0, retry_max=100.0)
    shop.error = ValueError("no disk")
    shop.tick()
    answer = shop.ask()
    assert (answer.status_code, shop.builds) == (429, 1)
    assert 70 <= int(answer.headers["Retry-After"]) <= 126


def test_list_without_source_is_409(tmp_path: Path) -> None:
    shop = Counter(tmp_path)
    shop.warmcache.warm_list("sourceless", key="path")
    answer = shop.ask("/api/cache/rebuild/sourceless")
    assert (answer.status_code, "cannot be rebuilt" in answer.get_json()["error"]) == (409, True)


def test_unwritable_folder_is_503(
    shop: Counter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system", "/secret/place")

    monkeypatch.setattr(os, "utime", refuse)
    answer = shop.ask()
    assert answer.status_code == 503
    assert "/secret" not in answer.text
    assert "warmcache.not_outdated" in caplog.text


def test_form_is_answered_with_status_page(shop: Counter, tmp_path: Path) -> None:
    answer = shop.ask(**FORM)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/api/cache/")
    other = Counter(tmp_path / "other", refresh_interval=30.0)
    other.tick()
    answer = other.ask(**FORM)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/api/cache/?early=files")
    assert "files cannot be rebuilt yet" in other.client.get(answer.headers["Location"]).text


@pytest.mark.parametrize("accept", ["*/*", "application/json", "application/json, text/html;q=0.5", ""])
def test_program_is_answered_with_json(shop: Counter, accept: str) -> None:
    assert shop.ask(Accept=accept).content_type == "application/json"


# Who may ask


def test_without_authorize_every_request_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shop = Shop(tmp_path)
    for _ in range(3):
        answer = shop.app.test_client().post(PATH)
        assert (answer.status_code, answer.content_type) == (403, "application/json")
        assert answer.get_json() == {"error": "You may not ask for a rebuild of 'files'."}
    assert not shop.keeper._wake.is_set()
    assert caplog.text.count("warmcache.no_authorize") == 1  # once, since anybody can send requests


def test_app_decides_by_action_and_list(shop: Counter) -> None:
    assert shop.ask(X_Say="now!").status_code == 403
    assert shop.ask().status_code == 202
    assert shop.questions == [("rebuild", "files")] * 2


def test_unknown_list_is_404_without_calling_authorize(shop: Counter) -> None:
    answer = shop.ask("/api/cache/rebuild/" + "x" * 500)
    assert (answer.status_code, answer.get_json()["allowed"]) == (404, ["files"])
    assert len(answer.get_json()["error"]) < 150
    assert shop.questions == []


def test_get_changes_nothing(shop: Counter) -> None:
    for method in (shop.client.get, shop.client.head):
        answer = method(PATH, headers={"X-Say": "please"})
        assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")
        assert answer.content_type == "application/json"
    shop.tick()
    assert shop.builds == 1


@pytest.mark.parametrize(
    "answer", [None, 1, "yes", redirect("/login"), object()], ids=["None", "1", "text", "a redirect", "an object"]
)
def test_answer_of_authorize_must_be_boolean(tmp_path: Path, answer: Any) -> None:
    shop = Shop(tmp_path)
    shop.warmcache.authorize(lambda action, name: answer)
    shop.app.testing = True  # the client raises errors
    with pytest.raises(TypeError, match="must return True or False for 'rebuild', not"):
        shop.app.test_client().post(PATH)


def test_exception_of_authorize_refuses_access(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.warmcache.authorize(lambda action, name: abort(401))
    assert shop.app.test_client().post(PATH).status_code == 401


@pytest.mark.parametrize("function", [None, "name", 5], ids=repr)
def test_authorize_takes_only_functions(function: Any) -> None:
    with pytest.raises(DeclarationError, match="authorize takes a function"):
        WarmCache().authorize(function)


def test_authorize_is_declared_once(shop: Counter) -> None:
    with pytest.raises(DeclarationError, match="declarations closed"):
        shop.warmcache.authorize(shop.allow)
    fresh = WarmCache()

    @fresh.authorize
    def allow(action: str, list_name: str | None) -> bool:
        return False

    assert allow("rebuild", "files") is False  # unchanged
    with pytest.raises(DeclarationError, match="already"):
        fresh.authorize(allow)


# From where


REFUSED = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},  # another subdomain may belong to somebody else
    {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},
    {"Origin": "http://evil.example"},
    {"Origin": "http://localhost.evil.example"},
    {"Origin": "http://localhost:81"},
    {"Origin": "null"},  # a sandboxed frame, a file
    {"Origin": ""},
    {"Origin": "http://[broken"},
    {"Referer": "http://evil.example/localhost"},
    {"Referer": "http://localhost@evil.example/"},
    {"Cookie": "session=abc"},  # a browser without these headers
]
ACCEPTED: list[dict[str, str]] = [
    {},  # a program
    {"Authorization": "Bearer abc"},
    {"Sec-Fetch-Site": "same-origin", "Cookie": "session=abc"},
    {"Sec-Fetch-Site": "none"},
    {"Origin": "http://localhost", "Cookie": "session=abc"},
    {"Origin": "https://localhost", "Cookie": "session=abc"},  # behind a proxy that terminates TLS
    {"Referer": "http://LOCALHOST/api/cache/", "Cookie": "session=abc"},
]


@pytest.mark.parametrize("headers", REFUSED + ACCEPTED, ids=repr)
def test_only_own_pages_and_programs_are_accepted(shop: Counter, headers: dict[str, str]) -> None:
    client = shop.app.test_client(use_cookies=False)  # its cookies would replace ours
    answer = client.post(PATH, headers={"X-Say": "please", **headers})
    is_accepted = headers in ACCEPTED
    assert (answer.status_code, answer.content_type) == (202 if is_accepted else 403, "application/json")
    assert (shop.questions == [("rebuild", "files")]) == is_accepted
    shop.tick()
    assert shop.builds == 1 + is_accepted


@pytest.mark.parametrize(
    ("host", "origin", "is_accepted"),
    [
        ("Shop.Example", "http://shop.example", True),
        ("shop.example:443", "https://shop.example", True),  # TLS ends at a proxy that names the port
        ("SHOP.example:443", "https://shop.example:443/page", True),
        ("shop.example", "https://shop.example:443", True),
        ("shop.example:80", "http://shop.example", True),
        ("[::1]:443", "https://[::1]", True),
        ("shop.example:8443", "https://shop.example", False),
        ("shop.example:443", "http://shop.example", False),
        ("shop.example:443", "https://shop.example:80", False),
        ("shop.example:443", "https://shop.example.evil:443", False),
        ("shop.example", "https://evil@shop.example", False),
        ("shop.example", "ftp://shop.example", False),
    ],
)
def test_host_and_origin_are_compared_as_browsers_mean_them(
    shop: Counter, host: str, origin: str, is_accepted: bool
) -> None:
    for header in ("Origin", "Referer"):
        answer = shop.app.test_client().post(PATH, headers={"X-Say": "please", "Host": host, header: origin})
        assert answer.status_code == (202 if is_accepted else 403), header


def test_request_body_is_ignored(shop: Counter) -> None:
    for body in (b"", b"{broken", b"x" * 3_000_000):
        for content_type in ("application/json", "application/x-www-form-urlencoded", "nonsense"):
            answer = shop.client.post(PATH, data=body, content_type=content_type, headers={"X-Say": "please"})
            assert answer.status_code == 202
            assert answer.get_json()["state"] == "stale"


# With Flask-WTF


@pytest.fixture
def protected(tmp_path: Path) -> Counter:
    shop = Counter(tmp_path)
    shop.app.secret_key = "not secret"
    shop.app.extensions["csrf for the test"] = flask_wtf.CSRFProtect(shop.app)
    shop.tick()
    return shop


def test_form_of_page_passes_csrf_protection(protected: Counter) -> None:
    page = protected.client.get("/api/cache/", headers={"X-Say": "please"}).text
    token = page.partition('name="csrf_token" value="')[2].partition('"')[0]
    assert token
    headers = {"X-Say": "please", **FORM}
    assert protected.client.post(PATH, headers=headers).status_code == 400  # without the token
    answer = protected.client.post(PATH, headers=headers, data={"csrf_token": token})
    assert answer.status_code == 303
    protected.tick()
    assert protected.builds == 2


def test_page_without_form_has_no_token_and_no_cookie(protected: Counter) -> None:
    answer = protected.client.get("/api/cache/")
    assert "<form" not in answer.text and "csrf_token" not in answer.text
    assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize("exempt", ["view", "blueprint"])
def test_programs_need_no_token_on_exempt_route(protected: Counter, exempt: str) -> None:
    """docs/web.md describes this."""
    assert protected.ask().status_code == 400
    app = protected.app
    route = app.view_functions["warmcache.rebuild"] if exempt == "view" else app.blueprints["warmcache"]
    app.extensions["csrf for the test"].exempt(route)
    assert protected.ask().status_code == 202
    assert protected.ask(Origin="http://evil.example").status_code == 403  # our own check remains
