"""What the package is made of: rooms that do not know each other, and no code from a cache folder."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import flask_warmcache
from tests.support.processes import run_python

from .world import CHECKOUT

PACKAGE = CHECKOUT / "flask_warmcache"
MODULES = sorted(PACKAGE.rglob("*.py"))


def imports(module: Path) -> Iterator[str]:
    """The full name of everything a module imports, inside its functions too."""
    package = ["flask_warmcache", *module.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            whole = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{whole}.{name.name}" for name in node.names)


def name_of(module: Path) -> str:
    return str(module.relative_to(PACKAGE))


ROOMS_WITHOUT_FLASK = {"host", "index", "keeper", "rebuild", "status", "store"}
CORE = [module for module in MODULES if module.parent.name in ROOMS_WITHOUT_FLASK]


def test_the_rooms_are_where_the_tests_look() -> None:
    assert {module.parent.name for module in CORE} == ROOMS_WITHOUT_FLASK
    assert len(CORE) >= 40


@pytest.mark.parametrize("module", CORE, ids=name_of)
def test_the_core_does_not_import_flask(module: Path) -> None:
    assert [name for name in imports(module) if name.split(".")[0] in ("flask", "werkzeug", "click")] == []


@pytest.mark.parametrize("module", [one for one in CORE if one.parent.name == "store"], ids=name_of)
def test_the_store_does_not_know_how_a_rebuild_works(module: Path) -> None:
    ours = [name for name in imports(module) if name.startswith("flask_warmcache")]
    known = ("flask_warmcache.store", "flask_warmcache.errors")
    assert [name for name in ours if not name.startswith(known)] == []


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_no_cache_folder_can_run_code(module: Path) -> None:
    runs_code = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "yaml", "runpy", "ctypes"}
    assert [name for name in imports(module) if name.split(".")[0] in runs_code] == []
    calls = [node for node in ast.walk(ast.parse(module.read_text())) if isinstance(node, ast.Call)]
    named = {node.func.id for node in calls if isinstance(node.func, ast.Name)}
    assert named.isdisjoint({"eval", "exec", "compile", "__import__"})


def test_the_package_imports_cleanly() -> None:
    done = run_python("import flask_warmcache; from flask_warmcache import *; print(WarmCache.__name__)")
    assert (done.stdout, done.stderr) == ("WarmCache\n", "")


def test_importing_it_starts_nothing() -> None:
    done = run_python(
        "import threading, flask_warmcache.extension, flask_warmcache.cli.group; print(threading.active_count())"
    )
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_gunicorns_own_process_loads_no_flask() -> None:
    script = """
import sys
import flask_warmcache.gunicorn_conf
loaded = {name.split(".")[0] for name in sys.modules}
print(sorted(loaded & {"flask", "werkzeug", "filelock", "cachetools", "jinja2"}))
"""
    done = run_python(script)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_a_worker_that_only_serves_a_fresh_list_loads_nothing_that_rebuilds_runs_commands_or_makes_pages(
    tmp_path: Path,
) -> None:
    app = f"""
import sys
from flask import Flask
Flask("bare").test_client().get("/")
before = set(sys.modules)  # some of it a Flask of old loads itself
from flask_warmcache import WarmCache
app = Flask("shop")
app.config["WARMCACHE_DIR"] = {os.fspath(tmp_path)!r}
files = WarmCache(app).warm_list("files", key="path", source=lambda: [{{"path": "a"}}])
app.add_url_rule("/files", "files", files.response)
"""
    rebuild = """
state = app.extensions["warmcache"]
state.open()
state.rebuilder.rebuild_now("files")
"""
    serve = """
unwanted = "job enrich tasks opened status_page markup gzip subprocess filelock".split()
print(app.test_client().get("/files").headers["X-Warmcache"].rpartition("=")[2])
print(sorted(name for name in set(sys.modules) - before if name.rpartition(".")[2] in unwanted))
"""
    env = os.environ | {"WARMCACHE_SERVER_STARTED": "1"}  # else the server's start would make the list stale
    for script in (app + rebuild, app + serve):
        done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
    assert done.stdout == "fresh\n[]\n"


def test_every_public_name_is_there_and_no_other() -> None:
    for name in flask_warmcache.__all__:
        assert getattr(flask_warmcache, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        flask_warmcache.Nothing  # noqa: B018


def test_every_error_of_ours_is_a_warmcache_error() -> None:
    for name in flask_warmcache.__all__:
        if name.endswith("Error"):
            assert issubclass(getattr(flask_warmcache, name), flask_warmcache.WarmCacheError)


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_every_file_says_what_it_is_for(module: Path) -> None:
    assert ast.get_docstring(ast.parse(module.read_text()))


def test_type_checkers_know_the_public_names(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "use.py").write_text(
        "from flask_warmcache import BadQueryError, Items, Outcome, Page, WarmCache, WarmList, WarmValue\n"
        "files: WarmList = WarmCache().warm_list('files', key='path')\n"
        "reveal_type(files.get())\n"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--follow-imports=silent",
            "--config-file=",
            "--cache-dir",
            tmp_path / "cache",
            "use.py",
        ],
        cwd=tmp_path,
        env={"PATH": "", "MYPYPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert 'Revealed type is "flask_warmcache.lists.items.Items"' in done.stdout, done.stdout + done.stderr
    assert "Success" in done.stdout


@pytest.mark.parametrize(("file", "owner"), [("condition.py", "ListStatus"), ("staleness.py", "Staleness")])
def test_no_other_file_assigns_the_attributes_of(file: str, owner: str) -> None:
    """So each of its methods can promise what holds afterwards."""
    home = PACKAGE / "status" / file
    (owning,) = (node for node in ast.parse(home.read_text()).body if getattr(node, "name", "") == owner)
    assert isinstance(owning, ast.ClassDef)
    methods = [node for node in owning.body if getattr(node, "name", "__init__") != "__init__"]
    changing = {name for method in methods for _, name in assigned(method)}
    assert len(changing) >= 5
    for module in MODULES:
        if module != home:
            found = assigned(ast.parse(module.read_text()))
            # A progress has a report, too, and that one has a runner.
            assert [one for one in found if one[1] in changing and one[0] not in ("self", "self.report")] == []


def assigned(tree: ast.AST) -> list[tuple[str, str]]:
    """Every attribute that is assigned, after what it is an attribute of."""
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    return [(ast.unparse(node.value), node.attr) for node in attributes if isinstance(node.ctx, ast.Store)]
