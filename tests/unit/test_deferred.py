"""Deferred blueprints are loaded late, and then behave like registered ones."""

from __future__ import annotations

import gc
import logging
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask, url_for
from flask.testing import FlaskClient
from werkzeug.routing import Map

from flask_warmcache import WarmCache
from flask_warmcache.startup import gate
from tests.support.apps import make_app
from tests.support.late_blueprints import LateShop, forked
from tests.support.waiting import until

RICH = """
import click
from flask import Blueprint, abort, g, render_template, url_for

bp = Blueprint(
    "rich", __name__, template_folder="rich_templates", static_folder="rich_static", cli_group="rich",
    url_defaults={"shade": "pale"},
)
child = Blueprint("child", __name__)
calls = []

@bp.url_value_preprocessor
def take(endpoint, values):
    g.shade = (values or {}).pop("shade", None)

@bp.before_request
def before():
    g.seen = ["before"]

@bp.after_request
def after(response):
    response.headers["X-Seen"] = ",".join(g.seen)
    return response

@bp.teardown_request
def teardown(error):
    calls.append("teardown")

@bp.context_processor
def words():
    return {"word": "own"}

@bp.app_template_filter()
def twice(text):
    return text * 2

@bp.errorhandler(418)
def teapot(error):
    return "own teapot", 418

@bp.errorhandler(ZeroDivisionError)
def zero(error):
    return "own zero", 500

@bp.get("/")
def index():
    return f"index {g.shade} {url_for('rich.index')} {url_for('.child.leaf', name='a b')}"

@bp.get("/page")
def page():
    return render_template("rich.html")

@bp.get("/tea")
def tea():
    abort(418)

@bp.route("/form", methods=["POST"], strict_slashes=False)
def form():
    return "posted"

@bp.get("/fail")
def fail():
    return str(1 / 0)

@child.get("/<name>/")
def leaf(name):
    return f"leaf {name}"

@child.before_request
def child_before():
    g.seen.append("child")

@bp.cli.command("count")
def count():
    click.echo("counted")

bp.register_blueprint(child, url_prefix="/child")
"""
REQUESTS = [
    ("GET", "/rich/"),
    ("GET", "/rich"),
    ("GET", "//rich//page"),
    ("GET", "/rich/page"),
    ("GET", "/rich/tea"),
    ("GET", "/rich/fail"),
    ("GET", "/rich/static/a.txt"),
    ("GET", "/rich/static/none.txt"),
    ("GET", "/rich/child/x/"),
    ("GET", "/rich/child/x"),
    ("GET", "/rich/child/%C3%A4/"),
    ("GET", "/rich/nothing"),
    ("GET", "/richer"),
    ("POST", "/rich/form"),
    ("POST", "/rich/form/"),
    ("GET", "/rich/form"),
    ("OPTIONS", "/rich/form"),
    ("HEAD", "/rich/page"),
]


def write_rich(folder: Path) -> None:
    (folder / "rich.py").write_text(RICH)
    for name, file, text in (("templates", "rich.html", "{{ word|twice }}"), ("static", "a.txt", "static")):
        (folder / f"rich_{name}").mkdir()
        (folder / f"rich_{name}" / file).write_text(text)


def answers(client: FlaskClient) -> list[tuple[Any, ...]]:
    found = []
    for method, path in REQUESTS:
        answer = client.open(path, method=method)
        # The order of a rule's methods depends on their hashes.
        allowed = sorted((answer.headers.get("Allow") or "").split(", "))
        headers = [answer.headers.get(name) for name in ("X-Seen", "Location", "Content-Type")]
        found.append((method, path, answer.status_code, answer.data, allowed, *headers))
    return found


def test_loaded_blueprint_answers_like_registered_one(quick_shop: LateShop) -> None:
    write_rich(quick_shop.folder)
    quick_shop.warmcache.defer_blueprint("rich:bp", url_prefix="/rich")
    asked_before_loading = answers(quick_shop.client)
    quick_shop.until_loaded()
    loaded = answers(quick_shop.client)

    bp, calls = sys.modules["rich"].bp, sys.modules["rich"].calls

    registered = make_app(quick_shop.folder / "other")
    registered.register_blueprint(bp, url_prefix="/rich")
    expected = answers(registered.test_client())
    assert loaded == expected
    assert asked_before_loading == expected
    assert calls.count("teardown") > 20
    assert {str(rule) for rule in registered.url_map.iter_rules()} == {
        str(rule) for rule in quick_shop.app.url_map.iter_rules() if not rule.endpoint.startswith("warmcache")
    }
    with quick_shop.app.test_request_context(), registered.test_request_context():
        assert url_for("rich.child.leaf", name="x") == "/rich/child/x/"
    assert quick_shop.app.test_cli_runner().invoke(args=["rich", "count"]).output == "counted\n"
    assert type(quick_shop.app) is Flask


