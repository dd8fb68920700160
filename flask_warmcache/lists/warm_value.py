"""What a view may ask of a value."""

from __future__ import annotations

import json
from typing import Any
from zlib import crc32

from flask import Response
from flask.json.provider import DefaultJSONProvider

from .. import events
from ..errors import DeclarationError
from ..state import AppState
from ..status.condition import Condition
from ..store.snapshot import DAMAGE
from .warm import Warm, current_request


class WarmValue(Warm):
    """One cached JSON value."""

    _is_cold_refused = False  # app.json could not write cold=, which was logged

    def get(self) -> Any:
        """Return the newest value, or while there is none what was declared as ``cold``."""
        state, condition = self._condition()
        try:
            return json.loads(self._encoded(state, condition)[0])["value"]
        except DAMAGE:
            state.statuses[self.name].damaged(condition, is_readable=False)
            return self.declaration.cold

    def response(self) -> Response:
        """Answer ``{"value": ..., "cache_rebuilding": ...}`` at once."""
        state, condition = self._condition()
        encoded, condition = self._encoded(state, condition)
        flag = b"true" if condition.rebuilding else b"false"
        # The published JSON is an object already; the flag is inserted before its closing brace.
        data = b'%b, "cache_rebuilding": %b}\n' % (encoded[:-1], flag)
        # A deployment may change what is shown while there is no value.
        shown = f"0-{crc32(encoded):x}" if condition.snapshot is None else condition.snapshot.shown_generation
        etag = f'W/"{shown}-{condition.state}-{condition.rebuilding:d}"'
        return state.answers.ok(current_request(), state.statuses[self.name], condition, data, etag)

    def _encoded(self, state: AppState, condition: Condition) -> tuple[bytes, Condition]:
        """Return ``{"value": ...}`` as JSON, and the condition, which is another one if the value is damaged."""
        if condition.snapshot is not None:
            try:
                return condition.snapshot.encoded(0), condition
            except DAMAGE:
                condition = state.statuses[self.name].damaged(condition, is_readable=False)
        return self._encoded_cold(state), condition

    def _encoded_cold(self, state: AppState) -> bytes:
        try:
            return state.app.json.dumps({"value": self.declaration.cold}).strip().encode()
        except Exception:
            # Flask's own provider can write it, or the declaration would have been refused.
            if not self._is_cold_refused:
                self._is_cold_refused = True
                events.error(
                    "warmcache.cold_unusable",
                    "app.json cannot write the cold= of %(list)r; it is read as null",
                    error=True,
                    list=self.name,
                )
            return b'{"value": null}'


def check_cold(name: str, cold: object) -> None:
    """Refuse a cold value that is not JSON, before it is known which app's JSON provider will write it.

    :raises DeclarationError: when Flask's own provider cannot write it.
    """
    try:
        json.dumps(cold, default=DefaultJSONProvider.default, allow_nan=False)
    except Exception as error:
        raise DeclarationError(
            f"The cold= of warm value {name!r} cannot be written as JSON ({error}); give what the page shows "
            "while there is no value yet, as in cold=None."
        ) from error
