"""A patched list equals a list that is built from scratch, however often it was patched."""

from __future__ import annotations

import logging
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from fractions import Fraction
from functools import cmp_to_key
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flask_warmcache import ViewError
from flask_warmcache.declaration import Item
from flask_warmcache.index.item_views import text_of
from flask_warmcache.query.parse import NO_DEFAULTS
from flask_warmcache.rebuild import job as job_module
from flask_warmcache.rebuild.publish import Publisher
from flask_warmcache.rebuild.tools import Tools
from flask_warmcache.rebuild.writes import Writes
from flask_warmcache.store import format as fmt
from flask_warmcache.store.snapshot import Snapshot
from flask_warmcache.store.verify import Verifier
from tests.support.shelf import Shelf, breathe, declare, encode

Key = str | int


def risky(item: Item) -> bool:
    """Fail, as a filter, on items without a title."""
    return bool(len(item["title"]) // len(item["title"]) == item["size"] % 2)


def odd(item: Item) -> Any:
    """Give sort keys of several types, and fail on some items."""
    if item["size"] == 3:
        raise LookupError("no key for this one")
    return item["title"] if item["tags"] else item["size"]


TAME: dict[str, Any] = {
    "filters": {"even": lambda item: item["size"] % 2 == 0, "risky": risky, "none": lambda item: False},
    "sorts": {
        "title": lambda item: item["title"],
        "size": lambda item: -item["size"],
        "weight": lambda item: item["weight"],
        "pair": lambda item: (item["size"], item["title"]),
    },
    "search": ("title", "tags"),
    "counts": ("even",),
    "max_shrink": 1,
}
WILD: dict[str, Any] = {**TAME, "sorts": {"odd": odd, "size": lambda item: item["size"]}}


class Mends:
    """Counts the rebuilds that patched, and notes why others did not."""

    def __init__(self) -> None:
        self.done = 0
        self.refused: list[BaseException] = []


@contextmanager
def mending(**patches: Any) -> Iterator[Mends]:
    """Have every rebuild patch if it can, however much changed and however many slots are dead."""
    mends, mended = Mends(), Publisher.patched

    def noted(*arguments: Any) -> tuple[int, int]:
        try:
            result = mended(*arguments)
        except BaseException as error:
            mends.refused.append(error)
            raise
        mends.done += 1
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Publisher, "patched", noted)
        patch.setattr(job_module, "PATCH_SHARE", 0)
        patch.setattr(job_module, "DEAD_SHARE", 0)
        # Tests build hundreds of lists whose items fail on purpose, so nothing is synced or logged.
        patch.setattr(os, "fsync", lambda descriptor: None)
        patch.setattr(logging.getLogger("flask_warmcache"), "disabled", True)
        for name, value in patches.items():
            patch.setattr(fmt, name, value)
        yield mends


@pytest.fixture
def mends() -> Iterator[Mends]:
    """Use ``mending`` for a whole test."""
    with mending() as counted:
        yield counted


def enriched(item: Item) -> Item:
    """Enrich an item, as all lists here do."""
    if item["bad"]:
        raise OSError("unreadable")
    return {**item, "double": 2 * item["size"]}


def observed(shelf: Shelf, declared: dict[str, Any]) -> dict[str, Any]:
    """Return all that readers can see of a list, which does not include slots and places."""
    snapshot = shelf.snapshot()
    check(snapshot, declared)
    assert not Verifier(shelf.folder, shelf.name).is_damaged(snapshot)
    order = snapshot.order(fmt.ALL, fmt.SOURCE_ORDER)
    seen: dict[str, Any] = {
        "items": [snapshot.item(slot) for slot in order],
        "fingerprints": [snapshot.fingerprint(slot) for slot in order],
        "header": {
            name: snapshot.header[name] for name in ("count", "filters", "live_bytes", "view_errors", "complete")
        },
        "writes": snapshot.writes(),
    }
    pager = shelf.pager(declare(**declared), search_budget=60.0)
    condition = pager.status.condition()
    for filter_name, sort_name in product([fmt.ALL, *declared["filters"]], [fmt.SOURCE_ORDER, *declared["sorts"]]):
        assert snapshot.has_view(filter_name, sort_name)
        keys = [snapshot.item(slot)["path"] for slot in snapshot.order(filter_name, sort_name)]
        seen[f"view {filter_name} {sort_name}"] = keys
        sorts = [""] if sort_name == fmt.SOURCE_ORDER else [f"&sort={sort_name}", f"&sort=-{sort_name}"]
        for sort, more in product(sorts, ("per_page=3&page=2", "search=a", "search=ss+B")):
            query = f"filter={filter_name}{sort}&{more}"
            seen[query] = pager.body(condition, query.encode(), NO_DEFAULTS).data
    for key in POSSIBLE_KEYS:
        slot = snapshot.find(key, "path")
        seen[f"find {key!r}"] = None if slot is None else snapshot.item(slot)
    return seen


