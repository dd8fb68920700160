"""What an app's templates say to the poller: the script's tag, and the attributes of elements it refreshes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from flask import request, url_for
from markupsafe import Markup

from ..errors import UnknownListError
from ..lists.warm import current_state
from ..lists.warm_list import Items
from ..query.pager import Page
from .assets import POLLER, asset_url

# The poller's settings. It would silently ignore a name that it does not know.
SCRIPT_OPTIONS = (
    "status_url", "interval", "max_interval", "jitter", "timeout", "error_max", "hidden", "hidden_interval",
    "max_wait", "spread", "share", "refresh", "watch", "auto", "credentials",
)  # fmt: skip
REGION_OPTIONS = ("refresh", "src", "keep")


def warmcache_script(nonce: str | None = None, **options: Any) -> Markup:
    """Return the tag that loads the poller.

    :param nonce: of the page's Content-Security-Policy.
    :param options: settings of the poller, such as ``interval=1000``; times are milliseconds.
    :raises TypeError: for a setting that the poller does not have.
    """
    _check("warmcache_script", options, SCRIPT_OPTIONS)
    settings = {"status_url": url_for("warmcache.stats"), **options}
    attributes = {"src": asset_url(POLLER), "nonce": nonce, **_data("data", settings)}
    # The poller must not reload a page that answers a form: the browser would send the form again.
    if request and request.method not in ("GET", "HEAD"):
        attributes["data-method"] = request.method
    return Markup("<script defer {}></script>").format(_attributes(attributes))


def warmcache_attrs(name: str, read: Items | Page | None = None, **options: Any) -> Markup:
    """Return the attributes of an element that shows a list, so that the poller refreshes it.

    :param name: the list's.
    :param read: what the element shows, from ``get()`` or ``page()``. Without it the attributes describe the
        newest snapshot, which may be newer than what the view has read.
    :param options: the poller's ``refresh``, ``src`` and ``keep``.
    :raises UnknownListError: when there is no such list.
    :raises TypeError: for an option that the poller does not have.
    """
    _check("warmcache_attrs", options, REGION_OPTIONS)
    state = current_state()
    status = state.statuses.get(name)
    if status is None:
        raise UnknownListError(name, sorted(state.statuses))
    condition = status.condition()
    if condition.due:
        state.keeper.wake()
    if read is None:
        read = Items(status, condition)
    shown = {"state": read.state, "generation": read.generation, "rebuilding": read.rebuilding}
    # Only while a rebuild runs: otherwise every request would get another page, with another ETag.
    at = round(1000 * time.time()) if shown["rebuilding"] else None
    attributes = {"data-warmcache": name, **_data("data-warmcache", {**shown, "at": at, **options})}
    if shown["generation"] is None and shown["rebuilding"]:
        # Only when there is nothing to read yet: a list that is being replaced stays readable.
        attributes["aria-busy"] = "true"
    return _attributes(attributes)


def _check(helper: str, options: Mapping[str, Any], known: tuple[str, ...]) -> None:
    unknown = sorted(options.keys() - set(known))
    if unknown:
        raise TypeError(f"{helper}() has no option {unknown[0]!r}. Known: {', '.join(known)}.")


def _data(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{prefix}-{name.replace('_', '-')}": value for name, value in values.items()}


def _attributes(values: Mapping[str, Any]) -> Markup:
    """Return escaped attributes, with ``true`` and ``false`` for booleans, and without those that are None."""
    written = (
        Markup('{}="{}"').format(name, str(value).lower() if isinstance(value, bool) else value)
        for name, value in values.items()
        if value is not None
    )
    return Markup(" ").join(written)
