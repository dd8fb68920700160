"""Snapshots: what was published is read, and foreign or damaged files are refused."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from flask_warmcache import SnapshotError
from flask_warmcache.store import format as fmt
from flask_warmcache.store.snapshot import Snapshot
from flask_warmcache.store.verify import Verifier
from tests.support.shelf import Shelf, files, positions

VIEWS: dict[str, Any] = {
    "filters": {"even": lambda item: item["size"] % 2 == 0},
    "sorts": {"name": lambda item: item["path"]},
}


def test_what_is_published_is_read_back(shelf: Shelf) -> None:
    shelf.rebuild(files("b", "a", "c"))
    assert shelf.items() == files("b", "a", "c")
    snapshot = shelf.snapshot()
    assert (snapshot.count, snapshot.complete) == (3, True)
    assert not snapshot.is_cold and not snapshot.is_invalidated
    assert snapshot.items_json(snapshot.places((2, 0))) == b'\t{"path":"c","size":1},\t{"path":"b","size":1}'


def test_empty_list_is_readable(shelf: Shelf) -> None:
    shelf.rebuild([], filters={"big": bool}, sorts={"name": bool}, search=("path",))
    snapshot = shelf.snapshot()
    assert (snapshot.count, snapshot.items_json(()), snapshot.find("a", "path")) == (0, b"", None)
    assert list(snapshot.view("big", "name"))[::-1][0:100] == []


def test_keys_of_all_kinds_are_found(shelf: Shelf) -> None:
    keys = ["a", 1, "1", -5, 2**65, "ä", "\udcff", "", 0]
    shelf.rebuild([{"path": key} for key in keys])
    snapshot = shelf.snapshot()
    assert [snapshot.find(key, "path") for key in keys] == list(range(len(keys)))
    assert [snapshot.find(key, "path") for key in ("b", 2, "-5", "0")] == [None] * 4
    with pytest.raises(TypeError, match="a key is text or a whole number"):
        snapshot.find(1.0, "path")


def test_two_keys_with_one_hash_are_both_found(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fmt, "key_hash", lambda key: 7)
    shelf.rebuild(files("b", "a", "c"))
    snapshot = shelf.snapshot()
    assert [snapshot.find(key, "path") for key in "abcd"] == [1, 0, 2, None]


def test_list_without_keys_finds_nothing(shelf: Shelf) -> None:
    shelf.rebuild(files("a"), kind="builder", key=None)
    assert shelf.snapshot().find("a", "path") is None


def test_data_file_above_four_gigabytes_has_places_of_eight_bytes(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [fmt.place_type(length) for length in (0, 2**32 - 1, 2**32)] == ["I", "I", "Q"]
    monkeypatch.setattr(fmt, "place_type", lambda length: "Q")
    shelf.rebuild(files("bb", "a", "cc"), **VIEWS)
    snapshot = shelf.snapshot()
    assert shelf.items() == files("bb", "a", "cc")
    assert snapshot.view("all", "name").itemsize == 8
    assert positions(snapshot, "all", "name") == [1, 0, 2]
    assert positions(snapshot, "even", "name") == [0, 2]


def test_view_has_places_of_its_items_in_its_order(shelf: Shelf) -> None:
    shelf.rebuild(files("ccc", "a", "bb", "dddd"), **VIEWS)
    snapshot = shelf.snapshot()
    assert positions(snapshot, "all", "") == [0, 1, 2, 3]
    assert positions(snapshot, "all", "name") == [1, 2, 0, 3]
    assert positions(snapshot, "even", "name") == [2, 3]
    assert positions(snapshot, "even", "") == [2, 3]
    assert snapshot.in_view([0, 2, 3], "even", "name", True) == [3, 2]
    assert (snapshot.filter_count("even"), snapshot.filter_count("all"), snapshot.filter_count("odd")) == (2, 4, 0)
    assert snapshot.has_view("even", "name") and not snapshot.has_view("odd", "name")


def test_open_snapshot_survives_removal_of_its_files(shelf: Shelf) -> None:
    shelf.rebuild(files("a", "b"))
    snapshot = shelf.snapshot()
    shutil.rmtree(shelf.folder)
    assert [snapshot.item(0), snapshot.item(1)] == files("a", "b")


def test_missing_foreign_or_shorter_data_file_is_refused(shelf: Shelf) -> None:
    shelf.rebuild(files("a"))
    data, whole = shelf.data, shelf.data.read_bytes()
    data.write_bytes(whole[:-1])
    with pytest.raises(SnapshotError, match="data is cut short"):
        shelf.snapshot()
    data.write_bytes(whole.replace(b'"id": "', b'"id": "0')[: len(whole)])
    with pytest.raises(SnapshotError, match="data is another one"):
        shelf.snapshot()
    data.unlink()
    with pytest.raises(SnapshotError, match="data is missing"):
        shelf.snapshot()


def test_link_is_not_followed(shelf: Shelf, tmp_path: Path) -> None:
    shelf.rebuild(files("a"))
    name = shelf.data.name
    os.symlink(shelf.data.rename(tmp_path / "elsewhere"), shelf.folder / name)
    with pytest.raises(OSError, match="symbolic links"):
        shelf.snapshot()


def test_files_of_another_list_or_account_are_refused(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.rebuild(files("a"))
    shutil.copy(shelf.index, shelf.folder / "other.index")
    with pytest.raises(SnapshotError, match="belongs to list 'files'"):
        Snapshot(shelf.folder, "other")
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(SnapshotError, match="files.index belongs to another account"):
        shelf.snapshot()


def test_item_with_wrong_places_is_refused(shelf: Shelf) -> None:
    shelf.rebuild(files("a", "b"))
    data = bytearray(shelf.data.read_bytes())
    begin, end = shelf.snapshot().place(1)
    for damaged in (begin, end):
        changed = bytearray(data)
        changed[damaged] = ord("x")
        shelf.data.write_bytes(changed)
        snapshot = shelf.snapshot()
        assert snapshot.item(0) == files("a")[0]
        with pytest.raises(SnapshotError, match="an item's line in the data file is damaged"):
            snapshot.items_json(snapshot.places((0, 1)))
        with pytest.raises(SnapshotError, match="an item's line in the data file is damaged"):
            snapshot.encoded(1)


def test_cold_snapshot_has_nothing_to_read_and_is_not_damaged(shelf: Shelf) -> None:
    shelf.rebuild(files("a"), filters={"big": bool})
    shelf.store.publish_cold(shelf.name)
    snapshot = shelf.snapshot()
    assert snapshot.is_cold
    assert (snapshot.count, len(snapshot.view("all", "")), snapshot.filter_count("big")) == (0, 0, 0)
    assert not is_damaged(shelf)


def is_damaged(shelf: Shelf, snapshot: Snapshot | None = None) -> bool:
    """Return what a keeper that checks the snapshot for the first time finds."""
    return Verifier(shelf.folder, shelf.name).is_damaged(snapshot or shelf.snapshot())


def with_changed_byte(whole: bytes, place: int, mask: int) -> bytes:
    changed = bytearray(whole)
    changed[place] ^= mask
    return bytes(changed)


def test_changed_byte_of_any_section_is_found(shelf: Shelf) -> None:
    shelf.rebuild(files("aa", "b"), search=("path",), **VIEWS)
    whole = shelf.index.read_bytes()
    sections = shelf.snapshot().header["sections"]
    base = fmt.PREAMBLE_LENGTH + int(whole.split()[2])
    assert not is_damaged(shelf)
    for name, (offset, length, _) in sections.items():
        for place in (0, length - 1):
            shelf.index.write_bytes(with_changed_byte(whole, base + offset + place, 0x10))
            assert is_damaged(shelf), (name, place)


def test_changed_byte_of_any_item_is_found(shelf: Shelf) -> None:
    shelf.rebuild(files("a"))
    shelf.rebuild(files("a", "b"))
    whole = shelf.data.read_bytes()
    assert not is_damaged(shelf)
    for place in range(len(whole.splitlines()[0]) + 1, len(whole)):
        shelf.data.write_bytes(with_changed_byte(whole, place, 1))
        assert is_damaged(shelf), place


def test_verifier_reads_only_new_end_of_known_data(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    verifier = Verifier(shelf.folder, shelf.name)
    shelf.rebuild([{"path": "a", "text": "x" * 100_000}])
    assert not verifier.is_damaged(shelf.snapshot())
    read: list[int] = []
    pread = os.pread

    def counted(descriptor: int, length: int, offset: int) -> bytes:
        piece = pread(descriptor, length, offset)
        read.append(len(piece))
        return piece

    monkeypatch.setattr(os, "pread", counted)
    shelf.rebuild([{"path": "a", "text": "x" * 100_000}, *files("b")])
    read.clear()
    assert not verifier.is_damaged(shelf.snapshot())
    assert 0 < sum(read) < 1000
    read.clear()
    assert not verifier.is_damaged(shelf.snapshot())
    assert read == []


def test_verifier_reads_new_data_file_from_its_start(shelf: Shelf) -> None:
    verifier = Verifier(shelf.folder, shelf.name)
    shelf.rebuild(files("a", "b"))
    assert not verifier.is_damaged(shelf.snapshot())
    shelf.rebuild(files("c"), old=None)
    assert not verifier.is_damaged(shelf.snapshot())


def test_replaced_or_removed_index_is_not_damaged(shelf: Shelf) -> None:
    shelf.rebuild(files("a"))
    snapshot = shelf.snapshot()
    shelf.rebuild(files("a", "b"))
    assert not is_damaged(shelf, snapshot)
    shelf.rebuild(files("b"), old=None)  # in a new data file; the old one is removed
    assert not is_damaged(shelf, snapshot)
    shelf.index.unlink()
    assert not is_damaged(shelf, snapshot)


def test_data_truncated_later_is_found(shelf: Shelf) -> None:
    shelf.rebuild(files("a", "b"))
    snapshot = shelf.snapshot()
    os.truncate(shelf.data, shelf.data.stat().st_size - 3)
    assert is_damaged(shelf, snapshot)


def test_index_that_names_file_outside_folder_is_refused(shelf: Shelf) -> None:
    shelf.rebuild(files("a"))
    header, base = fmt.read_header(shelf.index.read_bytes(), shelf.index.stat().st_size)
    rest = shelf.index.read_bytes()[base:]
    header["data"]["file"] = "../" + header["data"]["file"]
    shelf.index.write_bytes(fmt.pack_header(header) + rest)
    with pytest.raises(SnapshotError, match="outside the folder"):
        shelf.snapshot()


def test_missing_section_or_one_of_another_length_is_refused(shelf: Shelf) -> None:
    shelf.rebuild(files("a", "b"))
    whole = shelf.index.read_bytes()
    header, base = fmt.read_header(whole, len(whole))
    for sections, why in (
        ({**header["sections"], "places": [16, 8, 0]}, "section places of the index has 2 entries, not 4"),
        ({}, "the index has no section places"),
    ):
        shelf.index.write_bytes(fmt.pack_header({**header, "sections": sections}) + whole[base:])
        with pytest.raises(SnapshotError, match=why):
            shelf.snapshot()