def check(snapshot: Snapshot, declared: dict[str, Any]) -> None:
    """Check what must hold inside every index."""
    order = list(snapshot.order(fmt.ALL, fmt.SOURCE_ORDER))
    assert len(order) == len(set(order)) == snapshot.count <= snapshot.slots
    assert not order or max(order) < snapshot.slots
    for sort_name in (fmt.SOURCE_ORDER, *declared["sorts"]):
        everything = snapshot.order(fmt.ALL, sort_name)
        assert sorted(everything) == sorted(order)
        ranks = [snapshot.ranks(sort_name)[slot] for slot in everything]
        assert all(rank < following for rank, following in zip(ranks, ranks[1:], strict=False)), sort_name
        for filter_name in (fmt.ALL, *declared["filters"]):
            slots = snapshot.order(filter_name, sort_name)
            if filter_name != fmt.ALL:
                flags = snapshot.flags(filter_name)
                assert list(slots) == [slot for slot in everything if flags[slot]]
                assert len(slots) == snapshot.filter_count(filter_name)
            assert snapshot.view(filter_name, sort_name).tolist() == snapshot.places(slots).tolist()
    hashes = snapshot.section("key_hashes", "Q", snapshot.count)
    slots_by_hash = snapshot.section("key_slots", "I", snapshot.count)
    assert list(hashes) == sorted(hashes)
    assert sorted(slots_by_hash) == sorted(order)
    assert list(hashes) == [fmt.key_hash(snapshot.item(slot)["path"]) for slot in slots_by_hash]
    assert snapshot.slots == snapshot.count or set(range(snapshot.slots)) - set(order)
    if declared["search"]:
        text, starts = snapshot.search_text()
        assert (starts[0], starts[snapshot.slots]) == (0, len(text))
        alive = set(order)
        for slot in range(snapshot.slots):
            line = bytes(text[starts[slot] : starts[slot + 1]])
            expected_line = text_of(declared["search"], snapshot.item(slot)) if slot in alive else b"\n"
            assert line == expected_line
    # The sections follow one another, without gaps and with nothing after them.
    table = sorted(snapshot.header["sections"].values())
    end = 0
    for offset, length, _ in table:
        assert offset == end
        end += length + -length % 8
    assert snapshot.base + end == snapshot.stamp[1]


@dataclass
class World:
    """A list that goes through changes, and the items that it must have."""

    folder: Path
    declared: dict[str, Any]
    source: list[Item] = field(default_factory=list)
    good: dict[tuple[type, Key], Item] = field(default_factory=dict)  # the source items that are shown

    def __post_init__(self) -> None:
        self.shelf = Shelf(self.folder / "mended")

    def rebuild(self) -> None:
        """Rebuild, and note which items must be published now."""
        self.shelf.rebuild(self.source, enrich=enriched, **self.declared)
        self.good = {
            key: self.good[key] if item["bad"] else item
            for key, item in self.firsts.items()
            if key in self.good or not item["bad"]
        }

    def check(self) -> None:
        """Compare with a list that is built from scratch."""
        fresh = Shelf(self.folder / "fresh")
        fresh.rebuild(list(self.good.values()), enrich=enriched, **self.declared)
        assert observed(self.shelf, self.declared) == observed(fresh, self.declared)
        shutil.rmtree(fresh.folder)

    def renew(self) -> None:
        """Rebuild, and compare."""
        self.rebuild()
        self.check()

    @property
    def firsts(self) -> dict[tuple[type, Key], Item]:
        """The first source item of each key; only that one counts."""
        firsts: dict[tuple[type, Key], Item] = {}
        for item in self.source:
            firsts.setdefault((type(item["path"]), item["path"]), item)
        return firsts

    @property
    def would_fail(self) -> bool:
        """Whether every item fails and none has an old version, which a rebuild refuses."""
        return bool(self.source) and all(item["bad"] and key not in self.good for key, item in self.firsts.items())


