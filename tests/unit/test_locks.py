"""Locks: each has one holder, and only that holder's end or close releases it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import filelock
import pytest

from flask_warmcache import RebuildError, StoreError
from flask_warmcache.store import locks as locks_module
from flask_warmcache.store.files import FileStore
from flask_warmcache.store.locks import holder_of
from tests.support.processes import python, read_line, run, run_python, started
from tests.support.shelf import Shelf, files
from tests.support.waiting import stays_false, until

HOLD = """
import sys
from pathlib import Path
from flask_warmcache.store.files import FileStore
store = FileStore(Path(sys.argv[1]))
lock = store.try_lock("files")
print("locked" if lock else "refused", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def store(shelf: Shelf) -> FileStore:
    """Return a store whose folder exists."""
    shelf.store.prepare()
    return shelf.store


def other_process(folder: Path) -> AbstractContextManager[subprocess.Popen[str]]:
    """Start a process that tries to acquire the lock and holds it until the block ends."""
    return started(python("-c", HOLD, folder))


def test_two_processes_never_both_hold_lock(folder: Path) -> None:
    store = FileStore(folder)
    with other_process(folder) as first:
        assert read_line(first) == "locked"
        assert store.try_lock("files") is None
        assert store.is_locked("files")
        assert not store.is_locked("others")
        with other_process(folder) as second:
            assert read_line(second) == "refused"


def test_lock_of_killed_process_is_released_at_once(shelf: Shelf) -> None:
    with other_process(shelf.folder) as holder:
        assert read_line(holder) == "locked"
        holder.kill()
        holder.wait()
        shelf.lock().close()


def test_two_stores_of_one_process_exclude_each_other_too(shelf: Shelf) -> None:
    lock = shelf.lock()
    assert FileStore(shelf.folder).try_lock("files") is None
    lock.close()
    lock.close()
    Shelf(shelf.folder).lock().close()


def test_probes_create_no_file_and_do_not_block_each_other(shelf: Shelf, store: FileStore) -> None:
    assert not store.is_locked("files")
    assert list(shelf.folder.iterdir()) == []
    lock = shelf.lock()
    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(store.is_locked, ["files"] * 20)) == [True] * 20
    lock.close()
    assert not store.is_locked("files")


def test_lock_files_are_never_deleted(shelf: Shelf) -> None:
    shelf.rebuild(files("a"))
    inode = (shelf.folder / "files.lock").stat().st_ino
    shelf.rebuild(files("b"))
    shelf.store.publish_cold("files")
    assert (shelf.folder / "files.lock").stat().st_ino == inode


def test_started_program_does_not_inherit_lock(shelf: Shelf) -> None:
    lock = shelf.lock()
    program = subprocess.Popen(["cat"], stdin=subprocess.PIPE, close_fds=False)
    try:
        lock.close()
        assert not shelf.store.is_locked("files")
    finally:
        program.communicate()


def test_forked_child_does_not_keep_lock(folder: Path) -> None:
    script = """
import os, signal, sys
from pathlib import Path
from flask_warmcache.store.files import FileStore
store = FileStore(Path(sys.argv[1]))
lock = store.try_lock("files")
reader, writer = os.pipe()
child = os.fork()
if child == 0:
    os.write(writer, b"x")
    signal.pause()
os.read(reader, 1)
assert store.is_locked("files")  # the child's close has not released it
lock.close()
free = store.try_lock("files") is not None
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
print(free)
"""
    done = run([sys.executable, "-c", script, str(folder)])
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_forked_child_closes_its_copies(shelf: Shelf) -> None:
    lock = shelf.lock()
    locks_module.no_fork.acquire()  # as before the fork
    locks_module._close_in_child()  # as in the child; here it is the only copy
    assert lock.descriptor == -1
    assert not shelf.store.is_locked("files")


def test_lock_on_removed_file_is_not_ours(shelf: Shelf) -> None:
    lock = shelf.lock()
    assert lock.still_ours()
    (shelf.folder / "files.lock").unlink()
    assert not lock.still_ours()
    second = shelf.lock()  # possible because of the removal
    assert second.still_ours()
    assert not lock.still_ours()
    lock.close()
    second.close()


def test_rebuild_whose_lock_file_was_removed_does_not_publish(shelf: Shelf) -> None:
    shelf.rebuild(files("old"))

    def source() -> list[dict[str, object]]:
        (shelf.folder / "files.lock").unlink()
        return files("new")

    with pytest.raises(RebuildError, match="lock file was removed during the rebuild"):
        shelf.rebuild(source)
    assert shelf.items() == files("old")


def test_lock_file_removed_before_lock_is_not_acquired(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    lock_descriptor = filelock.lock_descriptor

    def removed_first(descriptor: int, *, blocking: bool) -> bool:
        (store.folder / "files.lock").unlink()
        return bool(lock_descriptor(descriptor, blocking=blocking))

    monkeypatch.setattr("filelock.lock_descriptor", removed_first)
    assert store.try_lock("files") is None


def test_interrupted_lock_leaves_no_descriptor_open(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(descriptor: int, *, blocking: bool) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr("filelock.lock_descriptor", interrupted)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(KeyboardInterrupt):
        store.try_lock("files")
    assert len(os.listdir("/proc/self/fd")) == before


def test_lock_file_that_cannot_be_opened_is_named(store: FileStore) -> None:
    (store.folder / "files.lock").symlink_to("elsewhere")
    with pytest.raises(StoreError, match=r"The lock file .*/files\.lock cannot be opened .*set WARMCACHE_DIR"):
        store.try_lock("files")


def test_publication_waits_for_another(store: FileStore) -> None:
    order: list[str] = []

    def second() -> None:
        with store.publishing("files"):
            order.append("second")

    with store.publishing("files"):
        thread = threading.Thread(target=second)
        thread.start()
        stays_false(lambda: order, 0.05)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_publish_lock_held_for_too_long_fails_rebuild(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.rebuild(files("old"))
    monkeypatch.setattr("flask_warmcache.store.locks.DEADLINE", 0.05)
    with shelf.store.publishing("files"), pytest.raises(RebuildError, match="publish lock for too long"):
        shelf.rebuild(files("new"))
    assert shelf.items() == files("old")
    shelf.rebuild(files("new"))
    assert shelf.items() == files("new")


def test_publish_lock_may_be_acquired_again_by_its_holder(store: FileStore) -> None:
    lock = store.publishing("files")
    with lock:
        with lock:
            pass
        with pytest.raises(RebuildError, match="publish lock for too long"), store.publishing("files", 0):
            pass
    with store.publishing("files", 0):
        pass


LEAVES_A_HOLDER = """
import fcntl, os, subprocess, sys
lock = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(lock, fcntl.LOCK_EX)
quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
print(subprocess.Popen(["sleep", "60"], pass_fds=[lock], **quiet).pid)
"""


def test_holder_of_lock_is_named_although_it_has_only_inherited_it(tmp_path: Path) -> None:
    path = tmp_path / "files.lock"
    holder = int(run_python(LEAVES_A_HOLDER, path).stdout)
    try:
        assert re.fullmatch("a process that inherited it from process [0-9]+, which has ended", holder_of(path))
    finally:
        os.kill(holder, signal.SIGKILL)
    until(lambda: holder_of(path) == "a process that is not known here")
