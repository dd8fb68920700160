"""What is built and installed is whole: a wheel, a source archive, an editable install."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from tests.support.processes import CHECKOUT

SERVED = """
import importlib.metadata, pathlib, flask, flask_warmcache
app = flask.Flask("shop")
flask_warmcache.WarmCache(app)
answer = app.test_client().get("/api/cache/static/warmcache.js")
print(flask_warmcache.__file__)
print(answer.status_code, answer.mimetype, len(answer.data))
print(importlib.metadata.version("flask-warmcache"))
print(*(app.test_client().get(f"/api/cache/{page}").status_code for page in ("", "static/status.css")))
print((pathlib.Path(flask_warmcache.__file__).parent / "py.typed").exists())
"""
SCRIPT = CHECKOUT / "static" / "warmcache.js"


def run(*command: object, cwd: Path) -> str:
    """Run to the end, far from the checkout; a failure tells what was said."""
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    ran = subprocess.run(
        [str(word) for word in command], cwd=cwd, env={**env, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}, text=True,
        capture_output=True, timeout=300,
    )  # fmt: skip
    assert ran.returncode == 0, f"{command}:\n{ran.stdout[-3000:]}\n{ran.stderr[-3000:]}"
    return ran.stdout


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkout as git would give it, so that building leaves nothing in ours."""
    target = tmp_path_factory.mktemp("packaging") / "copy"
    left_out = shutil.ignore_patterns(
        ".git",
        ".venv*",
        ".*_cache",
        ".hypothesis",
        ".coverage*",
        "*.egg-info",
        "__pycache__",
        "build",
        "dist",
        "data",
        "_build",
        "node_modules*",
    )
    shutil.copytree(CHECKOUT, target, ignore=left_out)
    return target


@pytest.fixture(scope="module")
def built(copy: Path) -> Path:
    """The folder with the wheel, made from the source archive as a release is, and that archive."""
    run(sys.executable, "-m", "build", copy, cwd=copy.parent)
    return copy / "dist"


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new virtual environment's Python."""
    folder = tmp_path_factory.mktemp("fresh")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    return folder / "venv" / "bin" / "python"


def pip(python: Path, *arguments: object) -> str:
    """Let our pip work on that environment."""
    return run(sys.executable, "-m", "pip", "--python", python, *arguments, cwd=python.parent)


def package_files() -> set[str]:
    sources = {path.relative_to(CHECKOUT).as_posix() for path in (CHECKOUT / "flask_warmcache").rglob("*.py")}
    page = CHECKOUT / "flask_warmcache" / "web" / "templates" / "warmcache"
    sources |= {path.relative_to(CHECKOUT).as_posix() for path in page.iterdir()}
    static = {f"flask_warmcache/static/warmcache.{suffix}" for suffix in ("js", "d.ts")}
    return sources | static | {"flask_warmcache/py.typed"}


def test_the_wheel_holds_every_module_and_the_script_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        assert names == package_files()
        assert archive.read("flask_warmcache/static/warmcache.js") == SCRIPT.read_bytes()
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        said = Parser().parsestr(archive.read(metadata).decode())
        assert any("LICENSE" in name for name in archive.namelist())
    needs = [need for need in said.get_all("Requires-Dist", []) if "extra" not in need]
    needed = {re.split(r"[<>=~!;\[ ]", need)[0].lower() for need in needs}
    assert needed == {"blinker", "flask", "gunicorn", "filelock", "cachetools"}
    assert re.search(r"-py3-none-any\.whl$", wheel.name)


def test_source_archive_holds_the_checkout_and_its_tests_run(copy: Path, built: Path, tmp_path: Path) -> None:
    (archive_path,) = built.glob("*.tar.gz")
    with tarfile.open(archive_path) as archive:
        archive.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    ignored = {"dist", "build", "__pycache__"}
    for path in copy.rglob("*"):
        name = path.relative_to(copy)
        if path.is_file() and not ignored & set(name.parts) and name.name != ".gitignore":
            assert (folder / name).is_file(), name
    said = run(
        sys.executable, "-m", "pytest", "-q", "tests/unit/test_format.py", "-p", "no:cacheprovider", cwd=folder
    )
    assert re.search(r"\d+ passed", said)


def test_an_index_of_packages_would_accept_both_archives(built: Path) -> None:
    run(sys.executable, "-m", "twine", "check", "--strict", *built.iterdir(), cwd=built)


def test_an_installed_wheel_serves_the_script(built: Path, fresh: Path) -> None:
    (wheel,) = built.glob("*.whl")
    pip(fresh, "install", "-q", wheel)
    where, answer, version, page, typed = run(fresh, "-c", SERVED, cwd=fresh.parent).splitlines()
    assert "site-packages" in where
    assert answer == f"200 text/javascript {SCRIPT.stat().st_size}"
    assert version and (page, typed) == ("200 200", "True")
    # The server's part and the command, as installed.
    check = f"{fresh} -m gunicorn --check-config -c python:flask_warmcache.gunicorn_conf flask:Flask"
    run(*check.split(), cwd=fresh.parent)
    pip(fresh, "check")
    pip(fresh, "uninstall", "-q", "-y", "flask-warmcache")


def test_an_editable_install_serves_the_script(copy: Path, built: Path, fresh: Path) -> None:
    pip(fresh, "install", "-q", "-e", copy)
    where, answer, _, page, typed = run(fresh, "-c", SERVED, cwd=fresh.parent).splitlines()
    assert Path(where).is_relative_to(copy)
    assert answer == f"200 text/javascript {SCRIPT.stat().st_size}"
    assert (page, typed) == ("200 200", "True")
    assert built.exists()
