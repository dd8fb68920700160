"""The cache folder: it is created private, checked when it is used, and errors name the setting to change."""

from __future__ import annotations

import os
import pwd
import re
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from flask_warmcache import StoreError
from flask_warmcache.declaration import Item
from flask_warmcache.rebuild.leftovers import unfinished
from flask_warmcache.store import sweeping
from flask_warmcache.store.files import FileStore
from flask_warmcache.store.folder import default_folder, folder_in
from flask_warmcache.store.sweeping import sweep
from flask_warmcache.store.writer import Draft
from tests.support.apps import Shop
from tests.support.needs import need_root
from tests.support.shelf import Shelf, files


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_folder_and_files_are_private_under_any_umask(umask: int, shelf: Shelf) -> None:
    shelf.rebuild(files("a"))
    shelf.store.invalidate(shelf.name)
    shelf.store.write_progress(shelf.name, {"phase": "finished"})
    assert mode(shelf.folder) == 0o700
    made = {path.name.replace(path.name.split(".")[1], "N") if ".data" in path.name else path.name: mode(path)
            for path in shelf.folder.iterdir()}  # fmt: skip
    assert made == dict.fromkeys(
        [
            *("files.N.data", "files.index", "files.lock", "files.publish.lock", "files.invalidated"),
            *("files.progress", "files.changes"),
        ],
        0o600,
    )


def test_folder_is_created_with_its_parents(tmp_path: Path) -> None:
    FileStore(tmp_path / "instance" / "warmcache" / "shop").prepare()
    assert mode(tmp_path / "instance" / "warmcache" / "shop") == 0o700


def test_creating_store_touches_no_file(folder: Path) -> None:
    store = FileStore(folder)
    store.reader("files").current()
    assert store.read_progress("files") is None
    assert store.invalidation("files") == ""
    assert store.is_locked("files") is False
    assert store.published_generation("files") == 0
    assert not folder.exists()


def test_link_is_refused_by_its_path(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "real")
    with pytest.raises(StoreError, match="is a link or a file. Set WARMCACHE_DIR") as failed:
        FileStore(folder).try_lock("files")
    assert list((tmp_path / "real").iterdir()) == []
    assert str(folder) in str(failed.value)


def test_file_is_refused(folder: Path) -> None:
    folder.write_text("")
    for chosen, why in ((folder, "File exists"), (folder / "below", "Not a directory")):
        with pytest.raises(StoreError, match=rf"cannot be created \({why}\). Set WARMCACHE_DIR"):
            FileStore(chosen).prepare()


def test_another_accounts_folder_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(
        StoreError,
        match="belongs to another account .*, and this is 12345. Run this as that account, or give this one",
    ):
        FileStore(folder).prepare()


@pytest.mark.parametrize("open_to_others", [0o701, 0o710, 0o750, 0o755, 0o777, 0o1777])
def test_folder_open_to_others_is_refused_with_the_remedy(folder: Path, open_to_others: int) -> None:
    folder.mkdir()
    folder.chmod(open_to_others)
    with pytest.raises(StoreError, match="open to other accounts. Run 'chmod 700'"):
        FileStore(folder).invalidate("files")
    folder.chmod(0o700)
    FileStore(folder).invalidate("files")


@pytest.mark.parametrize("mode_of_volume", [0o750, 0o755, 0o777, 0o1777, 0o2770, 0o2777])
def test_folder_in_volume_open_to_others_is_used(folder: Path, mode_of_volume: int) -> None:
    folder.mkdir()
    folder.chmod(mode_of_volume)
    store = FileStore(folder_in(folder))
    store.invalidate("files")
    assert store.folder == folder / f"warmcache-{os.geteuid()}"
    assert stat.S_IMODE(store.folder.lstat().st_mode) & 0o777 == 0o700
    assert [path.name for path in folder.iterdir()] == [store.folder.name]


def test_private_or_used_or_missing_folder_is_used_itself(folder: Path) -> None:
    assert folder_in(folder) == folder
    folder.mkdir(mode=0o700)
    assert folder_in(folder) == folder
    (folder / "files.lock").touch()
    folder.chmod(0o777)
    assert folder_in(folder) == folder, "its lists would become cold; 'chmod 700' makes it usable again"


