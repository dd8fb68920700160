"""The reader: it serves the newest snapshot that it can open, or else the one it has."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from flask_warmcache.store import reader as reader_module
from flask_warmcache.store.reader import Reader
from flask_warmcache.store.snapshot import Snapshot
from tests.support.processes import no_descriptors
from tests.support.shelf import Shelf, files
from tests.support.threads import Repeated
from tests.support.waiting import until


@pytest.fixture
def reader(shelf: Shelf) -> Reader:
    """Return a reader of a list that was built, which has read nothing yet."""
    shelf.rebuild(files("a"))
    return shelf.store.reader(shelf.name)


class Meddled:
    """Have the test's functions called just before and just after a reader opens a snapshot."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened = 0
        self.before: Callable[[], object] = lambda: None
        self.after: Callable[[], object] = lambda: None
        meddled = self

        class Opened(Snapshot):
            def __init__(self, folder: Path, name: str) -> None:
                meddled.opened += 1
                meddled.before()
                super().__init__(folder, name)
                meddled.after()

        monkeypatch.setattr(reader_module, "Snapshot", Opened)


@pytest.fixture
def opens(monkeypatch: pytest.MonkeyPatch) -> Meddled:
    return Meddled(monkeypatch)


def names(reader: Reader) -> list[str]:
    snapshot = reader.current()
    assert snapshot is not None
    return [snapshot.item(position)["path"] for position in range(snapshot.count)]


def test_nothing_is_served_before_publication(shelf: Shelf) -> None:
    reader = shelf.store.reader(shelf.name)
    assert reader.current() is None
    assert reader.is_unusable


def test_unchanged_index_is_opened_once(reader: Reader, opens: Meddled) -> None:
    assert len({id(reader.current()) for _ in range(100)}) == 1
    assert opens.opened == 1


def test_next_read_sees_every_publication_within_one_clock_tick(shelf: Shelf) -> None:
    reader = shelf.store.reader(shelf.name)
    for number in range(60):
        shelf.rebuild(files(f"{number:03}"))
        assert names(reader) == [f"{number:03}"]


def test_index_replaced_with_same_mtime_is_seen(shelf: Shelf, reader: Reader) -> None:
    assert names(reader) == ["a"]
    modified = shelf.index.stat().st_mtime_ns
    shelf.rebuild(files("b"))
    os.utime(shelf.index, ns=(modified, modified))
    assert names(reader) == ["b"]


def test_restored_older_list_is_opened_once_and_served(
    shelf: Shelf, reader: Reader, tmp_path: Path, opens: Meddled
) -> None:
    shutil.copytree(shelf.folder, tmp_path / "backup")
    shelf.rebuild(files("new"))
    assert names(reader) == ["new"]
    for path in shelf.folder.iterdir():
        path.unlink()
    shutil.copytree(tmp_path / "backup", shelf.folder, dirs_exist_ok=True)
    assert names(reader) == ["a"]
    opened = opens.opened
    assert names(reader) == ["a"]
    assert opens.opened == opened


def test_missing_index_keeps_open_snapshot(shelf: Shelf, reader: Reader) -> None:
    assert names(reader) == ["a"]
    shutil.rmtree(shelf.folder)
    assert names(reader) == ["a"]
    assert reader.is_unusable
    shelf.rebuild(files("b"), old=None)
    assert names(reader) == ["b"]
    assert not reader.is_unusable


def test_missing_data_file_keeps_open_snapshot_and_is_not_retried_at_each_read(
    shelf: Shelf, reader: Reader, opens: Meddled, caplog: pytest.LogCaptureFixture
) -> None:
    assert names(reader) == ["a"]
    shelf.rebuild(files("b"), old=None)
    shelf.data.unlink()
    opens.opened = 0
    with caplog.at_level(logging.WARNING, "flask_warmcache"):
        for _ in range(50):
            assert names(reader) == ["a"]
    assert reader.is_unusable
    assert opens.opened == reader_module.TRIES
    assert caplog.text.count("warmcache.snapshot_refused: the snapshot of 'files' cannot be served") == 1
    assert str(shelf.folder) not in caplog.text.replace("snapshot_refused", "")


def test_refused_index_is_retried_after_it_changed(shelf: Shelf, reader: Reader, opens: Meddled) -> None:
    whole = shelf.index.read_bytes()
    shelf.index.write_bytes(whole[:-8])
    assert reader.current() is None
    assert (opens.opened, reader.is_unusable) == (reader_module.TRIES, True)
    shelf.index.write_bytes(whole)
    assert names(reader) == ["a"]
    assert not reader.is_unusable


