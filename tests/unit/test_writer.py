"""Writing: every byte or none, and generations that only rise."""

from __future__ import annotations

import errno
import os
import shutil
import time
import zlib
from array import array
from pathlib import Path
from types import SimpleNamespace

import pytest

from flask_warmcache import RebuildError
from flask_warmcache.store import data as data_module
from flask_warmcache.store import format as fmt
from flask_warmcache.store.data import DataWriter
from flask_warmcache.store.file_access import PIECES_MAX, write_all, write_pieces, write_small
from flask_warmcache.store.locks import PublishLock
from flask_warmcache.store.writer import Draft, next_generation
from tests.support.processes import run_python
from tests.support.shelf import Shelf, files

HEADER = {
    "generation": 5,
    "published_at": 0.0,
    "cold": True,
    "is_value": False,
    "complete": False,
    "count": 1,
    "slots": 1,
    "filters": {},
    "data": None,
    "place_type": "I",
}
SECTIONS = {"places": array("I", [0, 0])}


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the disk full after a few bytes."""
    write, room = os.write, 10

    def limited(descriptor: int, data: bytes) -> int:
        nonlocal room
        if room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done = write(descriptor, bytes(data)[:room])
        room -= done
        return done

    monkeypatch.setattr(os, "write", limited)
    monkeypatch.setattr(os, "writev", lambda descriptor, pieces: limited(descriptor, b"".join(pieces)))


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    calls = []

    def short(descriptor: int, data: bytes) -> int:
        calls.append(len(data))
        return write(descriptor, bytes(data)[:3])

    monkeypatch.setattr(os, "write", short)
    write_small(tmp_path, "report", b"0123456789", sync=True)
    assert (tmp_path / "report").read_bytes() == b"0123456789"
    assert calls == [10, 7, 4, 1]


@pytest.mark.parametrize("at_once", [1, 3, 4, 9, 10, 1000])
def test_short_writes_of_many_pieces_are_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """A call may end at the end of a piece, or within one."""
    written = [b"0123", b"", b"45678", b"9", *(b"%d" % number for number in range(PIECES_MAX))]
    monkeypatch.setattr(os, "writev", lambda to, pieces: os.write(to, b"".join(pieces)[:at_once]))
    path = tmp_path / "file"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    write_pieces(descriptor, [memoryview(piece) for piece in written])
    os.close(descriptor)
    assert path.read_bytes() == b"".join(written)


def test_file_size_limit_fails_rebuild_and_keeps_old_list(tmp_path: Path) -> None:
    script = """
import resource, signal, sys
from pathlib import Path
from tests.support.shelf import Shelf, files
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
shelf = Shelf(Path(sys.argv[1]))
shelf.rebuild(files("a"))
limit = shelf.data.stat().st_size + 100
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    shelf.rebuild(files("a", *map(str, range(1000))))
except OSError as error:
    print(error.strerror, sorted(path.name.split(".")[-1] for path in shelf.folder.iterdir()), shelf.items())
