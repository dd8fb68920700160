"""How long the app takes to import, what takes the time, and what can be imported later."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flask import Flask

from ..keeper.children import SAFE, Location, child_environment
from .report import Report

SLOW = 3.0  # seconds for the whole app, above which it is worth acting
WORST = 10
WORTH = 0.05  # seconds; what takes less is not shown
WORTH_DOING = 0.1  # seconds; what takes less is not worth a change
# Neither Flask nor this package works without these.
NEEDED = {
    "flask", "werkzeug", "jinja2", "click", "markupsafe", "itsdangerous", "blinker", "gunicorn", "flask_warmcache",
    "filelock", "cachetools",
}  # fmt: skip
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


def check_imports(
    report: Report, app: Flask, location: Location | str, environ: Mapping[str, str]
) -> float | None:
    """Report how long importing the app takes; return the seconds, or None when they are unknown.

    :param environ: the server's, or this process's.
    """
    if isinstance(location, str):
        report.info(
            "imports.unknown",
            "It is not known how the app is imported, and so not how long that takes.",
            "A slow import delays the start of every worker.",
            "Set WARMCACHE_APP, or name the running server with --pid.",
        )
        return None
    try:
        total, lines = measure(location, environ)
    except subprocess.TimeoutExpired:
        report.fault(
            "imports.endless",
            f"Importing {location.uri} takes more than {LONGEST:.0f} s.",
            "gunicorn 22 and newer never ends a worker that hangs while it imports the app.",
            "Move network, database and computing out of modules: into one-time tasks, lists or functions.",
        )
        return None
    except ImportFailed as error:
        report.fault(
            "imports.fails",
            f"Importing {location.uri} fails: {error}",
            "A worker that cannot import the app ends the whole server (exit code 3).",
            "Correct it; python -c with the same import shows the whole traceback.",
        )
        return None
    deferrable, guarding = blueprint_modules(app)
    units = worst_units(lines, own_modules(location.folder) | deferrable | guarding)
    _advise(units, deferrable, guarding)
    report.facts["imports"] = {
        "seconds": round(total, 3),
        "worst": [
            {
                "name": unit.name,
                "seconds": round(unit.seconds, 3),
                "with_imports_seconds": round(unit.with_imports, 3) if unit.is_own else None,
                "imported_by": unit.imported_by,
                "advice": unit.advice or None,
            }
            for unit in units[:WORST]
            if unit.seconds >= WORTH
        ],
    }
    # What only a deferred module imports is counted with it.
    late = [unit.with_imports for unit in units if unit.name in deferrable and unit.with_imports > WORTH_DOING]
    saved = f", {min(sum(late), total):.1f} of them in {len(late)} blueprints that can be deferred" if late else ""
    what = f"Importing {location.uri} takes {total:.1f} s{saved}."
    if total > SLOW:
        report.warning(
            "imports.time",
            what,
            "Every worker takes that long before its first answer, after each restart.",
            "Defer the blueprints that the first page does not need, and improve the worst in the list below.",
        )
    else:
        report.ok("imports.time", what)
    return total


def own_modules(folder: str) -> set[str]:
    """Return the loaded modules in the app's own folder, without those of an environment inside of it."""
    base, own = os.path.realpath(folder) + os.sep, set()
    for name, module in list(sys.modules.items()):
        path = os.path.realpath(getattr(module, "__file__", None) or "")
        if path.startswith(base) and "site-packages" not in path and not name.startswith("flask_warmcache"):
            own.add(name)
    return own


def blueprint_modules(app: Flask) -> tuple[set[str], set[str]]:
    """Return the modules whose blueprint may be deferred, and those whose blueprint may not.

    A blueprint with functions that run for the whole app must be there from the first request on.
    """
    everywhere: list[Any] = [
        *app.before_request_funcs.get(None, ()),
        *app.after_request_funcs.get(None, ()),
        *app.teardown_request_funcs.get(None, ()),
        *app.template_context_processors.get(None, ()),
        *app.url_value_preprocessors.get(None, ()),
        *app.url_default_functions.get(None, ()),
        *app.teardown_appcontext_funcs,
        *(handler for by_class in app.error_handler_spec.get(None, {}).values() for handler in by_class.values()),
    ]
    guarding = {getattr(function, "__module__", None) for function in everywhere}
    modules = {blueprint.import_name for name, blueprint in app.blueprints.items() if "." not in name}
    modules -= {app.import_name, __name__.partition(".")[0] + ".web.routes"}
    return modules - guarding, modules & guarding


def _advise(units: list[Unit], deferrable: Collection[str], guarding: Collection[str]) -> None:
    own = {unit.name: unit for unit in units if unit.is_own}

    def deferred(name: str | None) -> str | None:
        """Return the module that would take this one along when it is deferred."""
        while name is not None and name not in deferrable:
            name = own[name].imported_by if name in own else None
        return name

    for unit in units:
        if max(unit.seconds, unit.with_imports) < WORTH_DOING:
            continue
        if unit.name in deferrable:
            unit.advice = f"defer its blueprint: warmcache.defer_blueprint('{unit.name}:...')"
        elif unit.name in guarding:
            unit.advice = "has functions for the whole app; move them elsewhere, and its blueprint can be deferred"
        elif (module := deferred(unit.imported_by)) is not None:
            unit.advice = f"comes with {module}, whose blueprint can be deferred"
        elif unit.name in NEEDED or unit.name == STANDARD or unit.imported_by is None:
            continue
        elif not unit.is_own:
            unit.advice = f"import it in the functions of {unit.imported_by} that use it, or by warmcache.lazy()"


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
    kept = child_environment(environ)
    command = [sys.executable, SAFE, "-X", "importtime", "-c", SCRIPT, location.uri, location.folder]
    ran = subprocess.run(
        command, cwd=location.folder, env=kept, stdin=subprocess.DEVNULL, capture_output=True, timeout=LONGEST
    )
    lines = ran.stderr.decode(errors="replace").splitlines()
    for line in reversed(lines):
        if line.startswith(TOTAL):
            return float(line.removeprefix(TOTAL)), lines
    printed = (line for line in reversed(lines) if line.strip() and not LINE.match(line))
    raise ImportFailed(next(printed, "nothing is printed"))


def worst_units(lines: list[str], own: Collection[str]) -> list[Unit]:
    """Return what took time, by own seconds, longest first.

    :param lines: of ``python -X importtime``, which prints a module after all that it imports.
    :param own: the app's own modules.
    """
    units: dict[str, Unit] = {}
    path: list[tuple[int, str]] = []  # depth and name of the importing modules, since we read from the end
    for depth, name, own_seconds, seconds in _read(lines):
        while path and path[-1][0] >= depth:
            path.pop()
        importer = next((module for _, module in reversed(path) if module in own), None)
        path.append((depth, name))
        key = name if name in own else _package(name)
        unit = units.setdefault(key, Unit(key, name in own, imported_by=importer))
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
