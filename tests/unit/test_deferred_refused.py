"""Deferred blueprints are refused in the declaring call if possible, and otherwise when they are loaded."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from flask import Blueprint, Flask, url_for

from flask_warmcache import WarmCache
from tests.support.late_blueprints import LateShop
from tests.support.waiting import until


def test_late_declaration_is_refused(calm_shop: LateShop) -> None:
    calm_shop.client.get("/")
    with pytest.raises(ValueError, match="is deferred too late"):
        calm_shop.warmcache.defer_blueprint("late:bp", url_prefix="/late")


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"target": "reports"}, "does not say what to import"),
    ({"target": "reports.bp"}, "does not say what to import"),
    ({"target": "re ports:bp"}, "does not say what to import"),
    ({"target": ":bp"}, "does not say what to import"),
    ({"target": "reports:"}, "does not say what to import"),
    ({"target": None}, "does not say what to import"),
    ({"url_prefix": "reports"}, "url_prefix= .* must be a path"),
    ({"url_prefix": "/"}, "url_prefix= .* must be a path"),
    ({"url_prefix": ""}, "url_prefix= .* must be a path"),
    ({"url_prefix": "/reports/"}, "url_prefix= .* must be a path"),
    ({"url_prefix": "/<lang>/reports"}, "url_prefix= .* must be a path"),
    ({"url_prefix": "/a//b"}, "url_prefix= .* must be a path"),
    ({"url_prefix": "/a?b"}, "url_prefix= .* must be a path"),
    ({"url_prefix": None}, "url_prefix= .* must be a path"),
    ({"url_prefix": "/api/cache/more"}, "is under '/api/cache', which is flask-warmcache's own"),
    ({"priority": "high"}, "priority= .* must be a number"),
    ({"priority": True}, "priority= .* must be a number"),
    ({"priority": float("nan")}, "priority= .* must be a number"),
    ({"name": ""}, "name= .* must be the name of a blueprint"),
    ({"name": "a.b"}, "name= .* must be the name of a blueprint"),
    ({"name": "warmcache"}, "has a blueprint named 'warmcache' already"),
    ({"name": "taken"}, "a deferred blueprint named 'taken' already"),
    ({"target": "plain:bp"}, "a deferred blueprint from plain:bp already"),
    ({"endpoints": {"index": "/"}}, "needs name="),
    ({"name": "n", "endpoints": {"index": "x"}}, "endpoints= .* must be rules"),
    ({"name": "n", "endpoints": ["index"]}, "endpoints= .* must be rules"),
    ({"name": "n", "endpoints": {"index": "/<nothing:x>"}}, "'index' .* has no valid rule"),
    ({"name": "n", "endpoints": {"index": "/<"}}, "'index' .* has no valid rule"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_wrong_declaration_is_refused(calm_shop: LateShop, arguments: dict[str, Any], message: str) -> None:
    calm_shop.warmcache.defer_blueprint("plain:bp", url_prefix="/plain")
    calm_shop.warmcache.defer_blueprint("other:bp", url_prefix="/other", name="taken")
    with pytest.raises(ValueError, match=message):
        calm_shop.warmcache.defer_blueprint(**{"target": "reports:bp", "url_prefix": "/reports", **arguments})
    assert calm_shop.states() == ["pending", "pending"]


@pytest.mark.parametrize("options", [{"host_matching": True, "static_host": "a"}, {"subdomain_matching": True}])
def test_promised_endpoints_need_known_host(tmp_path: Path, options: dict[str, Any]) -> None:
    app = Flask("hosts", **options)  # keep a reference, because a WarmCache holds none
    warmcache = WarmCache(app, dir=tmp_path)
    with pytest.raises(ValueError, match="cannot be used in an app with host_matching or subdomain_matching"):
        warmcache.defer_blueprint("a:bp", url_prefix="/a", name="a", endpoints={"index": "/"})


def test_list_named_blueprints_is_refused(tmp_path: Path) -> None:
    app = Flask("names")
    warmcache = WarmCache(app, dir=tmp_path)
    warmcache.warm_list("blueprints", key="name")
    with pytest.raises(ValueError, match="'blueprints' already"):
        warmcache.defer_blueprint("a:bp", url_prefix="/a")


APP_WIDE = [
    ("before_app_request", "@bp.before_app_request\ndef f(): return 'stolen'"),
    ("after_app_request", "@bp.after_app_request\ndef f(response): response.data = 'stolen'; return response"),
    ("teardown_app_request", "@bp.teardown_app_request\ndef f(error): pass"),
    ("app_context_processor", "@bp.app_context_processor\ndef f(): return {}"),
    ("app_url_value_preprocessor", "@bp.app_url_value_preprocessor\ndef f(endpoint, values): pass"),
    ("app_url_defaults", "@bp.app_url_defaults\ndef f(endpoint, values): values['stolen'] = 1"),
    ("app_errorhandler", "@bp.app_errorhandler(404)\ndef f(error): return 'stolen'"),
    ("app_errorhandler", "@bp.app_errorhandler(KeyError)\ndef f(error): return 'stolen'"),
    ("before_app_request", "@bp.record\ndef f(state): state.app.before_request(lambda: 'stolen')"),
    (
        "before_app_request",
        "child = Blueprint('child', __name__)\nchild.before_app_request(dict)\nbp.register_blueprint(child)",
    ),
    ("'/elsewhere'", "@bp.record\ndef f(state): state.app.add_url_rule('/elsewhere', 'stolen', lambda: 'stolen')"),
]


@pytest.mark.parametrize(("named", "text"), APP_WIDE, ids=[f"{n}-{i}" for i, (n, _) in enumerate(APP_WIDE)])
def test_blueprint_that_affects_other_requests_is_refused(
    calm_shop: LateShop, caplog: pytest.LogCaptureFixture, named: str, text: str
) -> None:
    calm_shop.app.add_url_rule("/", "home", lambda: url_for("home"))
    calm_shop.app.register_error_handler(405, lambda error: ("ours", 405))
    calm_shop.app.before_request(lambda: None)
    calm_shop.defer(calm_shop.bare("greedy", text))
    calm_shop.client.get("/")
    rules = [str(rule) for rule in calm_shop.app.url_map.iter_rules()]
    answer = calm_shop.client.get("/greedy/")
    error = "This part of the app failed to load: DeclarationError."
    assert (answer.status_code, answer.json) == (503, {"warming": False, "error": error})
    assert named in caplog.text and "where the app is made" in caplog.text
    assert "it is not tried again" in caplog.text
    assert calm_shop.loader.section()["blueprints"][0]["next_attempt_in_seconds"] is None  # type: ignore[index]
    assert calm_shop.client.get("/greedy/").headers["Retry-After"] == "300"
    assert calm_shop.loader.entries[0].failures == 1
    assert calm_shop.client.get("/").text == "/"
    assert calm_shop.client.get("/elsewhere").status_code == 404
    assert calm_shop.client.post("/").text == "ours"
    assert "greedy" not in calm_shop.app.blueprints
    assert [str(rule) for rule in calm_shop.app.url_map.iter_rules()] == rules


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("bp = 5", "is not a blueprint but an object of int"),
        ("del bp", "has no attribute 'bp'"),
        ("bp.name = 'taken'", "The name 'taken' is already registered"),
        ("bp.record(lambda state: state.app.view_functions.clear() or 1 / 0)", "division by zero"),
    ],
)
def test_failed_registration_leaves_app_unchanged(
    calm_shop: LateShop, caplog: pytest.LogCaptureFixture, text: str, error: str
) -> None:
    calm_shop.app.add_url_rule("/", "home", lambda: "home")
    calm_shop.app.register_blueprint(Blueprint("taken", __name__), url_prefix="/taken")
    calm_shop.defer(calm_shop.bare("wrong", text))
    assert calm_shop.client.get("/wrong/").status_code == 503
    assert error in caplog.text
    assert calm_shop.client.get("/").text == "home"
    assert set(calm_shop.app.blueprints) == {"taken", "warmcache"}
    assert type(calm_shop.app) is Flask


def test_flask_refuses_module_that_changes_app(quick_shop: LateShop, caplog: pytest.LogCaptureFixture) -> None:
    quick_shop.write("owner", "app = None")
    quick_shop.defer(quick_shop.bare("own", "import owner\nowner.app.before_request(print)"))
    import_module("owner").app = quick_shop.app  # type: ignore[attr-defined]
    quick_shop.start()  # before any request
    until(lambda: quick_shop.states() == ["failed"])
    assert "The setup method 'before_request' can no longer be called" in caplog.text
