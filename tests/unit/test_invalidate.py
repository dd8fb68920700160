"""``invalidate`` in every interleaving with a rebuild: no invalidation is lost."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from flask_warmcache import StoreError
from flask_warmcache.declaration import Item
from flask_warmcache.store import marks
from flask_warmcache.store.snapshot import INVALIDATED_BEFORE
from tests.support.shelf import Shelf, files


def test_published_snapshot_is_marked_at_once(shelf: Shelf) -> None:
    shelf.rebuild(files("a"))
    reader = shelf.store.reader(shelf.name)
    before = reader.current()
    assert before is not None and not before.is_invalidated
    shelf.store.invalidate(shelf.name)
    marked = reader.current()
    assert marked is not None and marked.is_invalidated
    assert marked.generation == before.generation
    assert shelf.index.stat().st_mtime_ns < INVALIDATED_BEFORE
    assert shelf.items() == files("a")


def test_published_snapshot_is_marked_on_full_disk(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.rebuild(files("a"))

    def full(*args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(marks, "write_small", full)
    with pytest.raises(StoreError, match="cannot be invalidated: .*No space left"):
        shelf.store.invalidate(shelf.name)
    assert shelf.snapshot().is_invalidated


@pytest.mark.parametrize("published", [False, True], ids=["cold", "warm"])
def test_later_rebuild_satisfies_invalidation(shelf: Shelf, published: bool) -> None:
    if published:
        shelf.rebuild(files("a"))
    shelf.store.invalidate(shelf.name)
    assert shelf.store.invalidation(shelf.name) != ""
    shelf.rebuild(files("b"))
    assert not shelf.snapshot().is_invalidated


def test_each_call_writes_another_invalidation(shelf: Shelf) -> None:
    invalidations = set()
    for _ in range(20):
        shelf.store.invalidate(shelf.name)
        invalidations.add(shelf.store.invalidation(shelf.name))
    assert len(invalidations) == 20


@pytest.mark.parametrize("published", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize(
    "moment", ["in source", "in enrich", "in a sort", "before the rename", "after the rename"]
)
def test_running_rebuild_is_followed_by_another(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, moment: str, published: bool
) -> None:
    if published:
        shelf.rebuild(files("a"))

    def at(point: str) -> None:
        if point == moment:
            shelf.store.invalidate(shelf.name)

    def source() -> list[Item]:
        at("in source")
        return files("a", "b")

    def enrich(item: Item) -> Item:
        at("in enrich")
        return item

    def sort(item: Item) -> str:
        at("in a sort")
        return str(item["path"])

    replace = os.replace

    def around_the_rename(draft: Path, final: Path) -> None:
        if final.name != "files.index":  # the rename of the invalidation
            replace(draft, final)
            return
        at("before the rename")
        replace(draft, final)
        at("after the rename")

    monkeypatch.setattr(os, "replace", around_the_rename)
    shelf.rebuild(source, enrich=enrich, sorts={"name": sort})
    assert shelf.snapshot().is_invalidated
    monkeypatch.undo()
    shelf.rebuild(files("a", "b"))
    assert not shelf.snapshot().is_invalidated


def test_publication_between_its_two_steps_is_marked(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """``invalidate`` has written its file; a rebuild begins, reads it and publishes; then ``invalidate`` marks."""
    shelf.rebuild(files("a"))
    mark = marks.mark
    monkeypatch.setattr(marks, "mark", lambda folder, name: [shelf.rebuild(files("b")), mark(folder, name)])
    shelf.store.invalidate(shelf.name)
    assert shelf.snapshot().is_invalidated  # one rebuild too many is better than one too few


def test_failed_rebuild_leaves_list_invalidated(shelf: Shelf) -> None:
    shelf.rebuild(files("a"))
    shelf.store.invalidate(shelf.name)

    with pytest.raises(ZeroDivisionError):
        shelf.rebuild(lambda: 1 // 0)
    assert shelf.snapshot().is_invalidated


def test_invalidation_is_read_before_source_is_called(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    read = marks.invalidation

    def noted(folder: Path, name: str) -> str:
        order.append("invalidation")
        return read(folder, name)

    def source() -> list[Item]:
        order.append("source")
        return files("a")

    monkeypatch.setattr(marks, "invalidation", noted)
    shelf.rebuild(source)
    assert order == ["invalidation", "source", "invalidation"]
