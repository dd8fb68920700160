"""Enriching in batches and in several threads keeps the order, and an error concerns only its item."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from flask_warmcache import RebuildError
from flask_warmcache.declaration import Item
from flask_warmcache.rebuild.batch_size import BatchSize
from flask_warmcache.status import progress
from flask_warmcache.store.data import DataWriter
from tests.support.shelf import Shelf, files
from tests.support.waiting import until

NAMES = [f"item {number:02}" for number in range(30)]
ITEMS = files(*NAMES)
BOTH = [{"workers": 4}, {"batch": 7}, {"workers": 4, "batch": 3}, {}]


def made(items: list[Item]) -> list[Item]:
    return [{**item, "made": item["path"].upper()} for item in items]


class Enrich:
    """Completes single items or batches, and notes each call."""

    def __init__(
        self, fails_at: tuple[str, ...] = (), meanwhile: Callable[[list[str]], object] = lambda names: None
    ) -> None:
        self.calls: list[list[str]] = []
        self.fails_at = fails_at
        self.meanwhile = meanwhile

    def __call__(self, argument: Any) -> Any:
        items = argument if isinstance(argument, list) else [argument]
        names = [item["path"] for item in items]
        self.calls.append(names)
        self.meanwhile(names)
        if set(names) & set(self.fails_at):
            raise OSError(f"{names} cannot be read")
        return made(items) if isinstance(argument, list) else made(items)[0]

    @property
    def seen(self) -> list[str]:
        return [name for call in self.calls for name in call]


def enrich_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("warmcache-enrich")]


@pytest.mark.parametrize("how", BOTH, ids=str)
def test_items_keep_their_order_and_are_enriched_once(shelf: Shelf, how: dict[str, Any]) -> None:
    enrich = Enrich()
    outcome = shelf.rebuild(ITEMS, enrich=enrich, **how)
    assert shelf.items() == made(ITEMS)
    assert sorted(enrich.seen) == NAMES
    assert (outcome.enriched, outcome.failed) == (30, 0)
    assert shelf.rebuild(ITEMS, enrich=enrich, **how).reused == 30
    until(lambda: not enrich_threads())


@pytest.mark.parametrize("how", BOTH, ids=str)
def test_failing_item_does_not_fail_its_neighbours(shelf: Shelf, how: dict[str, Any]) -> None:
    bad = (NAMES[0], NAMES[8], NAMES[9], NAMES[29])
    outcome = shelf.rebuild(ITEMS, enrich=Enrich(bad), **how)
    assert (outcome.enriched, outcome.failed) == (26, 4)
    assert shelf.items() == made([item for item in ITEMS if item["path"] not in bad])


@pytest.mark.parametrize("how", BOTH, ids=str)
def test_failing_item_keeps_its_old_version(shelf: Shelf, how: dict[str, Any]) -> None:
    shelf.rebuild(ITEMS, enrich=Enrich(), **how)
    changed = [{**item, "size": 99} for item in ITEMS]
    shelf.rebuild(changed, enrich=Enrich((NAMES[3],)), **how)
    assert shelf.items() == made([*changed[:3], ITEMS[3], *changed[4:]])


# Batches


def test_batches_have_declared_size(shelf: Shelf) -> None:
    enrich = Enrich()
    shelf.rebuild(ITEMS, enrich=enrich, batch=7)
    assert [len(call) for call in enrich.calls] == [7, 7, 7, 7, 2]
    assert enrich.seen == NAMES


def test_failing_batch_is_retried_item_by_item(shelf: Shelf) -> None:
    enrich = Enrich((NAMES[1],))
    shelf.rebuild(ITEMS[:5], enrich=enrich, batch=3)
    assert enrich.calls == [NAMES[:3], NAMES[:1], NAMES[1:2], NAMES[2:3], NAMES[3:5]]


@pytest.mark.parametrize(
    "answer",
    [
        lambda items: items[:-1],
        lambda items: [*items, items[0]],
        lambda items: [],
        lambda items: None,
        lambda i: 5,
    ],
    ids=["too few", "too many", "none", "None", "no list"],
)
def test_batch_of_wrong_length_is_retried_item_by_item(shelf: Shelf, answer: Callable[[list[Item]], Any]) -> None:
    def enrich(items: list[Item]) -> Any:
        return made(items) if len(items) == 1 else answer(items)

    assert shelf.rebuild(ITEMS, enrich=enrich, batch=10).failed == 0
    assert shelf.items() == made(ITEMS)


def test_log_says_what_batch_must_return(shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(RebuildError, match="every item of 'files' failed"):
        shelf.rebuild(ITEMS, enrich=lambda items: [], batch=10)
    assert "enrich returned 0 items for 1; return one for each, in order" in caplog.text


def test_batch_returned_in_another_order_fails(shelf: Shelf) -> None:
    """The call does not fail, so no item is retried; the keys show that two results are wrong."""
    outcome = shelf.rebuild(ITEMS[:3], enrich=lambda items: made(items)[::-1], batch=3)
    assert (outcome.failed, shelf.items()) == (2, made(ITEMS[1:2]))


def test_batch_may_be_returned_as_any_iterable(shelf: Shelf) -> None:
    shelf.rebuild(ITEMS, enrich=lambda items: iter(made(items)), batch=4)
    assert shelf.items() == made(ITEMS)


def test_reused_items_are_in_no_batch(shelf: Shelf) -> None:
    shelf.rebuild(ITEMS[::2], enrich=Enrich(), batch=4)
    enrich = Enrich()
    shelf.rebuild(ITEMS, enrich=enrich, batch=4)
    assert [len(call) for call in enrich.calls] == [4, 4, 4, 3]
    assert enrich.seen == NAMES[1::2]


# Threads


def test_workers_run_at_same_time(shelf: Shelf) -> None:
    together = threading.Barrier(4, timeout=120)
    enrich = Enrich(meanwhile=lambda names: together.wait())
    shelf.rebuild(ITEMS[:28], enrich=enrich, workers=4)  # this would never end if they ran one by one
    assert shelf.items() == made(ITEMS[:28])


def test_slow_item_does_not_delay_others(shelf: Shelf) -> None:
    """The first item is finished after all others."""
    enrich = Enrich(meanwhile=lambda names: until(lambda: names != NAMES[:1] or len(enrich.seen) == 30))
    shelf.rebuild(ITEMS, enrich=enrich, workers=2)
    assert shelf.items() == made(ITEMS)


def test_progress_counts_items_finished_after_slow_one(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "WRITE_EVERY", 0)

    def wait(names: list[str]) -> None:
        until(lambda: names != NAMES[:1] or shelf.reports[-1]["done"] >= 25, lambda: shelf.reports[-1])

    shelf.rebuild(ITEMS, enrich=Enrich(("item 05",), wait), workers=2)
    assert max(report["done"] for report in shelf.reports) == 30  # the one that failed counts, too


@pytest.mark.parametrize("each", [0.0001, 0.01, 0.1])
@pytest.mark.parametrize("fixed", [0.0, 0.3, 3.0])
@pytest.mark.parametrize("first", [0.0, 5.0])  # the first call may load something
def test_batches_are_short_in_time_unless_calls_themselves_cost_much(
    each: float, fixed: float, first: float
) -> None:
    batch, left = BatchSize(500), 20_000
    durations: list[float] = []
    while left:
        count = min(batch.size, left)
        assert 1 <= count <= 500
        durations.append(fixed + each * count + (0.0 if durations else first))
        batch.note(count, durations[-1])
        left -= count
    largest = 20_000 * each + 40 * fixed
    assert sum(durations) - first <= 1.5 * largest + 15 * fixed
    assert max(durations[1:]) <= max(2.0, 6 * fixed)


def test_number_of_items_held_after_slow_one_is_limited(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flask_warmcache.rebuild.enrich_threads.HELD", 10)
    go_on = threading.Event()
    enrich = Enrich(meanwhile=lambda names: names != NAMES[:1] or go_on.wait(120))

    def breathe() -> None:
        if len(enrich.seen) == 10:
            go_on.set()

    shelf.rebuild(ITEMS, enrich=enrich, workers=2, breathe=breathe)
    assert go_on.is_set()
    assert shelf.items() == made(ITEMS)


class Abandoned(BaseException):
    """Ends a rebuild."""


def test_items_finished_after_slow_one_are_kept(shelf: Shelf) -> None:
    ended = threading.Event()
    enrich = Enrich(meanwhile=lambda names: names != NAMES[:1] or ended.wait(120))

    def breathe() -> None:
        if len(enrich.seen) == 30:
            raise Abandoned

    with pytest.raises(Abandoned):
        shelf.rebuild(ITEMS, enrich=enrich, workers=3, breathe=breathe)
    ended.set()
    until(lambda: not enrich_threads())
    again = Enrich()
    shelf.rebuild(ITEMS, enrich=again, workers=3)
    # The first item was not finished, and the last two may have been under way.
    assert set(again.seen) <= {NAMES[0], *enrich.seen[-3:]}
    assert shelf.items() == made(ITEMS)


@pytest.mark.parametrize("how", [{"workers": 3}, {"workers": 3, "batch": 2}], ids=str)
def test_abandoned_rebuild_leaves_no_thread_and_begins_no_item(shelf: Shelf, how: dict[str, Any]) -> None:
    ended = threading.Event()
    enrich = Enrich(meanwhile=lambda names: ended.wait(120))

    def breathe() -> None:
        if len(enrich.calls) == 3:
            raise Abandoned

    with pytest.raises(Abandoned):
        shelf.rebuild(ITEMS, enrich=enrich, breathe=breathe, **how)
    ended.set()
    until(lambda: not enrich_threads())
    assert len(enrich.calls) == 3


@pytest.mark.parametrize("by", [SystemExit, KeyboardInterrupt, Abandoned])
def test_exception_that_ends_thread_ends_rebuild(shelf: Shelf, by: type[BaseException]) -> None:
    def ends(names: list[str]) -> None:
        if names == NAMES[5:6]:
            raise by

    with pytest.raises(by):
        shelf.rebuild(ITEMS, enrich=Enrich(meanwhile=ends), workers=2)
    until(lambda: not enrich_threads())
    again = Enrich()
    shelf.rebuild(ITEMS, enrich=again, workers=2)
    assert NAMES[5] in again.seen
    assert shelf.items() == made(ITEMS)
    until(lambda: not enrich_threads())


def test_full_disk_ends_rebuild_and_its_threads(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: DataWriter, fingerprint: bytes, encoded: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(DataWriter, "add", full)
    with pytest.raises(OSError, match="No space left"):
        shelf.rebuild(ITEMS, enrich=Enrich(), workers=3)
    until(lambda: not enrich_threads())
    assert not list(shelf.folder.glob("*.data"))


# Contexts


@pytest.mark.parametrize(("how", "contexts"), [({"batch": 10}, 1), ({"batch": 10, "workers": 2}, 3), ({}, 1)])
def test_each_thread_has_its_own_app_context(shelf: Shelf, how: dict[str, Any], contexts: int) -> None:
    inside = threading.local()
    entered: list[int] = []

    @contextmanager
    def context() -> Iterator[None]:
        inside.depth = getattr(inside, "depth", 0) + 1
        entered.append(inside.depth)
        try:
            yield
        finally:
            inside.depth -= 1

    depths: list[int] = []
    enrich = Enrich(meanwhile=lambda names: depths.append(inside.depth))
    shelf.rebuild(ITEMS, enrich=enrich, context=context, **how)
    assert set(depths) == set(entered) == {1}
    assert len(entered) == contexts + 1  # and one for the source


# Versions


@pytest.mark.parametrize("how", BOTH, ids=str)
def test_new_version_enriches_every_item_again_in_batches_and_threads(shelf: Shelf, how: dict[str, Any]) -> None:
    counts = []
    for version in ("1", "1", "2", "1"):
        enrich = Enrich()
        shelf.rebuild(ITEMS, enrich=enrich, version=version, **how)
        counts.append(len(enrich.seen))
        assert shelf.items() == made(ITEMS)
    assert counts == [30, 0, 30, 30]
