"""The word that spares reads their look: what is told is seen at once, what is not half a second later."""

from __future__ import annotations

import os
import stat
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from flask_warmcache.store import changes
from flask_warmcache.store.changes import FILE, LOOK_ANYWAY_AFTER
from flask_warmcache.store.reader import Reader

from .world import Shelf, files, run_python, until


@pytest.fixture
def reader(shelf: Shelf) -> Reader:
    """One that has seen what is published, and looked once more for changes."""
    shelf.rebuild(files("a"))
    reader = shelf.store.reader(shelf.name)
    assert shown(reader) == shown(reader) == ["a"]
    return reader


def shown(reader: Reader) -> list[str]:
    snapshot = reader.current()
    assert snapshot is not None
    return [snapshot.item(position)["path"] for position in range(snapshot.count)]


def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is looked at from now on."""
    looked: list[str] = []
    look = os.stat

    def noted(path: Any, *arguments: Any, **options: Any) -> os.stat_result:
        looked.append(os.path.basename(path))
        return look(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", noted)
    return looked


def test_a_read_looks_at_no_file_while_nothing_is_told(
    shelf: Shelf, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "LOOK_ANYWAY_AFTER", 60)
    reader.look_again()
    reader.current()
    looked = looks(monkeypatch)
    assert {id(reader.current()) for _ in range(100)} == {id(reader.current())}
    assert looked == []
    changes.tell(shelf.folder)
    reader.current()
    assert looked == [FILE, "files.index"]


@pytest.mark.parametrize("change", ["publish", "invalidate", "outdate", "clear"])
def test_every_change_is_seen_by_the_next_read(shelf: Shelf, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    monkeypatch.setattr(changes, "LOOK_ANYWAY_AFTER", 60)
    shelf.rebuild(files("a"))
    reader = shelf.store.reader(shelf.name)
    for _ in range(20):
        shelf.rebuild(files("a"))
        before = reader.current()
        assert before is reader.current() and before is not None
        if change == "publish":
            shelf.rebuild(files("b"))
        elif change == "invalidate":
            shelf.store.invalidate(shelf.name)
        elif change == "outdate":
            shelf.store.outdate(shelf.name, before)
        else:
            shelf.store.publish_cold(shelf.name)
        after = reader.current()
        assert after is not None
        assert (after.generation > before.generation, after.is_invalidated, after.is_cold) == (
            change in ("publish", "clear"),
            change in ("invalidate", "outdate"),
            change == "clear",
        )


def test_another_process_is_told_too(shelf: Shelf, reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "LOOK_ANYWAY_AFTER", 60)
    reader.look_again()
    assert shown(reader) == ["a"]
    script = """
import sys
from pathlib import Path
from tests.unit.world import Shelf, files
Shelf(Path(sys.argv[1])).rebuild(files("b"))
"""
    assert run_python(script, shelf.folder).stderr == ""
    assert shown(reader) == ["b"]


@pytest.mark.parametrize("lost", ["a writer killed behind its rename", "the word's file replaced", "both removed"])
def test_what_is_not_told_is_seen_by_who_looks_anyway(
    shelf: Shelf, reader: Reader, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    if lost.startswith("a writer"):
        with monkeypatch.context() as patch:
            patch.setattr("flask_warmcache.store.writer.tell_or_wait", lambda folder: None)
            shelf.rebuild(files("b"))
    elif lost.startswith("the word"):
        (shelf.folder / FILE).unlink()
        shelf.rebuild(files("b"))
    else:
        for path in list(shelf.folder.iterdir()):
            path.unlink()
        assert until(lambda: shown(reader) == ["a"] and reader.is_unusable, 5)
        shelf.rebuild(files("b"))
    assert until(lambda: shown(reader) == ["b"], 5)
    # And from then on it is told again.
    monkeypatch.setattr(changes, "LOOK_ANYWAY_AFTER", 60)
    reader.look_again()
    assert shown(reader) == ["b"]
    shelf.rebuild(files("c"))
    assert shown(reader) == ["c"]


def test_who_looks_after_the_lists_looks_whatever_the_word_says(shelf: Shelf, reader: Reader) -> None:
    shelf.index.unlink()
    reader.look_again()
    assert shown(reader) == ["a"] and reader.is_unusable


@pytest.mark.parametrize("what", ["nothing", "empty", "short", "a link", "a folder", "a pipe"])
def test_without_a_usable_word_every_read_looks(shelf: Shelf, reader: Reader, what: str) -> None:
    shelf.rebuild(files("b"))
    word = shelf.folder / FILE
    word.unlink()
    if what == "a link":
        (shelf.folder / "elsewhere").write_bytes(b"12345678")
        word.symlink_to("elsewhere")
    elif what == "a folder":
        word.mkdir()
    elif what == "a pipe":
        os.mkfifo(word)
    elif what != "nothing":
        word.write_bytes(b"" if what == "empty" else b"1234567")
    reader.look_again()
    assert shown(reader) == ["b"]
    shelf.index.unlink()
    shown(reader)
    assert reader.is_unusable, "it looked"


@pytest.mark.parametrize("what", ["a folder", "a link"])
def test_who_cannot_tell_waits_until_all_have_looked(
    shelf: Shelf, reader: Reader, what: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    word = shelf.folder / FILE
    word.unlink()  # the reader has the old one mapped, and hears nothing more of it
    if what == "a folder":
        word.mkdir()
    else:
        word.symlink_to(tmp_path / "elsewhere")
    reader.look_again()
    shelf.rebuild(files("b"))
    assert shown(reader) == ["b"]
    assert "warmcache.not_told" in caplog.text
    assert not (tmp_path / "elsewhere").exists()


def test_a_report_that_cannot_be_told_of_waits_for_nobody(shelf: Shelf) -> None:
    shelf.rebuild(files("a"))
    (shelf.folder / FILE).unlink()
    (shelf.folder / FILE).mkdir()
    began = time.monotonic()
    with pytest.raises(OSError):
        shelf.store.write_progress(shelf.name, {"phase": "finished"})
    assert time.monotonic() - began < LOOK_ANYWAY_AFTER
    assert shelf.store.read_progress(shelf.name) == {"phase": "finished"}


def test_an_invalidation_of_what_is_not_there_tells_nobody(shelf: Shelf) -> None:
    shelf.store.invalidate(shelf.name)
    assert not (shelf.folder / FILE).exists()


def test_the_word_is_ours_alone_and_of_eight_bytes(shelf: Shelf, reader: Reader) -> None:
    status = (shelf.folder / FILE).stat()
    assert (stat.S_IMODE(status.st_mode), status.st_size) == (0o600, 8)


def test_many_readers_and_writers_at_once_never_miss_a_change(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads of one reader race for what it has seen: none may take an old look for a look at the new."""
    monkeypatch.setattr(changes, "LOOK_ANYWAY_AFTER", 60)
    shelf.rebuild(files("0"))
    reader = shelf.store.reader(shelf.name)
    published = 0
    missed: list[tuple[int, int]] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            promised = published
            snapshot = reader.current()
            assert snapshot is not None
            if snapshot.generation < promised:
                missed.append((snapshot.generation, promised))

    threads = [threading.Thread(target=read) for _ in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.00002)
    for thread in threads:
        thread.start()
    try:
        for number in range(100):
            shelf.rebuild(files(str(number)))
            published = shelf.snapshot().generation
    finally:
        done.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)
    assert missed == []