POSSIBLE_KEYS: list[Key] = ["a", "b", "ß", "\udcff", "1", "", "x/y", 1, 2, -3, 10**20, 0, *range(20, 40)]
contents = st.fixed_dictionaries(
    {
        "size": st.integers(0, 3),
        "title": st.text(alphabet="abB ßéİ\t\n", max_size=3),
        "weight": st.sampled_from([0.0, 0.5, 0.5, 1.5, -2.0]),
        "tags": st.lists(st.sampled_from(["a", "bß", "é B"]), max_size=2),
        "bad": st.sampled_from([False] * 7 + [True]),
    }
)
new_items = st.builds(lambda key, item: {"path": key, **item}, st.sampled_from(POSSIBLE_KEYS), contents)
numbers = st.integers(0, 30)
changes = st.one_of(
    st.tuples(st.just("change"), numbers, contents),
    st.tuples(st.just("change"), numbers, contents),
    st.tuples(st.just("insert"), numbers, new_items),
    st.tuples(st.just("append"), numbers, new_items),
    st.tuples(st.just("append"), numbers, new_items),
    st.tuples(st.just("remove"), numbers, st.none()),
    st.tuples(st.just("move"), numbers, numbers),
)
rounds = st.lists(st.lists(changes, max_size=5), min_size=1, max_size=6)
first_lists = st.lists(new_items, max_size=14, unique_by=lambda item: (type(item["path"]), item["path"]))


def apply(source: list[Item], change: tuple[str, int, Any]) -> None:
    """Change what the source gives."""
    what, at, value = change
    if what == "append":
        source.append(value)
    elif what == "insert":
        source.insert(at % (len(source) + 1), value)
    elif source:
        at %= len(source)
        if what == "change":
            source[at] = {"path": source[at]["path"], **value}
        elif what == "remove":
            del source[at]
        else:
            source.insert(value % len(source), source.pop(at))


def play(
    declared: dict[str, Any],
    first: list[Item],
    rounds_of_changes: list[Any],
    world_class: type[World] = World,
    **patches: Any,
) -> Mends:
    """Rebuild after each round of changes, and compare with a build from scratch."""
    with tempfile.TemporaryDirectory() as folder, mending(**patches) as mends:
        world = world_class(Path(folder), declared, [dict(item) for item in first])
        if world.would_fail:
            return mends
        world.rebuild()
        world.check()
        for one_round in rounds_of_changes:
            before = list(world.source)
            for change in one_round:
                apply(world.source, change)
            if world.would_fail:
                world.source = before
                continue
            tried = mends.done + len(mends.refused)
            world.rebuild()
            assert mends.done + len(mends.refused) == tried + 1
            world.check()
    return mends


@pytest.mark.parametrize("declared", [TAME, WILD], ids=["tame", "mixed sort keys"])
@settings(max_examples=30)
@given(first_lists, rounds)
def test_patched_list_equals_list_built_from_scratch(
    declared: dict[str, Any], first: list[Item], changed: list[Any]
) -> None:
    mends = play(declared, first, changed)
    assert {str(error) for error in mends.refused} <= {"unchanged items have another order"}


@settings(max_examples=15)
@given(first_lists, rounds, st.sampled_from([1, 2, 5]))
def test_ranks_without_room_are_renumbered(first: list[Item], changed: list[Any], gap: int) -> None:
    play(TAME, first, changed, RANK_GAP=gap)


@settings(max_examples=10)
@given(first_lists, rounds)
def test_places_beyond_four_gigabytes_are_patched(first: list[Item], changed: list[Any]) -> None:
    play(TAME, first, changed, place_type=lambda length: "Q")


