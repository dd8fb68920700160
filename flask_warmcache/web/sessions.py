"""Answers that a page polls must not keep its user's login alive."""

from __future__ import annotations

from typing import Any

from flask.globals import request_ctx
from flask.sessions import NullSession


class _Unsaved(NullSession):
    """A copy of the session that Flask does not save; unlike a NullSession it may be written to."""

    __setitem__: Any = dict.__setitem__
    __delitem__: Any = dict.__delitem__
    clear: Any = dict.clear
    pop: Any = dict.pop
    popitem: Any = dict.popitem
    setdefault: Any = dict.setdefault
    update: Any = dict.update


def leave_session_alone() -> None:
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
