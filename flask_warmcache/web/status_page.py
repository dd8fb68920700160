"""The status page: every list as people want to know it."""

from __future__ import annotations

import math
import re
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

# Only what this page needs, all of it from here; an app that sets a policy for all its answers has the last word.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'self'"
)
FOREVER = 1e9  # seconds, thirty years
LONGEST_FACT = 500  # characters of a fact in a section that the app tells
NOT_SHOWN = "a path, not shown"
# A slash that begins a name, at the start of a word, of a drive or of a home: not "12 km/h", "text/html", "</b>".
PATH = re.compile(r"(?<![\w.)\]<])(?:[A-Za-z]:|~\w*)?[/\\]+[\w.]")
WEB_ADDRESS = re.compile(r"\bhttps?://\S*")
# What the states mean.
MEANINGS = {
    "cold": "nothing to show yet",
    "partial": "being built for the first time; what is there is shown",
    "fresh": "up to date",
    "stale": "older than it should be; still shown",
    "failed": "the last rebuild failed",
}
PHASES = {
    "import": "Starting a process",
    "source": "Looking for what there is",
    "enrich": "Reading",
    "views": "Putting in order",
    "publish": "Publishing",
}
# Why the page is not kept up to date.
TROUBLES = {
    "offline": "You are offline; what is shown may be old.",
    "error": "No news from the server; what is shown may be old.",
    "stalled": "A rebuild takes long, and this page has stopped asking. Look again later.",
    "blocked": "There is something newer. Look again to see it.",
}


@dataclass(frozen=True)
class Plot:
    """The durations of the last rebuilds as bars, in units of the picture."""

    bars: list[tuple[int, float]]  # left edge and height
    said: str

    WIDTH, HEIGHT, STEP, BAR = 240, 48, 12, 9

    @classmethod
    def of(cls, durations: list[float]) -> Plot | None:
        """None for fewer than two, which show nothing that the last duration does not."""
        if len(durations) < 2:
            return None
        most = max(*durations, 1e-9)
        left = cls.WIDTH - cls.STEP * len(durations)  # the newest one ends at the right
        bars = [
            (left + cls.STEP * number, round(max(2.0, cls.HEIGHT * duration / most), 1))
            for number, duration in enumerate(durations)
        ]
        least, longest = spoken(min(durations)), spoken(most)
        took = f"{least} each" if least == longest else f"{least} to {longest}"
        said = f"The last {len(durations)} rebuilds took {took}"
        return cls(bars, said)


def status_page(state: AppState, permissions: Permissions, sections: Mapping[str, Mapping[str, Any]]) -> Response:
    """Every list and section, with a button and with details for whom the app allows them.

    :param sections: the app's own sections of the stats, by name.
    """
    has_details = permissions.allow("details", None)
    early = request.args.get("early")
    shown = render_template(
        "warmcache/status.html",
        lists=[_shown(status, permissions) for status in state.statuses.values()],
        sections=[{"name": name, "facts": _facts(section, has_details)} for name, section in sections.items()],
        startup=_startup(state),
        early=early if early in state.statuses else None,
        interval=spoken(state.settings.refresh_interval),
        folder=str(state.store.folder) if has_details else None,
        words={"states": MEANINGS, "phases": PHASES, "troubles": TROUBLES},  # for the page's script
        now=iso(time.time()),
        asset_url=asset_url,
    )
    # File names, in an error for instance, may hold what UTF-8 has no bytes for.
    response = make_response(shown.encode("utf-8", "backslashreplace"))
    response.headers.setdefault("Content-Security-Policy", POLICY)
    # Under "no-referrer" a browser says "null" for the origin of the page's own form.
    response.headers.setdefault("Referrer-Policy", "same-origin")
    response.headers["Cache-Control"] = "no-cache, private"
    return response


def _facts(section: Mapping[str, Any], has_details: bool) -> list[tuple[str, str]]:
    """What the app's own function tells, as text; no path of this machine but for whom details are allowed."""
    shown = [(str(name), _fact(value)) for name, value in section.items()]
    if not has_details:
        shown = [
            (NOT_SHOWN if _has_path(name) else name, NOT_SHOWN if _has_path(fact) else fact)
            for name, fact in shown
        ]
    return shown


def _fact(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    text = value if isinstance(value, str) else current_app.json.dumps(value)
    return text if len(text) <= LONGEST_FACT else text[:LONGEST_FACT] + "…"


def _has_path(text: str) -> bool:
    return PATH.search(WEB_ADDRESS.sub("", text)) is not None


def _startup(state: AppState) -> list[dict[str, str | None]]:
    """One-time tasks and deferred blueprints: what each is, how far it is, and what went wrong."""
    shown = []
    for name, task in state.tasks.section().items() if state.registry.tasks else ():
        shown.append(_row(f"Task {name}", task["state"], task["duration_seconds"], task["last_error"]))
    for blueprint in state.blueprints.entries if state.blueprints is not None else ():
        one = blueprint.section()
        shown.append(_row(f"Blueprint {one['url_prefix']}", one["state"], one["import_seconds"], one["error"]))
    return shown


def _row(what: str, state: str, seconds: float | None, error: str | None) -> dict[str, str | None]:
    return {"what": what, "state": state, "took": None if seconds is None else spoken(seconds), "error": error}


def _shown(status: ListStatus, permissions: Permissions) -> dict[str, Any]:
    """What the template needs to know of one list."""
    section = list_section(status)
    snapshot = status.reader.current()
    if not section["is_populated"]:
        snapshot = None
    progress = section["progress"]
    due_in = None
    if section["state"] == "fresh" and not status.is_rebuilt_elsewhere:
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
    """As status.js says it of what it hears later."""
    said = PHASES[progress["phase"]]
    if progress["total"]:
        said += f": {progress['done']:,} of {progress['total']:,}"
    elif progress["done"]:
        said += f": {progress['done']:,}"
    if progress["eta_seconds"] is not None and progress["eta_seconds"] >= 1:
        said += f", about {spoken(progress['eta_seconds'])} left"
    return said


def _details(status: ListStatus) -> dict[str, str]:
    """What is not for everybody."""
    report = status.report
    details: dict[str, str | None] = {"Declaration": status.problem}
    if report is not None:
        details["Last error"] = report.message
        details["Process"] = f"{report.pid}, {report.runner}" if status.is_rebuilding else None
    return {name: value for name, value in details.items() if value}


def spoken(seconds: float) -> str:
    """A length of time in words: no more exact than anybody needs."""
    if not seconds < FOREVER:  # a file's own figure may be no number at all
        return "for ever"
    if seconds < 1:
        return f"{round(1000 * seconds)} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    for size, unit, most in ((1, "s", 90), (60, "min", 90), (3600, "h", 48)):
        if seconds < most * size:
            return f"{round(seconds / size)} {unit}"
    return f"{round(seconds / 86400)} days"
