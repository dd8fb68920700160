"""The error for what is not ready yet; raised in a view it answers 503 with ``Retry-After`` and JSON."""

from __future__ import annotations

from typing import Any

from flask import json
from werkzeug.exceptions import ServiceUnavailable

from ..errors import WarmCacheError


class NotReadyError(WarmCacheError, ServiceUnavailable):
    """Something is not ready yet; raised in a view it becomes a 503 with ``Retry-After`` and JSON."""

    def __init__(self, message: str, retry_after: int, answer: dict[str, Any]) -> None:
        """Create the error.

        :param message: the text of the exception, for the log.
        :param retry_after: seconds until a client may retry.
        :param answer: the body of the answer, as JSON.
        """
        super().__init__(message, retry_after=retry_after)
        self._answer = answer

    def get_body(self, environ: Any = None, scope: Any = None) -> str:
        """Return the answer as JSON."""
        return json.dumps(self._answer)

    def get_headers(self, environ: Any = None, scope: Any = None) -> list[tuple[str, str]]:
        """Return the headers, with ``Retry-After`` and ``Cache-Control: no-store``."""
        kept = [header for header in super().get_headers(environ, scope) if header[0] != "Content-Type"]
        return [*kept, ("Content-Type", "application/json"), ("Cache-Control", "no-store")]
