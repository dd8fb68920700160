"""The reference is complete and right: its tables are compared with the code and with real answers."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest
from flask import Flask
from flask.testing import FlaskClient

import flask_warmcache
from flask_warmcache import WarmCache
from flask_warmcache.settings import PREFIX, Settings
from flask_warmcache.testing import inline_rebuilds, showing
from tests.support.processes import CHECKOUT

from .pages import DOCS, blocks, rows, section

HTTP, CLI = DOCS / "http.md", DOCS / "cli.md"


def test_settings_and_defaults_are_those_of_the_code() -> None:
    documented = {cells[0]: cells[1] for cells in rows((DOCS / "settings.md").read_text())}
    assert documented == {PREFIX + field.name.upper(): repr(field.default) for field in fields(Settings)}


def test_api_lists_every_public_name() -> None:
    api = (DOCS / "api.md").read_text()
    documented = set(re.findall(r"^\.\. auto(?:class|exception):: (\w+)", api, re.MULTILINE))
    assert documented == set(flask_warmcache.__all__)
    functions = set(
        re.findall(r"^\.\. (?:autofunction|function|autodata):: (?:[\w.]+\.)?(\w+)", api, re.MULTILINE)
    )
    assert functions == {
        *("inline_rebuilds", "rebuild_all", "showing", "compose", "warmcache_script", "warmcache_attrs"),
        *("rebuild_started", "rebuild_progressed", "rebuild_finished", "rebuild_failed"),
    }


# The command line


def commands() -> dict[str, click.Command]:
    app = Flask(__name__)
    WarmCache(app)
    group = app.cli.commands["warmcache"]
    assert isinstance(group, click.Group)
    context = click.Context(group)
    found = {name: group.get_command(context, name) for name in group.list_commands(context)}
    return {name: command for name, command in found.items() if command is not None}


def test_every_command_is_described() -> None:
    documented = re.findall(r"^## flask warmcache (\w+)$", CLI.read_text(), re.MULTILINE)
    assert sorted(documented) == sorted(commands())


@pytest.mark.parametrize("name", commands())
def test_options_and_arguments_are_those_of_the_command(name: str) -> None:
    text = section(CLI, f"## flask warmcache {name}")
    documented = {cells[0].split()[0] for cells in rows(text) if cells[0].startswith("--")}
    parameters = commands()[name].params
    assert documented == {one.opts[0] for one in parameters if isinstance(one, click.Option)}
    arguments = [
        (one.metavar or (one.name or "").upper()) for one in parameters if isinstance(one, click.Argument)
    ]
    shown = " ".join(one if parameter_is_required(parameters, one) else f"[{one}]" for one in arguments)
    assert not arguments or f"`flask warmcache {name} {shown}`" in text


def parameter_is_required(parameters: list[click.Parameter], shown: str) -> bool:
    return any(one.required for one in parameters if shown in (one.metavar, (one.name or "").upper()))


# HTTP


def documented(heading: str) -> list[str]:
    """Return the names in the first column of the tables under a heading, without the sections below it."""
    text = re.split(r"^#", section(HTTP, heading), flags=re.MULTILINE)[0]
    return [cells[0] for cells in rows(text) if re.fullmatch(r"[\w-]+", cells[0])]


def make_shop(folder: Path) -> Flask:
    """Return an app with everything that answers, and without background threads."""
    app = Flask("shop", root_path=str(folder))
    app.config |= {"WARMCACHE_SPREAD": 1.0, "WARMCACHE_DIR": str(folder / "cache"), "WARMCACHE_ENABLED": False}
    warmcache = WarmCache(app)
    files = warmcache.warm_list(
        "files", key="path", unit="file", search=("path",), counts=("large",), allow_all=True,
        filters={"large": lambda file: file["size"] > 1}, source=lambda: [{"path": "a", "size": 1}],
    )  # fmt: skip
    warmcache.value("dashboard")(lambda: 1)
    warmcache.once("create-tables")(lambda: None)
    warmcache.defer_blueprint("missing.module:bp", url_prefix="/missing")
    warmcache.authorize(lambda action, name: True)
    app.add_url_rule("/files", "files", files.response)
    app.add_url_rule("/dashboard", "dashboard", lambda: warmcache["dashboard"].response())

    @app.get("/needs")
    def needs() -> str:
        warmcache.ensure("create-tables", wait=0)
        return "ready"

    return app


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Flask]:
    app = make_shop(tmp_path)
    with inline_rebuilds(app):
        yield app


@pytest.fixture
def client(shop: Flask) -> FlaskClient:
    return shop.test_client()


def test_every_route_is_described(shop: Flask) -> None:
    served = {
        (rule.endpoint, re.sub(r"<\w+>", "", rule.rule))
        for rule in shop.url_map.iter_rules()
        if rule.endpoint.startswith("warmcache.")
    }
    table = [cells for cells in rows(HTTP.read_text()) if cells[1].startswith("warmcache.")]
    shown = {(endpoint, re.sub(r"NAME|FILE", "", route.split()[1])) for route, endpoint, _ in table}
    assert shown == served


def test_list_answers_with_the_documented_fields(client: FlaskClient) -> None:
    names = set(documented("### The answer of a list"))
    answer = client.get("/files").get_json()
    assert names - {"search_complete"} - STATES == answer.keys()


STATES = {"cold", "partial", "fresh", "stale", "failed"}


def test_value_answers_with_the_documented_fields(client: FlaskClient) -> None:
    assert set(documented("### The answer of a value")) == client.get("/dashboard").get_json().keys()


def test_list_has_the_documented_headers(shop: Flask, client: FlaskClient) -> None:
    names = set(documented("### Headers"))
    own = {"Content-Type", "Content-Length"}
    assert set(client.get("/files").headers.keys()) - own == names - {"Retry-After"}
    with showing(shop, "cold"):
        assert set(client.get("/files").headers.keys()) - own == names - {"Age"}


def test_wrong_parameter_has_the_documented_answer(client: FlaskClient) -> None:
    answer = client.get("/files?filter=none")
    assert answer.status_code == 400 and answer.headers["Cache-Control"] == "no-store"
    assert answer.get_json().keys() == set(documented("### Errors of a list"))


def test_every_parameter_is_described(client: FlaskClient) -> None:
    from flask_warmcache.query.parse import PARAMETERS

    assert set(documented("## Lists")) == PARAMETERS


def test_stats_have_the_documented_fields(client: FlaskClient) -> None:
    answer = client.get("/api/cache/stats").get_json()
    assert answer.keys() - {"files", "dashboard"} == set(documented("## Stats"))
    assert answer["files"].keys() == set(documented("### One list"))
    assert answer["dashboard"].keys() == set(documented("### One list")) - {"file_count"}
    assert answer["files"]["runner"].keys() <= set(documented("#### Runner"))
    assert answer["tasks"]["create-tables"].keys() == set(documented("### One-time tasks"))


def test_progress_has_the_documented_fields(tmp_path: Path) -> None:
    app = Flask("shop", root_path=str(tmp_path))
    warmcache, seen = WarmCache(app), []
    client = app.test_client()

    @warmcache.builder("files")
    def look_at_itself() -> list[dict[str, Any]]:
        seen.append(client.get("/api/cache/stats/files").get_json()["progress"])
        return []

    with inline_rebuilds(app), app.app_context():
        warmcache["files"].get()
    assert seen[0].keys() == set(documented("#### Progress"))


def test_rebuild_has_the_documented_answers(client: FlaskClient) -> None:
    codes = set(documented("## Asking for a rebuild"))
    assert codes == {"202", "303", "403", "404", "405", "409", "429", "503"}
    answer = client.post("/api/cache/rebuild/files")
    assert answer.status_code == 202 and answer.get_json().keys() == set(documented("### One list"))
    early = client.post("/api/cache/rebuild/files", headers={"Sec-Fetch-Site": "cross-site"})
    assert early.status_code == 403 and early.get_json().keys() == {"error"}
    for path in ("stats/no", "static/no"):
        assert client.get(f"/api/cache/{path}").get_json().keys() == {"error", "allowed"}


def test_probes_have_the_documented_fields(client: FlaskClient) -> None:
    assert client.get("/api/cache/livez").get_json() == {"status": "ok"}
    for name in ("readyz", "startupz"):
        answer = client.get(f"/api/cache/{name}")
        assert answer.get_json().keys() == set(documented("## Probes"))
        assert answer.headers["Cache-Control"] == "no-store"
        assert ("Retry-After" in answer.headers) == (answer.status_code == 503)


def test_answers_of_what_is_not_ready(tmp_path: Path) -> None:
    shop = make_shop(tmp_path)
    table = {
        cells[0]: re.findall(r"`(\w+)`", "|".join(cells[1:]) + "`")
        for cells in rows(section(HTTP, "## Not ready yet"))
    }
    assert len(table) == 3
    failed = shop.test_client().get("/missing/")
    assert (failed.status_code, failed.get_json().keys()) == (503, {"warming", "error"})


def test_task_answers_as_the_start_up_page_shows(tmp_path: Path) -> None:
    error, stats = (ast.literal_eval(_python(one.text)) for one in blocks(DOCS / "startup.md", "json"))
    shop = make_shop(tmp_path)
    shop.extensions["warmcache"].open()
    shop.extensions["warmcache"].tasks.status("create-tables").is_here = True
    client = shop.test_client()
    assert client.get("/needs").get_json() == error
    answer = client.get("/api/cache/stats").get_json()
    assert stats.keys() <= answer.keys()
    assert answer["tasks"]["create-tables"].keys() == stats["tasks"]["create-tables"].keys()


def _python(json: str) -> str:
    return json.replace("true", "True").replace("false", "False").replace("null", "None")


# Log events


def logged() -> dict[str, set[str]]:
    """Return the events that the package logs, and their levels."""
    found: dict[str, set[str]] = {}
    for path in (CHECKOUT / "flask_warmcache").rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            match call:
                case ast.Call(ast.Attribute(ast.Name("log" | "events"), method), [ast.Constant(str(message)), *_]):
                    event = re.match(r"warmcache\.(\w+)", message)
                    assert event is not None, f"{path.name}: {message}"
                    level = "ERROR" if method == "exception" else method.upper()
                    found.setdefault(event[1], set()).add(level)
    return found


def test_every_log_event_is_described_with_its_level() -> None:
    table = {cells[0]: {cells[1]} for cells in rows((DOCS / "events.md").read_text())}
    assert table == logged()


def test_every_log_event_says_what_to_do() -> None:
    for event, _, meaning, action in rows((DOCS / "events.md").read_text()):
        assert meaning.endswith(".") and action.endswith("."), event