def test_background_loading_follows_priority_and_is_logged(
    quick_shop: LateShop, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "flask_warmcache")
    order = quick_shop.folder / "order"
    for name, priority in (("a", 0), ("b", -1), ("c", 10), ("d", 0.5), ("e", 0)):
        target = quick_shop.bare(name, f"with open({str(order)!r}, 'a') as file: file.write({name!r})")
        quick_shop.defer(target, priority=priority)
    assert not order.exists(), "something was imported while the app was made"
    quick_shop.start()
    quick_shop.until_loaded()
    assert order.read_text() == "cdaeb"
    until(lambda: "warmcache.blueprints_loaded: 5 in" in caplog.text)
    assert "warmcache.blueprint_loaded: a:bp under '/a' in" in caplog.text
    assert "a" in sys.modules


def test_request_loads_only_its_blueprint_whatever_priority(calm_shop: LateShop) -> None:
    calm_shop.slow("slow", priority=5)
    for name in ("x", "y"):
        calm_shop.defer(calm_shop.simple(name), priority=5 - ord(name))
    assert calm_shop.states() == ["pending"] * 3
    assert calm_shop.client.get("/y/7").text == "y 7"
    assert calm_shop.states() == ["pending", "pending", "loaded"]


@pytest.mark.parametrize("wait", [0.0, 0.2])
def test_request_that_times_out_gets_503(calm_shop: LateShop, wait: float) -> None:
    calm_shop.set_up(defer_wait=wait)
    go = calm_shop.slow("slow")
    calm_shop.app.add_url_rule("/", "home", lambda: "home")
    began = time.monotonic()
    answer = calm_shop.client.get("/slow/")
    assert time.monotonic() - began < 15
    assert (answer.status_code, answer.json) == (503, {"warming": True})
    assert int(answer.headers["Retry-After"]) >= 1
    assert answer.headers["Cache-Control"] == "no-store"
    assert calm_shop.client.head("/slow/").data == b""
    assert calm_shop.client.get("/").text == "home"
    until(lambda: calm_shop.states() == ["loading"])
    go.touch()
    calm_shop.until_loaded()
    assert calm_shop.client.get("/slow/").text == "there"


@pytest.mark.parametrize("is_loading", [False, True])
def test_single_thread_waits_once(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, is_loading: bool
) -> None:
    shop: LateShop = request.getfixturevalue("quick_shop" if is_loading else "calm_shop")
    shop.set_up(defer_wait=0.3)
    go = shop.slow("slow")
    waited: list[float | None] = []
    shop.start()
    if is_loading:
        until(lambda: shop.states() == ["loading"])
    condition = shop.loader.pending.changed
    wait_for = condition.wait_for

    def noted(predicate: Any, timeout: float | None = None) -> Any:
        waited.append(timeout)
        return wait_for(predicate, timeout)

    monkeypatch.setattr(condition, "wait_for", noted)
    for threaded in (False, False, False, True):
        answer = shop.client.get("/slow/", environ_overrides={"wsgi.multithread": threaded})
        assert answer.status_code == 503
    go.touch()
    shop.until_loaded()
    first, second, third, own = (timeout or 0 for timeout in waited)
    assert first > 0 and own > 0
    assert second <= 0 and third <= 0, "the whole worker waited again"


def run_in_gunicorn(monkeypatch: pytest.MonkeyPatch, timeout: int, threads: int) -> None:
    worker = SimpleNamespace(cfg=SimpleNamespace(timeout=timeout, threads=threads))
    monkeypatch.setattr(gate, "gunicorn_worker", lambda: worker)


def test_at_most_half_of_threads_wait(calm_shop: LateShop, monkeypatch: pytest.MonkeyPatch) -> None:
    run_in_gunicorn(monkeypatch, timeout=0, threads=4)
    calm_shop.set_up(defer_wait=30)
    go = calm_shop.slow("slow")
    found: list[int] = []

    def ask() -> None:
        answer = calm_shop.app.test_client().get("/slow/", environ_overrides={"wsgi.multithread": True})
        found.append(answer.status_code)

    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            pool.submit(ask)
        until(lambda: found == [503, 503], lambda: found)
        go.touch()
    assert found == [503, 503, 200, 200]


