"""Values: any JSON value, cold and warm."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.json.provider import DefaultJSONProvider

from flask_warmcache import DeclarationError, WarmCache
from tests.support.apps import make_app, state_of
from tests.support.shelf import files


@pytest.fixture
def app(tmp_path: Path) -> Flask:
    return make_app(tmp_path)


@pytest.mark.parametrize("cold", [object, {1}, {(1, 2): 3}, b"a", [float("nan")], {"a": {"b": len}}], ids=repr)
def test_cold_value_that_is_not_json_is_refused_in_its_call(app: Flask, cold: object) -> None:
    warmcache = WarmCache(app)
    with pytest.raises(DeclarationError, match="'one' cannot be written as JSON .*cold=None"):
        warmcache.value("one", cold=cold)
    warmcache.value("one", cold=None)(lambda: 1)  # the refused declaration leaves the name free


def test_cold_value_may_be_anything_that_flask_can_encode(app: Flask) -> None:
    warmcache = WarmCache(app)
    warmcache.value("one", cold={"on": date(2026, 9, 1), "of": Decimal("1.50")})(lambda: 1)
    with app.app_context():
        assert warmcache["one"].get() == {"on": "Tue, 01 Sep 2026 00:00:00 GMT", "of": "1.50"}


class Strict(DefaultJSONProvider):
    """A provider that encodes only JSON's own types."""

    @staticmethod
    def default(value: object) -> Any:
        raise TypeError(f"{value!r} is not JSON")


def test_cold_value_that_only_this_app_cannot_encode_is_null_and_logged_once(
    app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    app.json = Strict(app)
    warmcache = WarmCache(app)
    warmcache.value("one", cold=Decimal(1))(lambda: 2)
    app.add_url_rule("/one", "one", warmcache["one"].response)
    client = app.test_client()
    for _ in range(3):
        answer = client.get("/one")
        assert (answer.status_code, answer.get_json()) == (200, {"value": None, "cache_rebuilding": True})
    with app.app_context():
        assert warmcache["one"].get() is None
    assert caplog.text.count("warmcache.cold_unusable: app.json cannot write the cold= of 'one'") == 1
    assert "is not JSON" in caplog.text


def test_value_is_cold_then_warm(app: Flask) -> None:
    warmcache = WarmCache(app)
    calls: list[int] = []

    @warmcache.value("dashboard", ttl=60, cold={"total": None})
    def dashboard() -> dict[str, Any]:
        calls.append(1)
        return {"total": len(calls), "list": [1, "a", None]}

    app.add_url_rule("/dashboard", "dashboard", warmcache["dashboard"].response)
    client = app.test_client()
    with app.app_context():
        assert warmcache["dashboard"].get() == {"total": None}
        cold = client.get("/dashboard")
        assert cold.text == '{"value": {"total": null}, "cache_rebuilding": true}\n'
        assert (cold.headers["Retry-After"], cold.headers["X-Warmcache"]) == ("2", "dashboard; gen=0; state=cold")
        warmcache["dashboard"].rebuild_now()
        assert warmcache["dashboard"].get() == {"total": 1, "list": [1, "a", None]}
        warm = client.get("/dashboard")
        assert warm.get_json() == {"value": {"total": 1, "list": [1, "a", None]}, "cache_rebuilding": False}
        assert client.get("/dashboard", headers={"If-None-Match": warm.headers["ETag"]}).status_code == 304
        warmcache["dashboard"].invalidate()
        stale = client.get("/dashboard", headers={"If-None-Match": warm.headers["ETag"]})
        assert (stale.status_code, stale.get_json()["cache_rebuilding"]) == (200, True)
        assert len(calls) == 1


@pytest.mark.parametrize("value", [None, 0, "}", "ä", [], {}, {"value": 1}, ' "} '], ids=repr)
def test_any_json_value_is_answered(app: Flask, value: object) -> None:
    warmcache = WarmCache(app)
    warmcache.value("one", cold=value)(lambda: value)
    app.add_url_rule("/one", "one", warmcache["one"].response)
    assert app.test_client().get("/one").get_json() == {"value": value, "cache_rebuilding": True}
    with app.app_context():
        warmcache["one"].rebuild_now()
        assert warmcache["one"].get() == value
    assert app.test_client().get("/one").get_json() == {"value": value, "cache_rebuilding": False}


@pytest.mark.parametrize("place", [-1, -2], ids=["its line end", "its last brace"])
def test_damaged_value_is_cold_and_rebuilt(app: Flask, place: int) -> None:
    warmcache = WarmCache(app)

    @warmcache.value("one", cold="cold")
    def one() -> str:
        return "warm"

    app.add_url_rule("/one", "one", warmcache["one"].response)
    with app.app_context():
        warmcache["one"].rebuild_now()
        assert warmcache["one"].get() == one() == "warm"
        (data,) = state_of(app).store.folder.glob("one.*.data")
        content = bytearray(data.read_bytes())
        content[place] ^= 0x20
        data.write_bytes(content)
        assert warmcache["one"].get() == "cold"
        assert app.test_client().get("/one").get_json()["cache_rebuilding"] is True
        warmcache["one"].rebuild_now()
        assert warmcache["one"].get() == "warm"


def test_another_kind_under_the_same_name_is_cold(tmp_path: Path) -> None:
    app = make_app(tmp_path)
    listed = WarmCache(app).warm_list("thing", key="path", source=lambda: files("a"))
    with app.app_context():
        listed.rebuild_now()
    after_the_deploy = make_app(tmp_path)
    warmcache = WarmCache(after_the_deploy)
    warmcache.value("thing", cold=5)(lambda: 6)
    with after_the_deploy.app_context():
        assert warmcache["thing"].get() == 5
        warmcache["thing"].rebuild_now()
        assert warmcache["thing"].get() == 6
    with app.app_context():
        assert list(listed.get()) == []
