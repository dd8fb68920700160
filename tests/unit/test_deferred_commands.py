"""``flask`` commands load all deferred blueprints, except commands that do not need them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.processes import CHECKOUT, python, run

APP = """
from flask import Flask
from flask_warmcache import WarmCache

def create_app():
    app = Flask(__name__)
    app.config["WARMCACHE_DIR"] = "cache"
    warmcache = WarmCache(app)
    warmcache.defer_blueprint("reports:bp", url_prefix="/reports")
    warmcache.defer_blueprint("broken:bp", url_prefix="/broken")
    with app.app_context():
        pass  # as for db.create_all(): this must not load anything while the app is being made
    open("made", "w").close()
    return app
"""
REPORTS = """
import os
import click
from flask import Blueprint

assert os.path.exists("made")
print("imported reports")
bp = Blueprint("reports", __name__)
bp.add_url_rule("/", "index", dict)

@bp.cli.command("count")
def count():
    click.echo("counted")
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "site_app.py").write_text(APP)
    (tmp_path / "reports.py").write_text(REPORTS)
    (tmp_path / "broken.py").write_text("raise OSError('no disk')")
    return tmp_path


def flask(site: Path, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    path = f"{site}{os.pathsep}{CHECKOUT}"
    return run(python("-m", "flask", "--app", "site_app", *arguments), {"PYTHONPATH": path}, cwd=site, input=stdin)


@pytest.mark.parametrize(
    ("arguments", "stdin", "shown"),
    [
        (("routes",), "", "reports.index"),
        (("shell",), "print(sorted(app.blueprints))\n", "'reports'"),
        (("reports", "count"), "", "counted"),
        (("--help",), "", "reports"),
    ],
)
def test_command_loads_all_blueprints_despite_failures(
    site: Path, arguments: tuple[str, ...], stdin: str, shown: str
) -> None:
    done = flask(site, *arguments, stdin=stdin)
    assert done.returncode == 0, done.stderr
    assert shown in done.stdout
    assert "imported reports" in done.stdout
    assert "warmcache.blueprint_failed: broken:bp" in done.stderr


@pytest.mark.parametrize("arguments", [("warmcache", "status"), ("warmcache", "--help"), ("run", "--help")])
def test_own_commands_load_no_blueprint(site: Path, arguments: tuple[str, ...]) -> None:
    done = flask(site, *arguments)
    assert done.returncode == 0, done.stderr
    assert "imported reports" not in done.stdout


def test_unknown_command_is_refused(site: Path) -> None:
    done = flask(site, "no-such-thing")
    assert done.returncode == 2
    assert "No such command 'no-such-thing'" in done.stderr