def test_wait_is_limited_to_quarter_of_timeout_in_gunicorn(
    calm_shop: LateShop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run_in_gunicorn(monkeypatch, timeout=1, threads=1)
    calm_shop.defer(calm_shop.simple("a"))
    assert calm_shop.loader._gate._find_limits() == (0.25, float("inf"))
    assert "a quarter of gunicorn's timeout" in caplog.text


def test_failed_import_is_reported_and_retried(quick_shop: LateShop, caplog: pytest.LogCaptureFixture) -> None:
    quick_shop.set_up(retry_min=60.0)
    quick_shop.app.add_url_rule("/", "home", lambda: "home")
    quick_shop.defer(quick_shop.write("broken", "import secret_of_the_house"))
    answer = quick_shop.client.get("/broken/")
    assert answer.status_code == 503
    assert answer.json == {"warming": False, "error": "This part of the app failed to load: ModuleNotFoundError."}
    assert int(answer.headers["Retry-After"]) >= 1
    assert "secret_of_the_house" not in answer.text
    assert "secret_of_the_house" in caplog.text and "warmcache.blueprint_failed: broken:bp" in caplog.text
    stats = quick_shop.client.get("/api/cache/stats/blueprints").json
    assert stats is not None
    (section,) = stats["blueprints"]
    assert (section["state"], section["error"]) == ("failed", "ModuleNotFoundError")
    assert (stats["loaded"], stats["total"]) == (0, 1)
    assert section["next_attempt_in_seconds"] is not None
    assert quick_shop.client.get("/").text == "home"
    quick_shop.simple("broken")
    quick_shop.retry_now()
    quick_shop.until_loaded()
    assert quick_shop.client.get("/broken/").text == "broken"
    assert caplog.text.count("next attempt in") == 1
    until(lambda: (quick_shop.client.get("/api/cache/stats").json or {})["blueprints"]["loaded"] == 1)


def test_requests_do_not_shorten_growing_pause(quick_shop: LateShop) -> None:
    quick_shop.set_up(retry_min=100.0, retry_max=3600.0)
    quick_shop.defer(quick_shop.write("broken", "raise OSError('disk')"))
    quick_shop.client.get("/broken/")
    (entry,) = quick_shop.loader.entries
    pauses = []
    for _ in range(4):
        pauses.append(entry.next_attempt - time.monotonic())
        failures = entry.failures
        assert quick_shop.client.get("/broken/").status_code == 503
        assert entry.failures == failures
        quick_shop.retry_now()
        until(lambda: entry.failures == failures + 1)  # noqa: B023
    assert pauses[0] <= 125 and pauses[3] > pauses[0] * 3


@pytest.mark.parametrize("debug", [False, True])
def test_traceback_is_shown_in_debug_mode_only(calm_shop: LateShop, debug: bool) -> None:
    calm_shop.app.debug = debug
    calm_shop.defer(calm_shop.write("broken", "raise OSError('disk')"))
    answer = calm_shop.client.get("/broken/")
    assert ("OSError: disk" in answer.text) is debug


@pytest.mark.parametrize("ending", ["raise SystemExit(3)", "import sys; sys.exit()"])
def test_module_that_exits_does_not_end_worker(calm_shop: LateShop, ending: str) -> None:
    calm_shop.defer(calm_shop.write("leaver", ending))
    calm_shop.defer(calm_shop.simple("good"))
    assert "SystemExit" in calm_shop.client.get("/leaver/").text
    assert calm_shop.client.get("/good/").text == "good"


def test_url_for_builds_promised_endpoints(calm_shop: LateShop) -> None:
    promised = {"index": "/", "one": "/<int:number>"}
    calm_shop.defer(calm_shop.simple("reports"), url_prefix="/r", name="rep", endpoints=promised)
    calm_shop.app.add_url_rule("/", "home", lambda: url_for("rep.index") + " " + url_for("rep.one", number=3))
    assert calm_shop.client.get("/").text == "/r/ /r/3"
    assert calm_shop.client.get("/", environ_overrides={"SCRIPT_NAME": "/at"}).text == "/at/r/ /at/r/3"
    assert calm_shop.states() == ["pending"]
    assert calm_shop.client.get("/r/3").text == "reports 3"
    assert calm_shop.client.get("/").text == "/r/ /r/3"
    assert len(list(calm_shop.app.url_map.iter_rules("rep.index"))) == 1
    assert not any(rule.build_only for rule in calm_shop.app.url_map.iter_rules())


@pytest.mark.parametrize("endpoints", [{"index": "/other"}, {"nothing": "/"}])
def test_missing_promised_endpoint_fails(
    calm_shop: LateShop, caplog: pytest.LogCaptureFixture, endpoints: dict[str, str]
) -> None:
    calm_shop.defer(calm_shop.simple("reports"), url_prefix="/r", name="rep", endpoints=endpoints)
    assert calm_shop.client.get("/r/").status_code == 503
    assert f"has no endpoint {next(iter(endpoints))!r}" in caplog.text


def test_blueprint_deferred_twice_needs_two_names(calm_shop: LateShop) -> None:
    target = calm_shop.simple("twin")
    calm_shop.defer(target, url_prefix="/one", name="one")
    calm_shop.defer(target, url_prefix="/two", name="two")
    assert [calm_shop.client.get(path).text for path in ("/two/", "/one/1")] == ["twin", "twin 1"]
    with calm_shop.app.test_request_context():
        assert [url_for("one.index"), url_for("two.index")] == ["/one/", "/two/"]


def test_overlapping_prefixes_are_loaded_together_except_our_own(calm_shop: LateShop) -> None:
    all_of_it = calm_shop.bare("all_of_it", "bp.add_url_rule('/<path:rest>', 'rest', lambda rest: rest)")
    calm_shop.defer(all_of_it, url_prefix="/api")
    calm_shop.defer(calm_shop.simple("v2"), url_prefix="/api/v2")
    calm_shop.defer(calm_shop.simple("v22"), url_prefix="/api/v22")
    assert calm_shop.client.get("/api/cache/stats").status_code == 200
    assert calm_shop.states() == ["pending"] * 3
    assert calm_shop.client.get("/api/v2/5").text == "v2 5"
    assert calm_shop.states() == ["loaded", "loaded", "pending"]
    assert calm_shop.client.get("/api/cache/stats/blueprints").status_code == 200


@pytest.mark.parametrize("before", [True, False])
def test_middleware_may_change_path(calm_shop: LateShop, before: bool) -> None:
    app = make_app(calm_shop.folder / "other")

    def moved(inner: Any) -> Any:
        def middleware(environ: Any, start_response: Any) -> Any:
            environ["SCRIPT_NAME"], environ["PATH_INFO"] = "/at", environ["PATH_INFO"].removeprefix("/at")
            return inner(environ, start_response)

        return middleware

    if before:
        app.wsgi_app = moved(app.wsgi_app)  # type: ignore[method-assign]
    warmcache = WarmCache(app, defer_wait=0.0)
    go = calm_shop.slow("slow")
    warmcache.defer_blueprint("slow:bp", url_prefix="/slow")
    if not before:
        app.wsgi_app = moved(app.wsgi_app)  # type: ignore[method-assign]
    client = app.test_client()
    assert client.get("/at/slow/").json == {"warming": True}
    go.touch()
    until(lambda: client.get("/at/slow/").status_code == 200)
    assert client.get("/at/slow/").text == "there"


def test_host_matching_and_subdomains_work(calm_shop: LateShop) -> None:
    calm_shop.bare("hosted", "for host in 'ab': bp.add_url_rule('/', host, lambda: '', host=f'{host}.test')")
    app = Flask("hosts", host_matching=True, static_host="static.test")
    WarmCache(app, dir=calm_shop.folder / "c1").defer_blueprint("hosted:bp", url_prefix="/h")
    client = app.test_client()
    found = [client.get("/h/", base_url=f"http://{host}.test").status_code for host in "abc"]
    assert found == [200, 200, 404]

    calm_shop.write(
        "sub",
        "from flask import Blueprint\nbp = Blueprint('s', __name__, subdomain='s')\nbp.get('/')(dict)",
    )
    app = Flask("subs", subdomain_matching=True)
    app.config["SERVER_NAME"] = "shop.test"
    WarmCache(app, dir=calm_shop.folder / "c2").defer_blueprint("sub:bp", url_prefix="/h")
    client = app.test_client()
    found = [client.get("/h/", base_url=f"http://{host}shop.test").status_code for host in ("s.", "")]
    assert found == [200, 404]


def test_blueprint_may_register_converter(calm_shop: LateShop) -> None:
    calm_shop.defer(calm_shop.write("conv", """
        from flask import Blueprint
        from werkzeug.routing import BaseConverter
        class Sign(BaseConverter):
            regex = "[+-]"
        bp = Blueprint("conv", __name__)
        @bp.record_once
        def setup(state):
            assert type(state.app.extensions["warmcache"].app) is not None
            assert state.app is state.app.extensions["warmcache"].app
            state.app.url_map.converters["sign"] = Sign
        bp.add_url_rule("/<sign:s>", "s", lambda s: s)
    """))  # fmt: skip
    assert calm_shop.client.get("/conv/+").text == "+"
    assert calm_shop.client.get("/conv/x").status_code == 404


def test_old_maps_are_freed(quick_shop: LateShop) -> None:
    for number in range(30):
        quick_shop.app.add_url_rule(f"/eager/{number}/<int:a>", f"e{number}", lambda a: "")
        quick_shop.defer(quick_shop.simple(f"b{number}"))
    quick_shop.start()
    quick_shop.until_loaded()
    quick_shop.loader.stop()
    gc.collect()
    maps = [value for value in gc.get_objects() if type(value) is Map]
    of_this_app = [map_ for map_ in maps if any(rule.endpoint == "e29" for rule in map_.iter_rules())]
    assert len(of_this_app) <= 2, "only the app's current map and its first one may remain"
    assert {rule.map for rule in quick_shop.app.url_map.iter_rules()} == {quick_shop.app.url_map}


def test_first_request_loads_everything_when_disabled(calm_shop: LateShop) -> None:
    calm_shop.set_up(enabled=False)
    for name in ("one", "two"):
        calm_shop.defer(calm_shop.simple(name))
    assert calm_shop.client.get("/nothing").status_code == 404
    assert calm_shop.states() == ["loaded", "loaded"]


def test_each_app_loads_its_own_blueprints(calm_shop: LateShop) -> None:
    warmcache = WarmCache(dir=calm_shop.folder / "both")
    warmcache.defer_blueprint(calm_shop.simple("both"), url_prefix="/both")
    apps = [Flask("a"), Flask("b")]
    for app in apps:
        warmcache.init_app(app)
    assert [app.test_client().get("/both/").text for app in apps] == ["both", "both"]


def test_child_forked_during_load_loads_blueprints(calm_shop: LateShop) -> None:
    go = calm_shop.slow("slow", priority=1)
    calm_shop.defer(calm_shop.simple("quick"))
    calm_shop.start()
    with calm_shop.loader.pending.changed:
        calm_shop.loader.entries[0].asked_at = time.monotonic()
        calm_shop.loader.pending.changed.notify_all()
    until(lambda: calm_shop.states() == ["loading", "pending"])
    pid = forked(
        lambda: calm_shop.states() == ["pending", "pending"] and calm_shop.client.get("/quick/").text == "quick"
    )
    go.touch()
    assert os.waitpid(pid, 0)[1] == 0
    calm_shop.client.get("/quick/")
    calm_shop.until_loaded()


def test_app_without_deferred_blueprints_is_unchanged(tmp_path: Path) -> None:
    app = Flask("plain")
    WarmCache(app, dir=tmp_path)
    assert "request_context" not in vars(app)
    answer = app.test_client().get("/api/cache/stats").json
    assert answer is not None and "blueprints" not in answer


def test_reading_list_before_fork_starts_no_import(quick_shop: LateShop) -> None:
    files = quick_shop.warmcache.warm_list("files", key="path", source=list)
    quick_shop.defer(quick_shop.simple("a"))
    with quick_shop.app.app_context():
        files.get()
    assert quick_shop.loader.pending.thread is None
    assert quick_shop.client.get("/a/").text == "a"


def test_requests_are_not_checked_after_loading(quick_shop: LateShop) -> None:
    quick_shop.defer(quick_shop.simple("a"))
    assert "request_context" in vars(quick_shop.app)
    quick_shop.start()
    quick_shop.until_loaded()
    assert "request_context" not in vars(quick_shop.app)
    thread = quick_shop.loader.pending.thread
    assert thread is not None
    thread.join(120)
    assert not thread.is_alive()
    quick_shop.client.get("/a/")
    assert quick_shop.loader.pending.thread is thread, "another thread was started without need"
