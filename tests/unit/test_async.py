"""Functions that are declared with ``async def`` run as Flask runs async views."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, current_app

from flask_warmcache import DeclarationError, WarmCache
from flask_warmcache.declaration import Item
from tests.support.apps import make_app
from tests.support.shelf import files


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Flask:
    def async_to_sync(function: Any) -> Any:  # as flask[async] does it
        return lambda *arguments: asyncio.run(function(*arguments))

    app = make_app(tmp_path)
    monkeypatch.setattr(app, "async_to_sync", async_to_sync)
    return app


def without_loop(call: Callable[[], Any]) -> Any:
    """Call in a thread of its own: where browser tests have run, a loop of Playwright's runs in this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(call).result()


async def listed() -> list[Item]:
    await asyncio.sleep(0)
    assert current_app.name == "shop"
    return files("a", "b")


async def yielded() -> AsyncIterator[Item]:
    for item in await listed():
        yield item


class Source:
    async def __call__(self) -> list[Item]:
        return await listed()


async def title(item: Item) -> Item:
    await asyncio.sleep(0)
    return {**item, "title": item["path"].upper()}


async def titles(items: list[Item]) -> list[Item]:
    return [await title(item) for item in items]


@pytest.mark.parametrize("source", [listed, yielded, Source(), functools.partial(listed)])
@pytest.mark.parametrize(
    ("enrich", "options"),
    [(title, {}), (title, {"workers": 2}), (titles, {"batch": 2})],
    ids=["one", "two workers", "batch"],
)
def test_async_functions_make_list(app: Flask, source: Any, enrich: Any, options: dict[str, Any]) -> None:
    warm = WarmCache(app).warm_list("files", key="path", source=source)
    warm.enrich(**options)(enrich)

    @warm.lookup
    async def find(key: str) -> Item | None:
        return {"path": key, "size": 5} if key == "a" else None

    with app.app_context():
        assert warm.rebuild_now().failed == 0
        assert [item["title"] for item in warm.get()] == ["A", "B"]
        assert warm.refresh("a", "b")
        assert list(warm.get()) == [{"path": "a", "size": 5, "title": "A"}]


def test_async_view_refreshes_item(app: Flask) -> None:
    warm = WarmCache(app).warm_list("files", key="path", source=listed, enrich=title)

    @app.get("/")
    async def view() -> Any:
        warm.rebuild_now()
        assert warm.refresh({"path": "b", "size": 9})
        return list(warm.get())

    expected = [{"path": "a", "size": 1, "title": "A"}, {"path": "b", "size": 9, "title": "B"}]
    assert without_loop(lambda: app.test_client().get("/").get_json()) == expected


def test_async_builder_value_and_section(app: Flask) -> None:
    warmcache = WarmCache(app)
    assert warmcache.builder("built")(yielded) is yielded
    warmcache.value("one")(listed)

    @warmcache.stats_section("queue")
    async def section() -> dict[str, int]:
        return {"jobs": 3}

    with app.app_context():
        for name in ("built", "one"):
            warmcache[name].rebuild_now()
        assert list(warmcache["built"].get()) == warmcache["one"].get() == files("a", "b")
    answer = without_loop(lambda: app.test_client().get("/api/cache/stats/queue").get_json())
    assert answer == {"jobs": 3}


def test_changed_code_of_async_function_is_noticed() -> None:
    async def other() -> list[Item]:
        return []

    def code(source: Any) -> str:
        return WarmCache().warm_list("files", key="path", source=source).declaration.code

    assert code(listed) != code(other)
    assert code(functools.partial(listed)) != code(functools.partial(other))


@pytest.mark.parametrize("views", ["filters", "sorts"])
def test_async_filter_or_sort_is_refused_in_its_call(views: str) -> None:
    with pytest.raises(DeclarationError, match=rf"'files' has {views}\['odd'\].*cannot be async"):
        WarmCache().warm_list("files", key="path", **{views: {"odd": title}})  # type: ignore[arg-type]


def test_async_fingerprint_is_refused_in_its_call() -> None:
    with pytest.raises(DeclarationError, match="fingerprint of warm list 'files' .* cannot be async"):
        WarmCache().warm_list("files", key="path").enrich(fingerprint=title)
