"""An interrupted rebuild leaves the items it finished, and the next one resumes from there."""

from __future__ import annotations

import inspect
import json
import random
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flask_warmcache import WarmCache
from flask_warmcache.declaration import Item
from flask_warmcache.rebuild import publish as publish_module
from flask_warmcache.rebuild.publish import Publisher
from flask_warmcache.rebuild.tools import Outcome
from flask_warmcache.store.verify import Verifier
from tests.support.apps import make_app
from tests.support.processes import forker
from tests.support.shelf import Shelf, files
from tests.support.waiting import until

NAMES = [f"item {number}" for number in range(12)]
ITEMS = files(*NAMES)


class Stop(BaseException):
    """Ends a rebuild between two items, as handing it over to a child does."""


class Enrich:
    """Completes items and notes them, and raises at one of them."""

    def __init__(self, at: int | None = None, by: type[BaseException] = KeyboardInterrupt, mark: str = "") -> None:
        self.seen: list[str] = []
        self.at = at
        self.by = by
        self.mark = mark

    def __call__(self, item: Item) -> Item:
        if len(self.seen) == self.at:
            raise self.by
        self.seen.append(item["path"])
        return {**item, "made": item["path"].upper() + self.mark}


def made(items: list[Item], mark: str = "") -> list[Item]:
    return [{**item, "made": item["path"].upper() + mark} for item in items]


def data_files(shelf: Shelf) -> list[Path]:
    return sorted(shelf.folder.glob("*.data"))


def intact(shelf: Shelf) -> bool:
    return not Verifier(shelf.folder, shelf.name).is_damaged(shelf.snapshot())


def interrupt(shelf: Shelf, at: int, items: list[Item] = ITEMS, **options: Any) -> list[str]:
    """Run a rebuild that is interrupted at the item of this number; return what it enriched."""
    enrich = Enrich(at, options.pop("by", KeyboardInterrupt), options.pop("mark", ""))
    with pytest.raises(enrich.by):
        shelf.rebuild(items, enrich=enrich, **options)
    return enrich.seen


def resume(shelf: Shelf, items: list[Item] = ITEMS, mark: str = "", **options: Any) -> list[str]:
    """Rebuild to the end, check what is published, and return what was enriched."""
    enrich = Enrich(mark=mark)
    outcome = shelf.rebuild(items, enrich=enrich, **options)
    assert (outcome.count, outcome.enriched) == (len(items), len(enrich.seen))
    published = shelf.items()
    assert [item["path"] for item in published] == [item["path"] for item in items]
    assert mark or published == made(items)
    assert intact(shelf)
    assert len(data_files(shelf)) == 1
    return enrich.seen


@pytest.mark.parametrize("by", [KeyboardInterrupt, SystemExit, GeneratorExit, Stop])
@pytest.mark.parametrize("at", [0, 1, 5, 11])
def test_next_rebuild_enriches_only_the_rest(shelf: Shelf, at: int, by: type[BaseException]) -> None:
    interrupt(shelf, at, by=by)
    assert not shelf.index.exists()
    assert resume(shelf) == NAMES[at:]


@pytest.mark.parametrize("at", [0, 3, 7])
def test_interrupted_rebuild_of_published_list_is_resumed(shelf: Shelf, at: int) -> None:
    shelf.rebuild(ITEMS[:4], enrich=Enrich(mark=" old"))
    interrupt(shelf, at, version="2", mark=" new")
    assert shelf.items() == made(ITEMS[:4], " old")
    assert resume(shelf, version="2", mark=" new") == NAMES[at:]
    assert shelf.items() == made(ITEMS, " new")