"""
    done = run_python(script, tmp_path / "cache")
    assert done.stderr == ""
    assert done.stdout.startswith("File too large ['changes', 'data', 'index', 'lock'")
    assert done.stdout.endswith("[{'path': 'a', 'size': 1}]\n")


@pytest.mark.usefixtures("full_disk")
def test_full_disk_leaves_no_draft(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        write_small(tmp_path, "report", bytes(100), sync=False)
    with pytest.raises(OSError, match="No space left"):
        Draft(tmp_path, "files", HEADER, SECTIONS, sync=True).publish()
    assert list(tmp_path.iterdir()) == []


def test_index_has_its_generation_as_mtime(shelf: Shelf) -> None:
    outcome = shelf.rebuild(files("a"))
    assert shelf.index.stat().st_mtime_ns == outcome.generation == shelf.snapshot().generation
    assert shelf.index.stat().st_mode & 0o777 == 0o600


def test_generations_rise_whatever_clock_says(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10**18, 10**18 - 10**15, 10**18, 5, 10**17])
    monkeypatch.setattr(time, "time_ns", lambda: next(clock, 3))
    generations = [shelf.rebuild(files("a")).generation for _ in range(5)]
    assert generations == sorted(set(generations))
    assert next_generation(7, 9, 8) == 10
    monkeypatch.setattr(time, "time_ns", lambda: -5)
    assert next_generation() == 1


@pytest.mark.parametrize(
    "end", [b'0123456789abcdef0123456789abcdef\t{"path": "hal', b"x\t{}\n"], ids=["half a line", "a whole line"]
)
def test_bytes_of_killed_writer_are_skipped(shelf: Shelf, end: bytes) -> None:
    shelf.rebuild(files("a"))
    with shelf.data.open("ab") as data:
        data.write(end)
    outcome = shelf.rebuild(files("a", "b"))
    assert (outcome.reused, outcome.enriched) == (1, 1)
    assert shelf.items() == files("a", "b")
    lines = [line.partition(b"\t")[2] for line in shelf.data.read_bytes().splitlines()[1:]]
    assert lines == [b'{"path":"a","size":1}', end.strip().partition(b"\t")[2], b'{"path":"b","size":1}']


def test_item_longer_than_buffer_is_written_in_place(shelf: Shelf) -> None:
    item = {"path": "a", "text": "x" * (3 * data_module.BUFFER)}
    shelf.rebuild([*files("0"), item, *files("1")])
    assert shelf.items() == [*files("0"), item, *files("1")]


def begin(folder: Path) -> DataWriter:
    with DataWriter.create(folder, "files", 1) as writer:
        pass
    return writer


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the writer of a data file reads, which only the test moves."""
    now = [0.0]
    monkeypatch.setattr(data_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


@pytest.mark.usefixtures("clock")
def test_closed_writer_loses_unflushed_lines(tmp_path: Path) -> None:
    writer = begin(tmp_path)
    begun = writer.path.read_bytes()
    writer.add(b"f" * 16, b"{}")
    writer.close()
    writer.close()
    assert writer.path.read_bytes() == begun


def test_line_added_after_pause_is_flushed_at_once(tmp_path: Path, clock: list[float]) -> None:
    writer = begin(tmp_path)
    begun = writer.path.read_bytes()
    writer.add(b"e" * 16, b"{}")
    assert writer.path.read_bytes() == begun
    clock[0] += 2 * data_module.FLUSH_EVERY
    writer.add(b"f" * 16, b"{}")
    assert writer.path.read_bytes() == begun + b"65" * 16 + b"\t{}\n" + b"66" * 16 + b"\t{}\n"
    writer.close()


@pytest.mark.usefixtures("clock")
def test_lines_appended_by_write_move_pending_ones(tmp_path: Path) -> None:
    writer = begin(tmp_path)
    writer.share(PublishLock(tmp_path / "files.publish.lock"))
    writer.add(b"a" * 16, b'"first"')
    writer.flush()
    writer.add(b"b" * 16, b'"second"')
    with writer.path.open("ab") as other:
        other.write(fmt.data_line(b"c" * 16, b'"other"'))
    writer.add(b"d" * 16, b'"third"')
    writer.sync()
    content = writer.path.read_bytes()
    places = list(zip(writer.places[::2], writer.places[1::2], strict=True))
    assert [content[tab + 1 : newline] for tab, newline in places] == [b'"first"', b'"second"', b'"third"']
    assert writer.described() == {
        "file": "files.1.data", "id": writer.data_id, "length": len(content), "checksum": zlib.crc32(content)
    }  # fmt: skip
    writer.close()


def test_new_data_file_never_replaces_another(tmp_path: Path) -> None:
    begin(tmp_path).close()
    with pytest.raises(FileExistsError):
        begin(tmp_path)


def test_new_data_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with DataWriter.create(tmp_path, "files", 1) as writer:
        writer.add(b"f" * 16, b"{}")
        assert not writer.path.exists()
    writer.close()
    assert writer.path.read_bytes().endswith(b"66\t{}\n")
    with pytest.raises(ZeroDivisionError), DataWriter.create(tmp_path, "files", 2):
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == ["files.1.data"]


def test_folder_removed_before_data_file_appears_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    with pytest.raises(RebuildError, match="folder was removed"), DataWriter.create(folder, "files", 1):
        shutil.rmtree(folder)


def test_removed_or_replaced_data_file_is_noticed(tmp_path: Path) -> None:
    writer = begin(tmp_path)
    writer.sync()
    writer.check_in_place()
    writer.path.rename(tmp_path / "aside")
    with pytest.raises(RebuildError, match="folder was removed"):
        writer.check_in_place()
    writer.path.write_bytes(b"")
    with pytest.raises(RebuildError, match="was replaced"):
        writer.check_in_place()
    writer.close()


def test_empty_write_does_not_call_system() -> None:
    write_all(-1, b"")  # an invalid descriptor