def many(count: int) -> list[Item]:
    """Return items of which several share each sort key."""
    return [
        {"path": number, "size": number % 3, "title": f"T{number % 5}", "weight": 0.5, "tags": [], "bad": False}
        for number in range(count)
    ]


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Give a list of thirty items."""
    made = World(tmp_path, TAME, many(30))
    made.rebuild()
    return made


def new(key: Key, **fields: Any) -> Item:
    """Return an item for a key that no list has yet."""
    return {**many(1)[0], "path": key, **fields}


def writes_of(world: World) -> Writes:
    """Return what changes single items of the list."""
    return Writes(declare(**world.declared), world.shelf.store, Tools(encode, nullcontext, breathe), None)


def test_rebuild_without_changes_patches(world: World, mends: Mends) -> None:
    for _ in range(3):
        world.renew()
    assert (mends.done, mends.refused) == (3, [])
    assert world.shelf.snapshot().slots == 30


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda source: source.append(new("z")), id="a new one at the end"),
        pytest.param(lambda source: source.insert(0, new("z")), id="at the beginning"),
        pytest.param(lambda source: source.insert(7, new("z")), id="in the middle"),
        pytest.param(lambda source: source.pop(7), id="one is removed"),
        pytest.param(lambda source: source.__delitem__(slice(0, 5)), id="the first are removed"),
        pytest.param(lambda source: source.__delitem__(slice(25, 30)), id="the last are removed"),
        pytest.param(lambda source: source.clear(), id="all are removed"),
        pytest.param(lambda source: source.__setitem__(7, new(7, size=9)), id="one changes"),
        pytest.param(lambda source: source.insert(3, {**source.pop(20), "size": 9}), id="one changes and moves"),
        pytest.param(lambda source: source.__setitem__(4, new("z")), id="one is exchanged for another"),
    ],
)
def test_each_kind_of_change_is_patched(world: World, mends: Mends, change: Any) -> None:
    change(world.source)
    world.rebuild()
    assert (mends.done, mends.refused) == (1, [])
    world.check()
    world.source += [new("y"), new("x", size=2)]
    world.source[0:0] = [new("w", title="T3")]
    world.renew()
    assert mends.done == 2 or not world.source[3:]


def test_items_that_enter_filter_together_keep_source_order(tmp_path: Path, mends: Mends) -> None:
    """The first one has the higher slot, because it was added later."""
    world = World(tmp_path, TAME, [new(number, size=1) for number in range(4)])
    world.rebuild()
    world.source.insert(0, new("front", size=1))
    world.rebuild()
    world.source[:2] = [new("front", size=2), new(0, size=2)]
    world.renew()
    assert (mends.done, mends.refused) == (2, [])


def test_emptied_list_is_filled_again(world: World, mends: Mends) -> None:
    items, world.source = world.source, []
    world.renew()
    assert (world.shelf.snapshot().count, world.shelf.snapshot().slots) == (0, 30)
    world.source = [{**item, "size": 7} for item in items]
    world.renew()
    assert (mends.done, mends.refused) == (2, [])


def test_moved_items_cause_full_build(world: World, mends: Mends) -> None:
    world.source.append(world.source.pop(3))
    world.rebuild()
    assert [str(error) for error in mends.refused] == ["unchanged items have another order"]
    world.check()


def test_many_dead_slots_cause_full_build(world: World, mends: Mends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_module, "DEAD_SHARE", 4)
    del world.source[:8]
    world.rebuild()
    assert (mends.done, world.shelf.snapshot().slots) == (1, 30)  # the next rebuild counts them
    world.renew()
    assert (mends.done, world.shelf.snapshot().slots) == (1, 22)


def test_many_changes_cause_full_build(world: World, mends: Mends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_module, "PATCH_SHARE", 10)
    for at in range(4):
        world.source[at] = new(at, size=9)
        world.rebuild()
    assert mends.done == 4
    world.source[:4] = [new(at, size=10) for at in range(4)]
    world.renew()
    assert (mends.done, mends.refused) == (4, [])


def test_patch_appends_to_data_file_and_leaves_no_other(world: World, mends: Mends) -> None:
    data, before = world.shelf.data, world.shelf.data.read_bytes()
    world.source[3] = new(3, title="changed")
    world.rebuild()
    assert world.shelf.data == data
    added = data.read_bytes().removeprefix(before)
    assert added.count(b"\n") == 1 and b'"changed"' in added
    assert mends.done == 1


def test_forty_items_inserted_between_two_others_are_in_order(tmp_path: Path, mends: Mends) -> None:
    """Each comes between the last two; after thirty, no rank is left between them."""
    world = World(tmp_path, TAME, [new("a", title="a"), new("b", title="b")])
    world.rebuild()
    for number in range(1, 41):
        world.source.append(new(100 + number, title="a" + number * "z"))
        world.rebuild()
    assert (mends.done, mends.refused) == (40, [])
    world.check()


def test_filter_errors_are_counted_until_their_items_change(
    world: World, mends: Mends, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("flask_warmcache").disabled = False  # the fixture restores it
    world.source[3] = new(3, title="")
    world.rebuild()
    assert "warmcache.view_failed: filter risky: ZeroDivisionError on 1 items of 'files'" in caplog.text
    what, why = "filter risky: ZeroDivisionError", "ZeroDivisionError: integer division or modulo by zero"
    assert world.shelf.snapshot().view_faults == {what: [1, "3", why]}
    world.source[5] = new(5, title="")
    world.rebuild()
    assert world.shelf.snapshot().view_faults == {what: [2, "3", why]}
    world.source[3] = new(3, title="T")
    world.rebuild()
    assert world.shelf.snapshot().view_faults == {what: [1, None, why]}
    del world.source[5]
    world.rebuild()
    assert (world.shelf.snapshot().view_faults, world.shelf.snapshot().header["view_errors"]) == ({}, 0)
    assert mends.done == 4


@pytest.mark.parametrize(
    ("sort", "errors"),
    [
        (lambda item: 1 // item["size"], 3),
        (lambda item: item["size"] or float("nan"), 3),
        (lambda item: item["size"] or {}, 3),
        (lambda item: (1, item["size"] or float("nan")), 3),
        (lambda item: item["size"] or "text", 0),
        (lambda item: item["size"] or None, 0),
        (lambda item: (item["size"] or None, 1), 0),
        (lambda item: item["size"] or date(2000, 1, 1), 0),
        (lambda item: Fraction(item["size"], 3) if item["size"] else 0, 0),
        (lambda item: [True, 1.0, 2, 2.5, 2.0, -1][item["size"]], 0),
    ],
)
def test_odd_sort_keys_are_patched(tmp_path: Path, mends: Mends, sort: Any, errors: int) -> None:
    items = [new(number, size=number) for number in range(1, 6)]
    world = World(tmp_path, {**TAME, "sorts": {"by": sort}}, items)
    world.rebuild()
    for change in (new(9, size=0), new(10, size=0), new(3, size=0), new(9, size=3), new(4, size=0)):
        world.source = [item for item in world.source if item["path"] != change["path"]]
        world.source.append(change)
        world.renew()
    assert world.shelf.snapshot().header["view_errors"] == errors
    world.source = [item for item in world.source if item["size"]]
    world.renew()
    assert world.shelf.snapshot().header["view_errors"] == 0
    assert (mends.done, mends.refused) == (6, [])


def test_incomparable_sort_keys_are_not_patched(world: World, mends: Mends) -> None:
    """All times had a zone. The new item's time has none, and Python cannot compare the two."""
    times = [datetime(2000, 1, 1, tzinfo=UTC), datetime(2000, 1, 1)]
    world.declared = {**TAME, "sorts": {"by": lambda item: times[item["size"] == 9]}}
    world.rebuild()
    world.source.append(new("z", size=9))
    with pytest.raises(ViewError, match="Sort 'by' gives keys that cannot be compared"):
        world.rebuild()
    assert [str(error) for error in mends.refused] == ["sort by: TypeError"]


