"""``flask warmcache doctor`` beside a running server, and with an app that is slow to import."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.places import Place
from tests.support.servers import OUR_CONF, Server, gunicorn_server
from tests.support.waiting import until

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
    """Run the doctor; return its report, with the findings by check under ``found``."""
    ran = place.flask("warmcache", "doctor", "--json", *arguments)
    report: dict[str, Any] = json.loads(ran.stdout)
    assert ran.returncode == report["exit_code"], ran.stderr
    assert code is None or code == ran.returncode, report["findings"]
    report["found"] = {finding["check"]: finding for finding in report["findings"]}
    return report


def master(server: Server) -> tuple[str, str]:
    return "--pid", str(server.process.pid)


def test_variable_that_the_server_does_not_read_is_named(place: Place) -> None:
    place.env |= {"GUNICORN_TIMEOUT": "300", "GUNICORN_WORKER": "5"}
    with gunicorn_server(place, workers=1) as server:
        report = examine(place, *master(server), code=1)
        assert report["server"]["settings"]["timeout"] == {"value": 30, "source": "gunicorn's default"}
        ignored = report["found"]["gunicorn.variable_ignored"]
        assert ignored["level"] == "warning"
        assert ignored["what"] == "GUNICORN_TIMEOUT=300 is not in force: timeout is 30 (gunicorn's default)."
        assert "python:flask_warmcache.gunicorn_conf" in ignored["do"]
        assert report["found"]["gunicorn.variable_unknown"]["what"].startswith("GUNICORN_WORKER is not a setting")
        assert report["found"]["gunicorn.own_configuration"]["level"] == "info"


def test_advice_depends_on_what_overrules_a_variable(place: Place) -> None:
    place.env |= {"GUNICORN_TIMEOUT": "300", "WEB_CONCURRENCY": "5"}
    with gunicorn_server(place, "-t", "40", workers=1) as server:
        report = examine(place, *master(server), code=1)
        ignored = [finding for finding in report["findings"] if finding["check"] == "gunicorn.variable_ignored"]
        by_variable = {finding["what"].split("=")[0]: finding for finding in ignored}
        timeout, workers = by_variable["GUNICORN_TIMEOUT"], by_variable["WEB_CONCURRENCY"]
        assert timeout["what"].endswith("timeout is 40 (command line).")
        assert "gunicorn itself reads no variable" in timeout["why"]
        assert "remove timeout from the command line, and start gunicorn with -c python:flask" in timeout["do"]
        assert workers["what"] == "WEB_CONCURRENCY=5 is not in force: workers is 1 (command line)."
        assert "gunicorn itself" not in workers["why"], "gunicorn itself reads this one"
        assert workers["do"].startswith("Remove workers from the command line, or the variable from")


def test_doctor_reports_what_our_configuration_logs_at_the_start(place: Place) -> None:
    place.env |= {"GUNICORN_TIMEOUT": "50", "GUNICORN_CMD_ARGS": "--keep-alive 7"}
    with gunicorn_server(place, *OUR_CONF, "-k", "sync", workers=2) as server:
        server.warm_up()
        report = examine(place, "--pid", str(min(server.pids)))  # the id of a worker works, too
        assert report["server"]["pid"] == server.process.pid
        assert set(report["server"]["workers"]) == server.pids
        for name, setting in report["server"]["settings"].items():
            if setting["source"] != "gunicorn's default":
                value = setting["value"]
                value = ",".join(value) if isinstance(value, list) else value
                assert f"{name}={value} ({setting['source']})" in server.log
        wrong = [finding["check"] for finding in report["findings"] if finding["level"] in ("warning", "fault")]
        assert [check for check in wrong if not check.startswith(("memory.", "imports."))] == []
        assert {process["pid"] for process in report["processes"]} == {server.process.pid, *server.pids}
        assert all(0 < process["uss_bytes"] <= process["pss_bytes"] for process in report["processes"])
        assert report["runner"]["child"] == "available"
        assert report["lists"]["files"]["state"] == "fresh"
        assert {"folder.usable", "folder.locks", "runner.child", "lists.built", "imports.time"} <= set(
            report["found"]
        )


def test_lost_hook_and_changed_file_are_named(place: Place) -> None:
    own = place.folder / "own.conf.py"
    own.write_text(LOST_HOOK)
    os.utime(own, (1e9, 1e9))
    with gunicorn_server(place, "-c", os.fspath(own), workers=1) as server:
        report = examine(place, *master(server), code=1)
        assert report["found"]["gunicorn.hook_lost"]["level"] == "warning"
        assert "gunicorn.file_changed" not in report["found"]
        assert report["server"]["settings"]["timeout"] == {"value": 40, "source": "configuration file"}
        os.utime(own, (4e9, 4e9))
        assert "gunicorn.file_changed" in examine(place, *master(server), code=1)["found"]
        own.write_text("timeout = 'soon'\n")
        report = examine(place, *master(server), code=2)
        assert report["found"]["gunicorn.unreadable"]["level"] == "fault"


def test_dangerous_settings_are_named(place: Place) -> None:
    with gunicorn_server(place, "-t", "3600", "--max-requests", "500", workers=2) as server:
        found = examine(place, *master(server), code=1)["found"]
        assert "3600" in found["gunicorn.timeout_long"]["what"]
        assert "max_requests_jitter to about 125" in found["gunicorn.no_jitter"]["do"]


def test_settings_of_a_server_with_a_title_cannot_be_read(place: Place) -> None:
    # Like setproctitle, this replaces the command line and the environment by a title.
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
        hidden.wait(120)


def test_names_that_are_not_text_are_shown(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    place = Place(folder)
    with gunicorn_server(place, *OUR_CONF, workers=1) as server:
        until(lambda: server.get().state == "fresh", lambda: server.log)
        assert examine(place)["server"]["pid"] == server.process.pid
        shown = place.flask("warmcache", "doctor")
        assert f"Cache folder {tmp_path}/caf\\udce9/cache" in " ".join(shown.stdout.split()), shown.stderr


def test_folder_of_the_server_is_examined_and_another_one_is_named(place: Place) -> None:
    with gunicorn_server(place, *OUR_CONF, workers=1) as server:
        server.warm_up()
        assert "folder.not_the_servers" not in examine(place)["found"]
        assert "keeps its lists in" not in place.flask("warmcache", "status").stderr
        place.env["WARMCACHE_DIR"] = str(place.folder / "elsewhere")
        report = examine(place)
        assert report["found"]["folder.not_the_servers"]["level"] == "warning"
        assert report["folder"]["path"] == str(place.cache)
        assert report["lists"]["files"]["state"] == "fresh"
        for command in (("status",), ("invalidate", "files")):
            said = place.flask("warmcache", *command).stderr
            assert f"keeps its lists in {place.cache}, and this command in {place.folder}/elsewhere." in said


def test_without_a_server_the_other_checks_run(place: Place) -> None:
    report = examine(place, "--pid", str(os.getpid()), code=2)
    assert report["found"]["server.not_found"]["level"] == "fault", "it was asked for"
    assert report["found"]["folder.usable"]["level"] == "ok"
    assert report["found"]["runner.child"]["level"] == "ok"


@pytest.fixture
def slow_app(place: Place) -> Path:
    for name, text in SLOW_APP.items():
        path = place.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    place.add_path(place.folder / "site-packages")
    place.env["FLASK_WARMCACHE_DIR"] = place.env["WARMCACHE_DIR"]
    place.env["FLASK_WARMCACHE_APP"] = "shop:create_app()"
    return place.folder


def test_slow_imports_are_reported_with_what_can_be_deferred(place: Place, slow_app: Path) -> None:
    command = place.flask_command("warmcache", "doctor")
    command[command.index("app_files")] = "shop:create_app"
    ran = place.run([*command, "--json"], cwd=slow_app)
    report = json.loads(ran.stdout)["imports"]
    worst = {unit["name"]: unit for unit in report["worst"]}
    assert report["seconds"] > 0.75
    assert worst["heavy"]["seconds"] >= 0.4, "a package with all its modules"
    assert worst["heavy"]["imported_by"] == "shop.reports"
    assert worst["heavy"]["advice"] == "comes with shop.reports, whose blueprint can be deferred"
    assert worst["shop.reports"]["with_imports_seconds"] >= 0.6
    assert worst["shop.reports"]["advice"].startswith("defer its blueprint")
    assert worst["shop.admin"]["advice"].startswith("has functions for the whole app")
    assert len(worst) <= 10
    assert not list(place.cache.glob("*.index")), "the doctor builds nothing"

    place.env["COLUMNS"] = "80"
    text = place.run(command, cwd=slow_app).stdout
    assert "\x1b" not in text
    assert "0 faults, " in text.splitlines()[-1]
    assert max(len(line) for line in text.splitlines() if "/" not in line) <= 80, "a path is not split"
