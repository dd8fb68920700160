"""Who may do more than read: the app's function decides, and whether a request comes from a page of the app."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

from flask import Request, current_app

from .. import events
from ..errors import DeclarationError

Authorize = Callable[[str, "str | None"], bool]
# "rebuild": ask for the rebuild of a list.
# "details": see error messages, folder and process on the status page, and all facts in sections of the stats.
ACTIONS = ("rebuild", "details")
STANDARD_PORTS = {"http": ":80", "https": ":443"}


class Permissions:
    """What the function of ``@warmcache.authorize`` allows; without such a function, nothing."""

    function: Authorize | None = None
    _is_logged = False  # that there is no function

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
        """Return whether the caller of this request may do this.

        :param action: one of ``ACTIONS``.
        :param list_name: the list, or None for what concerns all lists.
        :raises TypeError: when the app's function returns neither True nor False; a redirect would count as True.
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
        """Log once that the app has no function, if that is why a rebuild was refused."""
        if self.function is None and not self._is_logged:
            self._is_logged = True
            events.warning(
                "warmcache.no_authorize",
                "a rebuild of %(list)r was refused, because the app has no function with @warmcache.authorize",
                list=list_name,
            )


def is_from_elsewhere(request: Request) -> bool:
    """Return whether a page of another site may have made a browser send this request.

    A browser says where a POST comes from, with ``Sec-Fetch-Site`` or at least with ``Origin``. A request without
    these headers counts as a program's, unless it has cookies, which browsers add by themselves.
    """
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site not in ("same-origin", "none")
    for header in ("Origin", "Referer"):
        origin = request.headers.get(header)
        if origin is not None:
            return not _is_at(origin, request.host)
    return "Cookie" in request.headers


def _is_at(url: str, host: str) -> bool:
    """Return whether a URL is at this host and port, whatever the scheme of the request is.

    A proxy in front of the app may have ended TLS. So the port that need not be named is that of the URL's scheme.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    port = STANDARD_PORTS.get(parts.scheme)
    if port is None or not host:
        return False
    return parts.netloc.lower().removesuffix(port) == host.lower().removesuffix(port)
