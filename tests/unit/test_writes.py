"""refresh and discard: compared with a plain dict, beside rebuilds, in threads and in processes."""

from __future__ import annotations

import os
import random
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from flask import Response, jsonify
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flask_warmcache import WarmCache
from flask_warmcache.declaration import Item
from flask_warmcache.errors import DeclarationError, RebuildError, StoreError
from flask_warmcache.rebuild import write_queue
from flask_warmcache.rebuild import writes as writes_module
from flask_warmcache.rebuild.tools import Tools
from flask_warmcache.rebuild.writes import Writes
from flask_warmcache.store.files import FileStore
from flask_warmcache.store.snapshot import INVALIDATED_BEFORE
from flask_warmcache.store.verify import Verifier
from flask_warmcache.store.writer import Draft
from tests.support.apps import make_app, state_of
from tests.support.processes import Forker, forker, python, read_line, started
from tests.support.shelf import Shelf, breathe, declare, encode
from tests.support.threads import Repeated
from tests.support.waiting import until

Key = str | int
DECLARED: dict[str, Any] = {
    "filters": {"even": lambda item: item["size"] % 2 == 0},
    "sorts": {"size": lambda item: -item["size"], "name": lambda item: str(item["path"])},
    "search": ("path",),
    "max_shrink": 1,
}


