"""How long the app takes to import, where the time goes, and what need not be there at the start."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flask import Flask

from ..keeper.children import DROPPED, PACKAGE_FOLDER
from ..keeper.location import Location
from .finding import FAULT, INFO, OK, WARNING, Report

LONGEST = 180.0  # seconds
SLOW = 3.0  # an import of the whole app that is worth a thought
WORST = 10
WORTH = 0.05  # seconds; what takes less is not worth a word
WORTH_DOING = 0.1  # seconds; what takes less is not worth a change
LINE = re.compile(r"import time:\s+(\d+) \|\s+(\d+) \| ( *)(\S+)$")
TOTAL = "warmcache: total "
# Imports the app as gunicorn does, as a process that starts nothing of ours. By the builtin alone, since Python
# does not time what importlib.import_module() loads: all blueprints of an app that has their names in a list, say.
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
# Flask is nothing without these, and neither are we.
NEEDED = {
    "flask", "werkzeug", "jinja2", "click", "markupsafe", "itsdangerous", "blinker", "gunicorn", "flask_warmcache",
    "filelock", "cachetools",
}  # fmt: skip
STANDARD = "standard library"


@dataclass
class Unit:
    """One module of the app's own, or one package of others, with all its modules."""

    name: str
    is_own: bool
    seconds: float = 0.0  # in its own code, without what it imports
    with_imports: float = 0.0  # with what it imports first; for modules of the app's own
    imported_by: str | None = None  # the first own module that needs it
    advice: str = ""


def check_imports(
    report: Report, app: Flask, location: Location | None, environ: Mapping[str, str]
) -> float | None:
    """Note what importing the app takes; returns the seconds, or None when that is not known.

    :param environ: the server's, or this process's.
    """
    if location is None:
        report.add(
            "imports.unknown",
            INFO,
            "How the app is imported is not known, so neither is how long it takes.",
            "An import that takes long delays every worker's start.",
            "Set WARMCACHE_APP, or name the running server with --pid.",
        )
        return None
    kept = {name: value for name, value in environ.items() if not DROPPED.fullmatch(name)}
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, [kept.get("PYTHONPATH"), PACKAGE_FOLDER]))
    command = [sys.executable, "-X", "importtime", "-c", SCRIPT, location.uri, location.folder]
    try:
        ran = subprocess.run(
            command, cwd=location.folder, env=kept, stdin=subprocess.DEVNULL, capture_output=True, timeout=LONGEST
        )
    except subprocess.TimeoutExpired:
        report.add(
            "imports.endless",
            FAULT,
            f"Importing {location.uri} takes more than {LONGEST:.0f} s.",
            "gunicorn 22 and newer never ends a worker that hangs while it imports the app.",
            "Take network, database and computing out of modules: one-time tasks, lists, functions.",
        )
        return None
    lines = ran.stderr.decode(errors="replace").splitlines()
    total = next((float(line.removeprefix(TOTAL)) for line in reversed(lines) if line.startswith(TOTAL)), None)
    if total is None:
        said = next((line for line in reversed(lines) if line.strip() and not LINE.match(line)), "nothing is said")
        report.add(
            "imports.fails",
            FAULT,
            f"Importing {location.uri} fails: {said}",
            "A worker that cannot import the app ends the whole server (exit code 3).",
            "Mend it; python -c with the same import shows the whole traceback.",
        )
        return None
    deferrable, guarding = blueprint_modules(app)
    units = worst_units(lines, own_modules(location.folder) | dict.fromkeys(deferrable | guarding, True))
    _advise(units, deferrable, guarding)
    shown = [unit for unit in units if unit.seconds >= WORTH][:WORST]
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
            for unit in shown
        ],
    }
    # What a deferred module brings along is counted with it.
    late = [unit.with_imports for unit in units if unit.name in deferrable and unit.with_imports > WORTH_DOING]
    saved = f", {min(sum(late), total):.1f} of them in {len(late)} blueprints that can be deferred" if late else ""
    is_slow = total > SLOW
    report.add(
        "imports.time",
        WARNING if is_slow else OK,
        f"Importing {location.uri} takes {total:.1f} s{saved}.",
        "Every worker takes that long before its first answer, after each restart." if is_slow else "",
        "Defer the blueprints that the first page does not need, and mend the worst of the list below."
        if is_slow
        else "",
    )
    return total


def worst_units(lines: list[str], is_own: Mapping[str, bool]) -> list[Unit]:
    """What took the time, by their own seconds, longest first.

    :param lines: of ``python -X importtime``, which tells of a module behind all that it imports.
    :param is_own: for every module of the app's own, True.
    """
    units: dict[str, Unit] = {}
    path: list[tuple[int, str]] = []  # depth and name of the modules around, since we read from the end
    for depth, name, own_seconds, seconds in _read(lines):
        while path and path[-1][0] >= depth:
            path.pop()
        around = next((one for _, one in reversed(path) if one in is_own), None)
        path.append((depth, name))
        key = name if name in is_own else _package(name)
        unit = units.setdefault(key, Unit(key, name in is_own, imported_by=around))
        unit.seconds += own_seconds
        if unit.is_own:
            unit.with_imports += seconds
    return sorted(units.values(), key=lambda unit: -unit.seconds)


def _read(lines: list[str]) -> Iterator[tuple[int, str, float, float]]:
    """Depth, name, own seconds and seconds of each module of the app's import, from the last to the first."""
    for line in reversed(lines):
        match = LINE.match(line)
        if match is not None:
            if match[4] == LAST_BEFORE:
                return
            yield len(match[3]), match[4], int(match[1]) / 1e6, int(match[2]) / 1e6


def _package(name: str) -> str:
    top = name.partition(".")[0]
    return STANDARD if top in sys.stdlib_module_names else top


def own_modules(folder: str) -> dict[str, bool]:
    """The modules loaded here that lie in the app's own folder, and not in an environment inside of it."""
    base, own = os.path.realpath(folder) + os.sep, {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str):
            path = os.path.realpath(file)
            if path.startswith(base) and "site-packages" not in path and not name.startswith("flask_warmcache"):
                own[name] = True
    return own


def blueprint_modules(app: Flask) -> tuple[set[str], set[str]]:
    """Modules whose blueprint may be loaded after the start, and those whose blueprint may not.

    One whose functions run for the whole app must be there from the first request: before, it would not guard.
    """
    everywhere: list[Any] = [
        *app.before_request_funcs.get(None, ()),
        *app.after_request_funcs.get(None, ()),
        *app.teardown_request_funcs.get(None, ()),
        *app.template_context_processors.get(None, ()),
        *app.url_value_preprocessors.get(None, ()),
        *app.url_default_functions.get(None, ()),
        *app.teardown_appcontext_funcs,
        *(
            function
            for by_class in app.error_handler_spec.get(None, {}).values()
            for function in by_class.values()
        ),
    ]
    guarding = {getattr(function, "__module__", None) for function in everywhere}
    modules = {blueprint.import_name for name, blueprint in app.blueprints.items() if "." not in name}
    modules -= {app.import_name, __name__.partition(".")[0] + ".web.routes"}
    return modules - guarding, modules & guarding


def _advise(units: list[Unit], deferrable: Collection[str], guarding: Collection[str]) -> None:
    own = {unit.name: unit for unit in units if unit.is_own}

    def deferred(name: str | None) -> str | None:
        """The module to defer that brings this one along."""
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
