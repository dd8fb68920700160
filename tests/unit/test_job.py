"""A rebuild keeps the bytes of unchanged items, and keeps the old list when it fails."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from flask_warmcache import RebuildError
from flask_warmcache.declaration import Item
from flask_warmcache.rebuild import enrich as enrich_module
from flask_warmcache.rebuild import publish
from flask_warmcache.store import change_words, marks
from tests.support.shelf import Shelf, encode, files


def titled(item: Item) -> Item:
    return {**item, "title": item["path"].upper()}


class Enrich:
    """Completes items, and notes which."""

    def __init__(self, change: Callable[[Item], Any] = titled) -> None:
        self.change = change
        self.seen: list[str] = []

    def __call__(self, item: Item) -> Any:
        self.seen.append(item["path"])
        return self.change(item)


def test_only_new_and_changed_items_are_enriched(shelf: Shelf) -> None:
    enrich = Enrich()
    shelf.rebuild(files("a", "b", "c"), enrich=enrich)
    assert enrich.seen == ["a", "b", "c"]
    enrich.seen.clear()
    changed = [{"path": "c", "size": 1}, {"path": "a", "size": 9}, {"path": "d", "size": 1}]
    outcome = shelf.rebuild(changed, enrich=enrich)
    assert enrich.seen == ["a", "d"]
    assert shelf.items() == list(map(titled, changed))
    assert (outcome.count, outcome.reused, outcome.enriched, outcome.dropped, outcome.failed) == (3, 1, 2, 1, 0)
    header = shelf.snapshot().header
    assert (header["reused"], header["enriched"], header["count"]) == (1, 2, 3)


@pytest.mark.parametrize("count", [1, 3, 200])
def test_all_items_are_enriched_again_when_that_is_asked_for(shelf: Shelf, count: int) -> None:
    names, version = [f"{number:03}" for number in range(count)], "old"

    def versioned(item: Item) -> Item:
        if version == "new":
            assert len(shelf.items()) == count, "the old list is not shown"
            if item["path"] == "001":
                raise ValueError("it fails")
        return {**item, "version": version}

    enrich = Enrich(versioned)
    shelf.rebuild(files(*names), enrich=enrich)
    enrich.seen.clear()
    version = "interrupted"
    with pytest.raises(KeyboardInterrupt):  # what this rebuild finishes is not new enough
        shelf.rebuild(files(*names, "stop"), enrich=Enrich(lambda item: stop(versioned(item))), enrich_all=True)
    version = "new"
    outcome = shelf.rebuild(files(*names), enrich=enrich, enrich_all=True)
    assert enrich.seen == names
    assert [item["version"] for item in shelf.items()] == ["old" if name == "001" else "new" for name in names]
    assert (outcome.reused, outcome.dropped, outcome.failed) == (0, 0, int(count > 1))


def stop(item: Item) -> Item:
    if item["path"] == "stop":
        raise KeyboardInterrupt
    return item


def test_reused_item_keeps_its_place_in_file(shelf: Shelf) -> None:
    shelf.rebuild(files("a", "b"))
    places = [shelf.snapshot().place(position) for position in range(2)]
    size = shelf.data.stat().st_size
    shelf.rebuild(files("a", "b"))
    assert [shelf.snapshot().place(position) for position in range(2)] == places
    assert shelf.data.stat().st_size == size


@pytest.mark.parametrize(
    ("options", "source"),
    [
        ({}, [{"deep": {"x": [1]}}, {"deep": {"x": [1]}}, {"deep": {"x": [2]}}]),
        ({"fingerprint": ("size",)}, [{"size": 1, "seen": 1}, {"size": 1, "seen": 2}, {"size": 2, "seen": 2}]),
        ({"fingerprint": lambda item: item["size"] // 10}, [{"size": 10}, {"size": 12}, {"size": 20}]),
    ],
    ids=["whole item by default", "named fields", "function"],
)
def test_same_fingerprint_means_unchanged(shelf: Shelf, options: dict[str, Any], source: list[Item]) -> None:
    enrich = Enrich()
    for item in source:
        shelf.rebuild([{"path": "a", **item}], enrich=enrich, **options)
    assert enrich.seen == ["a", "a"]


def test_item_that_enrich_changes_in_place_is_reused(shelf: Shelf) -> None:
    def in_place(item: Item) -> Item:
        item["title"] = "x"
        return item

    shelf.rebuild(files("a"), enrich=in_place)
    assert shelf.rebuild(files("a"), enrich=in_place).reused == 1


def test_failing_item_keeps_its_old_version_and_is_retried(shelf: Shelf) -> None:
    shelf.rebuild([{"path": "a", "size": 1}, {"path": "b", "size": 1}])

    def fails_for_a(item: Item) -> Item:
        if item["path"] == "a":
            raise OSError("unreadable")
        return {**item, "new": True}

    changed = [{"path": "a", "size": 2}, {"path": "b", "size": 2}, {"path": "c", "size": 2}]
    outcome = shelf.rebuild(changed, enrich=fails_for_a)
    assert shelf.items() == [{"path": "a", "size": 1}, {**changed[1], "new": True}, {**changed[2], "new": True}]
    assert (outcome.failed, outcome.enriched, outcome.reused) == (1, 2, 0)
    enrich = Enrich(lambda item: item)
    shelf.rebuild(changed, enrich=enrich)
    assert enrich.seen == ["a"]


def test_new_item_that_fails_is_left_out(shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:
    outcome = shelf.rebuild(files("a", "b"), enrich=Enrich(lambda item: {**item, "x": 1 // (item["path"] != "a")}))
    assert [item["path"] for item in shelf.items()] == ["b"]
    assert outcome.failed == 1
    assert "warmcache.item_failed: an item of 'files' was left as it was or left out: the item 'a'" in caplog.text


def test_old_list_stays_when_all_items_fail(shelf: Shelf) -> None:
    shelf.rebuild(files("old"))
    with pytest.raises(RebuildError, match="every item of 'files' failed"):
        shelf.rebuild(files("a", "b"), enrich=lambda item: 1 // 0)
    assert shelf.items() == files("old")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda item: None, "enrich returned NoneType for 'a'; return the completed dict"),
        (lambda item: [item], "enrich returned list for 'a'"),
        (lambda item: {"title": "x"}, "enrich changed the key field 'path' of 'a'"),
        (lambda item: {**item, "path": "z"}, "enrich changed the key field 'path' of 'a'"),
        (lambda item: {**item, "x": float("nan")}, "not JSON compliant"),
        (lambda item: {**item, "x": {1, 2}}, "set is not JSON serializable"),
        (lambda item: {**item, ("a", 1): 1}, "keys must be str"),
    ],
)
def test_wrong_result_of_enrich_fails_only_that_item(
    shelf: Shelf, caplog: pytest.LogCaptureFixture, change: Callable[[Item], Any], why: str
) -> None:
    outcome = shelf.rebuild(files("a", "b"), enrich=Enrich(lambda i: change(i) if i["path"] == "a" else i))
    assert shelf.items() == files("b")
    assert outcome.failed == 1
    assert why in caplog.text


@pytest.mark.parametrize("fingerprint", [("none",), lambda item: {1}, lambda item: 1 // 0])
def test_failing_fingerprint_fails_item(shelf: Shelf, fingerprint: Any) -> None:
    shelf.rebuild(files("a"))
    with pytest.raises(RebuildError, match="every item"):
        shelf.rebuild(files("b"), fingerprint=fingerprint)
    assert shelf.rebuild(files("a"), fingerprint=fingerprint).failed == 1
    assert shelf.items() == files("a")


def test_infinity_in_source_item_fails_that_item(shelf: Shelf) -> None:
    outcome = shelf.rebuild([*files("a"), {"path": "b", "size": float("inf")}])
    assert (outcome.failed, shelf.items()) == (1, files("a"))


def test_item_with_damaged_line_is_enriched_again(shelf: Shelf) -> None:
    shelf.rebuild(files("a", "b"))
    begin, _ = shelf.snapshot().place(0)
    data = bytearray(shelf.data.read_bytes())
    data[begin + 3] = ord("\n")
    shelf.data.write_bytes(data)
    outcome = shelf.rebuild(files("a", "b"), sorts={"name": lambda item: item["path"]})  # reads each line
    assert (outcome.reused, outcome.enriched, shelf.items()) == (0, 2, files("a", "b"))


class Context:
    """An app context that notes when it is pushed and popped."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def __call__(self) -> Context:
        return self

    def __enter__(self) -> None:
        self.events.append("in")

    def __exit__(self, *_: object) -> None:
        self.events.append("out")