class Desk(Shelf):
    """A list of the sizes in a dict, and what writes to it."""

    def __init__(self, folder: Path, sizes: dict[Key, int] | None = None, **options: Any) -> None:
        super().__init__(folder)
        self.sizes: dict[Key, int] = dict(sizes or {})
        self.meanwhile: Callable[[str], None] = lambda where: None  # called in the app's functions
        functions = {"source": self.source, "lookup": self.lookup, "enrich": self.enrich}
        self.declaration = declare(**{**DECLARED, **functions, **options})
        self.writes = self.writer()

    def writer(self, lookup: Callable[[Key], Item | None] | None = None) -> Writes:
        """Return the writes of another process of the same app."""
        tools = Tools(encode, nullcontext, breathe)
        return Writes(self.declaration, FileStore(self.folder), tools, lookup or self.declaration.lookup)

    def source(self) -> Iterator[Item]:
        for key, size in list(self.sizes.items()):
            self.meanwhile("source")
            yield {"path": key, "size": size}

    def lookup(self, key: Key) -> Item | None:
        self.meanwhile("lookup")
        size = self.sizes.get(key)
        return None if size is None else {"path": key, "size": size}

    def enrich(self, item: Item) -> Item:
        self.meanwhile("enrich")
        return {**item, "double": 2 * item["size"]}

    def build(self) -> Desk:
        with closing(self.lock()) as lock:
            self.job(lock, self.declaration).run()
        return self

    def shown(self) -> dict[Key, int]:
        """Return what readers see, in source order."""
        items = self.items()
        assert all(item["double"] == 2 * item["size"] for item in items)
        shown = {item["path"]: item["size"] for item in items}
        assert len(shown) == len(items), "two items with one key"
        return shown

    def check(self, shown: dict[Key, int]) -> None:
        """Check that all readers can see is these items."""
        assert self.shown() == shown
        snapshot = self.snapshot()
        assert not Verifier(self.folder, self.name).is_damaged(snapshot)
        assert snapshot.count == len(shown)
        for key, size in shown.items():
            slot = snapshot.find(key, "path")
            assert slot is not None and snapshot.item(slot)["size"] == size
        if len(shown) > 500:
            return  # these do not fit on one page
        pager = self.pager(self.declaration, search_budget=60.0)
        even = [key for key in shown if shown[key] % 2 == 0]
        for query, expected in (
            ("", list(shown)),
            ("filter=even", even),
            ("sort=name", list(shown)),
            ("sort=-size&filter=even", even),
            ("search=a", [key for key in shown if "a" in str(key)]),
        ):
            found = [item["path"] for item in self.ask(pager, f"per_page=500&{query}")["files"]]
            assert (query, len(found), set(found)) == (query, len(expected), set(expected))
            if query.startswith("sort=-size"):
                assert [shown[key] for key in found] == sorted(shown[key] for key in found)

    def is_owed(self) -> bool:
        """Whether the list is marked as out of date."""
        snapshot = self.snapshot()
        return snapshot.is_invalidated or snapshot.header["invalidation"] != self.store.invalidation(self.name)


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a write wait for its turn, however slow the machine is."""
    monkeypatch.setattr(write_queue, "DEADLINE", 60.0)


@pytest.fixture
def desk(folder: Path) -> Desk:
    return Desk(folder, {"a": 1, "b": 2, "c": 3}).build()


def test_write_of_code_with_another_key_is_not_lost(desk: Desk) -> None:
    """A deployment changes ``key=``, and a worker of the old code writes while the new code rebuilds."""
    new = declare(**{**DECLARED, "key": "size", "source": desk.source, "enrich": desk.enrich})

    def write(where: str) -> None:
        desk.meanwhile = lambda where: None
        desk.sizes["b"] = 20
        assert desk.writes.refresh(["b"])

    desk.meanwhile = write
    with closing(desk.lock()) as lock:
        with pytest.raises(RebuildError, match="was written to by code that has another key="):
            desk.job(lock, new).run()
        assert desk.shown() == {"a": 1, "b": 20, "c": 3}
        desk.job(lock, new).run()
    assert desk.shown() == {"a": 1, "b": 20, "c": 3}
    snapshot = desk.snapshot()
    assert snapshot.find(20, "size") == 1 and not snapshot.is_unsettled


# Compared with a dict

keys = st.sampled_from(["a", "b", "ab", "ä", 1, "1", 2])
sizes = st.none() | st.integers(0, 4)
changes = st.dictionaries(keys, sizes, min_size=1, max_size=3)
one_write = st.tuples(st.sampled_from(["refresh", "items", "discard"]), changes, st.booleans())
operations = st.lists(
    one_write
    | st.tuples(st.just("rebuild"), st.lists(st.tuples(st.integers(0, 8), one_write), max_size=3), st.booleans())
    | st.tuples(st.just("failing"), changes, st.booleans())
    | st.tuples(st.just("invalidate"), changes, st.booleans()),
    min_size=1,
    max_size=8,
)


class Run:
    """Performs operations on the files and on a dict."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.other = desk.writer()  # of another process
        self.generation = 0
        self.written: set[Key] = set()  # while a rebuild runs

    def write(self, what: str, values: dict[Key, int | None], by_other: bool) -> None:
        desk = self.desk
        writes = self.other if by_other else desk.writes
        for key, size in values.items():
            if what == "discard" or size is None:
                desk.sizes.pop(key, None)
            else:
                desk.sizes[key] = size
        self.written |= set(values)
        if what == "discard":
            done = writes.discard(values)
        elif what == "items":
            present = [{"path": key, "size": desk.sizes[key]} for key in values if key in desk.sizes]
            done = writes.refresh([*present, *(key for key in values if key not in desk.sizes)])
        else:
            done = writes.refresh(values)
        assert done
        for key in values:
            assert desk.shown().get(key) == desk.sizes.get(key)
        self.note_generation()

    def note_generation(self) -> None:
        snapshot = self.desk.snapshot()
        assert snapshot.generation > self.generation
        self.generation = snapshot.generation

    def rebuild(self, meanwhile: list[tuple[int, tuple[str, dict[Key, int | None], bool]]]) -> None:
        desk = self.desk
        self.written = set()
        left = sorted(meanwhile, key=lambda entry: entry[0])
        calls = 0

        def inside(where: str) -> None:
            nonlocal calls
            calls += where != "lookup"
            while left and left[0][0] < calls:
                desk.meanwhile = lambda where: None  # a write calls the app's functions, too
                self.write(*left.pop(0)[1])
                desk.meanwhile = inside

        before = self.generation
        desk.meanwhile = inside
        desk.build()
        desk.meanwhile = lambda where: None
        assert desk.snapshot().generation > before
        self.note_generation() if desk.snapshot().generation != self.generation else None
        assert not desk.is_owed() and not desk.snapshot().is_unsettled
        assert {write.key for write in desk.snapshot().writes()} == self.written

    def fail(self, values: dict[Key, int | None]) -> None:
        """Check that a failing look-up changes nothing, whichever key it fails for."""
        before, last = self.desk.shown(), list(values)[-1]

        def lookup(key: Key) -> Item | None:
            if key == last and type(key) is type(last):
                raise LookupError("the database is away")
            return self.desk.lookup(key)

        with pytest.raises(LookupError, match="database"):
            self.desk.writer(lookup).refresh(values)
        assert self.desk.shown() == before
        assert self.desk.snapshot().generation == self.generation


