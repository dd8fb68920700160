"""The answer for what is not there yet: 503 with ``Retry-After`` and JSON, wherever in a view it is raised."""

from __future__ import annotations

from typing import Any

from flask import json
from werkzeug.exceptions import ServiceUnavailable

from ..errors import WarmCacheError


class NotReadyError(WarmCacheError, ServiceUnavailable):
    """Something is not there yet; in a view it becomes a 503 with ``Retry-After`` and JSON."""

    def __init__(self, message: str, retry_after: int, answer: dict[str, Any]) -> None:
        """
        :param message: for the log.
        :param retry_after: seconds until a client may ask again.
        :param answer: what the client is told.
        """
        super().__init__(message, retry_after=retry_after)
        self._answer = answer

    def get_body(self, environ: Any = None, scope: Any = None) -> str:
        """JSON, for programs."""
        return json.dumps(self._answer)

    def get_headers(self, environ: Any = None, scope: Any = None) -> list[tuple[str, str]]:
        """With ``Retry-After``, and not to be kept by anybody."""
        kept = [header for header in super().get_headers(environ, scope) if header[0] != "Content-Type"]
        return [*kept, ("Content-Type", "application/json"), ("Cache-Control", "no-store")]
