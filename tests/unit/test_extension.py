"""WarmCache: its declarations, its apps, and when declarations close."""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, current_app

from flask_warmcache import DeclarationError, UnknownListError, WarmCache, WarmList, errors
from flask_warmcache.declaration import Item
from flask_warmcache.lists.warm_value import WarmValue
from tests.support.apps import make_app, state_of
from tests.support.shelf import files
from tests.support.waiting import until


def test_duplicate_name_is_refused() -> None:
    warmcache = WarmCache()
    warmcache.warm_list("files", key="path")
    warmcache.builder("products")(list)
    warmcache.value("dashboard")(dict)
    warmcache.stats_section("markers")(dict)
    for name in ("files", "products", "dashboard", "markers"):
        for again in (lambda n: warmcache.warm_list(n, key="path"), warmcache.builder, warmcache.value):
            with pytest.raises(DeclarationError, match=f"named '{name}' already"):
                again(name)
        with pytest.raises(DeclarationError, match=f"named '{name}' already"):
            warmcache.stats_section(name)
    first, second = warmcache.builder("twice"), warmcache.builder("twice")
    first(list)
    with pytest.raises(DeclarationError, match="already"):
        second(list)


def test_section_named_like_flag_is_refused() -> None:
    with pytest.raises(DeclarationError, match="'cache_rebuilding' cannot name"):
        WarmCache().stats_section("cache_rebuilding")


def test_decorators_return_function_unchanged() -> None:
    warmcache = WarmCache()
    listed = warmcache.warm_list("files", key="path")
    decorators: list[Callable[[Any], Any]] = [
        listed.source,
        listed.enrich,
        listed.enrich(fingerprint=("size",), version=3),
        listed.lookup,
        listed.lookup(batch=500),
        warmcache.builder("products"),
        warmcache.value("dashboard"),
        warmcache.stats_section("markers"),
        warmcache.once("prepare"),
    ]
    for decorate in decorators:

        def function(*_: Any) -> Any:
            return None

        assert decorate(function) is function
    assert listed.declaration.version == "3"
    assert listed.declaration.lookup_batch == 500
    with pytest.raises(DeclarationError, match=r"has lookup batch=0; it is the most keys"):
        listed.lookup(batch=0)(len)
    assert listed.declaration.fingerprint == ("size",)


def test_functions_may_be_arguments() -> None:
    def scan() -> list[dict[str, Any]]:
        return []

    declared = WarmCache().warm_list("files", key="path", source=scan, enrich=dict).declaration
    assert (declared.source, declared.enrich) == (scan, dict)


def test_only_functions_are_accepted() -> None:
    warmcache = WarmCache()
    for role in ("source", "enrich"):
        with pytest.raises(DeclarationError, match=f"The {role} of warm list 'files' must be a function, not 5"):
            warmcache.warm_list("files", key="path", **{role: 5})  # type: ignore[arg-type]
    listed = warmcache.warm_list("files", key="path")
    decorators = [listed.source, listed.enrich]
    for decorate in (*decorators, warmcache.builder("a"), warmcache.value("b"), warmcache.stats_section("c")):
        with pytest.raises(DeclarationError, match="must be a function, not 'x'"):
            decorate("x")  # type: ignore[type-var]


def test_source_list_must_belong_to_same_warmcache() -> None:
    other = WarmCache().warm_list("scan", key="path")
    warmcache = WarmCache()
    with pytest.raises(DeclarationError, match="source list 'scan' that another WarmCache declared"):
        warmcache.warm_list("files", key="path", source=other)
    scan = warmcache.warm_list("scan", key="path")
    assert warmcache.warm_list("files", key="path", source=scan).declaration.source_list == "scan"


def test_derived_list_refuses_source_function() -> None:
    warmcache = WarmCache()
    scan = warmcache.warm_list("scan", key="path")
    made = warmcache.warm_list("files", key="path", source=scan)
    with pytest.raises(DeclarationError, match="has a source already: the list 'scan'"):
        made.source(list)


def test_lists_are_found_by_name() -> None:
    warmcache = WarmCache()
    listed = warmcache.warm_list("files", key="path")
    warmcache.builder("products")(list)
    warmcache.value("dashboard")(dict)
    assert warmcache["files"] is listed
    assert type(warmcache["products"]) is WarmList
    assert type(warmcache["dashboard"]) is WarmValue
    assert repr(warmcache["dashboard"]) == "<WarmValue 'dashboard'>"
    with pytest.raises(DeclarationError, match="'none'. Declared: files, products, dashboard"):
        warmcache["none"]
    with pytest.raises(DeclarationError, match="Declared: none"):
        WarmCache()["files"]


