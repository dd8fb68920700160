"""What is there later: an object named by its module and name, and the answer to what needs it too early."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import reduce
from typing import Any

from flask import json
from werkzeug.exceptions import ServiceUnavailable

from ..errors import DeclarationError, WarmCacheError


@dataclass(frozen=True)
class Target:
    """``"pkg.module:name"``: an object that is imported later, but whose name is checked now."""

    module: str
    attribute: str

    @classmethod
    def parse(cls, text: object) -> Target:
        """Parse ``"pkg.module:name"`` without importing anything.

        :raises DeclarationError: when the text is not of that form.
        """
        module, colon, attribute = text.partition(":") if isinstance(text, str) else ("", "", "")
        if not colon or not all(part.isidentifier() for part in (*module.split("."), *attribute.split("."))):
            raise DeclarationError(
                f"{text!r} does not say what to import: give the full name of a module and of an object in it, "
                "like 'shop.reports:bp'."
            )
        return cls(module, attribute)

    def load(self) -> Any:
        """Import the module and return the object; raise whatever the import raises."""
        importlib.invalidate_caches()  # the file may have been added since the last attempt
        return reduce(getattr, self.attribute.split("."), importlib.import_module(self.module))

    def __str__(self) -> str:
        return f"{self.module}:{self.attribute}"


class NotReadyError(WarmCacheError, ServiceUnavailable):
    """Something is not ready yet; raised in a view it becomes a 503 with ``Retry-After`` and JSON."""

    def __init__(self, message: str, retry_after: int, answer: dict[str, Any]) -> None:
        """:param retry_after: seconds until a client may retry; ``answer`` is the body, as JSON."""
        super().__init__(message, retry_after=retry_after)
        self._answer = answer

    def get_body(self, environ: Any = None, scope: Any = None) -> str:
        """Return the answer as JSON."""
        return json.dumps(self._answer)

    def get_headers(self, environ: Any = None, scope: Any = None) -> list[tuple[str, str]]:
        """Return the headers, with ``Retry-After`` and ``Cache-Control: no-store``."""
        kept = [header for header in super().get_headers(environ, scope) if header[0] != "Content-Type"]
        return [*kept, ("Content-Type", "application/json"), ("Cache-Control", "no-store")]
