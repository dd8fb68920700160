"""``flask warmcache doctor`` beside a running server, with an app that takes its time to import."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.waiting import until

from .world import OUR_CONF, Place, Server, gunicorn_server

LOST_HOOK = """
from flask_warmcache.gunicorn_conf import *
timeout = 40
def post_worker_init(worker):
    pass
"""
SLOW_APP = {
    "shop/__init__.py": """
from flask import Flask
from flask_warmcache import WarmCache

def create_app():
    from . import admin, reports
    app = Flask("shop")
    app.config.from_prefixed_env()
    lists = WarmCache(app)
    lists.builder("orders")(list)
    app.register_blueprint(reports.bp, url_prefix="/reports")
    app.register_blueprint(admin.bp, url_prefix="/admin")
    return app
""",
    "shop/reports.py": """
import time
import heavy
from flask import Blueprint
time.sleep(0.2)
bp = Blueprint("reports", __name__)
""",
    "shop/admin.py": """
import time
from flask import Blueprint
time.sleep(0.15)
bp = Blueprint("admin", __name__)
@bp.before_app_request
def guard():
    pass
""",
    "site-packages/heavy/__init__.py": "import time; time.sleep(0.3)\nfrom . import core",
    "site-packages/heavy/core.py": "import time; time.sleep(0.1)",
}


def examine(place: Place, *arguments: str, code: int | None = None) -> dict[str, Any]:
    """What the doctor says, by check."""
    ran = place.flask("warmcache", "doctor", "--json", *arguments)
    told: dict[str, Any] = json.loads(ran.stdout)
    assert ran.returncode == told["exit_code"], ran.stderr
    assert code is None or code == ran.returncode, told["findings"]
    told["found"] = {finding["check"]: finding for finding in told["findings"]}
    return told


def master(server: Server) -> tuple[str, str]:
    return "--pid", str(server.process.pid)


def test_a_variable_that_the_running_server_does_not_read_is_named(place: Place) -> None:
    place.env |= {"GUNICORN_TIMEOUT": "300", "GUNICORN_WORKER": "5"}
    with gunicorn_server(place, workers=1) as server:
        told = examine(place, *master(server), code=1)
        assert told["server"]["settings"]["timeout"] == {"value": 30, "source": "gunicorn's default"}
        ignored = told["found"]["gunicorn.variable_ignored"]
        assert ignored["level"] == "warning"
        assert ignored["what"] == "GUNICORN_TIMEOUT=300 is not in force: timeout is 30 (gunicorn's default)."
        assert "python:flask_warmcache.gunicorn_conf" in ignored["do"]
        assert told["found"]["gunicorn.variable_unknown"]["what"].startswith("GUNICORN_WORKER is no setting")
        assert told["found"]["gunicorn.own_configuration"]["level"] == "info"


def test_what_the_command_line_overrules_is_told_by_what_would_help(place: Place) -> None:
    place.env |= {"GUNICORN_TIMEOUT": "300", "WEB_CONCURRENCY": "5"}
    with gunicorn_server(place, "-t", "40", workers=1) as server:
        told = examine(place, *master(server), code=1)
        ignored = [one for one in told["findings"] if one["check"] == "gunicorn.variable_ignored"]
        said = {one["what"].split("=")[0]: one for one in ignored}
        timeout, workers = said["GUNICORN_TIMEOUT"], said["WEB_CONCURRENCY"]
        assert timeout["what"].endswith("timeout is 40 (command line).")
        assert "gunicorn itself reads no variable" in timeout["why"]
        assert "take timeout out of the command line, and start gunicorn with -c python:flask" in timeout["do"]
        assert workers["what"] == "WEB_CONCURRENCY=5 is not in force: workers is 1 (command line)."
        assert "gunicorn itself" not in workers["why"], "it does read this one"
        assert workers["do"].startswith("Take workers out of the command line, or the variable out")


def test_the_doctor_finds_what_our_configuration_says_at_the_start(place: Place) -> None:
    place.env |= {"GUNICORN_TIMEOUT": "50", "GUNICORN_CMD_ARGS": "--keep-alive 7"}
    with gunicorn_server(place, *OUR_CONF, "-k", "sync", workers=2) as server:
        server.warm_up()
        told = examine(place, "--pid", str(min(server.pids)))  # a worker's number does as well
        assert told["server"]["pid"] == server.process.pid
        assert set(told["server"]["workers"]) == server.pids
        for name, setting in told["server"]["settings"].items():
            if setting["source"] != "gunicorn's default":
                value = setting["value"]
                value = ",".join(value) if isinstance(value, list) else value
                assert f"{name}={value} ({setting['source']})" in server.log
        wrong = [one for one in told["findings"] if one["level"] in ("warning", "fault")]
        assert [one for one in wrong if not one["check"].startswith(("memory.", "imports."))] == []
        assert {one["pid"] for one in told["processes"]} == {server.process.pid, *server.pids}
        assert all(0 < one["uss_bytes"] <= one["pss_bytes"] for one in told["processes"])
        assert told["runner"]["child"] == "available"
        assert told["lists"]["files"]["state"] == "fresh"
        assert {"folder.usable", "folder.locks", "runner.child", "lists.built", "imports.time"} <= set(
            told["found"]
        )


def test_a_lost_hook_and_a_file_changed_since_are_named(place: Place) -> None:
    own = place.folder / "own.conf.py"
    own.write_text(LOST_HOOK)
    os.utime(own, (1e9, 1e9))
    with gunicorn_server(place, "-c", os.fspath(own), workers=1) as server:
        told = examine(place, *master(server), code=1)
        assert told["found"]["gunicorn.hook_lost"]["level"] == "warning"
        assert "gunicorn.file_changed" not in told["found"]
        assert told["server"]["settings"]["timeout"] == {"value": 40, "source": "configuration file"}
        os.utime(own, (4e9, 4e9))
        assert "gunicorn.file_changed" in examine(place, *master(server), code=1)["found"]
        own.write_text("timeout = 'soon'\n")
        told = examine(place, *master(server), code=2)
        assert told["found"]["gunicorn.unreadable"]["level"] == "fault"


def test_settings_that_endanger_the_server_are_named(place: Place) -> None:
    with gunicorn_server(place, "-t", "3600", "--max-requests", "500", workers=2) as server:
        found = examine(place, *master(server), code=1)["found"]
        assert "3600" in found["gunicorn.timeout_long"]["what"]
        assert "max_requests_jitter to about 125" in found["gunicorn.no_jitter"]["do"]


def test_a_server_behind_a_title_says_that_it_cannot_be_read(place: Place) -> None:
    # As setproctitle leaves it: the title, in place of command line and environment.
    hidden = subprocess.Popen(
        ["bash", "-c", "exec -a 'gunicorn: master [app:app]' sleep 120"], cwd=place.folder, env={}
    )
    try:
        path = Path(f"/proc/{hidden.pid}/cmdline")
        until(lambda: path.read_bytes().startswith(b"gunicorn: "), "the title")
        found = examine(place, "--pid", str(hidden.pid))["found"]
        assert found["gunicorn.unreadable"]["level"] == "warning"
        assert "setproctitle" in found["gunicorn.unreadable"]["what"]
    finally:
        hidden.kill()
        hidden.wait(20)


def test_without_a_server_the_rest_is_looked_at(place: Place) -> None:
    told = examine(place, "--pid", str(os.getpid()), code=2)
    assert told["found"]["server.not_found"]["level"] == "fault", "it was named"
    assert told["found"]["folder.usable"]["level"] == "ok"
    assert told["found"]["runner.child"]["level"] == "ok"


@pytest.fixture
def slow_app(place: Place) -> Path:
    for name, text in SLOW_APP.items():
        path = place.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    place.env["PYTHONPATH"] += f":{place.folder / 'site-packages'}"
    place.env["FLASK_WARMCACHE_DIR"] = place.env["WARMCACHE_DIR"]
    place.env["FLASK_WARMCACHE_APP"] = "shop:create_app()"
    return place.folder


def test_slow_imports_are_told_and_which_of_them_can_wait(place: Place, slow_app: Path) -> None:
    command = place.flask_command("warmcache", "doctor")
    command[command.index("app_files")] = "shop:create_app"
    ran = subprocess.run(
        [*command, "--json"], cwd=slow_app, env=place.env, text=True, capture_output=True, timeout=60
    )
    told = json.loads(ran.stdout)["imports"]
    worst = {unit["name"]: unit for unit in told["worst"]}
    assert told["seconds"] > 0.75
    assert worst["heavy"]["seconds"] >= 0.4, "a package with all its modules"
    assert worst["heavy"]["imported_by"] == "shop.reports"
    assert worst["heavy"]["advice"] == "comes with shop.reports, whose blueprint can be deferred"
    assert worst["shop.reports"]["with_imports_seconds"] >= 0.6
    assert worst["shop.reports"]["advice"].startswith("defer its blueprint")
    assert worst["shop.admin"]["advice"].startswith("has functions for the whole app")
    assert len(worst) <= 10
    assert not list(place.cache.glob("*.index")), "nothing is built because the doctor looks"

    narrow = place.env | {"COLUMNS": "80"}
    text = subprocess.run(command, cwd=slow_app, env=narrow, text=True, capture_output=True, timeout=60).stdout
    assert "\x1b" not in text
    assert "0 faults, " in text.splitlines()[-1]
    assert max(len(line) for line in text.splitlines() if "/" not in line) <= 80, "a path is not broken"