def test_declarations_close_at_first_request(tmp_path: Path) -> None:
    app = make_app(tmp_path)
    warmcache = WarmCache(app)
    listed = warmcache.warm_list("files", key="path")  # after WarmCache(app) is early enough
    listed.source(lambda: files("a"))
    late_builder = warmcache.builder("late")
    app.test_client().get("/nowhere")
    for declare_late in (
        lambda: warmcache.warm_list("more", key="path"),
        lambda: warmcache.builder("more"),
        lambda: warmcache.value("more"),
        lambda: warmcache.stats_section("more"),
        lambda: late_builder(list),
        lambda: listed.source(list),
        lambda: listed.enrich(dict),
    ):
        with pytest.raises(DeclarationError, match="too late: declarations closed at the app's first request"):
            declare_late()


def test_list_without_source_does_not_affect_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    app = make_app(tmp_path)
    warmcache = WarmCache(app)
    broken = warmcache.warm_list("broken", key="path")
    whole = warmcache.warm_list("whole", key="path", source=lambda: files("a"))
    for listed in (broken, whole):
        app.add_url_rule(f"/{listed.name}", listed.name, listed.response)
    client = app.test_client()
    with caplog.at_level(logging.ERROR, "flask_warmcache"):
        assert client.get("/broken").json == {
            "items": [], "page": 1, "per_page": 100, "total_items": 0, "total_pages": 1, "cache_rebuilding": False,
        }  # fmt: skip
    assert "warmcache.list_unusable: warm list 'broken' cannot be rebuilt: it has no source" in caplog.text
    state_of(app).keeper.tick()
    stats = client.get("/api/cache/stats/broken").get_json()
    assert (stats["state"], stats["last_error"]) == ("failed", "DeclarationError")
    with app.app_context():
        until(lambda: whole.get().state == "fresh")
        with pytest.raises(errors.RebuildError, match="'broken' cannot be rebuilt: it has no source"):
            broken.rebuild_now()


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize(
    ("rule", "path"),
    [
        ("/api/cache/stats", "/api/cache/stats"),
        ("/api/cache/stats/<list_name>", "/api/cache/stats/files"),
        ("/api/cache/stats/files", "/api/cache/stats/files"),
        ("/api/cache/readyz", "/api/cache/readyz"),
    ],
)
def test_route_of_app_with_path_of_ours_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, rule: str, path: str, is_first: bool
) -> None:
    app = make_app(tmp_path, runner="external")
    if is_first:
        app.add_url_rule(rule, "own", lambda **_: "own")
    WarmCache(app).warm_list("files", key="path", source=lambda: [])
    if not is_first:
        app.add_url_rule(rule, "own", lambda **_: "own")
    for harmless in ("/api/cache/mine", "/api/cache/<page>/mine", "/<path:rest>", "/api/cache/stats/other"):
        app.add_url_rule(harmless, harmless.replace(".", ""), lambda **_: "own")
    app.add_url_rule("/api/cache/stats", "put", lambda: "own", methods=["PUT"])
    is_own = app.test_client().get(path).text == "own"
    records = [record.getMessage() for record in caplog.records if "route_shadowed" in record.getMessage()]
    said = "answered by 'own', and never by 'warmcache." if is_own else ", and never by 'own'"
    assert len(records) == 1 and f"{path} is " in records[0] and said in records[0]


def test_second_warmcache_of_app_is_refused(tmp_path: Path) -> None:
    app = make_app(tmp_path)
    for again in (WarmCache(app).init_app, WarmCache):
        with pytest.raises(RuntimeError, match="already has a WarmCache"):
            again(app)


def test_apps_of_one_warmcache_have_separate_state(tmp_path: Path) -> None:
    warmcache = WarmCache()
    warmcache.builder("products", key="size")(lambda: [{"size": current_app.config["WARMCACHE_PER_PAGE"]}])
    apps = {size: make_app(tmp_path / str(size), per_page=size) for size in (5, 6)}
    for app in apps.values():
        warmcache.init_app(app)
    for size, app in apps.items():
        with app.app_context():
            assert warmcache["products"].get().state == "cold"
            warmcache["products"].rebuild_now()
            assert list(warmcache["products"].get()) == [{"size": size}]
            assert warmcache["products"].page().per_page == size