def test_index_of_another_list_is_refused(shelf: Shelf, reader: Reader) -> None:
    other = Shelf(shelf.folder, "other")
    other.rebuild(files("b"))
    assert names(reader) == ["a"]
    os.replace(other.index, shelf.index)
    assert names(reader) == ["a"]
    assert reader.is_unusable


def test_missing_data_file_is_retried_at_once(shelf: Shelf, reader: Reader, opens: Meddled) -> None:
    """The first try finds the index but no data, because a publisher is just removing it."""
    data, held = shelf.data, shelf.data.with_suffix(".held")
    data.rename(held)
    opens.before = lambda: opens.opened > 1 and held.rename(data)
    assert names(reader) == ["a"]
    assert (opens.opened, reader.is_unusable) == (2, False)


def test_index_unlinked_while_it_is_opened_is_unusable(shelf: Shelf, reader: Reader, opens: Meddled) -> None:
    opens.after = shelf.index.unlink
    assert names(reader) == ["a"]  # opened just before
    assert reader.is_unusable
    assert reader.current() is None


def test_index_unlinked_between_stat_and_open_is_unusable(shelf: Shelf, reader: Reader, opens: Meddled) -> None:
    opens.before = shelf.index.unlink
    assert reader.current() is None
    assert reader.is_unusable


def test_index_replaced_while_it_is_opened_is_opened_again(shelf: Shelf, reader: Reader, opens: Meddled) -> None:
    publications = ["b", "c"]

    def publish() -> None:
        opens.after = lambda: None  # the rebuild opens a snapshot, too
        if publications:
            shelf.rebuild(files(publications.pop(0)), old=None)
            opens.after = publish

    opens.after = publish
    assert names(reader) == ["c"]


def test_reader_that_is_always_overtaken_serves_newest_it_opened(
    shelf: Shelf, reader: Reader, opens: Meddled
) -> None:
    assert names(reader) == ["a"]
    shelf.rebuild(files("b"), old=None)

    def overtake() -> None:
        shelf.store.invalidate(shelf.name)
        os.utime(shelf.index)  # so that its stamp changes

    opens.after = overtake
    assert names(reader) == ["b"]
    opens.after = lambda: None
    assert names(reader) == ["b"]


def test_threads_that_open_at_once_never_go_backwards(shelf: Shelf, reader: Reader) -> None:
    trouble: list[object] = []
    reads: dict[threading.Thread, int] = {}
    newest: dict[threading.Thread, int] = {}

    class Reads(Repeated):
        def turn(self) -> None:
            thread = threading.current_thread()
            snapshot = reader.current()
            if snapshot is None or snapshot.generation < newest.get(thread, 0):
                trouble.append((newest, snapshot))
            elif snapshot.item(0)["path"] is None:
                trouble.append("empty")
            else:
                newest[thread] = snapshot.generation
                reads[thread] = reads.get(thread, 0) + 1

    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.0001)
    try:
        with Reads(threads=4):
            for number in range(50):
                shelf.rebuild(files(str(number)))
            until(lambda: trouble or (len(reads) == 4 and min(reads.values()) > 100))
    finally:
        sys.setswitchinterval(interval)
    assert trouble == []


def test_publications_leave_no_descriptor_open(shelf: Shelf, reader: Reader) -> None:
    reader.current()
    before = len(os.listdir("/proc/self/fd"))
    for number in range(30):
        shelf.rebuild(files(str(number)))
        reader.current()
    assert len(os.listdir("/proc/self/fd")) == before


def test_forked_child_can_read_although_thread_held_lock(reader: Reader) -> None:
    with reader._exchange:  # as another thread of the parent may hold it
        reader.after_fork()
        assert names(reader) == ["a"]


def test_open_that_system_refuses_is_retried_and_logged_once(
    reader: Reader, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reader_module, "RETRY_AFTER", 60.0)
    with no_descriptors():
        assert [reader.current() for _ in range(100)] == [None] * 100
        assert reader.is_unusable
    assert caplog.text.count("warmcache.snapshot_refused") == 1
    later = time.monotonic() + 61
    monkeypatch.setattr(reader_module, "time", SimpleNamespace(monotonic=lambda: later))
    assert names(reader) == ["a"] and not reader.is_unusable


@pytest.mark.parametrize("what", ["pipe", "folder"])
def test_pipe_or_folder_in_place_of_index_does_not_block(shelf: Shelf, reader: Reader, what: str) -> None:
    assert names(reader) == ["a"]
    shelf.index.unlink()
    os.mkfifo(shelf.index, 0o600) if what == "pipe" else shelf.index.mkdir(0o700)
    assert names(reader) == ["a"] and reader.is_unusable
    assert shelf.store.reader(shelf.name).current() is None