@settings(max_examples=60)
@given(st.dictionaries(keys, st.integers(0, 4), max_size=7), operations)
@example({}, [("refresh", {"a": 1}, False), ("rebuild", [], False), ("discard", {"a": None}, True)])
@example({"a": 1}, [("rebuild", [(0, ("discard", {"a": None}, False))], False), ("refresh", {"a": 2}, False)])
def test_list_equals_dict_after_any_operations(first: dict[Key, int], done: list[tuple[str, Any, bool]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        desk = Desk(Path(folder) / "cache", first).build()
        run = Run(desk)
        run.note_generation()
        for what, values, by_other in done:
            published_at = desk.snapshot().published_at
            if what == "rebuild":
                run.rebuild(values)
            elif what == "failing":
                run.fail(values)
            elif what == "invalidate":
                desk.store.invalidate(desk.name)
                assert desk.is_owed()
            else:
                was_owed = desk.is_owed()
                run.write(what, values, by_other)
                assert desk.snapshot().published_at == published_at
                assert desk.is_owed() == was_owed
            desk.check(desk.sizes)
        desk.build().check(desk.sizes)
        assert desk.snapshot().writes() == []


# What a write does not change


def test_write_changes_neither_age_nor_facts_of_rebuild(desk: Desk) -> None:
    before = desk.snapshot()
    desk.sizes["a"] = 5
    assert desk.writes.refresh(["a"]) and desk.writes.discard(["b"])
    after = desk.snapshot()
    assert after.generation > before.generation and after.rebuilt == before.generation
    for name in ("published_at", "started", "duration", "reused", "enriched", "failed_items", "invalidation"):
        assert after.header[name] == before.header[name]


@pytest.mark.parametrize("mark", ["invalidate", "outdate"])
@pytest.mark.parametrize("moment", ["before", "lookup", "append", "rename", "behind it"])
def test_mark_survives_write(desk: Desk, monkeypatch: pytest.MonkeyPatch, mark: str, moment: str) -> None:
    opened = desk.snapshot()

    def at(now: str) -> None:
        if now == moment:
            if mark == "invalidate":
                desk.store.invalidate(desk.name)
            else:
                desk.store.mark_stale(desk.name, opened)

    publish, sync = Draft.publish, os.fsync

    def around(draft: Draft) -> None:
        at("rename")
        publish(draft)
        at("behind it")

    def synced(descriptor: int) -> None:
        at("append")
        sync(descriptor)

    monkeypatch.setattr(Draft, "publish", around)
    monkeypatch.setattr(os, "fsync", synced)
    desk.meanwhile = at
    at("before")
    desk.sizes["a"] = 5
    assert desk.writes.refresh(["a"])
    assert desk.shown()["a"] == 5
    assert desk.index.stat().st_mtime_ns < INVALIDATED_BEFORE
    monkeypatch.undo()
    desk.meanwhile = lambda where: None
    assert not desk.build().is_owed()


def test_writes_stay_in_index_until_rebuild_has_seen_them(desk: Desk) -> None:
    for number in range(5):
        desk.sizes["a"] = number
        assert desk.writes.refresh(["a", "b"])
    assert desk.writes.discard(["c", "none"])
    assert sorted(write.key for write in desk.snapshot().writes()) == ["a", "b", "c", "none"]
    assert len(desk.build().snapshot().writes()) == 0


# Writes that cannot be published


def test_write_to_cold_list_invalidates_it(folder: Path) -> None:
    desk = Desk(folder, {"a": 1})
    assert not desk.writes.refresh(["a"])
    assert not desk.writes.discard(["a"])
    assert desk.store.invalidation(desk.name)
    assert desk.build().shown() == {"a": 1}
    assert not desk.is_owed()
    with closing(desk.lock()):
        desk.store.publish_cold(desk.name)
    assert not desk.writes.refresh(["a"])


@pytest.mark.parametrize("command", ["refresh", "discard"])
def test_lost_write_is_error_of_call_and_command(office: Office, command: str) -> None:
    folder = state_of(office.app).store.folder
    folder.chmod(0o755)
    with office.app.app_context(), pytest.raises(StoreError, match="is open to other accounts"):
        getattr(office.list, command)("a")
    result = office.app.test_cli_runner().invoke(args=["warmcache", command, "files", "a"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"files is unchanged: StoreError: The cache folder {folder} is open to" in result.stderr


def test_write_before_first_partial_list_causes_another_rebuild(folder: Path) -> None:
    desk = Desk(folder, {"a": 1, "b": 2})
    answers: list[bool] = []

    def meanwhile(where: str) -> None:
        if where == "enrich" and desk.sizes["a"] == 1:
            desk.sizes["a"] = 7
            answers.append(desk.writes.refresh(["a"]))

    desk.meanwhile = meanwhile
    desk.build()
    assert answers == [False] and desk.is_owed()
    assert desk.build().shown() == {"a": 7, "b": 2}


@pytest.mark.parametrize("values", [{"size": 1, "path": "z"}, {"path": 1.5}, {"path": None}, {"size": 2}], ids=str)
def test_item_with_wrong_key_is_refused(desk: Desk, values: Item) -> None:
    desk.declaration = declare(**{**DECLARED, "lookup": lambda key: values})
    with pytest.raises(RebuildError):
        desk.writer().refresh(["a"] if values.get("path") == "z" else [values])
    with pytest.raises(TypeError):
        desk.writes.refresh([1.5])  # type: ignore[list-item]
    with pytest.raises(TypeError):
        desk.writes.discard([True, None])  # type: ignore[list-item]
    assert desk.shown() == desk.sizes


def test_many_keys_are_looked_up_and_enriched_in_batches(folder: Path) -> None:
    desk = Desk(folder, {number: number for number in range(300)})
    lookups: list[list[Key]] = []
    enriched: list[int] = []

    def lookup(keys: list[Key]) -> Iterator[Item | None]:
        lookups.append(keys)
        return (desk.lookup(key) for key in reversed(keys))  # None is for a key that is gone, as in other answers

    def enrich(items: list[Item]) -> list[Item]:
        enriched.append(len(items))
        return [desk.enrich(item) for item in items]

    how = {"lookup": lookup, "lookup_batch": 100, "enrich": enrich, "batch": 64}
    desk.declaration = declare(**{**DECLARED, "source": desk.source, **how})
    desk.writes = desk.writer()
    desk.build()
    enriched.clear()
    desk.sizes = {number: 2 * number for number in range(1, 300)}
    assert desk.writes.refresh(range(300))
    assert desk.shown() == desk.sizes
    assert [len(keys) for keys in lookups] == [100, 100, 100]
    assert enriched == [64, 64, 64, 64, 43]


@pytest.mark.parametrize("found", [{"path": "a"}, "a", None, 5, [{"path": "c"}], [{"path": "a"}] * 2, [{}], ["a"]])
def test_batch_that_is_not_looked_up_right_changes_nothing(desk: Desk, found: Any) -> None:
    desk.declaration = declare(**{**DECLARED, "lookup": lambda keys: found, "lookup_batch": 5})
    with pytest.raises(RebuildError, match="lookup of 'files' gave"):
        desk.writer().refresh(["a", "b"])
    assert desk.shown() == desk.sizes


def test_list_without_lookup_accepts_items_but_no_keys(folder: Path) -> None:
    desk = Desk(folder, {"a": 1}, lookup=None).build()
    with pytest.raises(DeclarationError, match="no lookup"):
        desk.writes.refresh(["a"])
    assert desk.writes.refresh([{"path": "a", "size": 2}, {"path": "b", "size": 3}])
    assert desk.shown() == {"a": 2, "b": 3}


def test_error_of_enrich_reaches_caller(desk: Desk) -> None:
    def broken(where: str) -> None:
        if where == "enrich":
            raise ZeroDivisionError

    desk.meanwhile = broken
    before = desk.snapshot().generation
    with pytest.raises(ZeroDivisionError):
        desk.writes.refresh(["a"])
    assert desk.snapshot().generation == before


def test_item_that_cannot_be_sorted_is_left_to_next_rebuild(folder: Path) -> None:
    def date(item: Item) -> datetime:
        return datetime(2000, 1, 1, tzinfo=UTC if item["size"] < 100 else None)

    desk = Desk(folder, {"a": 1, "b": 2}, sorts={"date": date}, filters={}).build()
    desk.sizes["a"] = 100
    assert not desk.writes.refresh(["a"])
    assert desk.shown()["a"] == 1 and desk.is_owed()
    desk.sizes["b"] = 100
    assert desk.build().shown() == {"a": 100, "b": 100}


def test_write_waits_for_publish_lock_until_its_deadline(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_queue, "DEADLINE", 0.2)
    script = """
import sys
from pathlib import Path
from flask_warmcache.store.files import FileStore
with FileStore(Path(sys.argv[1])).publishing("files"):
    print("held", flush=True)
    sys.stdin.read()
"""
    with started(python("-c", script, desk.folder)) as holder:
        assert read_line(holder) == "held"
        desk.sizes["a"] = 9
        began = time.monotonic()
        with ThreadPoolExecutor(3) as pool:
            assert list(pool.map(lambda _: desk.writes.refresh(["a"]), range(3))) == [False] * 3
        assert time.monotonic() - began >= 0.2
        assert desk.shown()["a"] == 1 and desk.is_owed()
    assert desk.build().shown()["a"] == 9
    assert not list(desk.folder.glob("*.tmp"))


def test_write_after_folder_was_removed_is_no_error(desk: Desk) -> None:
    shutil.rmtree(desk.folder)
    assert not desk.writes.refresh(["a"])


# Beside other writes and rebuilds


def test_writes_that_wait_together_share_publication(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"n{number}" for number in range(12)]
    desk.sizes |= dict.fromkeys(names, 4)
    publish, published = Draft.publish, []
    is_open = threading.Event()

    def slowly(draft: Draft) -> None:
        published.append(draft.path)
        assert is_open.wait(120)
        publish(draft)

    monkeypatch.setattr(Draft, "publish", slowly)
    with ThreadPoolExecutor(len(names)) as pool:
        answers = [pool.submit(desk.writes.refresh, [name]) for name in names]
        until(lambda: len(desk.writes.queue.waiting) == len(names) - 1)
        is_open.set()
        assert all(answer.result(20) for answer in answers)
    assert len(published) == 2
    desk.check(desk.sizes)


def test_later_lookup_of_two_published_together_wins(desk: Desk) -> None:
    with desk.writes.queue.publishing, ThreadPoolExecutor(2) as pool:
        is_late, may_go = threading.Event(), threading.Event()

        def meanwhile(where: str) -> None:
            if where == "enrich" and desk.sizes["a"] == 5 and not is_late.is_set():
                is_late.set()  # it has looked_up up 5, and enriching takes long
                assert may_go.wait(120)

        desk.meanwhile = meanwhile
        desk.sizes["a"] = 5
        first = pool.submit(desk.writes.refresh, ["a"])
        assert is_late.wait(120)
        desk.sizes["a"] = 6
        second = pool.submit(desk.writes.refresh, ["a"])
        until(lambda: len(desk.writes.queue.waiting) == 1)
        may_go.set()
        until(lambda: len(desk.writes.queue.waiting) == 2)
        desk.writes.queue.publishing.release()
        try:
            assert first.result(20) and second.result(20)
        finally:
            assert desk.writes.queue.publishing.acquire(timeout=120)
    assert desk.shown()["a"] == 6


@pytest.mark.parametrize("other", ["refreshes", "rebuilds"])
def test_outdated_lookup_is_repeated(desk: Desk, other: str) -> None:
    """A looks up 5 and is slow. B publishes 6, and a rebuild drops B's write from the index. Then A is ready."""
    looked_up: list[int] = []

    def meanwhile(where: str) -> None:
        if where != "enrich" or looked_up:
            return
        looked_up.append(desk.sizes["a"])
        desk.sizes["a"] = 6
        if other == "refreshes":
            assert desk.writer().refresh(["a"])
        desk.build()

    desk.meanwhile = meanwhile
    desk.sizes["a"] = 5
    assert desk.writes.refresh(["a"])
    assert looked_up == [5]
    assert desk.shown()["a"] == 6


def test_key_that_others_keep_overwriting_is_left_to_rebuild(desk: Desk) -> None:
    other = desk.writer()
    busy = False

    def meanwhile(where: str) -> None:
        nonlocal busy
        if where == "enrich" and not busy:
            busy = True
            desk.sizes["a"] += 1
            assert other.refresh(["a"])
            busy = False

    desk.meanwhile = meanwhile
    assert not desk.writes.refresh(["a"])
    assert desk.shown()["a"] == desk.sizes["a"] == 1 + writes_module.LOOKUPS
    assert desk.is_owed()


def test_write_during_first_build_wins(folder: Path) -> None:
    desk = Desk(folder, {f"n{number:04}": 1 for number in range(3000)})
    written: list[bool] = []

    def meanwhile(where: str) -> None:
        if where == "enrich" and not written and desk.index.exists():
            written.append(True)
            for name in ("n0001", "n2999"):  # one is published, and one is not reached yet
                desk.sizes[name] = 2
            assert desk.writes.discard(["n0002"])
            del desk.sizes["n0002"]
            assert desk.writer().refresh(["n0001", "n2999"])
            shown = desk.shown()
            assert (shown["n0001"], shown["n2999"], "n0002" in shown) == (2, 2, False)

    desk.meanwhile = meanwhile
    desk.build()
    assert written
    assert desk.shown() == desk.sizes
    assert not desk.snapshot().is_unsettled
    desk.build().check(desk.sizes)


HALF_LINE = b"0123456789abcdef\t{half"  # left by a write that is killed while it appends


def leave_half_line(desk: Desk) -> None:
    with open(desk.data, "ab") as data:
        data.write(HALF_LINE)


def test_half_line_in_data_file_is_skipped(desk: Desk) -> None:
    leave_half_line(desk)
    desk.sizes["a"] = 5
    assert desk.writes.refresh(["a"])
    leave_half_line(desk)
    desk.sizes["b"] = 6
    desk.build().check(desk.sizes)


def test_half_line_is_skipped_in_first_build(folder: Path) -> None:
    first = Desk(folder, {f"n{number:04}": 1 for number in range(400)})
    left: list[bool] = []

    def meanwhile(where: str) -> None:
        if where == "enrich" and not left and first.index.exists():
            left.append(True)
            leave_half_line(first)

    first.meanwhile = meanwhile
    first.build().check(first.sizes)
    assert left
    lines = first.data.read_bytes().splitlines()[1:]
    assert [line for line in lines if line.count(b"\t") != 1 or not line.endswith(b"}")] == [HALF_LINE]


def test_constant_writes_do_not_starve_rebuild(desk: Desk) -> None:
    desk.sizes |= {f"n{number}": 1 for number in range(2000)}
    other = desk.writer()

    class Constant(Repeated):
        def turn(self) -> None:
            assert other.refresh(["a"])

    with Constant():
        for number in range(3):
            desk.sizes["b"] = number
            desk.sizes |= {f"n{number}": 2 + number for number in range(1000)}
            desk.build()
            assert desk.shown()["b"] == number
    desk.check(desk.sizes)


# Each child writes or rebuilds until the file "stop" exists. The database is a folder: the value of a key is the
# size of its file, and each change appends one byte.
WRITER = """
import os, sys, threading
from contextlib import nullcontext
from pathlib import Path
from flask_warmcache.rebuild import write_queue, writes
from tests.support.shelf import declare, encode, breathe, FileStore, Tools, Shelf

write_queue.DEADLINE = 60
folder, base = Path(sys.argv[1]), Path(sys.argv[2])
KEYS = [f"k{n}" for n in range(6)]
parent = os.getpid()

def size(key):
    return (base / key).stat().st_size

def item(key):
    return {"path": key, "size": size(key)}

options = {"sorts": {"size": lambda item: -item["size"]}, "max_shrink": 1}

def goes_on():
    return os.getppid() == parent and not (base / "stop").exists()

def note(name, text):
    with open(base / name, "a") as file:
        file.write(text)

def act(role):
    if role == "rebuild":
        shelf = Shelf(folder)
        while goes_on():
            shelf.rebuild(lambda: [item(key) for key in KEYS], lookup=item, **options)
            note("rebuilt", "x")
    else:
        declaration = declare(source=list, lookup=item, **options)
        writer = writes.Writes(declaration, FileStore(folder), Tools(encode, nullcontext, breathe), item)
        threads = [threading.Thread(target=write, args=(writer, int(role) * 2 + n)) for n in range(2)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]

def write(writer, at):
    while goes_on():
        at += 7
        key = KEYS[at % len(KEYS)]
        note(key, "x")
        mine = size(key)
        if writer.refresh([key]):
            note("promises", f"{key} {mine}\\n")
"""


class Storm:
    """Processes that write and rebuild one list, and a reader that checks what they promised."""

    OPTIONS: dict[str, Any] = {"sorts": {"size": lambda item: -item["size"]}, "max_shrink": 1}

    def __init__(self, folder: Path, base: Path, processes: Forker) -> None:
        base.mkdir()
        self.folder, self.base, self.processes = folder, base, processes
        self.keys = [f"k{number}" for number in range(6)]
        for name in (*self.keys, "promises", "rebuilt"):
            (base / name).touch()
        self._promises = open(base / "promises", encoding="ascii")
        self._begun = ""
        self.promised = 0
        self.kept: dict[str, int] = dict.fromkeys(self.keys, 0)
        self.shelf = Shelf(folder)
        items = [{"path": key, "size": 0} for key in self.keys]
        self.shelf.rebuild(items, **self.OPTIONS)
        self.reader = self.shelf.store.reader(self.shelf.name)
        self.reads = 0
        self.seen = dict(self.kept)

    def check(self) -> None:
        """Check that no item is older than what was promised, or read, before this read."""
        *lines, self._begun = (self._begun + self._promises.read()).split("\n")  # the last line may be incomplete
        self.promised += len(lines)
        for line in lines:
            key, size = line.split()
            self.kept[key] = max(self.kept[key], int(size))
        snapshot = self.reader.current()
        assert snapshot is not None
        self.reads += 1
        for key in self.keys:
            slot = snapshot.find(key, "path")
            assert slot is not None
            size = snapshot.item(slot)["size"]
            assert size >= max(self.kept[key], self.seen[key]), (key, size, self.kept[key], self.seen[key])
            self.seen[key] = size

    def has_promised(self, number: int) -> bool:
        """Check the list, and return whether this many writes were promised."""
        self.check()
        return self.promised >= number

    @property
    def rebuilds(self) -> int:
        return (self.base / "rebuilt").stat().st_size


@pytest.fixture
def storm(tmp_path: Path) -> Iterator[Storm]:
    folder, base = tmp_path / "cache", tmp_path / "base"
    with forker(WRITER, folder, base) as processes:
        storm = Storm(folder, base, processes)
        yield storm
        storm._promises.close()


def test_no_key_goes_backwards_beside_rebuilds(storm: Storm) -> None:
    children = [storm.processes.fork(role) for role in ("0", "1", "2", "3", "rebuild")]
    until(lambda: storm.has_promised(300) and storm.rebuilds >= 30 and storm.reads >= 200)
    (storm.base / "stop").touch()
    assert [storm.processes.wait(child) for child in children] == [0] * 5
    storm.check()


def test_killed_writers_leave_old_or_new_items(storm: Storm) -> None:
    chance = random.Random(1)
    for _ in range(30):
        child = storm.processes.fork("0")
        enough = storm.promised + chance.randrange(1, 6)
        until(lambda: storm.has_promised(enough), pause=lambda _: None)  # noqa: B023
        os.kill(child, signal.SIGKILL)
        assert storm.processes.wait(child) == -signal.SIGKILL
        storm.check()
        snapshot = storm.shelf.snapshot()
        assert not Verifier(storm.folder, "files").is_damaged(snapshot)
        slots = snapshot.order("all", "size")
        sizes = [snapshot.item(slot)["size"] for slot in slots]
        assert sizes == sorted(sizes, reverse=True)
    truth = [{"path": key, "size": (storm.base / key).stat().st_size} for key in storm.keys]
    storm.shelf.rebuild(truth, **storm.OPTIONS)
    assert storm.shelf.items() == truth
    names = {path.suffix for path in storm.folder.iterdir()}
    assert names <= {".changes", ".data", ".index", ".lock", ".tmp"}


# Through Flask


class Office:
    """An app whose requests change its list."""

    def __init__(self, folder: Path) -> None:
        self.app = make_app(folder)
        self.sizes: dict[Key, int] = {"a": 1, "b": 2}
        warmcache = WarmCache(self.app)
        self.list = warmcache.warm_list("files", key="path", source=self.source)
        self.list.lookup(lambda key: {"path": key, "size": self.sizes[key]} if key in self.sizes else None)
        self.made = warmcache.warm_list("made", key="path", source=self.list)
        self.made.enrich(lambda item: {**item, "double": 2 * item["size"]})
        self.app.get("/<name>")(lambda name: {"files": self.list, "made": self.made}[name].response())
        self.app.post("/<key>/<int:size>")(self.change)
        with self.app.app_context():
            self.made.rebuild_now()

    def source(self) -> list[Item]:
        return [{"path": key, "size": size} for key, size in self.sizes.items()]

    def change(self, key: str, size: int) -> Response:
        if size:
            self.sizes[key] = size
            return jsonify(done=self.list.refresh(key))
        self.sizes.pop(key, None)
        return jsonify(done=self.list.discard(key))

    def get(self, name: str) -> list[tuple[Key, int]]:
        answer = self.app.test_client().get(f"/{name}").get_json()
        (items,) = [value for value in answer.values() if isinstance(value, list)]
        return [(item["path"], item.get("double", item["size"])) for item in items]


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path)


def test_next_request_sees_write_here_and_in_follower(office: Office) -> None:
    client = office.app.test_client()
    assert (office.get("files"), office.get("made")) == ([("a", 1), ("b", 2)], [("a", 2), ("b", 4)])
    etag = client.get("/files").headers["ETag"]
    assert client.post("/a/7").get_json() == {"done": True}
    assert client.get("/files", headers={"If-None-Match": etag}).status_code == 200
    assert (office.get("files"), office.get("made")) == ([("a", 7), ("b", 2)], [("a", 14), ("b", 4)])
    assert client.post("/c/3").get_json() == {"done": True}
    assert client.post("/b/0").get_json() == {"done": True}
    assert (office.get("files"), office.get("made")) == ([("a", 7), ("c", 3)], [("a", 14), ("c", 6)])
    for status in state_of(office.app).statuses.values():
        assert status.condition().state == "fresh"


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["refresh", "files", "a", "c"], [("a", 5), ("b", 2), ("c", 6)]),
        (["discard", "files", "b", "none"], [("a", 1)]),
        (["refresh", "--int", "files", "5"], [("a", 1), ("b", 2)]),
    ],
)
def test_commands_write(office: Office, arguments: list[str], shown: list[tuple[Key, int]]) -> None:
    office.sizes |= {"a": 5, "c": 6}
    result = office.app.test_cli_runner().invoke(args=["warmcache", *arguments])
    assert result.exit_code == 0, result.output
    assert office.get("files") == shown