def test_rebuild_interrupted_five_times_loses_nothing(shelf: Shelf) -> None:
    seen: list[str] = []
    for number in range(5):
        seen += interrupt(shelf, 2, mark=f" {number}")
        assert len(data_files(shelf)) == 1
    assert seen + resume(shelf, mark=" 5") == NAMES
    assert [item["made"][-1] for item in shelf.items()] == [str(min(number // 2, 5)) for number in range(12)]


def test_finished_items_are_found_after_source_has_changed(shelf: Shelf) -> None:
    interrupt(shelf, 6)
    changed = [*files("first"), ITEMS[5], {**ITEMS[1], "size": 99}, ITEMS[0], ITEMS[9]]
    assert resume(shelf, changed) == ["first", "item 1", "item 9"]


def test_finished_items_of_another_version_are_not_reused(shelf: Shelf) -> None:
    interrupt(shelf, 6, version="1", mark=" one")
    assert resume(shelf, version="2", mark=" two") == NAMES


def test_finished_items_of_batch_are_kept(shelf: Shelf) -> None:
    batches: list[list[str]] = []

    def enrich(items: list[Item]) -> list[Item]:
        if len(batches) == 2:
            raise KeyboardInterrupt
        batches.append([item["path"] for item in items])
        return made(items)

    with pytest.raises(KeyboardInterrupt):
        shelf.rebuild(ITEMS, enrich=enrich, batch=5)
    batches.clear()
    shelf.rebuild(ITEMS, enrich=enrich, batch=5)
    assert batches == [NAMES[10:]]
    assert shelf.items() == made(ITEMS)


def test_rebuild_that_stops_within_batch_keeps_whole_batch(shelf: Shelf) -> None:
    done: list[str] = []

    def enrich(items: list[Item]) -> list[Item]:
        done.extend(item["path"] for item in items)
        return made(items)

    def breathe() -> None:
        if done:
            raise Stop

    with pytest.raises(Stop):
        shelf.rebuild(ITEMS, enrich=enrich, batch=5, breathe=breathe)
    shelf.rebuild(ITEMS, enrich=enrich, batch=5)
    assert done == NAMES


@pytest.mark.parametrize("how", [{}, {"batch": 4}, {"workers": 2}, {"batch": 2, "workers": 2}], ids=str)
def test_finished_items_are_in_file_before_long_item_begins(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, how: dict[str, Any]
) -> None:
    """If the process is killed during the long item, only what it buffers, for some milliseconds, is lost."""
    monkeypatch.setattr("flask_warmcache.store.data.FLUSH_EVERY", -1)
    found: list[bool] = []

    def are_there() -> bool:
        content = b"".join(path.read_bytes() for path in data_files(shelf))
        return all(f'"{name}"'.encode() in content for name in NAMES[:4])

    def enrich(options: Any) -> Any:
        items = options if isinstance(options, list) else [options]
        if items[-1]["path"] == NAMES[7]:
            found.append(until(are_there))
        return made(items) if isinstance(options, list) else made(items)[0]

    shelf.rebuild(ITEMS[:8], enrich=enrich, **how)
    assert found == [True]


# What a power failure or a killed process leaves

ENDS = [
    pytest.param(b"", id="nothing"),
    pytest.param(b"\n\n\n", id="empty lines"),
    pytest.param(bytes(5000), id="zero bytes"),
    pytest.param(bytes(5000) + b"\n", id="a line of zero bytes"),
    pytest.param(b"garbage\nmore garbage", id="garbage"),
    pytest.param(b"\xff\xfe\n" + b"f" * 32 + b"\t\xff\xff\n", id="no text"),
    pytest.param(b"0" * 32 + b"\t[1,2]\n" + b"1" * 32 + b"\t5\n", id="JSON that is no item"),
    pytest.param(b"\n" * 10 + b"\t" * 40, id="tabs"),
]


@pytest.mark.parametrize("end", ENDS)
def test_bytes_after_finished_items_do_no_harm(shelf: Shelf, end: bytes) -> None:
    interrupt(shelf, 6)
    with open(shelf.data, "ab") as data:
        data.write(end)
    assert resume(shelf) == NAMES[6:]


@settings(max_examples=60)
@given(st.data())
def test_data_file_truncated_or_damaged_anywhere_is_resumed(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        shelf = Shelf(Path(folder) / "cache")
        interrupt(shelf, 6)
        content = shelf.data.read_bytes()
        cut = data.draw(st.integers(0, len(content)))
        filler = data.draw(st.sampled_from([b"", bytes(40), b"\n", b"\t", b'{"a":1}\n']))
        shelf.data.write_bytes(content[:cut] + filler)
        whole = content[:cut].count(b"\n") - 1
        seen = resume(shelf)
        if whole >= 0:  # otherwise nothing shows what the file is
            assert seen in (NAMES[whole:], NAMES[whole + 1 :])


def test_later_of_two_lines_with_one_fingerprint_counts(shelf: Shelf) -> None:
    interrupt(shelf, 6)
    lines = shelf.data.read_bytes().splitlines(keepends=True)
    with open(shelf.data, "ab") as data:
        data.write(lines[2].replace(b"ITEM 1", b"LATER!"))
    shelf.rebuild(ITEMS, enrich=Enrich())
    assert [item["made"] for item in shelf.items()][:3] == ["ITEM 0", "LATER!", "ITEM 2"]


def test_line_without_its_tab_is_ignored(shelf: Shelf) -> None:
    interrupt(shelf, 6)
    lines = shelf.data.read_bytes().splitlines(keepends=True)
    with open(shelf.data, "ab") as data:
        data.write(lines[2].replace(b"\t", b" ", 1))
    shelf.rebuild(ITEMS, enrich=Enrich())
    snapshot = shelf.snapshot()
    assert snapshot.items_json(snapshot.view("all", "").tolist()).count(b'"made"') == 12  # as pages are read


def test_line_with_wrong_key_for_its_fingerprint_is_ignored(shelf: Shelf) -> None:
    interrupt(shelf, 2)
    shelf.data.write_bytes(shelf.data.read_bytes().replace(b'"item 1"', b'"item 7"'))
    assert resume(shelf) == NAMES[1:]


def test_newer_of_two_leftover_files_is_resumed_and_other_removed(shelf: Shelf) -> None:
    interrupt(shelf, 3, mark=" one")
    first = shelf.data
    content = first.read_bytes()
    first.unlink()
    interrupt(shelf, 5, mark=" two")
    first.write_bytes(content)
    assert len(data_files(shelf)) == 2
    assert resume(shelf, mark=" three") == NAMES[5:]


@pytest.mark.parametrize("foreign", [b"", b"something else\n", b'{"format": "warmcache-data 9", "id": "ab"}\n'])
def test_data_file_of_unknown_format_is_removed(shelf: Shelf, foreign: bytes) -> None:
    shelf.folder.mkdir(mode=0o700)
    (shelf.folder / "files.5.data").write_bytes(foreign)
    assert resume(shelf) == NAMES


@pytest.fixture
def no_dead_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace even a small file when most of it is useless."""
    monkeypatch.setattr("flask_warmcache.store.sweeping.COMPACT_FROM", 0)


@pytest.mark.usefixtures("no_dead_weight")
def test_mostly_useless_leftover_file_is_replaced(shelf: Shelf) -> None:
    interrupt(shelf, 10)
    left = shelf.data
    assert resume(shelf, ITEMS[8:]) == NAMES[10:]
    assert shelf.data != left
    assert shelf.data.read_bytes().count(b"\n") == 5


@pytest.mark.usefixtures("no_dead_weight")
def test_useful_items_survive_second_interruption(shelf: Shelf) -> None:
    interrupt(shelf, 10)
    # In the new order of the source, the finished items come last.
    items = [*ITEMS[10:], *files("new", "newer"), *ITEMS[7:10]]
    interrupt(shelf, 1, items)
    assert len(data_files(shelf)) == 1
    interrupt(shelf, 0, items)
    assert resume(shelf, items) == ["item 11", "new", "newer"]


@pytest.mark.usefixtures("no_dead_weight")
@pytest.mark.parametrize("at", range(6))
def test_interruption_while_useful_items_are_copied_loses_nothing(shelf: Shelf, at: int) -> None:
    interrupt(shelf, 10)
    left = data_files(shelf)
    breaths = 0

    def breathe() -> None:
        nonlocal breaths
        breaths += any(frame.function == "_copy_useful" for frame in inspect.stack())
        if breaths > at:
            raise Stop

    with pytest.raises(Stop):
        shelf.rebuild(ITEMS[6:], enrich=Enrich(), breathe=breathe)
    assert data_files(shelf) == left
    assert resume(shelf, ITEMS[6:]) == NAMES[10:]


def test_data_file_of_writer_killed_at_its_start_is_removed(shelf: Shelf) -> None:
    interrupt(shelf, 6)
    begun = shelf.folder / f"files.{time.time_ns()}.data.tmp"
    begun.write_bytes(b"")
    assert resume(shelf) == NAMES[6:]
    assert not begun.exists()


@pytest.mark.usefixtures("no_dead_weight")
def test_leftover_files_do_not_accumulate(shelf: Shelf) -> None:
    for number in range(6):
        interrupt(shelf, 10, [{**item, "size": number} for item in ITEMS])
        assert len(data_files(shelf)) == 1
    resume(shelf)


def test_rebuild_whose_source_fails_keeps_finished_items(shelf: Shelf) -> None:
    def gone() -> list[Item]:
        raise OSError("the share is gone")

    interrupt(shelf, 6)
    with pytest.raises(OSError, match="gone"):
        shelf.rebuild(gone, enrich=Enrich())
    assert resume(shelf) == NAMES[6:]


def test_list_without_keys_is_not_resumed(shelf: Shelf) -> None:
    interrupt(shelf, 6, kind="builder", key=None)
    assert resume(shelf, kind="builder", key=None) == NAMES


# A first build publishes partial lists


class Partly:
    """A first build that checks what is published whenever it enriches an item."""

    def __init__(self, shelf: Shelf, first_page: int = 2) -> None:
        self.shelf = shelf
        self.first_page = first_page
        self.counts: list[int] = []
        self.enriched: list[str] = []

    def enrich(self, item: Item) -> Item:
        snapshot = self.shelf.store.published(self.shelf.name)
        if snapshot is not None:
            items = self.shelf.items()
            assert snapshot.complete is False or snapshot.count == len(ITEMS)
            assert items == made(ITEMS[: snapshot.count])
            assert snapshot.filter_count("long") == sum(LONG["long"](item) for item in items)
            backwards = [snapshot.item(slot)["path"] for slot in snapshot.order("all", "back")]
            assert backwards == sorted((item["path"] for item in items), reverse=True)
        self.counts.append(0 if snapshot is None else snapshot.count)
        self.enriched.append(item["path"])
        return made([item])[0]

    def run(self, items: list[Item] = ITEMS, **options: Any) -> Outcome:
        declared = {"enrich": self.enrich, **VIEWS, **options}
        return self.shelf.rebuild(items, first_page=self.first_page, **declared)

    def run_until(self, number: int) -> None:
        """Run, and interrupt at the item of this number."""

        def enrich(item: Item) -> Item:
            if len(self.enriched) == number:
                raise KeyboardInterrupt
            return self.enrich(item)

        with pytest.raises(KeyboardInterrupt):
            self.run(enrich=enrich)


LONG: dict[str, Callable[[Item], Any]] = {"long": lambda item: len(item["path"]) > 6}
VIEWS: dict[str, Any] = {
    "filters": LONG,
    "sorts": {"back": lambda item: [-ord(letter) for letter in item["path"]] + [0]},
    "search": ("path",),
}


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Publish a partial list after each item, whatever that costs."""
    monkeypatch.setattr(publish_module, "PARTIAL_EVERY", 0)
    monkeypatch.setattr(publish_module, "PARTIAL_COST", 0)


@pytest.mark.usefixtures("often")
def test_first_build_publishes_its_first_page_and_then_more(shelf: Shelf) -> None:
    build = Partly(shelf, 4)
    outcome = build.run()
    assert build.counts == [0, 0, 0, 0, 4, 5, 6, 7, 8, 9, 10, 11]
    assert (outcome.count, shelf.snapshot().complete) == (12, True)
    assert shelf.items() == made(ITEMS)
    assert len(data_files(shelf)) == 1
    assert intact(shelf)


@pytest.mark.usefixtures("often")
def test_interrupted_first_build_resumes_published_file(shelf: Shelf) -> None:
    Partly(shelf).run_until(7)
    assert (shelf.snapshot().count, shelf.snapshot().complete) == (7, False)
    shown = shelf.data
    again = Partly(shelf)
    again.run()
    assert again.enriched == NAMES[7:]
    assert again.counts == [7, 8, 9, 10, 11]
    assert shelf.data == shown
    assert shelf.items() == made(ITEMS)
    assert intact(shelf)


@pytest.mark.usefixtures("often")
def test_resumed_build_never_publishes_fewer_items(shelf: Shelf) -> None:
    counts: list[int] = []
    for stop in (5, 1, 0, 2, 1):
        build = Partly(shelf)
        build.run_until(stop)
        counts += [*build.counts, shelf.snapshot().count]
        assert len(data_files(shelf)) == 1
    assert counts == sorted(counts)
    assert shelf.snapshot().count == 9
    assert resume(shelf, **VIEWS) == NAMES[9:]


@pytest.mark.usefixtures("often", "no_dead_weight")
def test_new_version_starts_over_and_keeps_partial_list(shelf: Shelf) -> None:
    Partly(shelf).run_until(7)
    new = {"version": "2", "mark": " two", "first_page": 2, **VIEWS}
    seen: list[str] = []
    for _ in range(2):
        seen += interrupt(shelf, 3, **new)
        assert shelf.items() == made(ITEMS[:7])  # the new build has fewer items
    assert seen + resume(shelf, **new) == NAMES
    assert shelf.items() == made(ITEMS, " two")


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("line", [1, 5, 12])
def test_damaged_complete_list_is_not_replaced_by_partial_one(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, line: int
) -> None:
    Partly(shelf).run()
    place = shelf.snapshot().place(line - 1)[1]
    with open(shelf.data, "r+b") as data:
        data.seek(place)
        data.write(b" ")
    changed = [{**item, "size": 50 + number} if number > 2 else item for number, item in enumerate(ITEMS)]
    built = Publisher.built
    published: list[bool] = []

    def noted(*arguments: Any, complete: bool) -> int:
        published.append(complete)
        return built(*arguments, complete=complete)

    monkeypatch.setattr(Publisher, "built", noted)
    shelf.rebuild(changed, first_page=2, enrich=Enrich(), **VIEWS)
    assert published == [True]
    assert shelf.items() == made(changed)
    assert intact(shelf)


@pytest.mark.usefixtures("often")
def test_sort_error_in_partial_list_is_counted_once(shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:
    sorts = {"mixed": lambda item: {} if item["path"] == "item 1" else item["path"]}
    shelf.rebuild(ITEMS, first_page=2, enrich=Enrich(), sorts=sorts)
    assert shelf.snapshot().header["view_errors"] == 1
    assert caplog.text.count("warmcache.view_failed") == 1
    assert "sort mixed: TypeError on 1 items" in caplog.text


def test_readers_see_that_list_is_partial(tmp_path: Path) -> None:
    app = make_app(tmp_path)
    seen: list[tuple[Any, ...]] = []
    items = files(*map(str, range(150)))
    listed = WarmCache(app).warm_list("files", key="path", unit="file", source=lambda: items)

    @listed.enrich
    def enrich(item: Item) -> Item:
        if item["path"] in ("99", "120"):
            now = listed.get()
            page = app.test_client().get("/list").get_json()
            stats = app.test_client().get("/api/cache/stats/files").get_json()
            seen.append((now.state, now.complete, len(now), page["cache_rebuilding"], stats["state"]))
        return item

    @app.get("/list")
    def answer() -> Any:
        return listed.response(per_page=50)

    with app.app_context():
        listed.rebuild_now()
        assert seen == [("cold", False, 0, True, "cold"), ("partial", False, 100, True, "partial")]
        assert (listed.get().state, listed.get().complete, len(listed.get())) == ("fresh", True, 150)


def test_partial_publications_take_one_twentieth_of_time(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock advances by one second for each item, and by ten for each publication."""
    now = [0.0]

    class Clock:
        monotonic = staticmethod(lambda: now[0])
        thread_time = staticmethod(lambda: now[0])

    built = Publisher.built
    published: list[float] = []

    def slow(*arguments: Any, **options: Any) -> int:
        now[0] += 10
        published.append(now[0])
        return built(*arguments, **options)

    def enrich(item: Item) -> Item:
        now[0] += 1
        return item

    monkeypatch.setattr(publish_module, "time", Clock)
    monkeypatch.setattr(Publisher, "built", slow)
    shelf.rebuild(files(*map(str, range(1000))), first_page=2, enrich=enrich)
    # The first page is published at once. After each publication, none follows for twenty times its duration.
    assert published[0] == 2 + 10
    waits = [later - earlier - 10 for earlier, later in zip(published[:-2], published[1:-1], strict=True)]
    assert waits and all(200 <= wait <= 201 for wait in waits)
    assert shelf.snapshot().complete


def test_partial_lists_are_published_at_most_twice_a_second(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish_module, "PARTIAL_EVERY", 1e9)
    build = Partly(shelf, 3)
    build.run()
    assert build.counts == [0, 0, 0, *[3] * 9]


def test_values_and_lists_without_keys_are_published_only_when_complete(shelf: Shelf) -> None:
    shelf.rebuild(ITEMS, first_page=1, kind="builder", key=None)
    assert shelf.reports[-1]["phase"] == "publish"
    assert [report["phase"] for report in shelf.reports].count("publish") == 1


# Killed


# Each child rebuilds, until a timer of the kernel kills it some time after some item.
KILLED = """
import os, signal, sys
from pathlib import Path
from flask_warmcache.rebuild import publish
from flask_warmcache.store import data, sweeping
from tests.support.shelf import Shelf

publish.PARTIAL_EVERY, publish.PARTIAL_COST, sweeping.COMPACT_FROM, data.FLUSH_EVERY = 0, 5, 0, 0
log = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
count, workers = int(sys.argv[3]), int(sys.argv[4])

def act(items, seconds):
    begun = []

    def enrich(item):
        begun.append(1)
        if len(begun) == int(items):
            signal.setitimer(signal.ITIMER_REAL, float(seconds))
        os.write(log, item["path"].encode() + b"\\n")
        return {**item, "made": item["path"].upper()}

    Shelf(Path(sys.argv[1])).rebuild(
        [{"path": f"item {number}", "size": 1} for number in range(count)], first_page=20,
        enrich=enrich, workers=workers, sorts={"name": lambda item: item["path"]},
        filters={"long": lambda item: len(item["path"]) > 7}, search=("path",),
    )
"""


@pytest.mark.parametrize("workers", [1, 4])
def test_rebuild_killed_at_any_instant_loses_nothing_it_has_written(tmp_path: Path, workers: int) -> None:
    count, chance = 600, random.Random(workers)
    shelf = Shelf(tmp_path / "cache")
    log = tmp_path / "log"
    shown, kills, enriched = 0, 0, 0
    with forker(KILLED, shelf.folder, log, count, workers) as killed:
        while not (shelf.index.exists() and shelf.snapshot().complete):
            written = names_in(data_files(shelf))
            code = killed.wait(killed.fork(chance.randrange(1, 40), chance.uniform(1e-6, 0.004)))
            assert code in (0, -signal.SIGALRM)
            kills += code != 0
            again = log.read_text().splitlines()[enriched:]
            enriched += len(again)
            assert written.isdisjoint(again), "a finished item was enriched again"
            snapshot = shelf.store.published(shelf.name)
            if snapshot is not None:
                assert snapshot.count >= shown
                shown = snapshot.count
                assert [item["made"] for item in shelf.items()] == [f"ITEM {number}" for number in range(shown)]
                assert intact(shelf)
            assert len(data_files(shelf)) <= 1
            assert len(list(shelf.folder.glob("*.data.tmp"))) <= 1
    print(f"\n{kills} kills, {enriched} enriched")
    assert (shown, kills > 1) == (count, True)
    if workers == 1:  # each killed child loses the item that was under way
        assert enriched - count <= kills


def names_in(data: list[Path]) -> set[str]:
    """Return the finished items in data files; the last line may be incomplete."""
    lines = [line for path in data for line in path.read_bytes().split(b"\n")[1:-1]]
    return {json.loads(line.partition(b"\t")[2])["path"] for line in lines if line}
