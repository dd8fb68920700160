"""The reader: it serves the newest snapshot that it can open, or else the one it has."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from flask_warmcache.store import reader as reader_module
from flask_warmcache.store.reader import Reader
from flask_warmcache.store.snapshot import Snapshot
from tests.support.processes import no_descriptors
from tests.support.shelf import Shelf, files
from tests.support.waiting import until


class Opens:
    """Counts how often a snapshot is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened = 0
        counter = self

        class Counted(Snapshot):
            def __init__(self, folder: Path, name: str) -> None:
                counter.opened += 1
                super().__init__(folder, name)

        monkeypatch.setattr(reader_module, "Snapshot", Counted)


@pytest.fixture
def opens(monkeypatch: pytest.MonkeyPatch) -> Opens:
    return Opens(monkeypatch)


def names(reader: Reader) -> list[str]:
    snapshot = reader.current()
    assert snapshot is not None
    return [snapshot.item(position)["path"] for position in range(snapshot.count)]


def test_nothing_is_served_before_a_publication(shelf: Shelf) -> None:
    reader = shelf.store.reader(shelf.name)
    assert reader.current() is None
    assert reader.is_unusable


def test_unchanged_index_is_opened_once(shelf: Shelf, opens: Opens) -> None:
    shelf.rebuild(files("a"))
    reader = shelf.store.reader(shelf.name)
    assert len({id(reader.current()) for _ in range(100)}) == 1
    assert opens.opened == 1


def test_next_read_sees_every_publication_within_one_clock_tick(shelf: Shelf) -> None:
    reader = shelf.store.reader(shelf.name)
    for number in range(60):
        shelf.rebuild(files(f"{number:03}"))
        assert names(reader) == [f"{number:03}"]


def test_index_replaced_with_the_same_mtime_is_seen(shelf: Shelf) -> None:
    shelf.rebuild(files("a"))
    reader = shelf.store.reader(shelf.name)
    assert names(reader) == ["a"]
    modified = shelf.index.stat().st_mtime_ns
    shelf.rebuild(files("b"))
    os.utime(shelf.index, ns=(modified, modified))
    assert names(reader) == ["b"]


def test_restored_older_list_is_opened_once_and_served(shelf: Shelf, tmp_path: Path, opens: Opens) -> None:
    shelf.rebuild(files("old"))
    shutil.copytree(shelf.folder, tmp_path / "backup")
    shelf.rebuild(files("new"))
    reader = shelf.store.reader(shelf.name)
    assert names(reader) == ["new"]
    for path in shelf.folder.iterdir():
        path.unlink()
    shutil.copytree(tmp_path / "backup", shelf.folder, dirs_exist_ok=True)
    assert names(reader) == ["old"]
    opened = opens.opened
    assert names(reader) == ["old"]
    assert opens.opened == opened


def test_missing_index_keeps_the_open_snapshot(shelf: Shelf) -> None:
    shelf.rebuild(files("a"))
    reader = shelf.store.reader(shelf.name)
    assert names(reader) == ["a"]
    shutil.rmtree(shelf.folder)
    assert names(reader) == ["a"]
    assert reader.is_unusable
    shelf.rebuild(files("b"), old=None)
    assert names(reader) == ["b"]
    assert not reader.is_unusable


def test_missing_data_file_keeps_the_open_snapshot_and_is_not_retried_at_each_read(
    shelf: Shelf, opens: Opens, caplog: pytest.LogCaptureFixture
) -> None:
    shelf.rebuild(files("a"))
    reader = shelf.store.reader(shelf.name)
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


def test_refused_index_is_retried_after_it_changed(shelf: Shelf, opens: Opens) -> None:
    shelf.rebuild(files("a"))
    whole = shelf.index.read_bytes()
    shelf.index.write_bytes(whole[:-8])
    reader = shelf.store.reader(shelf.name)
    assert reader.current() is None
    assert (opens.opened, reader.is_unusable) == (reader_module.TRIES, True)
    shelf.index.write_bytes(whole)
    assert names(reader) == ["a"]
    assert not reader.is_unusable


def test_index_of_another_list_is_refused(shelf: Shelf) -> None:
    shelf.rebuild(files("a"))
    other = Shelf(shelf.folder, "other")
    other.rebuild(files("b"))
    reader = shelf.store.reader(shelf.name)
    assert names(reader) == ["a"]
    os.replace(other.index, shelf.index)
    assert names(reader) == ["a"]
    assert reader.is_unusable


