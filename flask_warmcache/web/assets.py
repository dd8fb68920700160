"""The files that a browser fetches from us: the poller, and the status page's style and script.

A page names them with ``?v=`` and a hash of their content, so that a browser may keep them for ever and still has
every new version at once.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from flask import Response, current_app, request, url_for

POLLER = "warmcache.js"
# What may be fetched, and what it is; nothing else in these folders is anybody's business.
KINDS = {POLLER: "text/javascript", "status.css": "text/css", "status.js": "text/javascript"}
FOR_EVER = "public, max-age=31536000, immutable"


def static_folder() -> Path:
    """Where the poller lies: inside the package when installed, beside it in a checkout.

    An editable install does not map the top-level folder into the package, hence the second place.

    :raises RuntimeError: when neither has it.
    """
    package = Path(__file__).parents[1]
    for folder in (package / "static", package.parent / "static"):
        if (folder / POLLER).is_file():
            return folder
    raise RuntimeError(f"{POLLER} is missing from this installation of flask-warmcache; install it again.")


@dataclass(frozen=True)
class Asset:
    """One file, read and compressed once in a process."""

    data: bytes
    packed: bytes
    version: str


@cache
def asset(name: str) -> Asset:
    """One of ``KINDS``."""
    folder = static_folder() if name == POLLER else Path(__file__).parent / "templates" / "warmcache"
    data = (folder / name).read_bytes()
    # Without a time in it: the same bytes from every worker and host, as the tag promises.
    return Asset(data, gzip.compress(data, 9, mtime=0), hashlib.sha256(data).hexdigest()[:16])


def asset_url(name: str) -> str:
    """Where a page fetches it from."""
    return url_for("warmcache.asset", name=name, v=asset(name).version)


def serve(name: str) -> Response:
    """Answer a request for one of ``KINDS``."""
    found = asset(name)
    is_packed = request.accept_encodings["gzip"] > 0
    response = current_app.response_class(
        found.packed if is_packed else found.data, content_type=f"{KINDS[name]}; charset=utf-8"
    )
    if is_packed:
        response.headers["Content-Encoding"] = "gzip"
    response.headers["Vary"] = "Accept-Encoding"
    response.headers["X-Content-Type-Options"] = "nosniff"
    # A URL of another version, of a page rendered before a deploy say, must not keep this one under its name.
    is_versioned = request.args.get("v") == found.version
    response.headers["Cache-Control"] = FOR_EVER if is_versioned else "no-cache"
    response.set_etag(f"{found.version}-gzip" if is_packed else found.version)
    return response.make_conditional(request)  # type: ignore[return-value]