@pytest.mark.parametrize(("options", "periods"), [({}, 3), ({"batch": 2}, 2)], ids=str)
def test_app_context_is_popped_after_each_period(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], periods: int
) -> None:
    monkeypatch.setattr(enrich_module, "CONTEXT_SECONDS", 0)
    context = Context()
    shelf.rebuild(files("a", "b", "c"), context=context, enrich=lambda given: given, **options)
    assert context.events == ["in", "out"] * (1 + periods)  # the first is the source's


def test_app_context_is_popped_when_rebuild_is_interrupted(shelf: Shelf) -> None:
    def interrupted(item: Item) -> Item:
        raise KeyboardInterrupt

    context = Context()
    with pytest.raises(KeyboardInterrupt):
        shelf.rebuild(files("b"), context=context, enrich=interrupted)
    assert context.events == ["in", "out"] * 2


def test_full_disk_fails_rebuild_and_keeps_old_list(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.rebuild(files("old"))
    before = sorted(path.name for path in shelf.folder.iterdir())
    write = os.write

    def full(descriptor: int, data: bytes) -> int:
        if b"new" in bytes(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data)

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space left"):
            shelf.rebuild(files("old", "new"))
        with pytest.raises(OSError, match="No space left"):
            shelf.rebuild(files("new"), old=None)
    assert shelf.items() == files("old")
    assert sorted(path.name for path in shelf.folder.iterdir()) == before
    shelf.rebuild(files("old", "new"))
    assert shelf.items() == files("old", "new")


@pytest.mark.parametrize("step", ["fsync of the folder", "mark_if_invalidated", "sweep", "_overwrite"])
@pytest.mark.parametrize("published", [False, True], ids=["cold", "warm"])
def test_error_after_rename_keeps_published_list(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, step: str, published: bool
) -> None:
    if published:
        shelf.rebuild(files("old"))
    renamed: list[bool] = []
    replace, fsync = os.replace, os.fsync

    def noted(draft: str, final: str) -> None:
        replace(draft, final)
        renamed.append(True)

    def trouble(*arguments: Any, **options: Any) -> None:
        if renamed:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def fails_for_the_folder(descriptor: int) -> None:
        trouble()
        fsync(descriptor)

    monkeypatch.setattr(os, "replace", noted)
    if step == "fsync of the folder":
        monkeypatch.setattr(os, "fsync", fails_for_the_folder)
    elif step == "mark_if_invalidated":
        monkeypatch.setattr(marks, step, trouble)
    else:
        monkeypatch.setattr(publish if step == "sweep" else change_words, step, trouble)
    try:
        shelf.rebuild(files("old", "new"))
    except OSError:
        pass  # this test does not ask whether the rebuild counts as failed
    assert renamed
    assert shelf.items() == files("old", "new")


def test_rebuild_breathes_at_every_item(shelf: Shelf) -> None:
    breaths: list[int] = []
    shelf.rebuild(files(*map(str, range(50))), breathe=lambda: breaths.append(threading.get_ident()))
    assert len(breaths) >= 100  # once for each item of the source, and once for each enriched item


def test_folder_removed_during_rebuild_fails_it(shelf: Shelf) -> None:
    shelf.rebuild(files("old"))

    def source() -> list[Item]:
        for path in shelf.folder.glob("*.data"):
            path.unlink()
        return files("old", "new")

    # The mapped items are copied into a new file.
    shelf.rebuild(source)
    assert shelf.items() == files("old", "new")

    def enrich(item: Item) -> Item:
        source()
        return item

    with pytest.raises(RebuildError, match="folder was removed during the rebuild"):
        shelf.rebuild(files("new2", "new3"), enrich=enrich)


def test_report_shows_each_phase(shelf: Shelf) -> None:
    shelf.rebuild(files("a", "b", "c"))
    phases = list(dict.fromkeys(report["phase"] for report in shelf.reports))
    assert phases == ["source", "enrich", "views", "publish"]
    assert {report["total"] for report in shelf.reports if report["phase"] == "enrich"} == {3}
    assert encode(shelf.reports[0])
