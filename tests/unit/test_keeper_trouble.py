"""The keeper in trouble: damage, an unusable folder, no threads; the list survives."""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path

import pytest
from flask import Flask

from flask_warmcache.declaration import Item
from flask_warmcache.lists.warm import Warm
from flask_warmcache.store import marks
from tests.support.waiting import until

from .shop import Shop
from .world import files


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def test_the_builder_beats_while_it_is_deep_in_one_item(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_damaged_section_is_found_and_the_list_built_from_nothing(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    shop.tick()
    index = shop.state.store.folder / "files.index"
    for _ in range(2):  # the second time the keeper has looked at this generation's successor before
        shop.tick()
        damaged = bytearray(index.read_bytes())
        damaged[-5] ^= 1
        index.write_bytes(damaged)
        caplog.clear()
        shop.tick()
        assert "warmcache.snapshot_damaged: the files of 'files' fail their checksums" in caplog.text
        until(lambda: shop.status.condition().state == "fresh")
        snapshot = shop.status.reader.current()
        assert snapshot is not None
        assert (snapshot.header["reused"], snapshot.header["enriched"]) == (0, 1)
    assert shop.builds == 3


def test_data_that_is_damaged_later_is_found_too(shop: Shop) -> None:
    shop.tick()
    shop.tick()
    (data,) = shop.state.store.folder.glob("files.*.data")
    content = bytearray(data.read_bytes())
    content[-5] ^= 1
    data.write_bytes(content)
    shop.tick()
    assert shop.builds == 2


def test_one_lists_trouble_does_not_starve_the_others(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.warmcache.warm_list("other", key="path", source=lambda: files("b"))

    def unreadable() -> None:
        raise OSError("too many open files")

    monkeypatch.setattr(shop.status, "reread", unreadable)
    shop.tick()
    assert shop.builds == 0
    assert shop.state.statuses["other"].condition().state == "fresh"
    assert shop.status.condition().state == "failed"


def test_an_unusable_folder_is_failed_and_says_what_to_change(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    shop.state.store.folder.mkdir(mode=0o755)
    shop.state.store.folder.chmod(0o755)
    shop.tick()
    assert shop.status.condition()[1:4] == (shop.status.condition().state, True, 0.0)
    assert shop.status.condition().state == "failed"
    assert "Run 'chmod 700' on it, or set WARMCACHE_DIR" in caplog.text
    with shop.app.test_client() as client:
        section = client.get("/api/cache/stats/files").get_json()
    assert (section["state"], section["last_error"]) == ("failed", "StoreError")


def test_no_thread_to_be_had_is_a_failure_that_frees_the_lock(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", none_left)
        shop.keeper.tick()
    assert shop.status.report is not None and shop.status.report.error == "RuntimeError"
    assert (shop.status.progress, shop.state.store.is_locked("files")) == (None, False)


def test_a_success_is_logged_with_its_list(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "flask_warmcache"):
        shop.tick()
    (record,) = [one for one in caplog.records if "rebuild_finished" in one.message]
    assert "'files' has 1 items, 1 enriched, 0 reused, 0 failed, 0 dropped, in" in record.message
    assert record.__dict__["warmcache_list"] == "files"


def test_a_removed_folder_is_made_again(shop: Shop) -> None:
    shop.tick()
    assert shop.names() == ["a"]
    for path in shop.state.store.folder.iterdir():
        path.unlink()
    os.rmdir(shop.state.store.folder)
    assert shop.names() == ["a"]
    shop.tick()
    assert (shop.names(), shop.status.condition().state) == (["a"], "fresh")
    assert shop.builds == 2


def test_an_invalidation_whose_builder_died_behind_the_rename_is_seen(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = shop.state.store
    # The rebuild is invalidated midway, publishes, and is killed before it can mark what it published.
    monkeypatch.setattr(marks, "mark_if_invalidated", lambda folder, name, known: None)
    shop.gate.clear()
    shop.keeper.tick()
    until(lambda: shop.builds == 1)
    store.invalidate("files")
    shop.gate.set()
    until(lambda: shop.status.progress is None)
    monkeypatch.undo()
    shop.tick()
    assert shop.builds == 2


def test_apps_and_lists_are_told_apart_in_one_process(tmp_path: Path) -> None:
    shops = [Shop(tmp_path / which) for which in ("a", "b")]
    shops[1].items = files("b")
    for shop in shops:
        shop.tick()
    assert [shop.names() for shop in shops] == [["a"], ["b"]]
    assert isinstance(shops[0].app, Flask) and isinstance(shops[0].list, Warm)


def test_who_has_lost_its_lock_leaves_the_report_of_the_next_one_alone(tmp_path: Path) -> None:
    class Robbed(Shop):
        def source(self) -> list[Item]:
            if self.builds:
                (self.state.store.folder / "files.lock").unlink()
                self.state.store.write_progress("files", {"phase": "finished", "started": time.time()})
                raise OSError("the folder was removed")
            return super().source()

    shop = Robbed(tmp_path)
    shop.app.test_client().get("/api/cache/stats")
    shop.state.rebuilder.rebuild_now("files")
    with pytest.raises(OSError):
        shop.state.rebuilder.rebuild_now("files")
    report = shop.state.store.read_progress("files")
    assert report is not None and report["phase"] == "finished"
    shop.status.reread()
    assert shop.status.condition().state == "fresh"
