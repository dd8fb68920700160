"""The blueprint: stats for programs, rebuilds for those who may ask for them, and what pages fetch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from flask import Blueprint, Response, current_app, redirect, request, url_for
from flask.globals import request_ctx
from flask.sessions import NullSession
from werkzeug.wrappers import Response as AnyResponse

from .. import events
from ..errors import StoreError
from ..lists.warm import current_state
from ..registry import Registry
from ..state import AppState
from ..status.condition import ListStatus
from ..status.stats import EncodedSections, list_section
from .hosts import ANY_HOST, pass_hosts
from .permissions import Permissions, is_from_elsewhere
from .sections import Sections

NAME_SHOWN = 64  # characters of an unknown name; no name is longer


def blueprint(registry: Registry, permissions: Permissions, spread: float) -> Blueprint:
    """Return the routes under ``/api/cache``, for one app.

    :param registry: the declarations, which may still grow.
    :param spread: seconds over which pages spread their refreshes; 0 leaves this to the poller.
    """
    routes = Blueprint("warmcache", __name__, template_folder="templates")
    sections = Sections(registry, permissions)
    encoded = EncodedSections(spread)

    pass_hosts(routes)

    @routes.app_context_processor
    def helpers() -> dict[str, Any]:
        """Return the functions for every template of the app."""
        from . import markup  # imported here, like all that pages need: an app that serves only JSON never does

        return {"warmcache_script": markup.warmcache_script, "warmcache_attrs": markup.warmcache_attrs}

    @routes.get("/stats", host=ANY_HOST)
    def stats() -> Response:
        """Return every list and section, and whether any list is being rebuilt."""
        state = current_state()
        answer: dict[str, Any] = {
            name: list_section(status) | encoded.pacing for name, status in state.statuses.items()
        }
        rebuilding = any(section["cache_rebuilding"] for section in answer.values())
        answer |= {**sections.all(), "cache_rebuilding": rebuilding}
        if registry.tasks:
            answer["degraded"] = state.tasks.is_degraded
        return _json(answer)

    @routes.get("/stats/<name>", host=ANY_HOST)
    def stats_of(name: str) -> Response:
        """Return one section; the poller asks for this."""
        state = current_state()
        status = state.statuses.get(name)
        if status is not None:
            _leave_session_alone()
            return state.answers.status(encoded.encoded(status))
        if name in registry.sections:
            return _json(sections.one(name))
        return _unknown("list or section", name, [*state.statuses, *registry.sections])

    # GET, too: somebody who tries the address in a browser gets JSON, as from the rest of the API.
    @routes.route("/rebuild/<name>", host=ANY_HOST, methods=["GET", "POST"])
    def rebuild(name: str) -> AnyResponse:
        """Ask for a rebuild of one list."""
        if request.method != "POST":
            answer = _json({"error": "Ask for a rebuild with POST."}, 405)
            answer.headers["Allow"] = "POST"
            return answer
        if is_from_elsewhere(request):
            return _json({"error": "Only pages of this app can ask for a rebuild."}, 403)
        state = current_state()
        status = state.statuses.get(name)
        if status is None:
            return _unknown("list", name, list(state.statuses))
        if not permissions.allow("rebuild", name):
            permissions.note_refusal(name)
            return _json({"error": f"You may not ask for a rebuild of {name!r}."}, 403)
        refusal = _ask_for_rebuild(state, status)
        # After a form of the status page the browser shows that page again. A program accepts anything.
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

    @routes.get("/", host=ANY_HOST)
    def status_page() -> Response:
        """Show the lists to people."""
        from . import status_page as page

        # One-time tasks and deferred blueprints have a table of their own on the page.
        of_the_app = {
            name: section for name, section in sections.all().items() if name not in registry.own_sections
        }
        response = page.status_page(current_state(), permissions, of_the_app)
        _leave_session_alone()
        return response

    @routes.get("/static/<name>", host=ANY_HOST)
    def asset(name: str) -> Response:
        """Return the poller, or a file of the status page."""
        from . import assets

        _leave_session_alone()
        if name not in assets.KINDS:
            return _unknown("file", name, list(assets.KINDS))
        return assets.serve(name)

    return routes


class Refusal(NamedTuple):
    """Why a list is not rebuilt now."""

    code: int
    reason: str
    wait: int = 0  # seconds after which another request can succeed; 0 if none can


def _ask_for_rebuild(state: AppState, status: ListStatus) -> Refusal | None:
    """Make the list due, so that a keeper rebuilds it; join a rebuild that is running."""
    if status.problem is not None:
        return Refusal(409, f"{status.name!r} cannot be rebuilt as it is declared; the log says why.")
    condition = status.condition()
    # What this process knows of a running rebuild may be old: that rebuild may have published what we see.
    if not (condition.due or (status.is_rebuilding and condition.rebuilding)):
        age = math.inf if condition.snapshot is None else condition.age
        wait = math.ceil(max(status.pause, state.settings.refresh_interval - age))
        if wait > 0:
            return Refusal(429, f"{status.name!r} can be rebuilt again in {wait} s.", wait)
        if condition.snapshot is not None:
            try:
                state.store.mark_stale(status.name, condition.snapshot)
            except StoreError:
                events.error("warmcache.not_outdated", "%(list)r", error=True, list=status.name)
                return Refusal(503, "The cache folder cannot be written; the log says why.")
    state.keeper.wake()
    return None


def _json(answer: Mapping[str, Any], code: int = 200) -> Response:
    """Answer with how things are at this moment, without a validator, as Answers.status explains."""
    _leave_session_alone()
    response = current_app.make_response((dict(answer), code))
    response.headers["Cache-Control"] = "no-cache, private"
    return response


def _unknown(kind: str, name: str, known: list[str]) -> Response:
    return _json({"error": f"No warm {kind} named {name[:NAME_SHOWN]!r}.", "allowed": known}, 404)


class _Unsaved(NullSession):
    """A copy of the session that Flask does not save; unlike a NullSession it may be written to."""

    __setitem__: Any = dict.__setitem__
    __delitem__: Any = dict.__delitem__
    clear: Any = dict.clear
    pop: Any = dict.pop
    popitem: Any = dict.popitem
    setdefault: Any = dict.setdefault
    update: Any = dict.update


def _leave_session_alone() -> None:
    """Keep Flask from sending the session's cookie with this answer, unless the session was changed.

    Flask sends a permanent session with every answer, which postpones its end. A user whose page polls would never
    be logged out. A change by a before_request function is saved, because the app intended it.
    """
    context: Any = request_ctx._get_current_object()  # type: ignore[attr-defined]
    # Since Flask 3.1.3 reading the public attribute counts as access, which adds "Vary: Cookie".
    name = "_session" if hasattr(context, "_session") else "session"
    session = getattr(context, name)
    interface = context.app.session_interface
    if interface.is_null_session(session) or getattr(session, "modified", True):
        return
    if issubclass(_Unsaved, interface.null_session_class):
        setattr(context, name, _Unsaved(dict(session)))
