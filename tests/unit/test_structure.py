"""What the package is made of: rooms that do not know each other, and no code from a cache folder."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import flask_warmcache
from flask_warmcache import Items, WarmList
from tests.support.processes import run_python

from .world import CHECKOUT

PACKAGE = CHECKOUT / "flask_warmcache"
MODULES = {module: ast.parse(module.read_text()) for module in sorted(PACKAGE.rglob("*.py"))}
ROOMS_WITHOUT_FLASK = {"host", "index", "keeper", "rebuild", "status", "store"}
CORE = [module for module in MODULES if module.parent.name in ROOMS_WITHOUT_FLASK]


def imports(module: Path) -> Iterator[str]:
    """The full name of everything a module imports, inside its functions too."""
    package = ["flask_warmcache", *module.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            whole = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{whole}.{name.name}" for name in node.names)


def importing(modules: Iterable[Path], *libraries: str) -> list[tuple[Path, str]]:
    """Each of the modules that imports one of the libraries, and what it imports."""
    return [(module, name) for module in modules for name in imports(module) if name.split(".")[0] in libraries]


def test_the_rooms_are_where_the_tests_look() -> None:
    assert {module.parent.name for module in CORE} == ROOMS_WITHOUT_FLASK
    assert len(CORE) >= 40


def test_the_core_does_not_import_flask() -> None:
    assert importing(CORE, "flask", "werkzeug", "click") == []


def test_the_store_does_not_know_how_a_rebuild_works() -> None:
    known = ("flask_warmcache.store", "flask_warmcache.errors", "flask_warmcache.events")
    store = [module for module in CORE if module.parent.name == "store"]
    assert [
        (module, name) for module, name in importing(store, "flask_warmcache") if not name.startswith(known)
    ] == []


def test_no_cache_folder_can_run_code() -> None:
    loaders = ("pickle", "marshal", "shelve", "dill", "cloudpickle", "yaml", "runpy", "ctypes")
    assert importing(MODULES, *loaders) == []
    for module, tree in MODULES.items():
        calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
        called = {function.id for function in calls if isinstance(function, ast.Name)}
        assert called.isdisjoint({"eval", "exec", "compile", "__import__"}), module


def test_every_file_says_what_it_is_for() -> None:
    assert [module for module, tree in MODULES.items() if not ast.get_docstring(tree)] == []


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


def items_of(files: WarmList) -> Items:
    """Mypy, which checks the tests, too, refuses this if it does not know the public names' types."""
    return files.get()


def test_a_hand_over_is_caught_in_one_file() -> None:
    catching = [module.name for module in MODULES if "except HandOver" in module.read_text()]
    assert catching == ["hand_over.py"]


@pytest.mark.parametrize(("file", "owner"), [("condition.py", "ListStatus"), ("staleness.py", "Staleness")])
def test_no_other_file_assigns_the_attributes_of(file: str, owner: str) -> None:
    """So each of its methods can promise what holds afterwards."""
    home = PACKAGE / "status" / file
    (owning,) = (node for node in MODULES[home].body if getattr(node, "name", "") == owner)
    assert isinstance(owning, ast.ClassDef)
    methods = [node for node in owning.body if getattr(node, "name", "__init__") != "__init__"]
    changing = {name for method in methods for _, name in assigned(method)}
    assert len(changing) >= 5
    for module, tree in MODULES.items():
        if module != home:
            found = assigned(tree)
            # A progress has a report, too, and that one has a runner.
            assert [one for one in found if one[1] in changing and one[0] not in ("self", "self.report")] == []


def assigned(tree: ast.AST) -> list[tuple[str, str]]:
    """Every attribute that is assigned, after what it is an attribute of."""
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    return [(ast.unparse(node.value), node.attr) for node in attributes if isinstance(node.ctx, ast.Store)]
