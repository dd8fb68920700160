"""The keeper in trouble: with damaged files, an unusable folder or no threads the list is still served."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import pytest
from flask import Flask

from flask_warmcache import ChildKilledError
from flask_warmcache.declaration import Item
from flask_warmcache.keeper.hand_over import Runner
from flask_warmcache.signals import rebuild_failed
from flask_warmcache.status import blockade
from flask_warmcache.store import marks
from flask_warmcache.store.locks import HeldLock, try_lock
from tests.support.apps import Shop
from tests.support.shelf import files
from tests.support.threads import no_threads
from tests.support.waiting import until


def test_keeper_beats_while_builder_is_busy_with_one_item(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.gate.clear()
    shop.keeper.tick()
    until(lambda: shop.builds == 1)
    report = shop.state.store.folder / "files.progress"
    before = report.stat().st_ino
    monotonic = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: monotonic + 5)
    shop.keeper.tick()
    monkeypatch.undo()
    assert report.stat().st_ino != before
    assert shop.builds == 1
    shop.gate.set()
    until(lambda: shop.status.progress is None)


def flip_bit(path: Path) -> None:
    """Damage a byte near the end of a file."""
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def test_list_with_damaged_section_is_rebuilt_from_scratch(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    shop.tick()
    for _ in range(2):  # twice, since after the first rebuild the keeper has verified another generation
        shop.tick()
        flip_bit(shop.state.store.folder / "files.index")
        caplog.clear()
        shop.tick()
        assert "warmcache.snapshot_damaged: the files of 'files' fail their checksums" in caplog.text
        until(lambda: shop.status.condition().state == "fresh")
        snapshot = shop.status.reader.current()
        assert snapshot is not None
        assert (snapshot.header["reused"], snapshot.header["enriched"]) == (0, 1)
    assert shop.builds == 3


def test_damage_after_first_check_is_found(shop: Shop) -> None:
    shop.tick()
    shop.tick()
    (data,) = shop.state.store.folder.glob("files.*.data")
    flip_bit(data)
    shop.tick()
    assert shop.builds == 2


def test_trouble_with_one_list_does_not_starve_others(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.warmcache.warm_list("other", key="path", source=lambda: files("b"))

    def unreadable() -> None:
        raise OSError("too many open files")

    monkeypatch.setattr(shop.status, "reread", unreadable)
    shop.tick()
    assert shop.builds == 0
    assert shop.state.statuses["other"].condition().state == "fresh"
    assert shop.status.condition().state == "failed"


def test_list_in_unusable_folder_has_failed(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    shop.state.store.folder.mkdir(mode=0o755)
    shop.state.store.folder.chmod(0o755)
    shop.tick()
    assert shop.status.condition()[1:4] == (shop.status.condition().state, True, 0.0)
    assert shop.status.condition().state == "failed"
    assert "Run 'chmod 700' on it, or set WARMCACHE_DIR" in caplog.text
    section = shop.client.get("/api/cache/stats/files").get_json()
    assert (section["state"], section["last_error"]) == ("failed", "StoreError")


def test_rebuild_without_thread_fails_and_releases_lock(shop: Shop) -> None:
    with no_threads():
        shop.keeper.tick()
    assert shop.status.report is not None and shop.status.report.error == "RuntimeError"
    assert (shop.status.progress, shop.state.store.is_locked("files")) == (None, False)


def test_dead_child_is_failure_after_which_receiver_may_rebuild(shop: Shop) -> None:
    shop.tick()
    shop.state.store.write_progress("files", {"phase": "enrich", "runner": "process", "started": time.time()})
    errors: list[BaseException] = []

    def rebuild(sender: Flask, name: str, error: BaseException) -> None:
        errors.append(error)
        shop.state.rebuilder.rebuild_now(name)

    with rebuild_failed.connected_to(rebuild, shop.app):
        shop.keeper.tick()
    assert [type(error) for error in errors] == [ChildKilledError]
    assert (shop.builds, shop.status.condition().state) == (2, "fresh")


def test_success_is_logged_with_name_of_list(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "flask_warmcache"):
        shop.tick()
    (record,) = [found for found in caplog.records if "rebuild_finished" in found.message]
    assert "'files' has 1 items, 1 enriched, 0 reused, 0 failed, 0 dropped, in" in record.message
    assert record.__dict__["warmcache_list"] == "files"


def test_removed_folder_is_created_again(shop: Shop) -> None:
    shop.tick()
    assert shop.names() == ["a"]
    for path in shop.state.store.folder.iterdir():
        path.unlink()
    os.rmdir(shop.state.store.folder)
    assert shop.names() == ["a"]
    shop.tick()
    assert (shop.names(), shop.status.condition().state) == (["a"], "fresh")
    assert shop.builds == 2


def test_builder_killed_after_rename_loses_no_invalidation(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    # The list is invalidated during its rebuild, which publishes, and is killed before it can mark the snapshot.
    monkeypatch.setattr(marks, "mark_if_invalidated", lambda folder, name, known: None)
    shop.gate.clear()
    shop.keeper.tick()
    until(lambda: shop.builds == 1)
    shop.state.store.invalidate("files")
    shop.gate.set()
    until(lambda: shop.status.progress is None)
    monkeypatch.undo()
    shop.tick()
    assert shop.builds == 2


def test_two_apps_in_one_process_have_separate_lists(tmp_path: Path) -> None:
    shops = [Shop(tmp_path / which) for which in ("a", "b")]
    shops[1].items = files("b")
    for shop in shops:
        shop.tick()
    assert [shop.names() for shop in shops] == [["a"], ["b"]]


def test_builder_that_has_lost_its_lock_does_not_overwrite_next_report(tmp_path: Path) -> None:
    class Robbed(Shop):
        def source(self) -> list[Item]:
            if self.builds:
                (self.state.store.folder / "files.lock").unlink()
                self.state.store.write_progress("files", {"phase": "finished", "started": time.time()})
                raise OSError("the folder was removed")
            return super().source()

    shop = Robbed(tmp_path)
    shop.client.get("/api/cache/stats")
    shop.state.rebuilder.rebuild_now("files")
    with pytest.raises(OSError):
        shop.state.rebuilder.rebuild_now("files")
    report = shop.state.store.read_progress("files")
    assert report is not None and report["phase"] == "finished"
    shop.status.reread()
    assert shop.status.condition().state == "fresh"


def test_rebuild_that_cannot_begin_has_failed_and_holds_no_lock(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trouble(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(Runner, "run", trouble)
        shop.tick()
    assert shop.status.report is not None and shop.status.report.error == "RuntimeError"
    assert not shop.state.store.is_locked("files")
    shop.rebuild()
    assert shop.names() == ["a"]


@pytest.mark.parametrize("reports", [False, True])
def test_lock_held_without_rebuild_is_reported(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, reports: bool
) -> None:
    monkeypatch.setattr(blockade, "SILENT_AFTER", 0.1)
    monkeypatch.setattr(blockade, "FORGOTTEN_AFTER", 60.0)  # the machine may be busy

    def is_shown() -> bool:
        return bool(shop.client.get("/api/cache/stats/files").get_json()["lock_held"])

    shop.state.store.prepare()
    lock = HeldLock(shop.state.store.lock_path("files"))
    assert try_lock(lock.descriptor)
    for number in range(20):
        if reports:
            shop.state.store.write_progress("files", {"phase": "enrich", "done": number})
        shop.keeper.tick()
    assert caplog.text.count("warmcache.lock_held") == (not reports)
    assert is_shown() == (not reports)
    if not reports:
        assert f"the lock of 'files' is held by process {os.getpid()} (" in caplog.text
    lock.close()
    shop.tick()
    assert not is_shown() and shop.names() == ["a"]
