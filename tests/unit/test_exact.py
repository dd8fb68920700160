"""Filters and sorts see dates and decimals as they were before JSON made text of them."""

from __future__ import annotations

import datetime
import json
import logging
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.json.provider import DefaultJSONProvider

from flask_warmcache import WarmCache, WarmList
from flask_warmcache.declaration import Item
from tests.support.apps import make_app

PRICES = ["200.00", "99.99", "1000", "-1", "9.90", "1E+2"]
START = datetime.datetime(2024, 5, 1, 12, 0, 30)  # a Wednesday
VALUES: dict[str, list[Any]] = {
    "decimal": [Decimal(price) for price in PRICES],
    "nested": [{"amounts": [Decimal(price)]} for price in PRICES],
    "naive": [START + datetime.timedelta(days=9 * (number * 7 % 6)) for number in range(6)],
    "aware": [
        (START + datetime.timedelta(days=number * 7 % 6)).replace(tzinfo=datetime.UTC) for number in range(6)
    ],
    "date": [START.date() + datetime.timedelta(days=number * 5 % 6) for number in range(6)],
}


def plain(value: Any) -> Any:
    return value["amounts"][0] if isinstance(value, dict) else value


class Isoformat(DefaultJSONProvider):
    @staticmethod
    def default(value: Any) -> Any:
        return value.isoformat() if isinstance(value, datetime.date) else DefaultJSONProvider.default(value)


class Stall:
    """A list with one value in each item; ``kept`` says where its source has that value."""

    def __init__(self, folder: Path, values: list[Any], kept: str, provider: type[DefaultJSONProvider]) -> None:
        self.app: Flask = make_app(folder)
        self.app.json = provider(self.app)
        self.values = dict(enumerate(values))
        self.middle = sorted(map(plain, values))[3]
        self.list: WarmList = WarmCache(self.app).warm_list(
            "things",
            key="id",
            source=lambda: [self.item(key) for key in self.values],
            enrich=self.enrich,
            lookup=self.item,
            filters={"high": lambda item: plain(item["value"]) >= self.middle},
            sorts={"value": lambda item: (plain(item["value"]),)},
        )
        self.kept = kept
        self.dies_at: int | None = None

    def enrich(self, item: Item) -> Item:
        if item["id"] == self.dies_at:
            raise SystemExit
        return item | {"value": self.values[item["id"]]}

    def item(self, key: int) -> Item:
        value = self.values[key]
        return {"id": key, "version": str(value)} | ({"value": value} if self.kept == "in source" else {})

    def check(self) -> None:
        in_order = sorted(self.values, key=lambda key: plain(self.values[key]))
        high = [key for key in in_order if plain(self.values[key]) >= self.middle]
        with self.app.app_context():
            for sort, name, keys in (
                ("value", None, in_order),
                ("-value", None, in_order[::-1]),
                ("value", "high", high),
            ):
                assert [item["id"] for item in self.list.page(sort=sort, filter=name).items] == keys
            assert not self.app.test_client().get("/api/cache/stats/things").get_json()["view_errors"]


@pytest.mark.parametrize("provider", [DefaultJSONProvider, Isoformat])
@pytest.mark.parametrize("kept", ["in source", "in enrich"])
@pytest.mark.parametrize("kind", VALUES)
def test_values_are_ordered_and_filtered_as_they_were(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, provider: type[DefaultJSONProvider], kept: str, kind: str
) -> None:
    values = VALUES[kind]
    stall = Stall(tmp_path, values, kept, provider)
    with stall.app.app_context():
        stall.list.rebuild_now()
    stall.check()
    # After a restart, a refresh and a rebuild change one item, and another rebuild all orders.
    stall = Stall(tmp_path, values, kept, provider)
    with stall.app.app_context():
        stall.values[0], stall.values[1] = values[1], values[0]
        assert stall.list.refresh(0)
        assert stall.list.rebuild_now().enriched == 1
        stall.check()
        stall.values[6] = values[3]
        assert stall.list.refresh(6)
        stall.check()
        assert stall.list.rebuild_now(all=True).enriched == 7
        stall.check()
        stored = json.loads(stall.app.json.dumps(values[3]))
        assert stall.list.find(6) == stall.item(6) | {"value": stored}  # readers see what JSON has
    assert "value_inexact" not in caplog.text


@pytest.mark.parametrize("kind", VALUES)
def test_interrupted_build_knows_values_of_its_items(tmp_path: Path, kind: str) -> None:
    stall = Stall(tmp_path, VALUES[kind], "in enrich", DefaultJSONProvider)
    with stall.app.app_context():
        for stall.dies_at in (3, 5):
            with pytest.raises(SystemExit):
                stall.list.rebuild_now()
        stall.dies_at = None
        outcome = stall.list.rebuild_now()
    assert (outcome.reused, outcome.enriched) == (5, 1)
    stall.check()


class Vague(DefaultJSONProvider):
    @staticmethod
    def default(value: Any) -> Any:
        return "?"


@pytest.mark.parametrize(
    ("values", "provider", "why"),
    [
        ([START.replace(microsecond=5), START], DefaultJSONProvider, "has no fractions of seconds"),
        ([START.replace(microsecond=5), START], Isoformat, None),
        ([START, Decimal(5)], DefaultJSONProvider, "its values are of several kinds"),
        ([START, START.date()], Isoformat, "its values are of several kinds"),
        ([Decimal(1), Decimal(2)], Vague, "cannot be read back"),
        ([Decimal(1), None, 5], DefaultJSONProvider, None),
    ],
)
def test_field_that_json_changes_is_logged(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    values: Any,
    provider: type[DefaultJSONProvider],
    why: str | None,
) -> None:
    app = make_app(tmp_path)
    app.json = provider(app)
    items = [{"id": number, "deep": [{"value": value}]} for number, value in enumerate(values)]
    listed = WarmCache(app).warm_list(
        "things", key="id", source=lambda: items, sorts={"id": lambda item: item["id"]}
    )
    with app.app_context(), caplog.at_level(logging.WARNING, "flask_warmcache"):
        listed.rebuild_now()
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == (why is not None)
    assert all(
        why and why in text and "value_inexact: the field 'deep.*.value' of 'things'" in text for text in said
    )


def test_list_made_of_another_orders_values_as_they_were(tmp_path: Path) -> None:
    app = make_app(tmp_path)
    warmcache, prices = WarmCache(app), [Decimal(price) for price in PRICES]
    first = warmcache.warm_list(
        "first",
        key="id",
        source=lambda: [{"id": number, "price": price} for number, price in enumerate(prices)],
        lookup=lambda key: {"id": key, "price": Decimal("150")},
    )
    second = warmcache.warm_list("second", key="id", source=first, sorts={"price": lambda item: item["price"]})
    with app.app_context():
        second.rebuild_now()
        assert [item["price"] for item in second.page(sort="price").items] == [
            str(price) for price in sorted(prices)
        ]
        assert first.refresh(1)
        assert [item["id"] for item in second.page(sort="price").items] == [3, 4, 5, 1, 0, 2]


def test_search_reads_json(tmp_path: Path) -> None:
    app = make_app(tmp_path)
    listed = WarmCache(app).warm_list(
        "things",
        key="id",
        source=lambda: [{"id": 1, "day": START}],
        lookup=lambda key: {"id": key, "day": START},
        search=("day",),
        filters={"day": lambda item: item["day"] == START},
    )
    with app.app_context():
        listed.rebuild_now()
        assert listed.refresh(2)
        assert [item["id"] for item in listed.page(search="wed 01 may", filter="day").items] == [1, 2]
