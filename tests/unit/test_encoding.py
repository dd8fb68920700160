"""Items as JSON: written by the app's own provider, and read back as JSON gives them."""

from __future__ import annotations

import datetime
import decimal
import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.json.provider import DefaultJSONProvider

from flask_warmcache import WarmCache
from flask_warmcache.state import encoder

from .world import make_app


@pytest.fixture
def app(tmp_path: Path) -> Flask:
    return make_app(tmp_path)


def test_items_are_encoded_by_the_apps_own_json(app: Flask) -> None:
    moment = datetime.datetime(2024, 5, 1, 12, 0, tzinfo=datetime.timezone.utc)
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


def test_a_provider_that_indents_is_kept_to_one_line(app: Flask) -> None:
    class Indenting(DefaultJSONProvider):
        def dumps(self, obj: Any, **kwargs: Any) -> str:
            return json.dumps(obj, indent="\t")

    app.json = Indenting(app)
    listed = WarmCache(app).warm_list("things", key="id", source=lambda: [{"id": 1, "deep": {"x": [1, 2]}}])
    with app.app_context():
        listed.rebuild_now()
        assert list(listed.get()) == [{"id": 1, "deep": {"x": [1, 2]}}]
    assert encoder(app)({"a": [1]}) == b'{"a":[1]}'


def test_any_provider_will_do(app: Flask) -> None:
    class Own:
        def dumps(self, value: Any) -> str:
            return json.dumps(value, default=lambda other: f"<{type(other).__name__}>")

    app.json = Own()  # type: ignore[assignment]
    assert encoder(app)({"a": {1}}) == b'{"a": "<set>"}'
