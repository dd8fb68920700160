"""Change words: an announced change is seen at once, and another one a moment later."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from flask_warmcache.store import change_words
from flask_warmcache.store.change_words import CHANGING, WORD
from flask_warmcache.store.reader import Reader
from tests.support.processes import run_python
from tests.support.shelf import Shelf, files
from tests.support.waiting import until


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turn off the regular stat, so that only announced changes are seen."""
    monkeypatch.setattr(change_words, "STAT_EVERY", 60)
    monkeypatch.setattr(change_words, "_wait_for_all_readers", lambda: None)


@pytest.fixture
def reader(shelf: Shelf) -> Reader:
    """A reader that has opened the published snapshot and needs no stat."""
    shelf.rebuild(files("a"))
    return settled(shelf)


def settled(shelf: Shelf) -> Reader:
    reader = shelf.store.reader(shelf.name)
    shown(reader), shown(reader)
    assert not reader._watch.needs_stat()
    return reader


def shown(reader: Reader) -> list[str]:
    snapshot = reader.current()
    assert snapshot is not None
    return [snapshot.item(position)["path"] for position in range(snapshot.count)]


def words_of(shelf: Shelf) -> Path:
    return shelf.folder / "files.changes"


def note_stats(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list to which the name of each file is added that is statted from now on."""
    statted: list[str] = []
    stat = os.stat

    def noted(path: Any, *arguments: Any, **options: Any) -> os.stat_result:
        statted.append(os.path.basename(path))
        return stat(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", noted)
    return statted


def test_read_makes_no_system_call_without_announced_change(
    shelf: Shelf, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    statted = note_stats(monkeypatch)
    assert len({id(reader.current()) for _ in range(100)}) == 1
    assert statted == []
    change_words.announce(shelf.folder, shelf.name)
    reader.current()
    assert statted == ["files.changes", "files.index"]


@pytest.mark.parametrize("change", ["publish", "invalidate", "mark_stale", "clear"])
def test_every_change_is_seen_by_next_read(shelf: Shelf, change: str) -> None:
    for _ in range(20):
        shelf.rebuild(files("a"))
        reader = settled(shelf)
        before = reader.current()
        assert before is not None
        if change == "publish":
            shelf.rebuild(files("b"))
        elif change == "invalidate":
            shelf.store.invalidate(shelf.name)
        elif change == "mark_stale":
            shelf.store.mark_stale(shelf.name, before)
        else:
            shelf.store.publish_cold(shelf.name)
        after = reader.current()
        assert after is not None
        assert (after.generation > before.generation, after.is_invalidated, after.is_cold) == (
            change in ("publish", "clear"),
            change in ("invalidate", "mark_stale"),
            change == "clear",
        )


# Publish in another process, which may be killed after the rename.
PUBLISH = """
import os, sys
from pathlib import Path
from tests.support.shelf import Shelf, files
rename = os.replace
def killed(draft, final):
    rename(draft, final)
    if str(final).endswith(".index"):
        os._exit(9)
if sys.argv[2:]:
    os.replace = killed
Shelf(Path(sys.argv[1])).rebuild(files("b"))
"""


def test_change_by_another_process_is_seen(shelf: Shelf, reader: Reader) -> None:
    assert run_python(PUBLISH, shelf.folder).stderr == ""
    assert shown(reader) == ["b"]


@pytest.mark.parametrize("new", [False, True], ids=["known", "new file"])
def test_every_read_makes_stat_during_publication(
    shelf: Shelf, reader: Reader, monkeypatch: pytest.MonkeyPatch, new: bool
) -> None:
    """Otherwise one worker could serve the old list after another has shown the new one."""
    rename = os.replace
    seen: list[list[str]] = []

    def seen_at_once(draft: str, final: str) -> None:
        shown(reader)
        rename(draft, final)
        if str(final).endswith(".index"):
            seen.append(shown(reader))

    if new:
        words_of(shelf).unlink()
        # The process that creates the file waits until each reader has made a stat and found it.
        monkeypatch.setattr(change_words, "_wait_for_all_readers", reader.expire)
    monkeypatch.setattr(os, "replace", seen_at_once)
    shelf.rebuild(files("b"))
    assert seen == [["b"]]


def test_publisher_killed_after_rename_leaves_readers_that_stat(shelf: Shelf, reader: Reader) -> None:
    assert run_python(PUBLISH, shelf.folder, "killed").returncode == 9
    assert words_of(shelf).read_bytes()[:WORD] == CHANGING
    assert shown(reader) == shown(reader) == ["b"]
    assert reader._watch.needs_stat()
    shelf.rebuild(files("c"))
    assert shown(reader) == ["c"]
    assert shown(settled(shelf)) == ["c"]


@pytest.mark.parametrize("gone", ["the words", "all", "the words, for a backup's"])
def test_unannounced_change_is_seen_soon(shelf: Shelf, monkeypatch: pytest.MonkeyPatch, gone: str) -> None:
    monkeypatch.undo()
    shelf.rebuild(files("a"))
    reader = shelf.store.reader(shelf.name)
    assert shown(reader) == shown(reader) == ["a"]
    old = words_of(shelf).read_bytes()
    for path in list(shelf.folder.iterdir()):
        if gone == "all" or path == words_of(shelf):
            path.unlink()
    if gone.endswith("backup's"):
        words_of(shelf).write_bytes(old)
    if gone == "all":
        until(lambda: shown(reader) == ["a"] and reader.is_unusable)
    shelf.rebuild(files("b"))
    if gone.endswith("backup's"):
        until(lambda: shown(reader) == ["b"])
    assert shown(reader) == ["b"], "the process that creates the file did not wait for all readers"


def test_expired_reader_ignores_words(shelf: Shelf, reader: Reader) -> None:
    shelf.index.unlink()
    assert shown(reader) == ["a"] and not reader.is_unusable
    reader.expire()
    assert shown(reader) == ["a"] and reader.is_unusable


def replace_words(words: Path, what: str) -> None:
    words.unlink()
    if what == "a link":
        words.symlink_to("elsewhere")
    elif what == "a folder":
        words.mkdir()
    elif what == "a pipe":
        os.mkfifo(words)
    elif what != "nothing":
        words.write_bytes(b"" if what == "empty" else b"123456781234567")


@pytest.mark.parametrize("what", ["nothing", "empty", "short", "a link", "a folder", "a pipe"])
def test_every_read_makes_stat_without_usable_words(shelf: Shelf, reader: Reader, what: str) -> None:
    (shelf.folder / "elsewhere").write_bytes(b"1234567812345678")
    replace_words(words_of(shelf), what)
    reader.expire()
    assert shown(reader) == ["a"]
    assert reader._watch.needs_stat()
    shelf.rebuild(files("b"))
    assert shown(reader) == ["b"]


@pytest.mark.usefixtures("reader")  # it still maps the old file, which nobody overwrites any more
@pytest.mark.parametrize("what", ["a folder", "a link", "a pipe"])
def test_change_that_cannot_be_announced_waits_for_all_readers(
    shelf: Shelf, what: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    replace_words(words_of(shelf), what)
    waited: list[bool] = []
    monkeypatch.setattr(change_words, "_wait_for_all_readers", lambda: waited.append(True))
    shelf.rebuild(files("b"))
    shelf.store.invalidate(shelf.name)
    assert len(waited) == 3
    assert "warmcache.not_told" in caplog.text
    assert not (shelf.folder / "elsewhere").exists()


def test_invalidating_list_without_index_announces_nothing(shelf: Shelf) -> None:
    shelf.store.invalidate(shelf.name)
    assert not words_of(shelf).exists()


def test_threads_of_one_reader_never_miss_change(shelf: Shelf) -> None:
    """They race for what the reader has seen: an old stat must not pass for one of the new index."""
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
        for number in range(40):
            shelf.rebuild(files(str(number)))
            published = shelf.snapshot().generation
    finally:
        done.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)
    assert missed == []
