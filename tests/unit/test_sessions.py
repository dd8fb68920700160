"""Answers that a page polls do not keep a login alive, and lose nothing that the app writes into the session."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flask_login
import pytest
from flask import Flask, Response, redirect, request, session, url_for
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface
from flask.testing import FlaskClient

from tests.support.apps import Shop

PATHS = ("/api/cache/stats/files", "/api/cache/stats", "/api/cache/static/warmcache.js", "/api/cache/")


@pytest.fixture
def app(tmp_path: Path) -> Flask:
    app = Shop(tmp_path).app
    app.secret_key = "not secret"

    @app.get("/login")
    def login() -> str:
        session.permanent = True
        session["user"] = "ann"
        return "welcome"

    @app.get("/who")
    def who() -> str:
        return str(session.get("user"))

    @app.get("/seen")
    def seen() -> str:
        return str(session["seen"])

    return app


def log_in(app: Flask) -> FlaskClient:
    client = app.test_client()
    assert "Set-Cookie" in client.get("/login").headers
    assert "Set-Cookie" in client.get("/who").headers  # any other answer extends the session
    return client


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("is_read", [False, True], ids=["", "a hook reads the session"])
def test_permanent_session_is_not_extended(app: Flask, path: str, is_read: bool) -> None:
    seen: list[Any] = []
    if is_read:
        app.before_request(lambda: seen.append(session.get("user")))
    client = log_in(app)
    answer = client.get(path)
    assert answer.status_code == 200
    assert "Set-Cookie" not in answer.headers
    assert "Cookie" not in answer.headers.get("Vary", "")
    assert seen[-1:] == ["ann"] * is_read
    assert client.get("/who").text == "ann"  # it is not ended either


@pytest.mark.parametrize("path", PATHS)
def test_session_that_hook_writes_is_saved(app: Flask, path: str) -> None:
    @app.before_request
    def count() -> None:
        session["seen"] = session.get("seen", 0) + 1

    client = log_in(app)
    answer = client.get(path)
    assert "Set-Cookie" in answer.headers
    assert client.get("/seen").text == "4"


def test_session_can_be_used_after_view(app: Flask) -> None:
    seen: list[Any] = []

    @app.after_request
    def write(response: Response) -> Response:
        seen.append(session.get("user"))
        session["late"] = 1
        session.update(later=2)
        session.setdefault("latest", 3)
        del session["late"]
        assert session.pop("later") == 2
        return response

    answer = log_in(app).get(PATHS[0])
    assert answer.status_code == 200
    assert "Set-Cookie" not in answer.headers
    assert seen[-1] == "ann"


@pytest.mark.parametrize("path", PATHS)
def test_app_without_secret_key_works(tmp_path: Path, path: str) -> None:
    answer = Shop(tmp_path).client.get(path)
    assert (answer.status_code, "Set-Cookie" in answer.headers) == (200, False)


def test_session_without_change_tracking_is_saved(app: Flask) -> None:
    saved: list[str] = []

    class Careless(SecureCookieSession):
        modified = True

    class Interface(SecureCookieSessionInterface):
        session_class = Careless

        def save_session(self, app: Flask, session: Any, response: Response) -> None:
            saved.append(str(response.mimetype))
            super().save_session(app, session, response)

    app.session_interface = Interface()
    log_in(app).get(PATHS[0])
    assert saved == ["text/html", "text/html", "application/json"]


# With Flask-Login


@pytest.fixture
def guarded(app: Flask) -> Flask:
    """Return an app that sends everybody to the login page who is not logged in."""
    manager = flask_login.LoginManager(app)
    manager.login_view = "enter"

    class User(flask_login.UserMixin):  # type: ignore[misc]
        id = "ann"

    manager.user_loader(lambda user_id: User() if user_id == "ann" else None)

    @app.get("/enter")
    def enter() -> str:
        return "<h1>Log in</h1>"

    @app.post("/enter")
    def entered() -> str:
        session.permanent = True
        flask_login.login_user(User(), remember=True)
        return "welcome"

    @app.before_request
    def require_login() -> Any:
        if request.endpoint not in ("enter", "entered") and not flask_login.current_user.is_authenticated:
            return redirect(url_for("enter"))
        return None

    return app


@pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")  # of Flask-Login on Python 3.12
@pytest.mark.parametrize("refresh", [False, True], ids=["", "remember cookies refreshed each request"])
def test_polls_do_not_extend_flask_login(guarded: Flask, refresh: bool) -> None:
    guarded.config["REMEMBER_COOKIE_REFRESH_EACH_REQUEST"] = refresh
    client = guarded.test_client()
    client.post("/enter")
    assert "session" in str(client.get("/who").headers.getlist("Set-Cookie"))
    for path in PATHS:
        answer = client.get(path)
        assert answer.status_code == 200
        assert not any(cookie.startswith("session=") for cookie in answer.headers.getlist("Set-Cookie")), path


def test_login_of_app_guards_our_routes(guarded: Flask) -> None:
    client = guarded.test_client()
    for path in PATHS:
        answer = client.get(path)
        assert (answer.status_code, answer.headers["Location"]) == (302, "/enter")
    assert client.post("/api/cache/rebuild/files").status_code == 302


def test_app_can_leave_routes_of_poller_open(guarded: Flask) -> None:
    """docs/web.md shows this."""
    (guard,) = guarded.before_request_funcs[None]

    def require_login() -> Any:
        return None if request.endpoint in ("warmcache.asset", "warmcache.stats_of") else guard()

    guarded.before_request_funcs[None] = [require_login]
    client = guarded.test_client()
    assert [client.get(path).status_code for path in PATHS] == [200, 302, 200, 302]
