"""Values: any JSON value, cold and warm."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.json.provider import DefaultJSONProvider

from flask_warmcache import DeclarationError, WarmCache, WarmValue
from tests.support.apps import make_app, state_of
from tests.support.shelf import files


@pytest.fixture
def app(tmp_path: Path) -> Flask:
    return make_app(tmp_path)


def serve(app: Flask, function: Callable[[], Any], **options: Any) -> WarmValue:
    """Declare a value, and serve it at /one."""
    warmcache = WarmCache(app)
    warmcache.value("one", **options)(function)
    value: WarmValue = warmcache["one"]
    app.add_url_rule("/one", "one", value.response)
    return value


@pytest.mark.parametrize("cold", [object, {1}, {(1, 2): 3}, b"a", [float("nan")], {"a": {"b": len}}], ids=repr)
def test_cold_value_that_is_not_json_is_refused_in_its_call(app: Flask, cold: object) -> None:
    warmcache = WarmCache(app)
    with pytest.raises(DeclarationError, match="'one' cannot be written as JSON .*cold=None"):
        warmcache.value("one", cold=cold)
    warmcache.value("one", cold=None)(lambda: 1)  # the refused declaration leaves the name free


def test_cold_value_may_be_anything_that_flask_can_encode(app: Flask) -> None:
    value = serve(app, lambda: 1, cold={"on": date(2026, 9, 1), "of": Decimal("1.50")})
    with app.app_context():
        assert value.get() == {"on": "Tue, 01 Sep 2026 00:00:00 GMT", "of": "1.50"}


class Strict(DefaultJSONProvider):
    """A provider that encodes only JSON's own types."""

    @staticmethod
    def default(value: object) -> Any:
        raise TypeError(f"{value!r} is not JSON")


def test_cold_value_that_only_this_app_cannot_encode_is_null_and_logged_once(
    app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    app.json = Strict(app)
    value = serve(app, lambda: 2, cold=Decimal(1))
    for _ in range(3):
        answer = app.test_client().get("/one")
        assert (answer.status_code, answer.get_json()) == (200, {"value": None, "cache_rebuilding": True})
    with app.app_context():
        assert value.get() is None
    assert caplog.text.count("warmcache.cold_unusable: app.json cannot write the cold= of 'one'") == 1
    assert "is not JSON" in caplog.text


def test_value_is_cold_then_warm(app: Flask) -> None:
    calls: list[int] = []

    def dashboard() -> dict[str, Any]:
        calls.append(1)
        return {"total": len(calls), "list": [1, "a", None]}

    value = serve(app, dashboard, ttl=60, cold={"total": None})
    client = app.test_client()
    with app.app_context():
        assert value.get() == {"total": None}
        cold = client.get("/one")
        assert cold.text == '{"value": {"total": null}, "cache_rebuilding": true}\n'
        assert (cold.headers["Retry-After"], cold.headers["X-Warmcache"]) == ("2", "one; gen=0; state=cold")
        value.rebuild_now()
        assert value.get() == {"total": 1, "list": [1, "a", None]}
        warm = client.get("/one")
        assert warm.get_json() == {"value": {"total": 1, "list": [1, "a", None]}, "cache_rebuilding": False}
        assert client.get("/one", headers={"If-None-Match": warm.headers["ETag"]}).status_code == 304
        value.invalidate()
        stale = client.get("/one", headers={"If-None-Match": warm.headers["ETag"]})
        assert (stale.status_code, stale.get_json()["cache_rebuilding"]) == (200, True)
        assert len(calls) == 1


@pytest.mark.parametrize("value", [None, 0, "}", "ä", [], {}, {"value": 1}, ' "} '], ids=repr)
def test_any_json_value_is_answered(app: Flask, value: object) -> None:
    warm = serve(app, lambda: value, cold=value)
    assert app.test_client().get("/one").get_json() == {"value": value, "cache_rebuilding": True}
    with app.app_context():
        warm.rebuild_now()
        assert warm.get() == value
    assert app.test_client().get("/one").get_json() == {"value": value, "cache_rebuilding": False}


@pytest.mark.parametrize("place", [-1, -2], ids=["its line end", "its last brace"])
def test_damaged_value_is_cold_and_rebuilt(app: Flask, place: int) -> None:
    value = serve(app, lambda: "warm", cold="cold")
    with app.app_context():
        value.rebuild_now()
        assert value.get() == "warm"
        good = app.test_client().get("/one")
        (data,) = state_of(app).store.folder.glob("one.*.data")
        content = bytearray(data.read_bytes())
        content[place] ^= 0x20
        data.write_bytes(content)
        if place == -1:  # otherwise only a read that parses the value, or the keeper, finds the damage
            answer = app.test_client().get("/one", headers={"If-None-Match": good.headers["ETag"]})
            assert answer.get_json() == {"value": "cold", "cache_rebuilding": True}
            assert answer.headers["X-Warmcache"] == "one; gen=0; state=cold"
            assert "Age" not in answer.headers and answer.headers["ETag"] != good.headers["ETag"]
        assert value.get() == "cold"
        assert app.test_client().get("/one").get_json()["cache_rebuilding"] is True
        value.rebuild_now()
        assert value.get() == "warm"


def test_cold_value_that_deployment_changes_has_another_etag(tmp_path: Path) -> None:
    tags = set()
    for cold in (1, 2):
        app = make_app(tmp_path)
        serve(app, lambda: 3, cold=cold)
        tags.add(app.test_client().get("/one").headers["ETag"])
    assert len(tags) == 2


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