def test_each_account_has_its_folder_in_volume_of_root(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_root()
    folder.mkdir()
    folder.chmod(0o1777)
    with monkeypatch.context() as patched:
        patched.setattr(os, "geteuid", lambda: 12345)
        assert folder_in(folder) == folder / "warmcache-12345"
    (folder / "warmcache-12345").mkdir(mode=0o700)
    os.chown(folder / "warmcache-12345", 12345, 12345)
    # A command of root would otherwise look at lists that nobody serves.
    with pytest.raises(StoreError, match=r"belongs to another account \(12345\), and this is root, 0"):
        FileStore(folder_in(folder)).invalidate("files")


def test_nothing_is_written_into_refused_folder(shelf: Shelf) -> None:
    shelf.rebuild(files("a"))
    snapshot = shelf.snapshot()
    shelf.folder.chmod(0o755)
    before = {path: path.stat().st_mtime_ns for path in shelf.folder.iterdir()}
    for write in (
        partial(shelf.store.write_progress, shelf.name, {"phase": "finished"}),
        partial(shelf.store.mark_stale, shelf.name, snapshot),
        partial(shelf.store.publishing, shelf.name),
    ):
        with pytest.raises(StoreError, match=re.escape(f"{shelf.folder} is open to other accounts")):
            write()
    assert {path: path.stat().st_mtime_ns for path in shelf.folder.iterdir()} == before


def test_folder_that_cannot_be_written_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(mode=0o500)
    if os.geteuid() == 0:  # root may write anywhere
        monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(StoreError, match="not writable. Change its permissions, or set WARMCACHE_DIR"):
        FileStore(folder).prepare()


@pytest.mark.parametrize(
    ("name", "safe"),
    [("my.shop", "my.shop"), ("../../etc", "_.._etc"), ("...", "app"), ("läd n", "l_d_n"), ("", "app")],
)
def test_default_folder_is_in_instance_folder_with_safe_name(tmp_path: Path, name: str, safe: str) -> None:
    assert default_folder(str(tmp_path / "instance"), name) == tmp_path / "instance" / "warmcache" / safe


def test_user_state_replaces_read_only_instance_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    shop = default_folder("/usr/var/shop-instance", "shop")
    assert shop.parent == tmp_path / "state" / "warmcache" and shop.name.startswith("shop-")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder("/usr/var/shop-instance", "shop") == tmp_path / ".local/state/warmcache" / shop.name
    assert default_folder("/srv/other-instance", "shop").name != shop.name, "two apps with one name share a folder"


def test_account_without_home_is_told_to_set_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    with pytest.raises(StoreError, match="this account has no home folder. Set WARMCACHE_DIR"):
        FileStore(default_folder("/usr/var/shop-instance", "shop")).prepare()
    assert list(tmp_path.iterdir()) == []


def test_unreadable_small_files_count_as_missing(folder: Path) -> None:
    store = FileStore(folder)
    store.prepare()
    (folder / "files.progress").mkdir()
    (folder / "files.invalidated").symlink_to("/etc/hostname")
    assert (store.read_progress("files"), store.invalidation("files")) == (None, "")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"5", b"null", b"\xff", b"[" * 60_000, b'{"a": ' * 9_000])
def test_damaged_report_counts_as_missing(folder: Path, content: bytes) -> None:
    store = FileStore(folder)
    store.prepare()
    (folder / "files.progress").write_bytes(content)
    assert store.read_progress("files") is None