def compare(first: Any, second: Any) -> int:
    """Compare two sort keys as index/item_views.py describes it, in the simplest way."""

    def kind(key: Any) -> tuple[int, str]:
        if key is None:
            return (5, "")
        for number, types in enumerate([(int, float, Decimal), (str,), (tuple, list)]):
            if isinstance(key, types):
                return (number, "")
        return (4, type(key).__name__)

    if kind(first) != kind(second):
        return -1 if kind(first) < kind(second) else 1
    if first is None:
        return 0
    if isinstance(first, (tuple, list)):
        different = [found for found in map(compare, first, second) if found]
        return different[0] if different else (len(first) > len(second)) - (len(first) < len(second))
    return int(first > second) - int(first < second)


def has_no_order(key: Any) -> bool:
    if isinstance(key, (tuple, list)):
        return any(map(has_no_order, key))
    return isinstance(key, dict) or (isinstance(key, float) and math.isnan(key))


plain_keys = (
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([0.5, -1.5, 1.0, math.inf, math.nan])
    | st.sampled_from([Decimal("0.5"), Decimal(2)]) | st.text(alphabet="aB\udcff", max_size=2)
    | st.sampled_from([b"", b"a", {}, date(2000, 1, 1), date(2001, 1, 1)])
)  # fmt: skip
sort_keys = st.recursive(
    plain_keys, lambda keys: st.lists(keys, max_size=3) | st.lists(keys, max_size=3).map(tuple)
)


