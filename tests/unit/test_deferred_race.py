"""Thousands of requests while blueprints are registered get no wrong answer, and none is lost."""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from flask import Flask, url_for
from flask.testing import FlaskClient
from jinja2 import TemplateNotFound

from flask_warmcache import WarmCache
from flask_warmcache.startup import loader
from tests.support.apps import make_app
from tests.support.late_blueprints import LateShop
from tests.support.waiting import until

BLUEPRINTS = 40
REQUESTS = 8_000
CLIENTS = 8
MODULE = """
from flask import Blueprint, abort, g, render_template, url_for

bp = Blueprint("b{number}", __name__, template_folder="templates{number}")
child = Blueprint("child", __name__)

@bp.before_request
def before():
    g.hook = "hook{number}"

@bp.after_request
def after(response):
    response.headers["X-Hook"] = g.hook
    return response

@bp.errorhandler(418)
def teapot(error):
    return "teapot{number}", 418

@bp.get("/<int:value>")
def one(value):
    return f"b{number} {{value}} " + url_for(".child.leaf", name="x")

@bp.get("/page")
def page():
    return render_template("page{number}.html")

@bp.get("/tea")
def tea():
    abort(418)

@child.get("/<name>")
def leaf(name):
    return "leaf{number} " + name

bp.register_blueprint(child, url_prefix="/child")
"""


@pytest.fixture
def modules(calm_shop: LateShop) -> Iterator[list[str]]:
    names = [f"race{number}" for number in range(BLUEPRINTS)]
    for number, name in enumerate(names):
        calm_shop.write(name, MODULE.format(number=number))
        (calm_shop.folder / f"templates{number}").mkdir()
        (calm_shop.folder / f"templates{number}" / f"page{number}.html").write_text(f"page{number}")
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield names
    sys.setswitchinterval(interval)


def race_app(folder: Path, names: list[str]) -> Flask:
    app = make_app(folder, defer_wait=0.0, runner="external")
    warmcache = WarmCache(app)
    app.add_url_rule("/", "home", lambda: f"home {url_for('soon.one', value=7)}")
    app.add_url_rule("/eager/<int:value>", "eager", lambda value: f"eager {value}")
    app.add_url_rule("/<path:rest>", "rest", lambda rest: f"rest {rest}")

    @app.get("/search")
    def search() -> str:
        try:
            app.jinja_env.get_template("nowhere.html")  # searches the folder of each blueprint
        except TemplateNotFound:
            return "searched"
        raise AssertionError("there is no such template")

    app.errorhandler(405)(lambda error: ("ours", 405))
    for number, name in enumerate(names):
        promised = {"name": "soon", "endpoints": {"one": "/<int:value>"}} if number == BLUEPRINTS - 1 else {}
        warmcache.defer_blueprint(f"{name}:bp", url_prefix=f"/b{number}", **promised)  # type: ignore[arg-type]
    return app


def ask(client: FlaskClient, seen: Counter[str]) -> str | None:
    """Send a random request, and return what is wrong with its answer."""
    number, value = random.randrange(BLUEPRINTS - 1), random.randrange(1000)
    path, status, text = random.choice(
        [
            ("/", 200, f"home /b{BLUEPRINTS - 1}/7"),
            (f"/eager/{value}", 200, f"eager {value}"),
            (f"/b{number}x", 200, f"rest b{number}x"),
            ("/search", 200, "searched"),
            ("/nothing/here", 200, "rest nothing/here"),
            (f"/b{number}/{value}", 200, f"b{number} {value} /b{number}/child/x"),
            (f"/b{number}/page", 200, f"page{number}"),
            (f"/b{number}/tea", 418, f"teapot{number}"),
            (f"/b{number}/child/{value}", 200, f"leaf{number} {value}"),
            (f"/b{BLUEPRINTS - 1}/{value}", 200, None),
        ]
    )
    answer = client.get(path)
    if answer.status_code == 503 and answer.json == {"warming": True} and path.startswith("/b"):
        seen["warming"] += 1
        return None
    seen["answered"] += 1
    if answer.status_code != status or (text is not None and answer.text != text):
        return f"{path}: {answer.status_code} {answer.text[:200]!r}"
    if path.startswith(f"/b{number}/") and answer.headers.get("X-Hook") != f"hook{number}":
        return f"{path}: without the hook"
    return None


def test_no_wrong_answer_during_registration(
    tmp_path: Path, modules: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only requests that begin while something is not loaded count; apps are made until these are enough."""
    monkeypatch.setattr(loader, "BEGIN_AFTER", (0.0, 0.01))
    monkeypatch.setattr(loader, "PAUSE", 0.02)
    seen: Counter[str] = Counter()
    wrong: list[str] = []

    def client_of(app: Flask, found: Counter[str]) -> None:
        client = app.test_client()
        blueprints = app.extensions["warmcache"].blueprints
        while blueprints.pending.unfinished and len(wrong) < 10 and time.monotonic() < deadline:
            try:
                fault = ask(client, found)
            except Exception as error:
                fault = f"{type(error).__name__}: {error}"
            if fault is not None:
                wrong.append(fault)

    deadline = time.monotonic() + 400
    while seen.total() < REQUESTS and not wrong:
        assert time.monotonic() < deadline, seen
        app = race_app(tmp_path / "app", modules)
        counts = [Counter[str]() for _ in range(CLIENTS)]
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(client_of, [app] * CLIENTS, counts))
        seen = sum(counts, seen)
        blueprints = app.extensions["warmcache"].blueprints
        assert blueprints.pending.thread is not None
        until(lambda: not blueprints.pending.thread.is_alive())  # noqa: B023
        assert {entry.failures for entry in blueprints.entries} == {0}
        assert type(app) is Flask
    assert wrong == []
    assert seen["answered"] > REQUESTS / 10 and seen["warming"] > REQUESTS / 100, seen
