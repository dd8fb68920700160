"""From a query string to a checked query.

The query string is parsed once and by hand, because ``request.args`` alone costs a twentieth of a small request.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple
from unicodedata import normalize
from urllib.parse import unquote_plus

from flask import json
from werkzeug.exceptions import BadRequest

from ..declaration import Declaration
from ..errors import WarmCacheError
from ..settings import Settings
from ..store.format import ALL, SOURCE_ORDER

SEARCH_MAX_CHARACTERS = 100
SEARCH_MAX_WORDS = 5
PARAMETERS = frozenset(("page", "per_page", "filter", "sort", "search", "refresh"))
YES, NO = ("true", "1", "yes", "on"), ("", "false", "0", "no", "off")
Defaults = tuple[int | None, str | None, str | None]  # a view's per_page, filter and sort
NO_DEFAULTS: Defaults = (None, None, None)


class BadQueryError(WarmCacheError, BadRequest, ValueError):
    """A query parameter from outside is wrong; raised in a view it becomes a 400 that names what is allowed."""

    def __init__(self, parameter: str, message: str, allowed: list[str] | None = None) -> None:
        super().__init__(message)
        self.parameter = parameter
        self.allowed = allowed

    def __str__(self) -> str:
        return str(self.description)

    def get_body(self, environ: Any = None, scope: Any = None) -> str:
        """Return the wrong parameter and what it may be, as JSON."""
        answer: dict[str, Any] = {"error": str(self), "parameter": self.parameter}
        if self.allowed is not None:
            answer["allowed"] = self.allowed
        return json.dumps(answer) + "\n"

    def get_headers(self, environ: Any = None, scope: Any = None) -> list[tuple[str, str]]:
        """Return the headers of the answer."""
        return [("Content-Type", "application/json"), ("Cache-Control", "no-store")]


class Query(NamedTuple):
    """What a request asks of a list."""

    page: int
    per_page: int  # 0: all
    filter: str
    sort: str
    backwards: bool
    search: str
    refresh: bool


def parse(raw: bytes, defaults: Defaults, declaration: Declaration, settings: Settings) -> Query:
    """Parse a query string; ``defaults`` fill in what it leaves out.

    :raises BadQueryError: naming the parameter and what is allowed.
    """
    parameters: dict[str, str] = {}
    for part in raw.decode("ascii", "replace").split("&"):
        name, _, value = part.partition("=")
        # The first of several wins, as with ``request.args.get``; other parameters belong to the view.
        if name in PARAMETERS and name not in parameters:
            parameters[name] = unquote_plus(value) if "%" in value or "+" in value else value
    if defaults != NO_DEFAULTS:
        for name, default in zip(("per_page", "filter", "sort"), defaults, strict=True):
            if default is not None and not parameters.get(name):
                parameters[name] = str(default)
    return check(parameters, declaration, settings)


def check(parameters: Mapping[str, str], declaration: Declaration, settings: Settings) -> Query:
    """Return the query of these parameters; an empty one counts as left out.

    :raises BadQueryError: naming the parameter and what is allowed.
    """
    get = parameters.get
    page, per_page = get("page"), get("per_page")
    filter_name, sort = get("filter") or ALL, get("sort") or SOURCE_ORDER
    backwards = sort[:1] == "-"
    sort_name = sort[1:] if backwards else sort
    if filter_name != ALL and filter_name not in declaration.filters:
        allowed = [ALL, *declaration.filters]
        raise BadQueryError("filter", f"filter must be one of: {', '.join(allowed)}.", allowed)
    if sort != SOURCE_ORDER and sort_name not in declaration.sorts:
        allowed = [direction + name for name in declaration.sorts for direction in ("", "-")]
        raise BadQueryError("sort", f"sort must be one of: {', '.join(allowed) or 'none'}.", allowed)
    return Query(
        max(1, _number("page", page)) if page else 1,
        _per_page(_number("per_page", per_page), declaration, settings) if per_page else settings.per_page,
        filter_name,
        sort_name,
        backwards,
        _search(get("search", ""), declaration),
        _yes_or_no("refresh", get("refresh", "")),
    )


def _per_page(number: int, declaration: Declaration, settings: Settings) -> int:
    if number > 0:
        return min(number, settings.max_per_page)
    if number in (0, -1) and declaration.allow_all:
        return 0
    every = ", or 0 for all" if declaration.allow_all else ""
    raise BadQueryError("per_page", f"per_page must be 1 to {settings.max_per_page}{every}.")


def _search(text: str, declaration: Declaration) -> str:
    text = normalize("NFC", text)  # or accents that follow their letters would count as characters
    words = text.split()
    if not words:
        return ""
    if not declaration.search:
        raise BadQueryError("search", "This list cannot be searched.", [])
    if len(text) > SEARCH_MAX_CHARACTERS or len(words) > SEARCH_MAX_WORDS:
        raise BadQueryError(
            "search", f"search takes at most {SEARCH_MAX_CHARACTERS} characters and {SEARCH_MAX_WORDS} words."
        )
    return " ".join(words)


def _number(parameter: str, text: str) -> int:
    digits = text[1:] if text[:1] == "-" else text
    if not (digits.isascii() and digits.isdigit()):
        raise BadQueryError(parameter, f"{parameter} must be a whole number.")
    # Larger than any page number; converting more digits would only cost time.
    return int(text) if len(digits) <= 15 else (-1 if text[0] == "-" else 1) * 10**15


def _yes_or_no(parameter: str, text: str) -> bool:
    if text.lower() in YES:
        return True
    if text.lower() in NO:
        return False
    raise BadQueryError(parameter, f"{parameter} must be true or false.", ["true", "false"])
