"""A small server whose state a test may change while a browser shows its page."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from werkzeug.serving import make_server
from werkzeug.wrappers import Request, Response

from tests.support.waiting import until

STATUS = "/api/cache/stats/files"
SCRIPT = Path(__file__).parents[2] / "static" / "warmcache.js"

PAGE = """<!doctype html>
<html lang="en"><head><title>Files</title>{head}
<script defer src="/warmcache.js" {script}></script>{foot}</head>
<body><main><h1>Files</h1>{above}{region}</main></body></html>
"""
WIDGET = '<warmcache-status for="files"></warmcache-status><warmcache-progress for="files"></warmcache-progress>'
QUICK = {"interval": "100", "spread": "0"}


@dataclass
class FakeServer:
    """The state of the server. Routes read it, and tests change it."""

    state: str = "fresh"
    generation: str | None = "g1"
    rebuilding: bool = False
    items: list[str] = field(default_factory=lambda: ["one"])
    refresh: str = "auto"  # the region's strategy
    inside: str = ""  # markup within the region
    above: str = ""  # markup before it
    head: str = ""  # markup before the poller's script
    foot: str = ""  # markup after it
    csp: str = ""
    script: dict[str, str] = field(default_factory=lambda: dict(QUICK))  # its data attributes
    nonce: str = ""
    attributes: dict[str, str] = field(default_factory=dict)  # more attributes of the region
    more: dict[str, object] = field(default_factory=dict)  # more fields of the status
    files: dict[str, Path] = field(default_factory=dict)  # static files by path
    page_state: str | None = None  # the state of a page that always disagrees with the status
    login: bool = False  # whether the session has ended, so that the status redirects
    headers: dict[str, str] = field(default_factory=dict)  # of every answer
    url: str = ""
    hits: list[str] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)  # the status hangs while this is cleared

    def __post_init__(self) -> None:
        self.gate.set()

    def become(self, state: str, generation: str | None, items: list[str], rebuilding: bool = False) -> None:
        self.items = items
        self.state, self.generation, self.rebuilding = state, generation, rebuilding

    def count(self, path: str) -> int:
        return self.hits.count(path)

    def wait_for_hits(self, path: str, number: int, within: float = 60.0) -> None:
        """Wait until the server has seen so many requests for a path."""
        until(lambda: self.count(path) >= number, lambda: f"{number} of {path}, only {self.hits}", within)

    # -- the routes

    def __call__(self, environ: dict[str, object], start_response: object) -> object:
        request = Request(environ)
        self.hits.append(request.path)
        response = self._answer(request.path)
        response.headers.setdefault("Cache-Control", "no-cache, private")
        response.headers.update(self.headers)
        return response(environ, start_response)  # type: ignore[arg-type]

    def _answer(self, path: str) -> Response:
        if path == "/warmcache.js":
            return Response(SCRIPT.read_bytes(), mimetype="text/javascript")
        if path == STATUS:
            self.gate.wait(30)
            if self.login:
                return Response(status=302, headers={"Location": "/login"})
            return self._json(self._status())
        if path == "/api/files":
            state = f"files; gen={self.generation}; state={self.state}"
            body = {"files": [{"path": item} for item in self.items], "cache_rebuilding": self.rebuilding}
            return self._json(body, {"X-Warmcache": state})
        if path in ("/page", "/other", "/posted"):
            return self._page(path)
        if path == "/rows":
            return Response(self._region(), mimetype="text/html")
        if path in self.files:
            return Response(self.files[path].read_bytes(), mimetype="text/javascript")
        if path == "/login":
            return Response("<h1>Log in</h1>", mimetype="text/html")
        return Response(status=404)

    def _page(self, path: str) -> Response:
        script = {f"data-{name}": value for name, value in self.script.items()}
        if path == "/posted":
            script["data-method"] = "POST"
        if self.nonce:
            script["nonce"] = self.nonce
        given = {"head": self.head, "foot": self.foot, "above": self.above}
        page = PAGE.format(script=_attributes(script), region=self._region(), **given)
        headers = {"Content-Security-Policy": self.csp} if self.csp else {}
        return Response(page, mimetype="text/html", headers=headers)

    def _status(self) -> dict[str, object]:
        progress = {"phase": "enrich", "done": 1, "total": 4, "rate": 1.0, "eta_seconds": None}
        return {
            "file_count": len(self.items),
            "age_seconds": 1.0,
            "is_populated": self.generation is not None,
            "rebuild_in_progress": self.rebuilding,
            "state": self.state,
            "generation": self.generation,
            "progress": progress if self.rebuilding else None,
            "last_error": None,
            "cache_rebuilding": self.rebuilding,
            **self.more,
        }

    def _region(self) -> str:
        rows = "".join(f"<li>{item}</li>" for item in self.items)
        attributes = {
            "id": "files",
            "data-warmcache": "files",
            "data-warmcache-state": self.page_state or self.state,
            "data-warmcache-generation": self.generation or "",
            "data-warmcache-rebuilding": str(self.rebuilding or self.page_state not in (None, "fresh")).lower(),
            "data-warmcache-refresh": self.refresh,
            **self.attributes,
        }
        if self.page_state:
            attributes["data-warmcache-generation"] = "" if self.page_state == "cold" else f"page{len(self.hits)}"
        if self.state == "cold":
            attributes["aria-busy"] = "true"
        return f"<section {_attributes(attributes)}><ul>{rows}</ul>{self.inside}</section>"

    @staticmethod
    def _json(body: object, headers: dict[str, str] | None = None) -> Response:
        return Response(json.dumps(body), mimetype="application/json", headers=headers)


def _attributes(given: dict[str, str]) -> str:
    return " ".join(f'{name}="{value}"' for name, value in given.items())


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """Serve an app from a thread of this process, and return its URL."""
    running = make_server("127.0.0.1", 0, app, threaded=True)
    running.daemon_threads = True  # type: ignore[attr-defined]
    thread = threading.Thread(target=running.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{running.server_port}"
    finally:
        running.shutdown()
        thread.join()
        running.server_close()


@contextmanager
def serve(server: FakeServer) -> Iterator[FakeServer]:
    with serving(server) as server.url:
        try:
            yield server
        finally:
            server.gate.set()
