"""What a source may give, and which of it is refused or left out."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from flask_warmcache import RebuildError
from flask_warmcache.declaration import Item
from tests.support.shelf import Shelf, files


@pytest.mark.parametrize("kind", [list, tuple, iter], ids=["list", "tuple", "iterator"])
def test_source_may_give_any_iterable_of_dicts(shelf: Shelf, kind: Any) -> None:
    shelf.rebuild(lambda: kind(files("b", "a")))
    assert shelf.items() == files("b", "a")


def test_generator_runs_in_app_context(shelf: Shelf) -> None:
    inside: list[bool] = []

    class Context:
        def __enter__(self) -> None:
            inside.append(True)

        def __exit__(self, *_: object) -> None:
            inside.clear()

    def source() -> Iterator[Item]:
        for item in files("a", "b"):
            assert inside
            yield item

    shelf.rebuild(source, context=Context)
    assert (shelf.items(), inside) == (files("a", "b"), [])


@pytest.mark.parametrize(
    ("produced", "message"),
    [
        *(
            pytest.param(value, f"gave a {type(value).__name__}, not a list of items", id=repr(value))
            for value in (None, "text", b"x", {"a": 1}, 5)
        ),
        *(
            pytest.param(
                [*files("a"), item], f"gave a {type(item).__name__}; items are dicts", id=f"item {item!r}"
            )
            for item in (None, "a", 5, ["path"], ("path", "a"))
        ),
    ],
)
def test_source_of_no_list_or_no_dicts_keeps_old_list(shelf: Shelf, produced: object, message: str) -> None:
    shelf.rebuild(files("old"))
    with pytest.raises(RebuildError, match=f"source of 'files' {message}"):
        shelf.rebuild(lambda: produced)
    assert shelf.items() == files("old")


def test_source_that_fails_midway_keeps_old_list(shelf: Shelf) -> None:
    shelf.rebuild(files("old"))

    def source() -> Iterator[Item]:
        yield from files("a", "b")
        raise OSError("the share is gone")

    with pytest.raises(OSError, match="the share is gone"):
        shelf.rebuild(source)
    assert shelf.items() == files("old")
    assert sorted(path.suffix for path in shelf.folder.iterdir()) == [
        *(".changes", ".data", ".index", ".lock", ".lock")
    ]


def test_first_item_of_each_key_wins_and_others_count_as_failed(
    shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    items = [{"path": "a", "size": 1}, {"path": "b", "size": 2}, {"path": "a", "size": 3}]
    with caplog.at_level(logging.WARNING, "flask_warmcache"):
        outcome = shelf.rebuild(items)
    assert shelf.items() == items[:2]
    assert outcome.failed == shelf.snapshot().header["failed_items"] == 1
    assert (
        "warmcache.item_failed: an item of 'files' was left as it was or left out: a second item with the key 'a'"
        in caplog.text
    )


@pytest.mark.parametrize("item", [{}, {"path": None}, {"path": 1.5}, {"path": True}, {"path": ["a"]}], ids=repr)
def test_item_without_usable_key_is_left_out_and_counted(shelf: Shelf, item: Item) -> None:
    outcome = shelf.rebuild([*files("a"), item, *files("b")])
    assert shelf.items() == files("a", "b")
    assert outcome.failed == 1


def test_only_first_failures_are_logged(shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "flask_warmcache"):
        outcome = shelf.rebuild([*files("a"), *[{} for _ in range(100)]])
    assert (outcome.failed, caplog.text.count("warmcache.item_failed")) == (100, 5)


def test_builder_needs_no_key_and_keeps_duplicates(shelf: Shelf) -> None:
    outcome = shelf.rebuild([{"a": 1}, {"a": 1}], kind="builder", key=None)
    assert shelf.items() == [{"a": 1}, {"a": 1}]
    again = shelf.rebuild([{"a": 1}], kind="builder", key=None)
    assert (outcome.enriched, again.enriched, again.reused, again.dropped) == (2, 1, 0, 0)


def test_value_that_json_cannot_hold_keeps_old_value(shelf: Shelf) -> None:
    shelf.rebuild(lambda: 5, kind="value", key=None)
    with pytest.raises(RebuildError, match="every item of 'files' failed"):
        shelf.rebuild(lambda: {1, 2}, kind="value", key=None)
    assert shelf.items() == [{"value": 5}]


def test_list_may_be_made_of_another_list(shelf: Shelf) -> None:
    shelf.rebuild(files("a", "b"))
    made = Shelf(shelf.folder, "made")
    outcome = made.rebuild(source_list="files", upstream=shelf.snapshot(), enrich=lambda i: {**i, "x": 1})
    assert made.items() == [{**item, "x": 1} for item in files("a", "b")]
    assert outcome.generation > made.snapshot().header["upstream"] == shelf.snapshot().generation
