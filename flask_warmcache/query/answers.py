"""How an answer looks in HTTP: its headers, 304 and 400."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from flask import Flask, Request, Response
from werkzeug.datastructures import Headers

from ..errors import BadQueryError
from ..status.condition import Condition, ListStatus

CONTENT_TYPE = ("Content-Type", "application/json")
# Of a response class: what we do ourselves where the app has nothing of its own.
SENDING = ("__call__", "get_wsgi_response", "get_wsgi_headers", "get_app_iter", "iter_encoded", "close")
RETRY_AFTER = "2"  # seconds until a cold list is worth asking for again: the bundled poller's interval


class Answers:
    """Makes the list answers of one app."""

    def __init__(self, app: Flask, cache_control: str) -> None:
        self._app = app
        self._cache_control = cache_control
        self._response = _ready(app.response_class)
        # By list: the last answer's ETag and age in seconds, and the headers that go with them.
        self._told: dict[str, tuple[str, int, list[tuple[str, str]]]] = {}

    def ok(self, request: Request, status: ListStatus, condition: Condition, data: bytes, etag: str) -> Response:
        """200 with everything that a browser, a proxy or the poller wants to know, or 304 if it knows already.

        Few headers and no second look at them: measured, they are half of what a list answer costs above a
        view of constant bytes.
        """
        age = int(condition.age)
        told = self._told.get(status.name)
        if told is None or told[0] != etag or told[1] != age:  # the ETag tells generation and state
            told = self._told[status.name] = (etag, age, self._headers(status, condition, age, etag))
        if "HTTP_IF_NONE_MATCH" in request.environ and _is_known(request, etag):
            return self._app.response_class(status=304, headers=Headers(told[2]))
        headers = [CONTENT_TYPE, ("Content-Length", str(len(data))), *told[2]]
        return self._response((data,), _ReadyHeaders(headers))

    def _headers(self, status: ListStatus, condition: Condition, age: int, etag: str) -> list[tuple[str, str]]:
        """What the answers of one second have in common."""
        snapshot, state = condition.snapshot, condition.state
        headers = [("Cache-Control", self._cache_control), ("ETag", etag)]
        if snapshot is None:
            return [
                *headers,
                ("X-Warmcache", f"{status.name}; gen=0; state={state}"),
                ("Cache-Status", f"warmcache; detail={state}"),
                ("Retry-After", RETRY_AFTER),
            ]
        return [
            *headers,
            ("X-Warmcache", f"{status.name}; gen={snapshot.shown_generation}; state={state}"),
            # RFC 9211: ttl is what is left of the freshness, negative once it is stale.
            ("Cache-Status", f"warmcache; hit; ttl={int(status.ttl) - age}; detail={state}"),
            ("Age", str(age)),
        ]

    def status(self, data: bytes) -> Response:
        """200 with how a list is, as JSON.

        Nobody may keep it, and it has no validator: a status that a 304 keeps alive would freeze the page that
        waits for it.
        """
        headers = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(data))),
            ("Cache-Control", "no-cache, private"),
        ]
        return self._response((data,), _ReadyHeaders(headers))

    def refusal(self, error: BadQueryError) -> Response:
        """400 that names the parameter and what it may be."""
        answer: dict[str, Any] = {"error": str(error), "parameter": error.parameter}
        if error.allowed is not None:
            answer["allowed"] = error.allowed
        headers = {"Cache-Control": "no-store", "Content-Type": "application/json"}
        return self._app.response_class(self._app.json.dumps(answer) + "\n", status=400, headers=headers)


def _is_known(request: Request, etag: str) -> bool:
    return request.method in ("GET", "HEAD") and request.if_none_match.contains_weak(etag.strip('"'))


class _ReadyHeaders(Headers):
    """Headers of our own making, which need no second look for line breaks and types."""

    def __init__(self, headers: list[tuple[str, str]]) -> None:
        self._list = headers


def _ready(base: type[Response]) -> Callable[[tuple[bytes], _ReadyHeaders], Response]:
    """What makes responses of the app's class, without the second looks that Werkzeug gives to others."""

    is_plain = all(getattr(base, name) is getattr(Response, name) for name in SENDING)

    class ReadyResponse(base):  # type: ignore[misc, valid-type]
        def __init__(self, response: tuple[bytes], headers: _ReadyHeaders) -> None:
            super().__init__(response, headers=headers)
            self._finished = response if is_plain else None

        def call_on_close(self, func: Callable[[], Any]) -> Callable[[], Any]:
            self._finished = None
            return super().call_on_close(func)  # type: ignore[no-any-return]

        def __call__(self, environ: Any, start_response: Any) -> Iterable[bytes]:
            finished = self._finished
            # Unless a hook put another body here, or wants to hear of its end, it is sent as it stands.
            if (
                finished is None
                or self.response is not finished
                or not isinstance(self.headers, Headers)
                or self.status_code != 200
                or environ["REQUEST_METHOD"] == "HEAD"
            ):
                return super().__call__(environ, start_response)  # type: ignore[no-any-return]
            start_response(self.status, self.headers.to_wsgi_list())
            return finished

    if not is_plain or base.__init__ is not Response.__init__:
        return ReadyResponse
    # All that one has but its body and headers is that of any other, so the constructor runs once.
    same = vars(ReadyResponse((b"",), _ReadyHeaders([CONTENT_TYPE])))

    def copied(response: tuple[bytes], headers: _ReadyHeaders) -> Response:
        made: Response = ReadyResponse.__new__(ReadyResponse)
        made.__dict__.update(same, response=response, headers=headers, _finished=response, _on_close=[])
        return made

    return copied