def test_index_of_another_account_is_refused(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.rebuild(files("a"))
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    reader = shelf.store.reader(shelf.name)
    assert reader.current() is None
    assert reader.is_unusable


def test_data_file_unlinked_between_two_opens_is_retried(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.rebuild(files("a"))
    reader = shelf.store.reader(shelf.name)
    held = shelf.data.with_suffix(".held")
    tries = []

    class Slow(Snapshot):
        def __init__(self, folder: Path, name: str) -> None:
            # The first try finds the index but no data, because a publisher is just removing it.
            tries.append(name)
            data = next(folder.glob("*.data")) if held.exists() is False else None
            if len(tries) == 1 and data is not None:
                data.rename(held)
                try:
                    super().__init__(folder, name)
                finally:
                    held.rename(data)
            super().__init__(folder, name)

    monkeypatch.setattr(reader_module, "Snapshot", Slow)
    assert names(reader) == ["a"]
    assert (len(tries), reader.is_unusable) == (2, False)


def test_index_unlinked_while_it_is_opened_is_unusable(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.rebuild(files("a"))
    reader = shelf.store.reader(shelf.name)

    class Late(Snapshot):
        def __init__(self, folder: Path, name: str) -> None:
            super().__init__(folder, name)
            os.unlink(folder / f"{name}.index")

    monkeypatch.setattr(reader_module, "Snapshot", Late)
    assert names(reader) == ["a"]  # opened just before
    assert reader.is_unusable
    assert reader.current() is None


def test_index_unlinked_between_stat_and_open_is_unusable(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.rebuild(files("a"))
    reader = shelf.store.reader(shelf.name)

    class Gone(Snapshot):
        def __init__(self, folder: Path, name: str) -> None:
            os.unlink(folder / f"{name}.index")
            super().__init__(folder, name)

    monkeypatch.setattr(reader_module, "Snapshot", Gone)
    assert reader.current() is None
    assert reader.is_unusable


def test_index_replaced_while_it_is_opened_is_opened_again(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.rebuild(files("a"))
    reader = shelf.store.reader(shelf.name)
    publications = iter(["b", "c"])

    class Overtaken(Snapshot):
        def __init__(self, folder: Path, name: str) -> None:
            super().__init__(folder, name)
            for newer in publications:
                monkeypatch.setattr(reader_module, "Snapshot", Snapshot)
                shelf.rebuild(files(newer), old=None)
                monkeypatch.setattr(reader_module, "Snapshot", Overtaken)
                break

    monkeypatch.setattr(reader_module, "Snapshot", Overtaken)
    assert names(reader) == ["c"]


def test_reader_that_is_always_overtaken_serves_the_newest_it_opened(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.rebuild(files("a"))
    reader = shelf.store.reader(shelf.name)
    assert names(reader) == ["a"]

    class AlwaysOvertaken(Snapshot):
        def __init__(self, folder: Path, name: str) -> None:
            super().__init__(folder, name)
            shelf.store.invalidate(name)
            os.utime(shelf.index)  # so that its stamp changes

    shelf.rebuild(files("b"), old=None)
    monkeypatch.setattr(reader_module, "Snapshot", AlwaysOvertaken)
    assert names(reader) == ["b"]
    monkeypatch.undo()
    assert names(reader) == ["b"]


def test_threads_that_open_at_the_same_time_never_go_backwards(shelf: Shelf) -> None:
    shelf.rebuild(files("0"))
    reader = shelf.store.reader(shelf.name)
    enough = threading.Event()
    trouble: list[object] = []
    reads = [0] * 4

    def read(which: int) -> None:
        newest = 0
        while not enough.is_set():
            snapshot = reader.current()
            if snapshot is None or snapshot.generation < newest:
                trouble.append((which, newest, snapshot))
                return
            newest = snapshot.generation
            if snapshot.item(0)["path"] is None:
                trouble.append("empty")
            reads[which] += 1

    threads = [threading.Thread(target=read, args=(which,)) for which in range(len(reads))]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.0001)
    for thread in threads:
        thread.start()
    try:
        for number in range(50):
            shelf.rebuild(files(str(number)))
        until(lambda: min(reads) > 100 or trouble)
    finally:
        enough.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)
    assert trouble == []


def test_publications_leave_no_descriptor_open(shelf: Shelf) -> None:
    shelf.rebuild(files("a"))
    reader = shelf.store.reader(shelf.name)
    reader.current()
    before = len(os.listdir("/proc/self/fd"))
    for number in range(30):
        shelf.rebuild(files(str(number)))
        reader.current()
    assert len(os.listdir("/proc/self/fd")) == before


def test_forked_child_can_read_although_a_thread_held_the_lock(shelf: Shelf) -> None:
    shelf.rebuild(files("a"))
    reader = shelf.store.reader(shelf.name)
    with reader._exchange:  # as another thread of the parent may hold it
        reader.after_fork()
        assert names(reader) == ["a"]


def test_open_that_the_system_refuses_is_retried_and_logged_once(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shelf.rebuild(files("a"))
    reader = shelf.store.reader(shelf.name)
    monkeypatch.setattr(reader_module, "RETRY_AFTER", 60.0)
    with no_descriptors():
        assert [reader.current() for _ in range(100)] == [None] * 100
        assert reader.is_unusable
    assert caplog.text.count("warmcache.snapshot_refused") == 1
    later = time.monotonic() + 61
    monkeypatch.setattr(reader_module, "time", SimpleNamespace(monotonic=lambda: later))
    assert names(reader) == ["a"] and not reader.is_unusable


@pytest.mark.parametrize("what", ["pipe", "folder"])
def test_pipe_or_folder_in_place_of_the_index_does_not_block(shelf: Shelf, what: str) -> None:
    shelf.rebuild(files("a"))
    reader = shelf.store.reader(shelf.name)
    assert names(reader) == ["a"]
    shelf.index.unlink()
    os.mkfifo(shelf.index, 0o600) if what == "pipe" else shelf.index.mkdir(0o700)
    assert names(reader) == ["a"] and reader.is_unusable
    assert shelf.store.reader(shelf.name).current() is None
