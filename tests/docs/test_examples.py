"""The examples of the how-to pages run as they stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from .pages import DOCS, README, block, blocks, run

SHOP = block(README, "python", "# app.py")
INLINE = """
from flask_warmcache.testing import inline_rebuilds
with inline_rebuilds(app):
    client = app.test_client()
"""


def python(page: str) -> str:
    """Return all Python code of a page."""
    return "\n".join(one.text for one in blocks(DOCS / page, "python"))


def test_lists_are_as_the_page_declares_them(tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("text")
    begin = """
import os
from flask import Flask
from flask_warmcache import WarmCache
app = Flask(__name__)
warmcache = WarmCache(app)
mails = []
mail_admins = mails.append
"""
    driver = f"""
@app.get("/details")
def list_details():
    return details.response()
{INLINE}
    print(client.get("/products").json["total_items"], client.get("/dashboard").json)
    print(client.get("/details").json["files"][0]["begins_with"])
"""
    assert run(begin + python("lists.md") + driver, tmp_path) == "2 {'orders': 17}\n74657874\n"


def test_changes_are_visible(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "b").touch()
    driver = f"""{INLINE}
    assert client.get("/api/files").json["total_files"] == 2
    os.remove("a")
    assert client.post("/api/files/a").status_code == 204
    assert client.get("/api/files").json["total_files"] == 1
    open("c", "w").close()
    invalidate_all()
    assert client.get("/api/files").json["total_files"] == 2
"""
    refresh, invalidate = (one.text for one in blocks(DOCS / "changes.md", "python"))
    invalidate = "def invalidate_all():\n" + "".join(f"    {line}\n" for line in invalidate.splitlines())
    run(SHOP + refresh + invalidate + driver, tmp_path)


def test_views_of_your_own_answer(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(bytes(1_000_001))
    begin = "\ncurrent_user = lambda: 'b'\nmay_see = lambda user, file: file['name'] == user\n"
    driver = f"""{INLINE}
    print(len(client.get("/files.json").json), client.get("/files/b").json["name"])
    print(client.get("/files/x").status_code)
    print([row["name"] for row in client.get("/table?search=a").json["rows"]], len(client.get("/my-files").json))
    print(client.get("/api/cache/stats/queue").json)
"""
    expected = "2 b\n404\n['a'] 1\n{'jobs_waiting': 3}\n"
    assert run(SHOP + begin + python("views.md") + driver, tmp_path) == expected


def test_tests_and_signals_of_an_app_run(tmp_path: Path) -> None:
    own = """
mails = []
mail_admins = mails.append

def unmounted(folder):
    raise OSError("unmounted")

def test_failure_is_reported(monkeypatch):
    monkeypatch.setattr("app.os.scandir", unmounted)
    with inline_rebuilds(app, raise_errors=False):
        app.test_client().get("/api/files")
    assert mails == ["The list files could not be rebuilt: unmounted"]
"""
    (tmp_path / "app.py").write_text(f"{SHOP}\napp.testing = True\n")
    signals = block(DOCS / "lists.md", "python", "rebuild_failed")
    (tmp_path / "test_app.py").write_text(python("testing.md") + signals + own)
    said = run("", tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_app.py")
    assert "4 passed" in said


def test_one_time_task_is_run(tmp_path: Path) -> None:
    pytest.importorskip("flask_sqlalchemy")
    driver = """
answer = app.test_client().get("/comics")
print(answer.status_code, answer.json)
"""
    example = block(DOCS / "startup.md", "python", "db.create_all()")
    database = f"sqlite:///{tmp_path / 'comics.db'}"
    assert run(example + driver, tmp_path, DATABASE_URL=database) == "200 {'count': 0}\n"


def test_deferred_blueprints_are_served(tmp_path: Path) -> None:
    blueprint = """
from flask import Blueprint
bp = Blueprint("{name}", __name__)
bp.add_url_rule("/", "index", lambda: "{name}")
"""
    driver = """
client = app.test_client()
with app.test_request_context():
    from flask import url_for
    assert url_for("reports.index") == "/reports/"
assert "shop.reports" not in sys.modules and "shop.services" not in sys.modules
for name in ("login", "campaigns", "reports"):
    assert client.get(f"/{name}/").text == name
assert search.find() == "found"
"""
    (tmp_path / "shop").mkdir()
    for name in ("login", "campaigns", "reports"):
        (tmp_path / "shop" / f"{name}.py").write_text(blueprint.format(name=name))
    (tmp_path / "shop" / "services.py").write_text(
        "class SearchService:\n    def find(self):\n        return 'found'\n"
    )
    example = block(DOCS / "deferred.md", "python", "shop.login").replace(
        "WarmCache(app)", "WarmCache(app, dir='cache')"
    )
    run(f"import sys\n{example}{driver}", tmp_path)
