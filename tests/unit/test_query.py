"""The query string: parsed by hand as Flask would parse it, with errors that name the parameter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Request

from flask_warmcache import BadQueryError
from flask_warmcache.query.page_cache import PageCache
from flask_warmcache.query.pager import Pager
from flask_warmcache.query.parse import NO_DEFAULTS, PARAMETERS, Query, check, parse
from flask_warmcache.query.plan import Planner
from flask_warmcache.settings import Settings
from flask_warmcache.status.condition import ListStatus
from flask_warmcache.store.files import FileStore
from tests.support.shelf import declare

DECLARATION = declare(
    filters={"marked": bool, "not.marked": bool},
    sorts={"name": len, "date": len},
    search=("path",),
    allow_all=True,
)
PLAIN = declare()
FILTERS, SORTS = ["all", "marked", "not.marked"], ["name", "-name", "date", "-date"]
SETTINGS = Settings(per_page=20, max_per_page=50)
STORE = FileStore(Path("/nonexistent"))
PAGER = Pager(ListStatus(DECLARATION, STORE, 300.0, None, 1), SETTINGS, PageCache(0))
PLANNER = Planner(DECLARATION, SETTINGS, PageCache(0))


def ask(query: str, declaration: Any = DECLARATION, defaults: Any = NO_DEFAULTS) -> Query:
    return parse(query.encode(), defaults, declaration, SETTINGS)


def test_empty_query_is_first_page_of_all_items() -> None:
    assert ask("") == Query(1, 20, "all", "", False, "", False)


@pytest.mark.parametrize(
    ("query", "field", "value"),
    [
        ("page=3", "page", 3),
        ("page=0", "page", 1),
        ("page=-5", "page", 1),
        ("page=007", "page", 7),
        ("page=", "page", 1),
        ("page=" + "9" * 4000, "page", 10**15),
        ("page=-" + "9" * 4000, "page", 1),
        ("per_page=50", "per_page", 50),
        ("per_page=51", "per_page", 50),
        ("per_page=" + "9" * 20, "per_page", 50),
        ("per_page=", "per_page", 20),
        ("per_page=0", "per_page", 0),
        ("per_page=-1", "per_page", 0),
        ("filter=marked", "filter", "marked"),
        ("filter=not%2Emarked", "filter", "not.marked"),
        ("filter=all", "filter", "all"),
        ("filter=", "filter", "all"),
        ("sort=name", "sort", "name"),
        ("sort=-date", "sort", "date"),
        ("sort=-date", "backwards", True),
        ("sort=", "sort", ""),
        ("search=a+b", "search", "a b"),
        ("search=%20a%20%20b%0A", "search", "a b"),
        ("search=+", "search", ""),
        ("search=%C3%A4", "search", "ä"),
        ("search=" + "x" * 100, "search", "x" * 100),
        ("search=" + "e%CC%81" * 100, "search", "é" * 100),  # decomposed, as in names from a Mac
        ("refresh=true", "refresh", True),
        ("refresh=1", "refresh", True),
        ("refresh=YES", "refresh", True),
        ("refresh=off", "refresh", False),
        ("refresh=", "refresh", False),
        ("refresh", "refresh", False),
        ("page=2&page=3", "page", 2),
        ("unknown=x&page=2&_=1", "page", 2),
        ("&&page=2&", "page", 2),
    ],
)
def test_parameter_is_parsed(query: str, field: str, value: object) -> None:
    assert getattr(ask(query), field) == value


@pytest.mark.parametrize(
    ("query", "parameter", "message", "allowed"),
    [
        ("page=x", "page", "page must be a whole number.", None),
        ("page=1.5", "page", "page must be a whole number.", None),
        ("page=-", "page", "page must be a whole number.", None),
        ("page=--1", "page", "page must be a whole number.", None),
        ("page=%2B1", "page", "page must be a whole number.", None),
        ("page=+1", "page", "page must be a whole number.", None),
        ("page=%D9%A1", "page", "page must be a whole number.", None),
        ("page=1_0", "page", "page must be a whole number.", None),
        ("per_page=ten", "per_page", "per_page must be a whole number.", None),
        ("per_page=-2", "per_page", "per_page must be 1 to 50, or 0 for all.", None),
        ("filter=none", "filter", "filter must be one of: all, marked, not.marked.", FILTERS),
        ("filter=Marked", "filter", "filter must be one of", FILTERS),
        ("sort=size", "sort", "sort must be one of: name, -name, date, -date.", SORTS),
        ("sort=-", "sort", "sort must be one of", SORTS),
        ("sort=--name", "sort", "sort must be one of", SORTS),
        ("search=" + "x" * 101, "search", "search takes at most 100 characters and 5 words.", None),
        ("search=a+b+c+d+e+f", "search", "search takes at most 100 characters and 5 words.", None),
        ("refresh=maybe", "refresh", "refresh must be true or false.", ["true", "false"]),
    ],
)
def test_wrong_parameter_is_named_with_allowed_values(
    query: str, parameter: str, message: str, allowed: list[str] | None
) -> None:
    with pytest.raises(BadQueryError) as failed:
        ask(query)
    assert str(failed.value).startswith(message)
    assert (failed.value.parameter, failed.value.allowed) == (parameter, allowed)


@pytest.mark.parametrize(
    ("query", "parameter", "message"),
    [
        ("filter=marked", "filter", "filter must be one of: all."),
        ("sort=name", "sort", "sort must be one of: none."),
        ("search=a", "search", "This list cannot be searched."),
        ("per_page=0", "per_page", "per_page must be 1 to 50."),
        ("per_page=-1", "per_page", "per_page must be 1 to 50."),
    ],
)
def test_undeclared_option_is_refused(query: str, parameter: str, message: str) -> None:
    with pytest.raises(BadQueryError, match=message) as failed:
        ask(query, PLAIN)
    assert failed.value.parameter == parameter


def test_defaults_of_view_fill_in_what_request_leaves_out() -> None:
    defaults = (7, "marked", "-name")
    assert ask("", defaults=defaults)[1:5] == (7, "marked", "name", True)
    assert ask("per_page=&filter=&sort=", defaults=defaults)[1:5] == (7, "marked", "name", True)
    assert ask("per_page=9&filter=all&sort=date", defaults=defaults)[1:5] == (9, "all", "date", False)
    assert ask("", defaults=(None, "marked", None))[1:5] == (20, "marked", "", False)


def test_parameters_may_come_as_dict() -> None:
    asked = check({"page": "2", "search": " a  b "}, DECLARATION, SETTINGS)
    assert asked == Query(2, 20, "all", "", False, "a b", False)


words = st.sampled_from(["1", "-1", "marked", "name", "-date", "true", "a b", "%zz", "ä", "+"])
texts = st.text(max_size=12) | words


@given(st.lists(st.tuples(st.sampled_from(sorted(PARAMETERS)), texts), max_size=6))
def test_parses_what_flask_would_parse(pairs: list[tuple[str, str]]) -> None:
    if sum(name == "page" for name, _ in pairs) > 1:
        pairs = [pair for pair in pairs if pair[0] != "page"]  # see test_first_page_of_several_wins
    builder = EnvironBuilder(query_string=[(name, text) for name, text in pairs])  # type: ignore[arg-type]
    request = Request(builder.get_environ())
    seen = {name: request.args[name] for name in PARAMETERS if name in request.args}

    def result(parsed: Callable[[], Query]) -> object:
        try:
            return parsed()
        except BadQueryError as error:
            return str(error)

    expected = result(lambda: check(seen, DECLARATION, SETTINGS))
    assert result(lambda: PAGER.parse(request.query_string, NO_DEFAULTS)) == expected


@pytest.mark.parametrize(
    "query", ["page=3&per_page=5", "page=4&per_page=5", "page=0&per_page=5", "page=3&", "page=3"]
)
def test_turned_pages_are_parsed_alike(query: str) -> None:
    for _ in range(2):
        assert PAGER.parse(query.encode(), NO_DEFAULTS) == ask(query)
        assert PAGER.parse(query.encode(), (9, None, "name")) == ask(query, defaults=(9, None, "name"))


def test_remembered_plans_are_bounded() -> None:
    for number in range(2000):
        PLANNER.plan_and_page(None, 0, b"page=1&_=%d" % number, NO_DEFAULTS)
    assert len(PLANNER._plans[1]) <= 257


def test_first_page_of_several_wins() -> None:
    assert PAGER.parse(b"page=2&page=x", NO_DEFAULTS).page == 2


@given(st.binary(max_size=60))
def test_any_bytes_parse_or_raise_bad_query_error(raw: bytes) -> None:
    try:
        query = PAGER.parse(raw, NO_DEFAULTS)
    except BadQueryError:
        return
    assert query.page >= 1
