"""Reading lists in a view: sequences, look-ups and pages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from flask import Flask

from flask_warmcache import BadQueryError, DeclarationError, SnapshotError, WarmCache, WarmList
from flask_warmcache.store import format as fmt
from tests.support.apps import make_app, state_of
from tests.support.shelf import files


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Flask]:
    """Return an app, in its context."""
    app = make_app(tmp_path)
    with app.app_context():
        yield app


@pytest.fixture
def five(app: Flask) -> WarmList:
    """A list of five items that has been rebuilt."""
    listed = WarmCache(app).warm_list(
        "files",
        key="path",
        source=lambda: files(*"abcde"),
        filters={"late": lambda item: item["path"] > "b"},
        sorts={"name": lambda item: item["path"]},
        search=("path",),
        counts=("late",),
        allow_all=True,
    )
    listed.rebuild_now()
    return listed


def test_get_is_sequence(five: WarmList) -> None:
    items = five.get()
    plain = files(*"abcde")
    assert isinstance(items, Sequence)
    assert (len(items), bool(items), list(items), list(reversed(items))) == (5, True, plain, plain[::-1])
    for index in range(-5, 5):
        assert items[index] == plain[index]
    for index in (5, -6, 10**20):
        with pytest.raises(IndexError):
            items[index]
    with pytest.raises(TypeError):
        items["a"]  # type: ignore[call-overload]
    for part in (slice(1, 3), slice(None, None, -1), slice(-2, None), slice(10, 20), slice(4, 0, -2)):
        assert items[part] == plain[part]
    assert plain[2] in items and {"path": "z"} not in items
    assert (items.index(plain[3]), items.count(plain[0])) == (3, 1)
    assert repr(items) == "<Items 5, fresh>"
    with pytest.raises(TypeError):
        items[0] = {}  # type: ignore[index]


def test_get_has_state_of_list(five: WarmList) -> None:
    items = five.get()
    assert (items.state, items.complete, items.rebuilding) == ("fresh", True, False)
    assert items.generation is not None and 0 <= items.age < 60
    five.invalidate()
    later = five.get()
    assert (later.state, later.rebuilding, later.generation) == ("stale", True, items.generation)
    assert (items.state, items.rebuilding) == ("fresh", False)  # the older snapshot is unchanged


def test_cold_list_is_empty_sequence(app: Flask) -> None:
    listed = WarmCache(app).warm_list("files", key="path", source=list)
    items = listed.get()
    assert (len(items), list(items), items[:5], bool(items)) == (0, [], [], False)
    assert (items.state, items.generation, items.complete, items.rebuilding) == ("cold", None, False, True)
    with pytest.raises(IndexError):
        items[0]
    assert listed.find("a") is None


def test_items_stay_those_of_one_snapshot(app: Flask, five: WarmList) -> None:
    items = five.get()
    items[0]["path"] = "changed"
    assert items[0]["path"] == "a"
    five.rebuild_now()
    state_of(app).store.publish_cold("files")
    assert list(items) == files(*"abcde")
    assert list(five.get()) == []


def test_find_returns_item_or_none(five: WarmList) -> None:
    assert five.find("c") == files("c")[0]
    assert five.find("z") is None
    assert five.find(1) is None
    with pytest.raises(TypeError, match="a key is text or a whole number"):
        five.find(1.5)  # type: ignore[arg-type]


def test_find_distinguishes_numbers_from_text(app: Flask) -> None:
    warmcache = WarmCache(app)
    warmcache.builder("things", key="id")(lambda: [{"id": 1}, {"id": "2"}])
    warmcache["things"].rebuild_now()
    assert [warmcache["things"].find(key) for key in (1, "1", 2, "2")] == [{"id": 1}, None, None, {"id": "2"}]


def test_find_distinguishes_keys_with_one_hash(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fmt, "key_hash", lambda key: 5)
    listed = WarmCache(app).warm_list("files", key="path", source=lambda: files(*"cab"))
    listed.rebuild_now()
    assert [listed.find(key) for key in "abc"] == files(*"abc")
    assert listed.find("d") is None


def test_find_needs_key(app: Flask) -> None:
    warmcache = WarmCache(app)
    warmcache.builder("products")(list)
    with pytest.raises(DeclarationError, match="'products' has no key="):
        warmcache["products"].find("a")


def test_page_decodes_one_page(five: WarmList) -> None:
    page = five.page(page=2, per_page=2, filter="late", sort="-name", search="")
    assert (page.items, page.page, page.total, page.total_pages) == (files("c"), 2, 3, 2)
    assert page.counts == {"late": 3}
    assert five.page(search="D").items == files("d")
    assert len(five.page(per_page=0).items) == 5
    assert five.page(page=-1).page == 1
    for wrong in ({"filter": "none"}, {"sort": "none"}, {"per_page": -2}, {"search": "x" * 101}):
        with pytest.raises(BadQueryError):
            five.page(**wrong)


def test_response_outside_request_raises(five: WarmList) -> None:
    with pytest.raises(RuntimeError, match="request context"):
        five.response()


@pytest.mark.parametrize("damaged", [slice(-1, None), slice(-2, -1), slice(-20, None)], ids=str)
def test_damaged_item_raises_and_list_is_rebuilt(app: Flask, five: WarmList, damaged: slice) -> None:
    items = five.get()
    (data,) = state_of(app).store.folder.glob("files.*.data")
    content = bytearray(data.read_bytes())
    content[damaged] = bytes(len(content[damaged]))
    data.write_bytes(content)
    for read in (lambda: items[-1], lambda: list(items), lambda: items.index({}), lambda: five.find("e")):
        state_of(app).statuses["files"].staleness.adopt((None, None))
        assert five.get().state == "fresh"
        with pytest.raises(SnapshotError, match="damaged; the list is rebuilt"):
            read()
        assert five.get().rebuilding
    with pytest.raises(TypeError):
        five.find(1.5)  # type: ignore[arg-type]
    five.rebuild_now()
    assert five.find("e") == files("e")[0]
