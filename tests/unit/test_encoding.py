"""Items as JSON: they are encoded by the app's own provider."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.json.provider import DefaultJSONProvider, JSONProvider
from hypothesis import given, settings
from hypothesis import strategies as st

from flask_warmcache import RebuildError, WarmCache
from flask_warmcache.encoding import encoder
from tests.support.apps import make_app


@pytest.fixture
def app(tmp_path: Path) -> Flask:
    return make_app(tmp_path)


def test_items_are_encoded_by_apps_own_json(app: Flask) -> None:
    moment = datetime.datetime(2024, 5, 1, 12, 0, tzinfo=datetime.UTC)
    item = {
        "id": 1,
        "date": datetime.date(2024, 5, 1),
        "moment": moment,
        "price": decimal.Decimal("9.90"),
        "uuid": uuid.UUID(int=5),
        "tuple": (1, 2),
        "text": "ä \u2028 \U0001f600 \udcff tab\t line\n",
    }
    listed = WarmCache(app).warm_list("things", key="id", source=lambda: [item])
    with app.app_context():
        listed.rebuild_now()
        assert dict(listed.get()[0]) == json.loads(app.json.dumps(item))
        assert listed.get()[0]["price"] == "9.90"
        assert listed.get()[0]["text"] == item["text"]


def test_output_of_indenting_provider_is_one_line(app: Flask) -> None:
    class Indenting(DefaultJSONProvider):
        def dumps(self, obj: Any, **kwargs: Any) -> str:
            return json.dumps(obj, indent="\t")

    app.json = Indenting(app)
    listed = WarmCache(app).warm_list("things", key="id", source=lambda: [{"id": 1, "deep": {"x": [1, 2]}}])
    with app.app_context():
        listed.rebuild_now()
        assert list(listed.get()) == [{"id": 1, "deep": {"x": [1, 2]}}]
    assert encoder(app)({"a": [1]}) == b'{"a":[1]}'


def test_any_provider_is_accepted(app: Flask) -> None:
    class Own:
        def dumps(self, value: Any) -> str:
            return json.dumps(value, default=lambda other: f"<{type(other).__name__}>")

    app.json = Own()  # type: ignore[assignment]
    assert encoder(app)({"a": {1}}) == b'{"a": "<set>"}'


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("indent", [None, 1])
def test_no_provider_may_write_nan_or_infinity(app: Flask, number: float, indent: int | None) -> None:
    class Own(JSONProvider):
        def dumps(self, obj: Any, **kwargs: Any) -> str:
            return json.dumps(obj, indent=indent)

        def loads(self, s: str | bytes, **kwargs: Any) -> Any:
            return json.loads(s)

    app.json = Own(app)
    numbers, warmcache = [1.0, number], WarmCache(app)
    listed = warmcache.warm_list("things", key="id", source=lambda: [{"id": name} for name in ("NaN", "Infinity")])
    listed.enrich(lambda item: item | {"number": numbers.pop()})
    warmcache.value("one", cold="-Infinity")(lambda: number)
    warmcache.stats_section("facts")(lambda: {"number": number})
    with app.app_context():
        assert listed.rebuild_now().failed == 1
        assert list(listed.get()) == [{"id": "Infinity", "number": 1.0}]
        with pytest.raises(RebuildError, match="is not JSON"):
            warmcache["one"].rebuild_now()
        assert warmcache["one"].get() == "-Infinity"
    assert app.test_client().get("/api/cache/stats/facts").get_json() == {"error": "ValueError"}


@dataclasses.dataclass
class Priced:
    price: Any


def _lossy(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else "?"  # type: ignore[arg-type]


MOMENT = datetime.datetime(2024, 5, 1, 12, 0, 0, 1)


@pytest.mark.parametrize("default", [None, _lossy], ids=["Flask's", "lossy"])
@pytest.mark.parametrize(
    "fingerprint", [None, ("value",), lambda item: item["value"]], ids=["", "fields", "function"]
)
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (MOMENT, MOMENT.replace(microsecond=2)),
        ({"deep": [1, (MOMENT,)]}, {"deep": [1, (MOMENT.replace(microsecond=2),)]}),
        (Priced(decimal.Decimal("0.1000000000000000000001")), Priced(decimal.Decimal("0.1000000000000000000002"))),
        (datetime.date(2024, 5, 1), datetime.date(2024, 5, 2)),
    ],
    ids=str,
)
def test_change_that_json_does_not_show_is_enriched(
    app: Flask, default: Any, fingerprint: Any, before: Any, after: Any
) -> None:
    assert isinstance(app.json, DefaultJSONProvider)
    if default is not None:
        app.json.default = default
    items = [{"id": 1, "value": before}, {"id": 2, "value": before}]
    listed = WarmCache(app).warm_list("things", key="id", source=lambda: items)
    listed.enrich(fingerprint=fingerprint)(lambda item: item | {"text": str(item["value"])})
    with app.app_context():
        for value, enriched in ((before, 2), (before, 0), (after, 1), (after, 0)):
            items[1] = {"id": 2, "value": value}
            assert listed.rebuild_now().enriched == enriched
        assert listed.get()[1]["text"] == str(after)


ATOMS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["\udcff", "\x00\t\n\u2028", "ß😀"])
    | st.dates()
    | st.datetimes()
    | st.decimals(allow_nan=True)
    | st.uuids()
    | st.just({1})
    | st.just(b"bytes")
)
KEYS = st.text(max_size=3) | st.integers() | st.booleans() | st.none() | st.floats() | st.just((1, 2))
VALUES = st.recursive(
    ATOMS,
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(KEYS, inner, max_size=3),
)


@pytest.mark.parametrize("pure", [False, True], ids=["compiled", "pure Python"])
@settings(max_examples=150)
@given(VALUES, st.booleans(), st.booleans())
def test_shared_encoder_writes_what_flask_writes(
    app: Flask, pure: bool, value: object, sort_keys: bool, ensure_ascii: bool
) -> None:
    assert isinstance(app.json, DefaultJSONProvider)
    app.json.sort_keys, app.json.ensure_ascii = sort_keys, ensure_ascii
    with pytest.MonkeyPatch.context() as patch:
        if pure:
            patch.setattr("json.encoder.c_make_encoder", None)
        encode = encoder(app)

        def tried(function: Callable[[object], bytes]) -> bytes | type:
            try:
                return function(value)
            except Exception as error:
                return type(error)

        plain = tried(lambda one: app.json.dumps(one, separators=(",", ":"), allow_nan=False).encode())
        assert tried(encode) == plain
        # A value that failed halfway leaves nothing behind in the encoder.
        assert encode([{"a": [1]}, {"a": [1]}]) == b'[{"a":[1]},{"a":[1]}]'


def test_circular_item_fails_and_next_does_not(app: Flask) -> None:
    circle: dict[str, Any] = {}
    circle["self"] = [circle]
    encode = encoder(app)
    for _ in range(2):
        with pytest.raises(RecursionError):
            encode(circle)
        assert encode({"a": 1}) == b'{"a":1}'


def test_default_of_apps_provider_is_called(app: Flask) -> None:
    assert isinstance(app.json, DefaultJSONProvider)
    app.json.default = lambda value: f"<{type(value).__name__}>"
    assert encoder(app)({"a": object()}) == b'{"a":"<object>"}'
