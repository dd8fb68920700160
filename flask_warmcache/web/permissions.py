"""Who may do more than read: the app's own word, and whether a request comes from a page of the app."""

from __future__ import annotations

import logging
from collections.abc import Callable
from urllib.parse import urlsplit

from flask import Request, current_app

from ..errors import DeclarationError

log = logging.getLogger("flask_warmcache")
Authorize = Callable[[str, "str | None"], bool]
# "rebuild": ask for a list's rebuild.  "details": see error messages, folder and process on the status page.
ACTIONS = ("rebuild", "details")


class Permissions:
    """What ``@warmcache.authorize`` allows; nothing, until there is such a function."""

    function: Authorize | None = None
    _is_missed = False  # and that was logged

    def declare(self, function: Authorize) -> None:
        """Set the app's function.

        :raises DeclarationError: when it is not a function, or there is one already.
        """
        if not callable(function):
            raise DeclarationError(f"authorize takes a function of an action and a list's name, not {function!r}.")
        if self.function is not None:
            raise DeclarationError("This WarmCache already has an authorize function; one decides for all lists.")
        self.function = function

    def allow(self, action: str, list_name: str | None) -> bool:
        """Whether the caller of this request may do this.

        :param action: one of ``ACTIONS``.
        :param list_name: the list, or None for what concerns all.
        :raises TypeError: when the app's function returns neither True nor False; a redirect would pass for True.
        """
        if self.function is None:
            return False
        answer = current_app.ensure_sync(self.function)(action, list_name)
        if not isinstance(answer, bool):
            raise TypeError(
                f"The function of @warmcache.authorize must return True or False for {action!r}, not {answer!r}."
            )
        return answer

    def note_refusal(self, list_name: str) -> None:
        """Say in the log, once, why nobody may ask for a rebuild, if that is so."""
        if self.function is None and not self._is_missed:
            self._is_missed = True
            log.warning(
                "warmcache.no_authorize: a rebuild of %r was asked for, which nobody may do while the app has no "
                "function with @warmcache.authorize",
                list_name,
                extra={"warmcache_list": list_name},
            )


def is_from_elsewhere(request: Request) -> bool:
    """Whether a page of another site may have made a browser send this request.

    Browsers tell where a POST comes from, with ``Sec-Fetch-Site`` or at least ``Origin``. What tells nothing is
    taken for a program, unless it brings cookies, which only browsers send without being asked to.
    """
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site not in ("same-origin", "none")
    for header in ("Origin", "Referer"):
        sent = request.headers.get(header)
        if sent is not None:
            return _host(sent) != request.host
    return "Cookie" in request.headers


def _host(url: str) -> str | None:
    """Host and port, without the scheme, which a proxy in front of the app may have changed."""
    try:
        return urlsplit(url).netloc.lower() or None
    except ValueError:
        return None
