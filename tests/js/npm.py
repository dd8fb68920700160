"""The JavaScript packages that tests use: a minifier, an accessibility checker, htmx, Turbo, idiomorph."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NoReturn

import pytest

HERE = Path(__file__).parent
MODULES = HERE / "node_modules"
refuse: Callable[[str], NoReturn] = pytest.fail if os.environ.get("CI") == "true" else pytest.skip


@cache
def _trouble() -> str | None:
    """Install what package.json names, once; says why it cannot be had."""
    wanted = json.loads((HERE / "package.json").read_text())["devDependencies"]
    have = {
        name: json.loads(found.read_text())["version"]
        for name in wanted
        if (found := MODULES / name / "package.json").is_file()
    }
    if have == wanted:
        return None
    npm = shutil.which("npm")
    if npm is None:
        return "npm is not installed (Debian: apt-get install npm)"
    command = [npm, "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"]
    try:
        done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        return "the npm registry does not answer"
    return done.stderr[-500:] if done.returncode else None


def module(name: str) -> Path:
    """The folder of an npm package; without it the test is skipped, but fails where CI says that it counts."""
    trouble = _trouble()
    if trouble is not None:
        refuse(f"cannot install {name}: {trouble}")
    return MODULES / name
