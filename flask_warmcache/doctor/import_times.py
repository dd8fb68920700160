"""How long each module and package takes to import, measured by importing the app in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..keeper.app_location import Location
from ..keeper.children import DROPPED, PACKAGE_FOLDER

LONGEST = 180.0  # seconds
LINE = re.compile(r"import time:\s+(\d+) \|\s+(\d+) \| ( *)(\S+)$")
TOTAL = "warmcache: total "
# This imports the app as gunicorn does, in a process that starts nothing of ours. It replaces import_module(),
# because Python measures only what the builtin __import__ loads. An app may load all its blueprints by name.
SCRIPT = f"""
import importlib.util, sys, time
from flask_warmcache.host import threads
from gunicorn.util import import_app
threads.in_child = True
def import_module(name, package=None):
    name = importlib.util.resolve_name(name, package)
    __import__(name)
    return sys.modules[name]
importlib.import_module = import_module
sys.path.insert(0, sys.argv[2])
began = time.perf_counter()
__import__(sys.argv[1].partition(":")[0])
import_app(sys.argv[1])
print("{TOTAL}%.4f" % (time.perf_counter() - began), file=sys.stderr)
"""
LAST_BEFORE = "gunicorn.util"
STANDARD = "standard library"


class ImportFailed(Exception):
    """The app cannot be imported; the message is the last line that the process printed."""


@dataclass
class Unit:
    """One of the app's own modules, or one foreign package with all its modules."""

    name: str
    is_own: bool
    seconds: float = 0.0  # in its own code, without its imports
    with_imports: float = 0.0  # including what it is the first to import; for the app's own modules
    imported_by: str | None = None  # the first own module that imports it
    advice: str = ""


def measure(location: Location, environ: Mapping[str, str]) -> tuple[float, list[str]]:
    """Import the app; return the seconds and the lines of ``python -X importtime``.

    :raises ImportFailed: when it cannot be imported.
    :raises TimeoutExpired: when it takes longer than ``LONGEST``.
    """
    kept = {name: value for name, value in environ.items() if not DROPPED.fullmatch(name)}
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, [kept.get("PYTHONPATH"), PACKAGE_FOLDER]))
    command = [sys.executable, "-X", "importtime", "-c", SCRIPT, location.uri, location.folder]
    ran = subprocess.run(
        command, cwd=location.folder, env=kept, stdin=subprocess.DEVNULL, capture_output=True, timeout=LONGEST
    )
    lines = ran.stderr.decode(errors="replace").splitlines()
    for line in reversed(lines):
        if line.startswith(TOTAL):
            return float(line.removeprefix(TOTAL)), lines
    printed = (line for line in reversed(lines) if line.strip() and not LINE.match(line))
    raise ImportFailed(next(printed, "nothing is printed"))


def worst_units(lines: list[str], is_own: Mapping[str, bool]) -> list[Unit]:
    """Return what took time, by own seconds, longest first.

    :param lines: of ``python -X importtime``, which prints a module after all that it imports.
    :param is_own: maps every module of the app's own to True.
    """
    units: dict[str, Unit] = {}
    path: list[tuple[int, str]] = []  # depth and name of the importing modules, since we read from the end
    for depth, name, own_seconds, seconds in _read(lines):
        while path and path[-1][0] >= depth:
            path.pop()
        importer = next((module for _, module in reversed(path) if module in is_own), None)
        path.append((depth, name))
        key = name if name in is_own else _package(name)
        unit = units.setdefault(key, Unit(key, name in is_own, imported_by=importer))
        unit.seconds += own_seconds
        if unit.is_own:
            unit.with_imports += seconds
    return sorted(units.values(), key=lambda unit: -unit.seconds)


def _read(lines: list[str]) -> Iterator[tuple[int, str, float, float]]:
    """Yield depth, name, own seconds and total seconds of each module of the app's import, the last one first."""
    for line in reversed(lines):
        match = LINE.match(line)
        if match is not None:
            if match[4] == LAST_BEFORE:
                return
            yield len(match[3]), match[4], int(match[1]) / 1e6, int(match[2]) / 1e6


def _package(name: str) -> str:
    top = name.partition(".")[0]
    return STANDARD if top in sys.stdlib_module_names else top
