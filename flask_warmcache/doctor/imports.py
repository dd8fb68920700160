"""How long the app takes to import, what takes the time, and what can be imported later."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Collection, Mapping
from typing import Any

from flask import Flask

from ..keeper.app_location import Location
from .finding import FAULT, INFO, OK, WARNING, Report
from .import_times import LONGEST, STANDARD, ImportFailed, Unit, measure, worst_units

SLOW = 3.0  # seconds for the whole app, above which it is worth acting
WORST = 10
WORTH = 0.05  # seconds; what takes less is not shown
WORTH_DOING = 0.1  # seconds; what takes less is not worth a change
# Neither Flask nor this package works without these.
NEEDED = {
    "flask", "werkzeug", "jinja2", "click", "markupsafe", "itsdangerous", "blinker", "gunicorn", "flask_warmcache",
    "filelock", "cachetools",
}  # fmt: skip


def check_imports(
    report: Report, app: Flask, location: Location | None, environ: Mapping[str, str]
) -> float | None:
    """Report how long importing the app takes; return the seconds, or None when they are unknown.

    :param environ: the server's, or this process's.
    """
    if location is None:
        report.add(
            "imports.unknown",
            INFO,
            "It is not known how the app is imported, and so not how long that takes.",
            "A slow import delays the start of every worker.",
            "Set WARMCACHE_APP, or name the running server with --pid.",
        )
        return None
    try:
        total, lines = measure(location, environ)
    except subprocess.TimeoutExpired:
        report.add(
            "imports.endless",
            FAULT,
            f"Importing {location.uri} takes more than {LONGEST:.0f} s.",
            "gunicorn 22 and newer never ends a worker that hangs while it imports the app.",
            "Move network, database and computing out of modules: into one-time tasks, lists or functions.",
        )
        return None
    except ImportFailed as error:
        report.add(
            "imports.fails",
            FAULT,
            f"Importing {location.uri} fails: {error}",
            "A worker that cannot import the app ends the whole server (exit code 3).",
            "Correct it; python -c with the same import shows the whole traceback.",
        )
        return None
    deferrable, guarding = blueprint_modules(app)
    units = worst_units(lines, own_modules(location.folder) | dict.fromkeys(deferrable | guarding, True))
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
            for unit in [unit for unit in units if unit.seconds >= WORTH][:WORST]
        ],
    }
    # What only a deferred module imports is counted with it.
    late = [unit.with_imports for unit in units if unit.name in deferrable and unit.with_imports > WORTH_DOING]
    saved = f", {min(sum(late), total):.1f} of them in {len(late)} blueprints that can be deferred" if late else ""
    what = f"Importing {location.uri} takes {total:.1f} s{saved}."
    if total > SLOW:
        report.add(
            "imports.time",
            WARNING,
            what,
            "Every worker takes that long before its first answer, after each restart.",
            "Defer the blueprints that the first page does not need, and improve the worst in the list below.",
        )
    else:
        report.add("imports.time", OK, what)
    return total


def own_modules(folder: str) -> dict[str, bool]:
    """Return the loaded modules in the app's own folder, without those of an environment inside of it."""
    base, own = os.path.realpath(folder) + os.sep, {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str):
            path = os.path.realpath(file)
            if path.startswith(base) and "site-packages" not in path and not name.startswith("flask_warmcache"):
                own[name] = True
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