@settings(max_examples=40)
@given(st.lists(sort_keys, min_size=4, max_size=4), first_lists, rounds)
def test_any_sort_keys_are_in_documented_order(keys: list[Any], first: list[Item], changed: list[Any]) -> None:
    """However often the list is patched, and even if keys of several kinds, NaN and None are among them."""

    class Checked(World):
        def check(self) -> None:
            super().check()
            snapshot, items = self.shelf.snapshot(), self.shelf.items()
            no_order = [has_no_order(keys[item["size"]]) for item in items]
            order = [None if odd else keys[item["size"]] for item, odd in zip(items, no_order, strict=True)]
            expected = sorted(range(len(items)), key=lambda at: cmp_to_key(compare)(order[at]))
            shown = [snapshot.item(slot) for slot in snapshot.order(fmt.ALL, "by")]
            assert shown == [items[at] for at in expected]
            assert snapshot.header["view_errors"] == sum(no_order)

    even = {"even": TAME["filters"]["even"]}
    declared = {**TAME, "filters": even, "sorts": {"by": lambda item: keys[item["size"]]}}
    mends = play(declared, first, changed, Checked)
    assert {str(error) for error in mends.refused} <= {"unchanged items have another order"}


def test_snapshot_in_older_order_is_sorted_again(tmp_path: Path, mends: Mends) -> None:
    """Its items are reused, but its order is not patched, by rebuilds or by writes."""
    world = World(tmp_path, {**TAME, "sorts": {"by": lambda item: item["size"] or "text"}}, many(30))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flask_warmcache.declaration.SORT_ORDER", "")
        patch.setattr("flask_warmcache.index.item_views.TEXT", -1 % 256)
        world.rebuild()
    assert world.shelf.snapshot().item(world.shelf.snapshot().order(fmt.ALL, "by")[-1])["size"] == 0
    writes = writes_of(world)
    assert not writes.discard([29])
    outcome = world.shelf.rebuild(world.source, enrich=enriched, **world.declared)
    assert (outcome.reused, mends.done, mends.refused) == (30, 0, [])
    world.check()


def test_number_and_its_text_are_different_keys_when_patched(tmp_path: Path, mends: Mends) -> None:
    world = World(tmp_path, TAME, [new(1), new("1")])
    world.rebuild()
    world.source.insert(1, new("\udcff"))
    world.rebuild()
    del world.source[0]
    world.renew()
    assert mends.done == 2
    assert [item["path"] for item in world.shelf.items()] == ["\udcff", "1"]


@pytest.mark.parametrize("key", [1.0, True])
def test_enrich_must_not_replace_key_by_equal_one(shelf: Shelf, key: object) -> None:
    keys = {1: key, 2: 2}
    outcome = shelf.rebuild([{"path": 1}, {"path": 2}], enrich=lambda item: {"path": keys[item["path"]]})
    assert (outcome.failed, shelf.items()) == (1, [{"path": 2}])


# Something else may be published than what the rebuild began with


@pytest.mark.parametrize("trouble", ["gone", "damaged", "cold", "data gone", "rebuilt", "an older one"])
def test_replaced_snapshot_is_not_patched(world: World, mends: Mends, trouble: str) -> None:
    shelf = world.shelf
    backup = shelf.index.read_bytes(), shelf.index.stat().st_mtime_ns
    world.source[4] = new(4, title="second")
    world.rebuild()
    assert mends.done == 1
    world.source[5] = new(5, title="third")
    items = list(world.source)

    def meddled(item: Item) -> Item:
        if trouble == "gone":
            shelf.index.unlink()
        elif trouble == "damaged":
            index = bytearray(shelf.index.read_bytes())
            index[100] ^= 1
            replace(shelf.index, bytes(index))
        elif trouble == "cold":
            shelf.store.publish_cold(shelf.name)
        elif trouble == "data gone":
            (shelf.folder / shelf.data_name).unlink()
        elif trouble == "an older one":
            replace(shelf.index, backup[0])
            os.utime(shelf.index, ns=(backup[1], backup[1]))
        else:
            other = Shelf(shelf.folder)
            (shelf.folder / "files.lock").rename(shelf.folder / "aside")
            other.rebuild([new("other")], enrich=enriched, **TAME)
            (shelf.folder / "aside").rename(shelf.folder / "files.lock")
        return enriched(item)

    shelf.rebuild(items, enrich=meddled, **TAME)
    assert len(mends.refused) == 1
    fresh = Shelf(world.folder / "fresh")
    fresh.rebuild(items, enrich=enriched, **TAME)
    assert observed(shelf, TAME) == observed(fresh, TAME)
    assert len(list(shelf.folder.glob("*.data"))) == 1


