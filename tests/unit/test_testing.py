"""``flask_warmcache.testing``: an app's tests see at once what the app's functions return."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_warmcache import RebuildError, UnknownListError, WarmCache
from flask_warmcache.testing import inline_rebuilds, rebuild_all, showing
from tests.support.apps import make_app, state_of
from tests.support.processes import run_python
from tests.support.shelf import files
from tests.support.waiting import until


class Library:
    """An app as users write it: a scan, two lists made of it, a value, and routes."""

    def __init__(self, folder: Path) -> None:
        self.app: Flask = make_app(folder)
        self.app.testing = True
        self.warmcache = WarmCache(self.app)
        self.items: list[dict[str, Any]] = files("a")
        self.calls: list[str] = []
        self.threads: set[threading.Thread] = set()
        self.scan_error: Exception | None = None
        self.item_error: Exception | None = None
        self.scan = self.warmcache.warm_list("scan", key="path", unit="file", source=self._scan)
        self.titles = self.warmcache.warm_list("titles", key="path", unit="file", source=self.scan)
        self.titles.enrich(self._title)
        self.sizes = self.warmcache.warm_list("sizes", key="path", unit="file", source=self.scan)
        self.warmcache.value("total", cold="?")(lambda: len(self.items))
        self.app.add_url_rule("/titles", "titles", self.titles.response)
        self.app.add_url_rule("/total", "total", self.warmcache["total"].response)
        self.client = self.app.test_client()

    def _scan(self) -> list[dict[str, Any]]:
        self.calls.append("scan")
        self.threads.add(threading.current_thread())
        if self.scan_error is not None:
            raise self.scan_error
        return self.items

    def _title(self, item: dict[str, Any]) -> dict[str, Any]:
        self.calls.append(f"title {item['path']}")
        if self.item_error is not None and item["path"] == "bad":
            raise self.item_error
        return {**item, "title": item["path"].upper()}

    def break_an_item(self) -> None:
        self.items = files("a", "bad")
        self.item_error = KeyError("artist")

    def ask(self, query: str = "") -> tuple[list[str], bool]:
        answer = self.client.get(f"/titles{query}").get_json()
        return [item["title"] for item in answer["files"]], answer["cache_rebuilding"]


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path)


@pytest.fixture
def inline(library: Library) -> Iterator[Library]:
    """Use the block in a fixture, as the documentation does."""
    with inline_rebuilds(library.app):
        yield library


def test_first_read_is_complete_and_next_ones_rebuild_nothing(inline: Library) -> None:
    for _ in range(3):
        assert inline.ask() == (["A"], False)
        assert inline.client.get("/total").get_json() == {"value": 1, "cache_rebuilding": False}
        with inline.app.app_context():
            assert inline.titles.find("a") == {"path": "a", "size": 1, "title": "A"}
            assert (len(inline.sizes.get()), inline.sizes.get().state) == (1, "fresh")
    assert inline.calls == ["scan", "title a"]  # lists made of the same source list do not rebuild each other
    assert inline.threads == {threading.current_thread()}


def test_change_is_seen_after_invalidate(inline: Library) -> None:
    inline.ask()
    inline.items = files("a", "b")
    assert inline.ask() == (["A"], False)  # the list was not invalidated
    with inline.app.app_context():
        inline.titles.invalidate()
    assert inline.ask() == (["A", "B"], False)
    assert inline.calls == ["scan", "title a", "scan", "title b"]


def test_refresh_parameter_rebuilds(tmp_path: Path) -> None:
    app, items = make_app(tmp_path, refresh_interval=0), files("a")
    listed = WarmCache(app).warm_list("files", key="path", source=lambda: items)
    app.add_url_rule("/files", "files", listed.response)
    with inline_rebuilds(app):
        for query, expected in (("", files("a")), ("", files("a")), ("?refresh=true", files("a", "b"))):
            assert app.test_client().get(f"/files{query}").get_json()["items"] == expected
            items = files("a", "b")


def test_error_of_source_is_raised_by_read(inline: Library) -> None:
    inline.scan_error = OSError("unmounted")
    for _ in range(2):  # there is no pause, so the result does not depend on time
        with pytest.raises(OSError, match="unmounted"):
            inline.ask()
        with inline.app.app_context(), pytest.raises(OSError, match="unmounted"):
            inline.titles.get()
    assert inline.calls == ["scan"] * 4
    inline.scan_error = None
    assert inline.ask() == (["A"], False)


@pytest.mark.parametrize("level", [logging.NOTSET, logging.CRITICAL], ids=["", "logging is disabled"])
def test_error_of_enrich_is_raised_by_read(inline: Library, level: int) -> None:
    inline.break_an_item()
    logging.disable(level)
    try:
        with pytest.raises(KeyError, match="artist") as caught:
            inline.ask()
    finally:
        logging.disable(logging.NOTSET)
    assert caught.value is inline.item_error
    assert caught.traceback[-1].name == "_title"


@pytest.mark.parametrize("views", ["filters", "sorts"])
def test_error_of_filter_or_sort_is_raised_by_read(tmp_path: Path, views: str) -> None:
    app, items = make_app(tmp_path), files("a", "b")
    options: Any = {views: {"odd": lambda item: 1 // item["size"]}}
    listed = WarmCache(app).warm_list("files", key="path", source=lambda: items, **options)
    with inline_rebuilds(app), app.app_context():
        assert len(listed.get()) == 2
        items[1] = {"path": "b", "size": 0}
        listed.invalidate()
        with pytest.raises(ZeroDivisionError):
            listed.get()
        assert len(listed.get()) == 2


def test_unusable_item_is_error(inline: Library) -> None:
    inline.items = [*files("a"), {"size": 1}]
    with pytest.raises(KeyError, match="path"):
        inline.ask()
    inline.items = files("a", "a")
    with inline.app.app_context():
        inline.scan.invalidate()
        with pytest.raises(RebuildError, match="a second item with the key 'a'"):
            inline.scan.get()


def test_list_without_source_raises(tmp_path: Path) -> None:
    app = make_app(tmp_path)
    listed = WarmCache(app).warm_list("files", key="path")
    with inline_rebuilds(app), app.app_context(), pytest.raises(RebuildError, match="it has no source"):
        listed.get()


def test_raise_errors_false_hides_errors_as_in_production(library: Library) -> None:
    library.break_an_item()
    with inline_rebuilds(library.app, raise_errors=False):
        assert library.ask() == (["A"], False)
        library.scan_error = OSError("unmounted")
        with library.app.app_context():
            library.titles.invalidate()
        for _ in range(2):
            assert library.ask()[0] == ["A"]
            assert library.client.get("/api/cache/stats/scan").get_json()["state"] == "failed"
        library.scan_error = None
        assert library.ask() == (["A"], False)
        assert library.client.get("/api/cache/stats/titles").get_json()["state"] == "fresh"


def test_each_block_begins_cold_in_its_own_folder(library: Library) -> None:
    folders = set()
    for name in ("a", "b"):
        library.items = files(name)
        with inline_rebuilds(library.app):
            assert library.ask() == ([name.upper()], False)
            folders.add(state_of(library.app).store.folder)
            assert all(folder.is_dir() == (folder == state_of(library.app).store.folder) for folder in folders)
    assert len(folders) == 2 and not any(folder.exists() for folder in folders)
    assert not (Path(str(library.app.config["WARMCACHE_DIR"]))).exists()  # the app's own folder is not used


def test_blocks_can_be_nested(inline: Library) -> None:
    inline.ask()
    inline.items = files("b")
    with inline_rebuilds(inline.app):
        assert inline.ask() == (["B"], False)
    assert inline.ask() == (["A"], False)


def test_error_in_block_restores_state(library: Library) -> None:
    before = state_of(library.app)
    with pytest.raises(ZeroDivisionError), inline_rebuilds(library.app):
        raise ZeroDivisionError
    assert state_of(library.app) is before and before.settings.enabled


def test_other_apps_are_not_affected(tmp_path: Path) -> None:
    libraries = [Library(tmp_path / which) for which in "ab"]
    with inline_rebuilds(libraries[0].app):
        assert libraries[0].ask() == (["A"], False)
        assert libraries[1].ask() == ([], True)


def keepers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("warmcache-")]


@pytest.mark.usefixtures("live")
def test_no_keeper_runs_inside_block(library: Library) -> None:
    with inline_rebuilds(library.app):
        library.ask()
        assert keepers() == []
    until(lambda: library.ask() == (["A"], False))
    assert keepers() != []
    library.calls.clear()
    with inline_rebuilds(library.app):
        assert keepers() == []
        assert library.ask() == (["A"], False)
        assert library.calls == ["scan", "title a"]
    library.items = files("b")
    with library.app.app_context():
        until(lambda: library.titles.get().state == "fresh")
        library.scan.invalidate()
    until(lambda: library.ask() == (["B"], False))
    assert keepers() != []


@pytest.mark.usefixtures("live")
def test_endless_rebuild_in_background_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flask_warmcache.testing.LAST_REBUILD", 0.05)
    app, gate, entered = make_app(tmp_path), threading.Event(), threading.Event()

    def source() -> list[dict[str, Any]]:
        entered.set()
        gate.wait(120)
        return []

    WarmCache(app).warm_list("files", key="path", source=source)
    app.test_client().get("/api/cache/stats")
    assert entered.wait(120)
    with pytest.raises(RuntimeError, match="'shop' is still being rebuilt.*before the app's first request"):
        inline_rebuilds(app).__enter__()
    gate.set()


def test_enrich_can_read_its_own_list_and_others(inline: Library) -> None:
    seen: list[list[str]] = []

    def enrich(item: dict[str, Any]) -> dict[str, Any]:
        seen.append([other["path"] for other in inline.sizes.get()])
        seen.append([other["path"] for other in inline.titles.get()])
        return {**item, "title": "T"}

    inline.titles.enrich(enrich)
    assert inline.ask() == (["T"], False)
    assert seen == [["a"], []]


# rebuild_all


def test_rebuild_all_rebuilds_each_list_once(inline: Library) -> None:
    for _ in range(2):
        inline.calls.clear()
        counts = {name: outcome.count for name, outcome in rebuild_all(inline.app).items()}
        assert counts == dict.fromkeys(["scan", "titles", "sizes", "total"], 1)
        assert inline.calls.count("scan") == 1
        inline.calls.clear()
        assert inline.ask() == (["A"], False)
        assert inline.calls == []


def test_rebuild_all_rebuilds_fresh_lists(inline: Library) -> None:
    rebuild_all(inline.app)
    inline.items = files("a", "b")
    outcomes = rebuild_all(inline.app)
    assert (outcomes["titles"].enriched, outcomes["titles"].reused) == (1, 1)
    assert inline.ask() == (["A", "B"], False)


def test_rebuild_all_raises_item_errors(inline: Library) -> None:
    inline.break_an_item()
    with pytest.raises(KeyError, match="artist"):
        rebuild_all(inline.app)


def test_rebuild_all_works_outside_block(library: Library) -> None:
    assert set(rebuild_all(library.app)) == {"scan", "titles", "sizes", "total"}
    assert library.ask() == (["A"], False)


# showing


def test_showing_cold(inline: Library) -> None:
    rebuild_all(inline.app)
    inline.calls.clear()
    with showing(inline.app, "cold"):
        for _ in range(2):
            assert inline.ask() == ([], True)
        assert inline.client.get("/total").get_json() == {"value": "?", "cache_rebuilding": True}
        section = inline.client.get("/api/cache/stats/titles").get_json()
        assert (section["state"], section["is_populated"]) == ("cold", False)
    assert inline.calls == []
    assert inline.ask() == (["A"], False)


def test_showing_stale(inline: Library) -> None:
    with showing(inline.app, "stale"):
        inline.items = files("b")
        for _ in range(2):
            assert inline.ask() == (["A"], True)
        assert inline.client.get("/api/cache/stats/titles").get_json()["state"] == "stale"
    assert inline.ask() == (["B"], False)


def test_showing_single_list(inline: Library) -> None:
    rebuild_all(inline.app)
    with showing(inline.app, "cold", "total"):
        assert inline.ask() == (["A"], False)
        assert inline.client.get("/total").get_json()["value"] == "?"


def test_showing_refuses_wrong_use(library: Library) -> None:
    with pytest.raises(RuntimeError, match=r"inside inline_rebuilds\(app\)"), showing(library.app, "cold"):
        pass
    with inline_rebuilds(library.app):
        with pytest.raises(ValueError, match="not as 'warm'"), showing(library.app, "warm"):  # type: ignore[arg-type]
            pass
        with pytest.raises(UnknownListError, match="'none'"), showing(library.app, "cold", "none"):
            pass
        lock = state_of(library.app).store.try_lock("total")
        assert lock is not None
        with pytest.raises(RebuildError, match="is being rebuilt"), showing(library.app, "cold"):
            pass
        lock.close()
        assert library.ask() == (["A"], False)  # no block of showing() is left


def test_app_without_warmcache_raises() -> None:
    for use in (lambda: inline_rebuilds(Flask("bare")).__enter__(), lambda: rebuild_all(Flask("bare"))):
        with pytest.raises(RuntimeError, match="has no WarmCache"):
            use()


SESSION = """
import os, sys, tempfile
from flask import Flask
from flask_warmcache import WarmCache
from flask_warmcache.testing import inline_rebuilds, rebuild_all
tempfile.tempdir = sys.argv[1]
app = Flask("shop")
app.testing = True
listed = WarmCache(app).warm_list("files", key="path", source=lambda: [{"path": "a"}])
app.add_url_rule("/files", "files", listed.response)
for _ in range(3):
    with inline_rebuilds(app):
        print(app.test_client().get("/files").get_json()["total_items"])
"""


def test_blocks_leave_no_files_behind(tmp_path: Path) -> None:
    done = run_python(SESSION, tmp_path)
    assert (done.stdout, done.stderr) == ("1\n" * 3, "")
    assert os.listdir(tmp_path) == []
