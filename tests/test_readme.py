"""The README's claims that a test can check: its example runs, its settings are those of the code."""

from __future__ import annotations

import json
import os
import re
from dataclasses import fields
from pathlib import Path

import pytest

from flask_warmcache import WarmCache
from flask_warmcache.settings import PREFIX, Settings
from tests.support.processes import CHECKOUT, python, run, run_python
from tests.unit.world import make_app

README = (CHECKOUT / "README.md").read_text()

DRIVER = """
client = app.test_client()
cold = client.get("/api/files").json
assert cold["cache_rebuilding"] is True, cold
import time
deadline = time.monotonic() + 20
while (answer := client.get("/api/files?sort=-name&filter=large&search=a").json)["cache_rebuilding"]:
    assert time.monotonic() < deadline, answer
    time.sleep(0.05)
print(sorted(answer))
"""


def test_the_example_runs_as_it_stands(tmp_path: Path) -> None:
    example = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert example is not None
    (tmp_path / "a big file").write_bytes(bytes(1_000_001))
    settings = {"WARMCACHE_DIR": str(tmp_path / "cache")}
    script = example[1].replace("WarmCache(app)", f"WarmCache(app, dir={settings['WARMCACHE_DIR']!r})") + DRIVER
    done = run_python(script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    names = ["cache_rebuilding", "files", "large_count", "page", "per_page", "total_files", "total_pages"]
    assert done.stdout.strip() == str(names)


OWN_TEST = """
mails = []
mail_admins = mails.append

def unmounted(folder):
    raise OSError("unmounted")

def test_the_signal(monkeypatch):
    monkeypatch.setattr("shop.os.scandir", unmounted)
    with inline_rebuilds(app, raise_errors=False):
        app.test_client().get("/api/files")
    assert mails == ["The list files could not be rebuilt: unmounted"]
"""


def test_the_examples_of_testing_and_signals_run_as_they_stand(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (tests,) = [block for block in blocks if "def test_" in block]
    (signals,) = [block for block in blocks if "rebuild_failed" in block]
    (shop,) = [block for block in blocks if block.startswith("# app.py\n")]
    (tmp_path / "shop.py").write_text(f"{shop}\napp.testing = True\n")
    (tmp_path / "test_shop.py").write_text(tests + signals + OWN_TEST)
    done = run(python("-m", "pytest", "-q", "-p", "no:cacheprovider", "test_shop.py"), cwd=tmp_path)
    assert "4 passed" in done.stdout, done.stdout + done.stderr


def test_the_table_of_settings_is_that_of_the_code() -> None:
    told = dict(re.findall(r"^\| `(WARMCACHE_\w+)` \| `([^`]*)` \|", README, re.MULTILINE))
    assert told == {PREFIX + field.name.upper(): repr(field.default) for field in fields(Settings)}


def test_every_file_that_is_linked_is_there() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (CHECKOUT / target).exists(), target
    for command in re.findall(r"^(\./\S+)", README, re.MULTILINE):
        assert os.access(CHECKOUT / command, os.X_OK), command


STARTUP = (CHECKOUT / "docs" / "startup.md").read_text()
ASK = """
answer = app.test_client().get("/comics")
print(answer.status_code, answer.json)
"""


def test_the_example_of_one_time_tasks_runs_as_it_stands(tmp_path: Path) -> None:
    pytest.importorskip("flask_sqlalchemy")
    example = re.search(r"```python\n(.*?)```", STARTUP, re.DOTALL)
    assert example is not None
    database = {"DATABASE_URL": f"sqlite:///{tmp_path / 'comics.db'}", "XDG_STATE_HOME": str(tmp_path)}
    done = run_python(example[1] + ASK, env=database, cwd=tmp_path)
    assert (done.stdout, done.returncode) == ("200 {'count': 0}\n", 0), done.stderr


def test_the_fields_of_tasks_that_are_told_are_those_of_the_stats(tmp_path: Path) -> None:
    blocks = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", STARTUP, re.DOTALL)]
    app = make_app(tmp_path)
    warmcache = WarmCache(app)
    warmcache.once("create-tables")(lambda: None)

    @app.get("/needs")
    def needs() -> str:
        warmcache.ensure("create-tables", wait=0)
        return "ready"

    app.extensions["warmcache"].open()
    app.extensions["warmcache"].tasks.status("create-tables").is_here = True
    client = app.test_client()
    assert client.get("/needs").get_json() == blocks[0]
    answer = client.get("/api/cache/stats").get_json()
    assert answer.keys() == blocks[1].keys()
    assert answer["tasks"]["create-tables"].keys() == blocks[1]["tasks"]["create-tables"].keys()