def replace(path: Path, content: bytes) -> None:
    """Replace a file, as restoring a backup would."""
    aside = path.with_name("aside")
    aside.write_bytes(content)
    aside.rename(path)


def test_damaged_line_causes_build_from_scratch(world: World, mends: Mends) -> None:
    snapshot = world.shelf.snapshot()
    with open(world.shelf.data, "r+b") as data:
        for slot in range(30):
            data.seek(snapshot.place(slot)[0] + 1)
            data.write(b"X")
    world.source[4] = new(4, title="T2")
    world.renew()
    assert len(mends.refused) == 1


def test_data_file_that_grows_past_four_gigabytes_is_rewritten(world: World, mends: Mends) -> None:
    with open(world.shelf.data, "r+b") as data:
        data.truncate((1 << 32) + 10)  # a sparse file stands for one with many lines of killed writes
    world.source[4] = new(4, title="T2")
    snapshot = world.shelf.snapshot()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flask_warmcache.store.data.crc_of", lambda *arguments: 0)
        patch.setattr("flask_warmcache.store.sweeping.COMPACT_FROM", 1 << 40)
        world.rebuild()
    assert [type(error) for error in mends.refused] == [OverflowError]
    assert world.shelf.snapshot().header["data"]["file"] != snapshot.header["data"]["file"]
    world.check()


@pytest.mark.parametrize("what", ["discards", "refreshes", "adds", "a new one is added"])
def test_write_before_start_of_rebuild_wins(world: World, mends: Mends, what: str) -> None:
    """The rebuild compares its source with an older list, so it may not know of the write."""
    shelf, old = world.shelf, world.shelf.snapshot()
    writes = writes_of(world)
    if what == "discards":
        assert writes.discard([3, 4])
    elif what == "refreshes":
        assert writes.refresh([new(3, title="written")])
    else:
        assert writes.refresh([new("written")])
        if what.startswith("a new"):
            world.source.append(new("written", title="T4"))
    written = shelf.items()
    shelf.rebuild(world.source, enrich=enriched, old=old, **TAME)
    assert (mends.done, mends.refused) == (1, [])
    assert shelf.items() == written
    assert shelf.snapshot().is_invalidated  # because there is no lookup
    fresh = Shelf(world.folder / "fresh")
    for rebuilt in (shelf, fresh):
        rebuilt.rebuild(world.source, enrich=enriched, **TAME)
    assert observed(shelf, TAME) == observed(fresh, TAME)


@pytest.mark.parametrize("order", [1, -1], ids=["in the same order", "in another order"])
def test_writes_during_rebuild_win_and_rest_is_patched(world: World, mends: Mends, order: int) -> None:
    shelf, source = world.shelf, world.source
    writes = writes_of(world)
    source[5], source[8] = new(5, title="source"), new(8, title="source")
    del source[20:22]
    source.append(new("z", title="source"))

    def meddled(item: Item) -> Item:
        if item["path"] == 5:
            assert writes.refresh([new(8, title="written", double=2), new(21, title="written", double=2)])
            assert writes.discard([9])
            assert writes.refresh([new("y", title="written", double=0)])
        return enriched(item)

    shelf.rebuild(source[::order], enrich=meddled, **TAME)
    check(shelf.snapshot(), TAME)
    titles = {item["path"]: item["title"] for item in shelf.items()}
    expected: dict[Key, Any] = {item["path"]: item["title"] for item in source if item["path"] != 9}
    assert titles == {**expected, 8: "written", 21: "written", "y": "written"}
    assert sorted(map(str, (write.key for write in shelf.snapshot().writes()))) == ["21", "8", "9", "y"]
    assert mends.done == (order == 1)
    if order == 1:
        known = [item["path"] for item in shelf.items() if item["path"] not in ("y", "z")]
        assert known == [number for number in range(30) if number not in (9, 20)]
