"""Check the structure of the package by its imports, its syntax trees and what its processes load."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import flask_warmcache
from flask_warmcache import Items, WarmList
from tests.support.processes import CHECKOUT, run_python

PACKAGE = CHECKOUT / "flask_warmcache"
MODULES = {module: ast.parse(module.read_text()) for module in sorted(PACKAGE.rglob("*.py"))}
ROOMS_WITHOUT_FLASK = {"host", "index", "keeper", "rebuild", "status", "store"}
CORE = [module for module in MODULES if module.parent.name in ROOMS_WITHOUT_FLASK]


def imports(module: Path) -> Iterator[str]:
    """Yield the full name of everything that a module imports, also inside functions."""
    package = ["flask_warmcache", *module.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            whole = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{whole}.{name.name}" for name in node.names)


def importing(modules: Iterable[Path], *libraries: str) -> list[tuple[Path, str]]:
    """Return each module that imports one of the libraries, with the imported name."""
    return [(module, name) for module in modules for name in imports(module) if name.split(".")[0] in libraries]


def test_rooms_without_flask_exist() -> None:
    assert {module.parent.name for module in CORE} == ROOMS_WITHOUT_FLASK
    assert len(CORE) >= 40


def test_core_does_not_import_flask() -> None:
    assert importing(CORE, "flask", "werkzeug", "click") == []


def test_store_imports_only_itself() -> None:
    known = ("flask_warmcache.store", "flask_warmcache.errors", "flask_warmcache.events")
    store = [module for module in CORE if module.parent.name == "store"]
    assert [
        (module, name) for module, name in importing(store, "flask_warmcache") if not name.startswith(known)
    ] == []
    assert importing(store, "importlib", "subprocess") == []


def test_no_module_runs_code_from_data() -> None:
    loaders = ("pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml", "runpy", "ctypes")
    assert importing(MODULES, *loaders) == []
    for module, tree in MODULES.items():
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        called = {call.func.id for call in calls if isinstance(call.func, ast.Name)}
        assert called.isdisjoint({"eval", "exec", "compile", "__import__"}), module
        methods = {call.func.attr for call in calls if isinstance(call.func, ast.Attribute)}
        assert methods.isdisjoint({"system", "popen", "getoutput"}), module
        assert "shell" not in {word.arg for call in calls for word in call.keywords}, module


def test_package_never_forks() -> None:
    pools = ("multiprocessing", "concurrent.futures.process")
    for module, tree in MODULES.items():
        assert not [name for name in imports(module) if name.startswith(pools)], module
        attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert attributes.isdisjoint({"fork", "forkpty", "fork_exec"}), module


def test_every_module_has_docstring() -> None:
    assert [module for module, tree in MODULES.items() if not ast.get_docstring(tree)] == []


def test_import_prints_nothing_and_starts_no_thread() -> None:
    script = """
import threading, flask_warmcache.extension, flask_warmcache.cli.group
from flask_warmcache import *
print(WarmCache.__name__, threading.active_count())
"""
    done = run_python(script)
    assert (done.stdout, done.stderr) == ("WarmCache 1\n", "")


@pytest.mark.parametrize("module", ["flask_warmcache", "flask_warmcache.gunicorn_conf", "flask_warmcache.child"])
def test_import_on_windows_says_what_is_needed(module: str) -> None:
    done = run_python(f"import sys; sys.modules['fcntl'] = None; import {module}")
    assert "ImportError: flask-warmcache needs Linux or another POSIX system" in done.stderr.splitlines()[-1]
    assert "During handling" not in done.stderr


def test_gunicorn_conf_loads_no_flask() -> None:
    script = """
import sys
import flask_warmcache.gunicorn_conf
loaded = {name.split(".")[0] for name in sys.modules}
print(sorted(loaded & {"flask", "werkzeug", "filelock", "cachetools", "jinja2"}))
"""
    done = run_python(script)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_serving_worker_loads_no_rebuild_modules(tmp_path: Path) -> None:
    app = f"""
import sys
from flask import Flask
Flask("bare").test_client().get("/")
before = set(sys.modules)  # an old Flask loads some of the modules itself
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
unwanted = "job enrich tasks common status_page markup gzip subprocess filelock".split()
print(app.test_client().get("/files").headers["X-Warmcache"].rpartition("=")[2])
print(sorted(name for name in set(sys.modules) - before if name.rpartition(".")[2] in unwanted))
"""
    env = {"WARMCACHE_SERVER_STARTED": "1"}  # otherwise the server's start would make the list stale
    run_python(app + rebuild, env=env, check=True)
    assert run_python(app + serve, env=env).stdout == "fresh\n[]\n"


def test_keeper_outside_server_never_imports_filelock_beside_fork(tmp_path: Path) -> None:
    script = f"""
import sys
from flask import Flask
from flask_warmcache import WarmCache
from flask_warmcache.keeper.keeper import Keeper
loaded = []
Keeper.ensure = lambda self: loaded.append("filelock" in sys.modules)
app = Flask("shop")
app.config["WARMCACHE_DIR"] = {os.fspath(tmp_path)!r}
files = WarmCache(app).warm_list("files", key="path", source=lambda: [])
with app.app_context():  # as an app does that reads a list while gunicorn preloads it
    files.get()
print(loaded)
"""
    assert run_python(script).stdout == "[True]\n"


def test_public_names_exist_and_every_error_is_warmcache_error() -> None:
    for name in flask_warmcache.__all__:
        public = getattr(flask_warmcache, name)
        assert public.__name__ == name
        assert not name.endswith("Error") or issubclass(public, flask_warmcache.WarmCacheError)
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        flask_warmcache.Nothing  # noqa: B018


def items_of(files: WarmList) -> Items:
    """Fail mypy, which also checks the tests, if it does not know the types of the public names."""
    return files.get()


def test_hand_over_is_caught_in_one_file() -> None:
    catching = [module.name for module in MODULES if "except HandOver" in module.read_text()]
    assert catching == ["hand_over.py"]


@pytest.mark.parametrize(("file", "owner"), [("condition.py", "ListStatus"), ("staleness.py", "Staleness")])
def test_only_its_own_file_assigns_attributes_of(file: str, owner: str) -> None:
    """Check this so that each method can guarantee a state afterwards."""
    home = PACKAGE / "status" / file
    (owning,) = (node for node in MODULES[home].body if getattr(node, "name", "") == owner)
    assert isinstance(owning, ast.ClassDef)
    methods = [node for node in owning.body if getattr(node, "name", "__init__") != "__init__"]
    changing = {name for method in methods for _, name in assigned(method)}
    assert len(changing) >= 5
    for module, tree in MODULES.items():
        if module != home:
            found = assigned(tree)
            # The report of a progress has attributes with the same names.
            assert [pair for pair in found if pair[1] in changing and pair[0] not in ("self", "self.report")] == []


def assigned(tree: ast.AST) -> list[tuple[str, str]]:
    """Return every assigned attribute, as a pair of its object and its name."""
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    return [(ast.unparse(node.value), node.attr) for node in attributes if isinstance(node.ctx, ast.Store)]
