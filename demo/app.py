"""The comic library as a Flask app: ``gunicorn demo.app:app``."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from flask import Flask, abort, jsonify, render_template, request, send_file
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response

from demo import comics
from demo.lists import EXTENSION, Library, file_list, files, library, warmcache
from demo.markers import MarkerStore

MOST_PATHS = 500  # marked in one request
_COVER_ID = re.compile(r"[0-9a-f]{32}")
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}


def create_app(watched_dir: str | Path | None = None, data: str | Path | None = None) -> Flask:
    """Make the app; an argument that is missing is read from ``WATCHED_DIR`` or ``DEMO_DATA``."""
    app = Flask(__name__)
    data = Path(data or os.environ.get("DEMO_DATA") or Path(__file__).with_name("data")).absolute()
    root = Path(watched_dir or os.environ.get("WATCHED_DIR") or data / "library").absolute()
    app.config["WARMCACHE_DIR"] = str(data / "warmcache")
    app.config["MAX_CONTENT_LENGTH"] = 2_000_000  # MOST_PATHS long paths
    app.extensions[EXTENSION] = Library(root, data, MarkerStore(data / "markers.sqlite3"))
    warmcache.init_app(app)
    app.add_url_rule("/", view_func=index)
    app.add_url_rule("/api/files", view_func=list_files)
    app.add_url_rule("/api/files/mark", view_func=mark, methods=["POST"])
    app.add_url_rule("/covers/<cover_id>.webp", view_func=cover)
    app.register_error_handler(HTTPException, answer_error)
    app.after_request(secure)
    return app


def index() -> str:
    """Send the page, which fetches the list itself."""
    return render_template("index.html")


def list_files() -> ResponseReturnValue:
    """Answer with the page of the list that the query asks for."""
    return files.response(sort="name")


def mark() -> ResponseReturnValue:
    """Set markers of some comics, so that the next request in any worker sees them."""
    if not _is_same_origin():
        abort(403, "Markers can be changed from the library's own page only.")
    # get_json() answers 415 to any other content type. A form on another site cannot send JSON.
    paths, changes = _check_mark(request.get_json())
    here = library()
    prefix = f"{here.shown_root}/"
    relative = {path: path.removeprefix(prefix) for path in paths}
    for path in paths:
        if not path.startswith(prefix) or not comics.contains(here.root, relative[path]):
            abort(404, f"No comic {path[:200]!r}.")
    markers = here.markers.set_markers(relative.values(), **changes)
    file_list.refresh(*paths)
    return jsonify(files={path: markers[relative[path]]._asdict() for path in paths})


def cover(cover_id: str) -> ResponseReturnValue:
    """Send a cover, which browsers may keep forever because its id changes with the comic."""
    if not _COVER_ID.fullmatch(cover_id):
        abort(404)
    path = library().cover(cover_id)
    if not path.is_file():
        abort(404)
    answer = send_file(path, "image/webp", max_age=31_536_000)
    answer.cache_control.immutable = True
    return answer


def answer_error(error: HTTPException) -> ResponseReturnValue:
    """Answer errors of the API in JSON, and all others as Werkzeug does."""
    if error.response is not None or not request.path.startswith("/api/"):
        return error
    return jsonify(error=error.description), error.code or 500


def secure(response: Response) -> Response:
    """Add the headers that let the page load content from its own origin only."""
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    return response


def _is_same_origin() -> bool:
    site = request.headers.get("Sec-Fetch-Site")
    origin = request.headers.get("Origin")
    if site is not None:
        return site in ("same-origin", "none")
    if origin is None:
        return True  # a program: browsers send one of the two
    # A proxy in front may have ended TLS, and its Host may name the port that browsers leave out.
    scheme, _, netloc = origin.lower().partition("://")
    port = {"http": ":80", "https": ":443"}.get(scheme, "")
    return netloc.removesuffix(port) == request.host.lower().removesuffix(port)


def _check_mark(body: Any) -> tuple[list[str], dict[str, bool]]:
    if not isinstance(body, dict):
        abort(400, "Send a JSON object.")
    paths = body.get("paths")
    if not isinstance(paths, list) or not all(isinstance(path, str) and path for path in paths):
        abort(400, "'paths' must be a list of texts.")
    if not 1 <= len(paths) <= MOST_PATHS:
        abort(400, f"'paths' must hold 1 to {MOST_PATHS} paths, not {len(paths)}.")
    changes = {name: body[name] for name in ("processed", "duplicate") if name in body}
    if not changes or not all(isinstance(value, bool) for value in changes.values()):
        abort(400, "Give 'processed' or 'duplicate' or both, as true or false.")
    return paths, changes


app = create_app()
