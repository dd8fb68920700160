"""The blueprint: how the lists are, for programs; a rebuild for who may ask for one; what pages fetch."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from flask import Blueprint, Response, current_app, redirect, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from ..errors import StoreError
from ..lists.warm import current_state
from ..state import AppState
from ..status.condition import ListStatus
from ..status.stats import EncodedSections, list_section
from .permissions import Permissions, is_from_elsewhere
from .sections import Sections
from .sessions import leave_session_alone

log = logging.getLogger("flask_warmcache")
NAME_SHOWN = 64  # characters of an unknown name, the most that a name can have


def blueprint(
    functions: Mapping[str, Callable[[], Mapping[str, Any]]], permissions: Permissions, spread: float
) -> Blueprint:
    """The routes under ``/api/cache``, for one app.

    :param functions: the sections declared with ``stats_section``, which may still grow.
    :param permissions: what the app allows to whom.
    :param spread: seconds over which pages shall spread their refreshes; 0 leaves it to the poller.
    """
    routes = Blueprint("warmcache", __name__, template_folder="templates")
    sections = Sections(functions)
    encoded = EncodedSections(spread)

    @routes.app_context_processor
    def helpers() -> dict[str, Any]:
        """What every template of the app may call."""
        from . import markup  # only now, like what else pages need: an app that serves JSON only never does

        return {"warmcache_script": markup.warmcache_script, "warmcache_attrs": markup.warmcache_attrs}

    @routes.get("/stats")
    def stats() -> Response:
        """Every list and section, and whether any list is being rebuilt."""
        state = current_state()
        answer: dict[str, Any] = {
            name: list_section(status) | encoded.pacing for name, status in state.statuses.items()
        }
        rebuilding = any(section["cache_rebuilding"] for section in answer.values())
        answer |= {**sections.all(), "cache_rebuilding": rebuilding}
        if state.registry.tasks:
            answer["degraded"] = state.tasks.is_degraded
        return _json(answer)

    @routes.get("/stats/<name>")
    def stats_of(name: str) -> Response:
        """One section; what the poller asks."""
        state = current_state()
        status = state.statuses.get(name)
        if status is not None:
            leave_session_alone()
            return state.answers.status(encoded.encoded(status))
        if name in functions:
            return _json(sections.one(name))
        return _unknown("list or section", name, [*state.statuses, *functions])

    # GET, too: an address that somebody tries in a browser answers like the rest of the API.
    @routes.route("/rebuild/<name>", methods=["GET", "POST"])
    def rebuild(name: str) -> AnyResponse:
        """Ask for a rebuild of one list."""
        if request.method != "POST":
            answer = _json({"error": "Ask for a rebuild with POST."}, 405)
            answer.headers["Allow"] = "POST"
            return answer
        if is_from_elsewhere(request):
            return _json({"error": "A rebuild can be asked for from the app's own pages only."}, 403)
        state = current_state()
        status = state.statuses.get(name)
        if status is None:
            return _unknown("list", name, list(state.statuses))
        if not permissions.allow("rebuild", name):
            permissions.note_refusal(name)
            return _json({"error": f"You may not ask for a rebuild of {name!r}."}, 403)
        refusal = _ask_for_rebuild(state, status)
        # A form of the status page wants a page to show next; a program says that it takes anything.
        accepted = request.accept_mimetypes
        if accepted["text/html"] > accepted["application/json"]:
            early = name if refusal is not None and refusal.wait else None
            return redirect(url_for("warmcache.status_page", early=early), 303)
        if refusal is None:
            return _json(list_section(status) | encoded.pacing, 202)
        answer = _json({"error": refusal.reason}, refusal.code)
        if refusal.wait:
            answer.headers["Retry-After"] = str(refusal.wait)
        return answer

    @routes.get("/")
    def status_page() -> Response:
        """How the lists are, for people."""
        from . import status_page as page

        state = current_state()
        told = sections.all()
        # Tasks and deferred blueprints have a table of their own there.
        if state.registry.tasks:
            del told["tasks"]
        if state.blueprints is not None:
            del told["blueprints"]
        response = page.status_page(state, permissions, told)
        leave_session_alone()
        return response

    @routes.get("/static/<name>")
    def asset(name: str) -> Response:
        """The poller, and the files of the status page."""
        from . import assets

        leave_session_alone()
        if name not in assets.KINDS:
            return _unknown("file", name, list(assets.KINDS))
        return assets.serve(name)

    return routes


class Refusal(NamedTuple):
    """Why nobody is going to rebuild a list now."""

    code: int
    reason: str
    wait: int = 0  # seconds until it is worth asking again, if it ever is


def _ask_for_rebuild(state: AppState, status: ListStatus) -> Refusal | None:
    """Let whoever is due rebuild the list; joins the rebuild that runs."""
    if status.problem is not None:
        return Refusal(409, f"{status.name!r} cannot be rebuilt as it is declared; the log says why.")
    condition = status.condition()
    # The rebuild that runs, by what this process knows, may be the one that has just published what we see.
    if not (condition.due or (status.is_rebuilding and condition.rebuilding)):
        age = math.inf if condition.snapshot is None else condition.age
        wait = math.ceil(max(status.pause, state.settings.refresh_interval - age))
        if wait > 0:
            return Refusal(429, f"{status.name!r} can be rebuilt again in {wait} s.", wait)
        if condition.snapshot is not None:
            try:
                state.store.mark_stale(status.name, condition.snapshot)
            except StoreError:
                log.exception("warmcache.not_outdated: %r", status.name, extra={"warmcache_list": status.name})
                return Refusal(503, "The cache folder cannot be written; the log says why.")
    state.keeper.wake()
    return None


def _json(answer: Mapping[str, Any], code: int = 200) -> Response:
    """How something is, at this moment: without a validator, as Answers.status explains."""
    leave_session_alone()
    response = current_app.make_response((dict(answer), code))
    response.headers["Cache-Control"] = "no-cache, private"
    return response


def _unknown(kind: str, name: str, known: list[str]) -> Response:
    return _json({"error": f"No warm {kind} named {name[:NAME_SHOWN]!r}.", "allowed": known}, 404)
