"""What does a test need from the machine? Without it the test is skipped, aloud; with CI=true it fails."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import NoReturn

import pytest
from filelock import FileLock

NODE = Path(__file__).parents[1] / "js"  # its package.json names the packages that tests use
CHROMIUM_SWITCHES = [
    "--headless",
    "--no-sandbox",  # tests may run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP intranet.example 127.0.0.1",  # plain http on a name: no secure context
]
# Commands that tell whether a program may do its work; in a container even root may lack the capability.
TRIALS = {
    "mount": ("unshare", "--mount", "true"),
    "strace": ("strace", "-f", "-o", os.devnull, "true"),
    "unshare": ("unshare", "--pid", "--fork", "--mount-proc", "true"),
}


def missing(what: str) -> NoReturn:
    """Skip the test; fail it where CI says that nothing may be missing."""
    (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(what)


def need_program(*names: str, package: str = "") -> str:
    """Return the path of the first of these programs that is installed and permitted."""
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        missing(f"no {names[0]} on PATH. On Debian: apt-get install --no-install-recommends {package or names[0]}")
    if names[0] in TRIALS:
        command = TRIALS[names[0]]
        tried = subprocess.run(command, capture_output=True, text=True, timeout=120)
        if tried.returncode != 0:
            pytest.skip(f"not permitted here: {' '.join(command)}: {tried.stderr.strip()[:200]}")
    return found


def need_chromium() -> str:
    return need_program("chromium", "chromium-browser", "google-chrome")


def need_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: it mounts, or acts as another account")


def need_mounts() -> None:
    need_root()
    need_program("mount")


def need_module(name: str) -> None:
    if importlib.util.find_spec(name) is None:
        missing(f"no {name}: pip install '.[test]'")


def node_module(name: str) -> Path:
    """Return the folder of an npm package: a minifier, an accessibility checker, htmx, Turbo or idiomorph."""
    trouble = _install_node_modules()
    if trouble is not None:
        missing(f"cannot install {name}: {trouble}")
    return NODE / "node_modules" / name


@cache
def _install_node_modules() -> str | None:
    """Install what package-lock.json names; return why that is impossible.

    The tests of one run are in several processes, and npm deletes what is installed before it installs.
    """
    with FileLock(NODE / "node_modules.lock"):
        wanted = json.loads((NODE / "package.json").read_text())["devDependencies"]
        installed = {
            name: json.loads(found.read_text())["version"]
            for name in wanted
            if (found := NODE / "node_modules" / name / "package.json").is_file()
        }
        if installed == wanted:
            return None
        npm = shutil.which("npm")
        if npm is None:
            return "npm is not installed (Debian: apt-get install npm)"
        command = [npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
        try:
            done = subprocess.run(command, cwd=NODE, capture_output=True, text=True, timeout=240)
        except subprocess.TimeoutExpired:
            return "the npm registry does not answer"
        return done.stderr[-500:] if done.returncode else None