@pytest.mark.parametrize(
    ("keys", "arguments", "reason"),
    [
        ([1, 77], ["77"], "whole numbers. Use --int for '77'."),
        ([1, 77], ["78"], "whole numbers. Use --int for '78'."),
        (["1", "77"], ["--int", "77"], "The key '77' of 'files' is text. Leave --int out."),
    ],
)
@pytest.mark.parametrize("command", ["refresh", "discard"])
def test_commands_refuse_keys_of_wrong_kind(
    office: Office, keys: list[Key], arguments: list[str], reason: str, command: str
) -> None:
    office.sizes = dict.fromkeys(keys, 1)
    with office.app.app_context():
        office.list.rebuild_now()
    result = office.app.test_cli_runner().invoke(args=["warmcache", command, "files", *arguments])
    assert (result.exit_code, reason in result.stderr) == (2, True), result.output
    assert office.get("files") == [(key, 1) for key in keys]


def test_commands_report_list_that_was_never_built(tmp_path: Path) -> None:
    app = make_app(tmp_path)
    listed = WarmCache(app).warm_list("files", key="path", source=lambda: [])
    listed.lookup(lambda key: None)
    for command in ("refresh", "discard"):
        result = app.test_cli_runner().invoke(args=["warmcache", command, "files", "a"])
        assert (result.exit_code, "it is invalidated" in result.output) == (3, True)
