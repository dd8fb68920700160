"""How a test runs what a page shows: in a process of its own, in which warnings are errors."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.processes import CHECKOUT, python
from tests.support.processes import run as run_command


def run(script: str, folder: Path, *arguments: str, **variables: str) -> str:
    """Run Python code in a folder and return what it printed; it must not fail.

    :param arguments: for Python, in place of the code.
    """
    paths = f"{CHECKOUT}{os.pathsep}{folder}"
    env = {"PYTHONPATH": paths, "XDG_STATE_HOME": str(folder), **variables}
    ran = run_command(python(*(arguments or ("-c", script))), env, cwd=folder)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout
