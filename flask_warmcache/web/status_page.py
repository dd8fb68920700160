"""The status page, which shows every list to people."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flask import Response, current_app, make_response, render_template, request

from ..state import AppState
from ..status.condition import ListStatus
from ..status.stats import iso, list_section
from .assets import asset_url
from .permissions import Permissions

# What this page needs, all of it from this app. An app that sets a policy for all its answers overrides this one.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'self'"
)
FOREVER = 1e9  # seconds, thirty years
LONGEST_FACT = 500  # characters of a fact in a section
# What each state means.
MEANINGS = {
    "cold": "not built yet",
    "partial": "being built for the first time; shown as far as it is built",
    "fresh": "up to date",
    "stale": "older than intended; still shown",
    "failed": "the last rebuild failed",
}
PHASES = {
    "import": "Starting a process",
    "source": "Reading the source",
    "enrich": "Enriching",
    "views": "Sorting",
    "publish": "Publishing",
}
# Why the page is not updated.
TROUBLES = {
    "offline": "You are offline. This page may be out of date.",
    "error": "The server does not answer. This page may be out of date.",
    "stalled": "A rebuild takes very long, and this page no longer waits for it. Reload it later.",
    "blocked": "There is a newer version. Reload the page to see it.",
}


@dataclass(frozen=True)
class Plot:
    """The durations of the last rebuilds as bars, in units of the drawing."""

    bars: list[tuple[int, float]]  # left edge and height
    caption: str

    WIDTH, HEIGHT, STEP, BAR = 240, 48, 12, 9

    @classmethod
    def of(cls, durations: list[float]) -> Plot | None:
        """Return None for fewer than two durations: the page shows the last one anyway."""
        if len(durations) < 2:
            return None
        maximum = max(*durations, 1e-9)
        left = cls.WIDTH - cls.STEP * len(durations)  # the newest bar is at the right edge
        bars = [
            (left + cls.STEP * number, round(max(2.0, cls.HEIGHT * duration / maximum), 1))
            for number, duration in enumerate(durations)
        ]
        shortest, longest = spoken(min(durations)), spoken(maximum)
        took = f"{shortest} each" if shortest == longest else f"{shortest} to {longest}"
        return cls(bars, f"The last {len(durations)} rebuilds took {took}")


def status_page(state: AppState, permissions: Permissions, sections: Mapping[str, Mapping[str, Any]]) -> Response:
    """Show every list and section, with details and a button to rebuild if the app allows them.

    :param sections: the app's sections of the stats by name, as the caller of this request may see them.
    """
    has_details = permissions.allow("details", None)
    early = request.args.get("early")
    page = render_template(
        "warmcache/status.html",
        lists=[_shown(status, permissions) for status in state.statuses.values()],
        sections=sections,
        fact=_fact,
        startup=_startup(state),
        early=early if early in state.statuses else None,
        interval=spoken(state.settings.refresh_interval),
        folder=str(state.store.folder) if has_details else None,
        words={"states": MEANINGS, "phases": PHASES, "troubles": TROUBLES},  # for the page's script
        now=iso(time.time()),
        asset_url=asset_url,
    )
    # A file name, for instance in an error, may contain surrogates, which UTF-8 cannot encode.
    response = make_response(page.encode("utf-8", "backslashreplace"))
    response.headers.setdefault("Content-Security-Policy", POLICY)
    # Under "no-referrer" a browser would send "null" as the origin of this page's forms.
    response.headers.setdefault("Referrer-Policy", "same-origin")
    response.headers["Cache-Control"] = "no-cache, private"
    return response


def _fact(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    text = value if isinstance(value, str) else current_app.json.dumps(value)
    return text if len(text) <= LONGEST_FACT else text[:LONGEST_FACT] + "…"


def _startup(state: AppState) -> list[dict[str, str | None]]:
    """Return the one-time tasks and deferred blueprints, with their states and errors."""
    rows = []
    for name, task in state.tasks.section().items() if state.registry.tasks else ():
        rows.append(_row(f"Task {name}", task["state"], task["duration_seconds"], task["last_error"]))
    for blueprint in state.blueprints.entries if state.blueprints is not None else ():
        facts = blueprint.section()
        what = f"Blueprint {facts['url_prefix']}"
        rows.append(_row(what, facts["state"], facts["import_seconds"], facts["error"]))
    return rows


def _row(what: str, state: str, seconds: float | None, error: str | None) -> dict[str, str | None]:
    return {"what": what, "state": state, "took": None if seconds is None else spoken(seconds), "error": error}


def _shown(status: ListStatus, permissions: Permissions) -> dict[str, Any]:
    """Return what the template shows of one list."""
    section = list_section(status)
    snapshot = status.reader.current() if section["is_populated"] else None
    progress = section["progress"]
    due_in = None
    if section["state"] == "fresh" and not status.is_rebuilt_elsewhere and status.ttl < math.inf:
        due_in = spoken(max(0.0, status.ttl - section["age_seconds"]))
    return {
        "name": status.name,
        "meaning": MEANINGS[section["state"]],
        "unit": None if status.declaration.kind == "value" else status.declaration.unit,
        "count": section.get(f"{status.declaration.unit}_count"),
        "age": None if section["age_seconds"] is None else spoken(section["age_seconds"]),
        "doing": _doing(progress) if progress else None,
        "due_in": due_in,
        "attempt_in": spoken(status.pause) if 0 < status.pause < math.inf else None,
        "took": None if snapshot is None else spoken(snapshot.header["duration"]),
        "plot": None if snapshot is None else Plot.of(snapshot.header.get("durations", [])),
        "may_rebuild": permissions.allow("rebuild", status.name),
        "details": _details(status) if permissions.allow("details", status.name) else {},
        **section,
    }


def _doing(progress: dict[str, Any]) -> str:
    """Return the same text that status.js makes from the poller's events."""
    text = PHASES[progress["phase"]]
    if progress["total"]:
        text += f": {progress['done']:,} of {progress['total']:,}"
    elif progress["done"]:
        text += f": {progress['done']:,}"
    if progress["eta_seconds"] is not None and progress["eta_seconds"] >= 1:
        text += f", about {spoken(progress['eta_seconds'])} left"
    return text


def _details(status: ListStatus) -> dict[str, str]:
    """Return what only those may see whom the app allows details."""
    report = status.report
    details: dict[str, str | None] = {"Declaration": status.problem}
    snapshot = status.reader.current()
    for what, (_, key, message) in {} if snapshot is None else snapshot.view_faults.items():
        details[what.partition(":")[0].capitalize()] = message if key is None else f"{key}: {message}"
    if report is not None:
        details["Last error"] = report.message
        details["Process"] = f"{report.pid}, {report.runner}" if status.is_rebuilding else None
    return {name: value for name, value in details.items() if value}


def spoken(seconds: float) -> str:
    """Return a length of time in words, rounded."""
    if not seconds < FOREVER:  # a figure from a file may be infinite or NaN
        return "for ever"
    if seconds < 1:
        return f"{round(1000 * seconds)} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    for size, unit, limit in ((1, "s", 90), (60, "min", 90), (3600, "h", 48)):
        if seconds < limit * size:
            return f"{round(seconds / size)} {unit}"
    return f"{round(seconds / 86400)} days"
