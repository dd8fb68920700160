"""The files that a browser fetches: the poller, and the style and script of the status page.

A page names them with ``?v=`` and a hash of their content.  Browsers may therefore keep a file for ever, and still
get every new version at once.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from flask import Response, current_app, request, url_for

POLLER = "warmcache.js"
# Only these files of the two folders are served.
KINDS = {POLLER: "text/javascript", "status.css": "text/css", "status.js": "text/javascript"}
FOR_EVER = "public, max-age=31536000, immutable"


def static_folder() -> Path:
    """Return the folder of the poller: inside the package when installed, beside it in a checkout.

    An editable install does not map the top-level folder into the package.

    :raises RuntimeError: when neither folder has the poller.
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
    """Return one of ``KINDS``."""
    folder = static_folder() if name == POLLER else Path(__file__).parent / "templates" / "warmcache"
    data = (folder / name).read_bytes()
    # Without a time in the gzip header every worker and host sends the same bytes, as the ETag promises.
    return Asset(data, gzip.compress(data, 9, mtime=0), hashlib.sha256(data).hexdigest()[:16])


def asset_url(name: str) -> str:
    """Return the versioned address of one of ``KINDS``."""
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
    # Under the address of another version, from a page rendered before a deployment, browsers must not keep it.
    is_versioned = request.args.get("v") == found.version
    response.headers["Cache-Control"] = FOR_EVER if is_versioned else "no-cache"
    response.set_etag(f"{found.version}-gzip" if is_packed else found.version)
    return response.make_conditional(request)  # type: ignore[return-value]