def test_sweep_removes_only_unreferenced_files(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.rebuild(files("a"))
    Shelf(shelf.folder, "files2").rebuild(files("b"))
    stray = [
        "files.123.data",
        "files.index.42-0a1b.tmp",
        "files.progress.42-0a1b.tmp",
    ]
    foreign = [
        "files2.123.data",
        "files.data",
        "files.x.data",
        "files.123.data.bak",
        "files.index.bak",
        "notes.txt",
        "other.index.42-0a1b.tmp",
        "files.index.42-0a1b.tmp.tmp",
    ]
    for name in stray + foreign:
        (shelf.folder / name).write_bytes(b"")
    before = {path.name for path in shelf.folder.iterdir()}
    now = time.time
    with monkeypatch.context() as patched:  # as a new draft may not be locked yet
        patched.setattr(time, "time", lambda: now() + 60)
        sweep(shelf.folder, "files", keep=(shelf.data_name,))
    assert before - {path.name for path in shelf.folder.iterdir()} == set(stray)
    assert shelf.items() == files("a")


def test_newest_leftover_data_file_is_kept_for_next_rebuild(shelf: Shelf) -> None:
    def left() -> tuple[Path | None, list[str]]:
        for name in ("files.123.data", "files.124.data"):
            (shelf.folder / name).write_bytes(b"")
        left = unfinished(shelf.store, "files")
        return left, sorted(path.name for path in shelf.folder.glob("*.data"))

    newest = shelf.folder / "files.124.data"
    shelf.store.prepare()
    assert left() == (newest, [newest.name])  # nothing was ever published
    newest.unlink()
    shelf.rebuild(files("a"))
    data = shelf.data_name
    assert left() == (newest, sorted([data, newest.name]))
    whole = shelf.index.read_bytes()
    shelf.index.write_bytes(whole[:-8])
    # Other processes may be able to read it, and then need a file that is older than it.
    os.utime(shelf.index, ns=(123, 123))
    assert left() == (None, sorted([data, "files.123.data", newest.name]))
    os.utime(shelf.index, ns=(2 * 10**18, 2 * 10**18))
    later = shelf.folder / f"files.{2 * 10**18 + 1}.data"
    later.touch()
    assert left() == (later, sorted([data, "files.123.data", newest.name, later.name]))
    later.unlink()
    shelf.index.write_bytes(whole)
    shelf.store.publish_cold("files")
    assert left() == (newest, [newest.name])


def socket_at(path: Path) -> None:
    os.mknod(path, stat.S_IFSOCK | 0o600)


def of_another_account(path: Path) -> None:
    need_root()
    path.write_bytes(b"warmcache-index 1 0000000009 89abcdef\n")
    os.chown(path, 65534, 65534)


ODD: dict[str, Callable[[Path], object]] = {
    "directory": lambda path: (path / "in it").mkdir(parents=True),
    "pipe": os.mkfifo,
    "link": lambda path: path.symlink_to("/etc/hostname"),
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "socket": socket_at,
    "unreadable": lambda path: path.touch(0),
    "another account's": of_another_account,
}
REPLACED = ("files.index", "files.progress", "files.invalidated", "files.changes")
DRAFTS = (
    "files.index.1-0a.tmp", "files.progress.1-0a.tmp", "files.invalidated.1-0a.tmp", "files.7.data.tmp",
    "files.7.data", "files.99999999999999999999.data",
)  # fmt: skip


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("name", [*REPLACED, *DRAFTS])
def test_odd_entry_under_any_name_stops_no_rebuild_and_nothing_accumulates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, odd: str, name: str
) -> None:
    monkeypatch.setattr(sweeping, "ABANDONED_AFTER", -1.0)
    shop = Shop(tmp_path)
    shop.tick()
    entry = tmp_path / "cache" / name
    entry.unlink(missing_ok=True)
    ODD[odd](entry)
    shop = Shop(tmp_path)  # a worker that has nothing mapped
    shop.items = files("a", "b", "c")
    stopped = 2

    @shop.list.enrich
    def enrich(item: Item) -> Item:
        nonlocal stopped
        if stopped and item["path"] == "b":
            stopped -= 1
            raise SystemExit  # as if the process was killed after the first item
        return item

    for _ in range(4):
        with suppress(SystemExit):
            shop.rebuild()
    with shop.app.app_context():
        shop.list.invalidate()
    shop.rebuild()
    assert shop.names() == list("abc") and shop.status.condition().state == "fresh"
    if name in DRAFTS:
        assert entry.is_dir() == (odd == "directory") and (odd == "directory" or not os.path.lexists(entry))
    elif name != "files.changes":  # which is passed over, with a warning
        assert stat.S_ISREG(entry.lstat().st_mode)
    left = [path for path in entry.parent.glob("files.*") if path.suffix == ".aside" or path.name in DRAFTS]
    data = [path for path in entry.parent.glob("files.*.data") if path != entry]
    assert (len(left), len(data)) == (odd == "directory" and name != "files.changes", 1)


def test_draft_is_kept_while_its_process_lives(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.rebuild(files("a"))
    snapshot = shelf.snapshot()
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 60)
    draft = Draft(shelf.folder, "files", snapshot.header, {"places": b""}, sync=False)
    sweep(shelf.folder, "files", keep=(shelf.data_name,))
    assert draft.path.exists()
    os.close(draft._descriptor)  # as the kernel does when its process dies
    sweep(shelf.folder, "files", keep=(shelf.data_name,))
    assert not draft.path.exists()


def test_abandoned_draft_of_invalidation_is_removed_after_hour(shelf: Shelf) -> None:
    shelf.store.prepare()
    for name, age in (("files.invalidated.1-0a.tmp", 3700), ("files.invalidated.2-0a.tmp", 0)):
        (shelf.folder / name).write_bytes(b"")
        modified = time.time() - age
        os.utime(shelf.folder / name, (modified, modified))
    sweep(shelf.folder, "files", keep=())
    assert [path.name for path in shelf.folder.iterdir()] == ["files.invalidated.2-0a.tmp"]


def test_two_sweeps_may_run_at_same_time(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.store.prepare()
    (shelf.folder / "files.1.data").write_bytes(b"")
    unlink = os.unlink

    def late(path: str) -> None:
        unlink(path)  # the other sweep
        unlink(path)

    monkeypatch.setattr(os, "unlink", late)
    sweep(shelf.folder, "files", keep=())
    assert list(shelf.folder.iterdir()) == []