def test_reading_needs_initialised_app() -> None:
    warmcache = WarmCache()
    listed = warmcache.warm_list("files", key="path")
    for call in (listed.get, lambda: warmcache.ensure("prepare")):
        with pytest.raises(RuntimeError, match=r"has no app.*init_app\(app\)"):
            call()
    with Flask("bare").app_context(), pytest.raises(RuntimeError, match=r"no WarmCache.*init_app\(app\)"):
        listed.get()


def test_only_app_is_meant_outside_app_context(tmp_path: Path) -> None:
    warmcache = WarmCache()
    names = ["a"]

    def named(item: Item) -> Item:
        return item | {"app": current_app.name}

    def find(key: str) -> Item | None:
        return files(key)[0] if key in names and current_app else None

    listed = warmcache.warm_list("files", key="path", source=lambda: files(*names), enrich=named, lookup=find)
    warmcache.value("count", cold=0)(lambda: len(names))
    prepared: list[str] = []
    warmcache.once("prepare")(lambda: prepared.append(current_app.name))
    first = make_app(tmp_path / "first")  # kept here, since the extension keeps no app alive
    warmcache.init_app(first)

    def work() -> None:
        assert listed.get().state == "cold"
        listed.rebuild_now()
        assert (listed.rebuild_now().enriched, listed.rebuild_now(all=True).enriched) == (0, 1)
        names.append("b")
        assert listed.refresh("b")
        assert [item["path"] for item in listed.get()] == ["a", "b"]
        assert listed.find("b") == {"path": "b", "size": 1, "app": "shop"} == listed.page().items[1]
        assert listed.discard("a")
        listed.invalidate()
        assert (len(listed.get()), listed.get().state) == (1, "stale")
        assert warmcache["count"].get() == 0
        warmcache.ensure("prepare", wait=15)
        assert prepared == ["shop"]

    with ThreadPoolExecutor() as pool:
        pool.submit(work).result(60)
    second = make_app(tmp_path / "second")
    warmcache.init_app(second)
    for call in (listed.get, lambda: listed.refresh("b"), listed.rebuild_now):
        with pytest.raises(RuntimeError, match=r"has 2 apps.*with app\.app_context\(\):"):
            call()
    with second.app_context():
        assert listed.get().state == "cold"


@pytest.mark.parametrize("ttl", [None, math.inf])
def test_age_makes_no_list_stale_whose_ttl_is_none(tmp_path: Path, ttl: float | None) -> None:
    app = make_app(tmp_path, default_ttl=None)
    warmcache = WarmCache(app)
    listed = warmcache.warm_list("files", key="path", source=list, ttl=ttl)
    warmcache.warm_list("plain", key="path", source=list)
    warmcache.value("one", ttl=ttl)(int)
    warmcache.warm_list("timed", key="path", source=list, ttl=5)
    app.add_url_rule("/files", "files", listed.response)
    assert [status.ttl for status in state_of(app).statuses.values()] == [math.inf, math.inf, math.inf, 5]
    listed.rebuild_now()
    client = app.test_client()
    assert client.get("/files").headers["Cache-Status"] == "warmcache; hit; detail=fresh"
    assert client.get("/api/cache/").status_code == 200


@pytest.mark.parametrize("call", ["get", "invalidate", "rebuild_now"])
def test_list_of_another_warmcache_is_unknown(tmp_path: Path, call: str) -> None:
    app = make_app(tmp_path)
    WarmCache(app).warm_list("files", key="path")
    with app.app_context(), pytest.raises(UnknownListError, match="'other'. Declared: files") as failed:
        getattr(WarmCache().warm_list("other", key="path"), call)()
    assert (failed.value.name, failed.value.known) == ("other", ["files"])


def test_init_app_has_no_side_effects(tmp_path: Path, live: None) -> None:
    def source() -> list[Item]:
        raise AssertionError("the source is called")

    app, warmcache = make_app(tmp_path), WarmCache()
    warmcache.warm_list("files", key="path", source=source)
    before = (threading.enumerate(), os.listdir(tmp_path))
    warmcache.init_app(app)
    assert (threading.enumerate(), os.listdir(tmp_path)) == before


def test_opening_app_creates_no_folder(tmp_path: Path) -> None:
    app = make_app(tmp_path)
    WarmCache(app).warm_list("files", key="path")
    state_of(app)
    app.test_client().get("/nowhere")
    assert os.listdir(tmp_path) == []
