"""The host of our routes in an app with ``host_matching``: any, and in an address that of the current request."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Flask, current_app, has_request_context, request
from werkzeug.routing import BaseConverter

from ..startup.shadowing import HOST

# Without host_matching, Werkzeug ignores the host of a route. With it, a route without a host would match none.
ANY_HOST = f"<{HOST}:{HOST}>"


class HostConverter(BaseConverter):
    """Any host and port."""

    def to_url(self, value: Any) -> str:
        """Leave the brackets of ``[::1]:8000`` as they are."""
        return str(value)


def know_hosts(app: Flask) -> None:
    """Prepare an app for routes on any host."""
    app.url_map.converters[HOST] = HostConverter


def pass_hosts(routes: Blueprint) -> None:
    """Keep the host from the views of our routes, and add it to their addresses."""

    @routes.url_value_preprocessor
    def drop(endpoint: str | None, values: dict[str, Any] | None) -> None:
        if values is not None:
            values.pop(HOST, None)

    @routes.url_defaults
    def add(endpoint: str, values: dict[str, Any]) -> None:
        if current_app.url_map.is_endpoint_expecting(endpoint, HOST):
            values[HOST] = request.host.lower() if has_request_context() else current_app.config["SERVER_NAME"]
