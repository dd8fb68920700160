"""Damaged files: with any bytes, a read never raises, and a page is never broken JSON for long."""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flask_warmcache import BadQueryError
from flask_warmcache.store import format as fmt
from flask_warmcache.store.verify import Verifier
from tests.support.apps import Shop, Site
from tests.support.processes import no_descriptors
from tests.support.shelf import Shelf, declare, files

VIEWS: dict[str, Any] = {
    "filters": {"even": lambda item: item["size"] % 2 == 0},
    "sorts": {"name": lambda item: item["path"]},
    "search": ("path",),
    "allow_all": True,
}
QUERIES = ["", "per_page=1&page=2", "per_page=0", "sort=-name", "filter=even&sort=name", "search=b&filter=even"]
NAMES = ("b", "aa", "cb", "bbdd")
# Places and new bytes; a place behind the file's end wraps around.
changes = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8)


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable the log, because captured records would keep the files of refused snapshots open."""
    monkeypatch.setattr(logging.getLogger("flask_warmcache"), "disabled", True)


@cache
def whole() -> tuple[bytes, bytes, str]:
    """Return a small list's index, its data, and the data file's name."""
    with tempfile.TemporaryDirectory() as folder:
        shelf = Shelf(Path(folder) / "cache")
        shelf.rebuild(files(*NAMES), **VIEWS)
        return shelf.index.read_bytes(), shelf.data.read_bytes(), shelf.data.name


@contextmanager
def shelf_of(index: bytes, data: bytes) -> Iterator[Shelf]:
    """Make a list from these bytes."""
    with tempfile.TemporaryDirectory() as folder:
        shelf = Shelf(Path(folder))
        shelf.index.write_bytes(index)
        (shelf.folder / whole()[2]).write_bytes(data)
        yield shelf


def changed(content: bytes, where: list[tuple[int, int]]) -> bytes:
    """Return the content with these bytes changed."""
    damaged = bytearray(content)
    for place, byte in where:
        damaged[place % len(damaged)] = byte
    return bytes(damaged)


def answers_are_whole(shelf: Shelf) -> bool:
    """Return whether all answers are JSON, as of a worker whose keeper has not checked the list yet."""
    pager = shelf.pager(declare(**VIEWS))
    all_whole = True
    for query in QUERIES:
        try:
            body = pager.body(pager.status.condition(), query.encode(), (None, None, None))
        except BadQueryError:
            continue  # a damaged index may describe a list that is too large for one answer
        try:
            items = json.loads(body.data)["files"]
        except ValueError:
            all_whole = False
        else:
            assert all(isinstance(item, dict) for item in items)
    return all_whole


def test_undamaged_files_are_read() -> None:
    index, data, _ = whole()
    with shelf_of(index, data) as shelf:
        assert answers_are_whole(shelf)
        assert shelf.ask(shelf.pager(declare(**VIEWS)), "sort=-name")["files"] == files("cb", "bbdd", "b", "aa")


@pytest.mark.parametrize("which", ["index", "data"])
def test_file_cut_at_any_length_is_refused(which: str) -> None:
    index, data, name = whole()
    with shelf_of(index, data) as shelf:
        cut = shelf.index if which == "index" else shelf.folder / name
        content = cut.read_bytes()
        for length in range(len(content)):
            cut.write_bytes(content[:length])
            reader = shelf.store.reader(shelf.name)
            assert reader.current() is None, length
            assert reader.is_unusable


@given(changes)
def test_changed_bytes_never_raise_in_reader(where: list[tuple[int, int]]) -> None:
    index, data, _ = whole()
    with shelf_of(changed(index, where), data) as shelf:
        snapshot = shelf.store.reader(shelf.name).current()
        assert snapshot is None or snapshot.count == len(NAMES)
    with shelf_of(index, changed(data, where)) as shelf:
        reader = shelf.store.reader(shelf.name)
        assert reader.current() is not None or reader.is_unusable


header_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def fields_of(header: dict[str, Any]) -> list[str]:
    """Return every field of a header, with those of its data and of one section."""
    return [*header, *(f"data.{field}" for field in header["data"]), "sections.places", "filters.even"]


def with_field(index: bytes, field: str, value: object = None, *, missing: bool = False) -> bytes:
    """Return an index with another value in a field of its header, and a right checksum."""
    header, base = fmt.read_header(index, len(index))
    *path, last = field.split(".", 1)
    reduce(getitem, path, header)[last] = value
    if missing:
        del reduce(getitem, path, header)[last]
    packed = json.dumps(header).encode()  # of a length that keeps the sections in their places
    packed += b" " * (-(fmt.PREAMBLE_LENGTH + len(packed)) % 8)
    return fmt.PREAMBLE % (fmt.FORMAT, len(packed), zlib.crc32(packed)) + packed + index[base:]


@settings(max_examples=300)
@given(st.data(), header_values | st.just(10**400) | st.just(-1), st.booleans())
def test_wrong_header_with_right_checksum_never_raises_in_reader(
    chosen: st.DataObject, value: object, missing: bool
) -> None:
    index, data, _ = whole()
    field = chosen.draw(st.sampled_from(fields_of(fmt.read_header(index, len(index))[0])))
    with shelf_of(with_field(index, field, value, missing=missing), data) as shelf:
        shelf.store.reader(shelf.name).current()


class Odd(Site):
    """A list and a value, at every route that reads a snapshot."""

    OPTIONS = VIEWS
    ROUTES = ("/files", *(f"/files?{query}" for query in QUERIES), "/value", "/api/cache/", "/api/cache/readyz",
              "/api/cache/stats", "/api/cache/stats/files", "/api/cache/stats/value")  # fmt: skip

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.warmcache.value("value", cold=1)(lambda: 2)
        self.app.add_url_rule("/value", "value", self.warmcache["value"].response)

    def states(self) -> set[str]:
        return {status.condition().state for status in self.state.statuses.values()}


@pytest.mark.parametrize("name", ["files", "value"])
@pytest.mark.parametrize(
    "value",
    [
        "missing",
        "x",
        *(pytest.param(value, marks=pytest.mark.long) for value in (None, -1, 10**400, float("nan"))),
    ],
    ids=lambda value: str(value)[:9],
)
def test_header_with_wrong_field_fails_no_route_and_is_rebuilt(tmp_path: Path, name: str, value: object) -> None:
    first = Odd(tmp_path)
    first.tick()
    written = {path: path.read_bytes() for path in (tmp_path / "cache").iterdir()}
    index = tmp_path / "cache" / f"{name}.index"
    header, _ = fmt.read_header(written[index], len(written[index]))
    for field in fields_of(header):
        for path in (tmp_path / "cache").iterdir():
            path.unlink()
        for path, content in written.items():
            path.write_bytes(content)
        index.write_bytes(with_field(written[index], field, value, missing=value == "missing"))
        site = Odd(tmp_path)
        site.app.jinja_env = first.app.jinja_env  # with the compiled status page
        for route in site.ROUTES:
            assert site.client.get(route).status_code == 200, (field, route)
        site.tick()
        assert site.states() == {"fresh"}, field
        assert site.names() == list(Odd.NAMES) and site.client.get("/value").get_json()["value"] == 2, field


@pytest.mark.parametrize("part", [None, 0.0, 0.5, 0.99])
def test_missing_or_shorter_section_fails_no_route_and_is_rebuilt(tmp_path: Path, part: float | None) -> None:
    first = Odd(tmp_path)
    first.tick()
    written = {path: path.read_bytes() for path in (tmp_path / "cache").iterdir()}
    index = tmp_path / "cache" / "files.index"
    header, base = fmt.read_header(written[index], len(written[index]))
    for section, (offset, length, _) in header["sections"].items():
        for path in (tmp_path / "cache").iterdir():
            path.unlink()
        for path, content in written.items():
            path.write_bytes(content)
        length = int((part or 0.0) * length)
        entry = [offset, length, zlib.crc32(written[index][base + offset : base + offset + length])]
        index.write_bytes(with_field(written[index], f"sections.{section}", entry, missing=part is None))
        site = Odd(tmp_path)
        site.app.jinja_env = first.app.jinja_env
        for route in site.ROUTES:
            assert site.client.get(route).status_code == 200, (section, route)
        with site.app.app_context():
            site.list.invalidate()
        site.items = files("a", "b", "c", "d")
        site.tick()
        assert site.states() == {"fresh"} and site.names() == ["a", "b", "c", "d"], section


@pytest.mark.parametrize("has_right_checksum", [False, True])
@pytest.mark.parametrize(
    "content", [b"x", b"[5]", b'[["a", "1", false]]', b'[[["a"], 1, false]]', b'[["a", 1e999, 0]]']
)
def test_damaged_writes_stop_no_rebuild(tmp_path: Path, content: bytes, has_right_checksum: bool) -> None:
    def shop() -> Shop:
        made = Shop(tmp_path)
        made.list.lookup(lambda key: files(key)[0])
        return made

    first = shop()
    first.tick()
    with first.app.app_context():
        assert first.list.refresh("a")
    path = tmp_path / "cache" / "files.index"
    index = path.read_bytes()
    header, base = fmt.read_header(index, len(index))
    offset, length, checksum = header["sections"]["writes"]
    content = content.ljust(length)
    entry = [offset, length, zlib.crc32(content) if has_right_checksum else checksum]
    index = index[: base + offset] + content + index[base + offset + length :]
    path.unlink()
    path.write_bytes(with_field(index, "sections.writes", entry))
    second = shop()
    with second.app.app_context():
        second.list.invalidate()
        second.tick()
        assert second.status.condition().state == "fresh"
        assert second.list.refresh("a")


@pytest.mark.parametrize("which", ["index", "data"])
def test_changed_byte_fails_no_read_and_keeper_finds_broken_answers(which: str) -> None:
    """Requests check no checksum, so an answer may be broken until the keeper's next check, but none fails."""
    index, data, name = whole()
    begin = fmt.read_header(index, len(index))[1] if which == "index" else len(data.splitlines()[0]) + 1
    broken = 0
    with shelf_of(index, data) as shelf:
        if which == "index":  # the second item ends where the third does, so both of its ends are right
            _, newline = shelf.snapshot().place(2)
            place = fmt.read_header(index, len(index))[0]["sections"]["places"][0] + begin + 3 * 4
            content = index[:place] + newline.to_bytes(4, sys.byteorder) + index[place + 4 :]
            shelf.index.write_bytes(content)
            assert not answers_are_whole(shelf)
            assert Verifier(shelf.folder, shelf.name).is_damaged(shelf.snapshot())
            broken += 1
        path, content = (shelf.index, index) if which == "index" else (shelf.folder / name, data)
        for place in range(begin, len(content)):
            for byte in {0, 255, content[place] ^ 1, content[place] ^ 8}:
                path.write_bytes(changed(content, [(place, byte)]))
                if not answers_are_whole(shelf):
                    broken += 1
                    assert Verifier(shelf.folder, shelf.name).is_damaged(shelf.snapshot()), (place, byte)
    assert broken > 0  # otherwise the second half of the claim was not tested


def spoil(shelf: Shelf, place: int) -> None:
    """Change one byte of the data file."""
    data = bytearray(shelf.data.read_bytes())
    data[place] ^= 1
    shelf.data.write_bytes(data)


def test_damaged_line_is_left_out_and_asks_for_rebuild(shelf: Shelf) -> None:
    shelf.rebuild(files("a", "b", "c"), **VIEWS)
    spoil(shelf, shelf.snapshot().place(1)[0])
    pager = shelf.pager(declare(**VIEWS))
    assert pager.status.condition().due is False
    assert shelf.ask(pager)["files"] == files("a", "c")
    assert shelf.ask(pager, "sort=-name")["files"] == files("c", "a")
    condition = pager.status.condition()
    assert (condition.state, condition.due, condition.rebuilding) == ("stale", True, True)
    assert not pager.status.staleness.may_reuse(shelf.snapshot())
    assert shelf.ask(pager, "page=1")["cache_rebuilding"] is True


@pytest.mark.parametrize(
    ("section", "asked"),
    [(fmt.view_section("all", "name"), {"sort": "name"}), ("text_starts", {"search": "b"}), ("places", {})],
)
def test_decoded_page_survives_damage(shelf: Shelf, section: str, asked: dict[str, str]) -> None:
    shelf.rebuild(files(*NAMES), **VIEWS)
    index = bytearray(shelf.index.read_bytes())
    header, base = fmt.read_header(index, len(index))
    offset, length, _ = header["sections"][section]
    index[base + offset : base + offset + length] = b"\xff" * length
    shelf.index.write_bytes(index)
    pager = shelf.pager(declare(**VIEWS))
    page = pager.page(pager.status.condition(), asked)
    assert (page.items, page.rebuilding) == ([], True)
    assert pager.status.condition().due


def test_answer_without_damaged_line_says_that_list_is_rebuilt(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.tick()
    good = site.client.get("/files")
    snapshot = site.status.reader.current()
    assert snapshot is not None
    with (tmp_path / "cache" / snapshot.header["data"]["file"]).open("r+b") as file:
        file.seek(snapshot.place(1)[1])
        file.write(b" ")
    answer = site.client.get("/files", headers={"If-None-Match": good.headers["ETag"]})
    assert [item["path"] for item in answer.get_json()["files"]] == ["a", "c"]
    assert answer.get_json()["cache_rebuilding"] is True
    assert "state=stale" in answer.headers["X-Warmcache"]
    other = Site(tmp_path)  # a process that has not met the damage
    with other.app.app_context():
        page = other.list.page()
    assert ([item["path"] for item in page.items], page.rebuilding, page.state) == (["a", "c"], True, "stale")
    site.tick()
    assert site.names() == ["a", "b", "c"]


def test_refused_query_is_not_damage(shelf: Shelf) -> None:
    shelf.rebuild(files(*NAMES), **VIEWS)
    pager = shelf.pager(declare(**VIEWS), max_all_bytes=1)
    with pytest.raises(BadQueryError):
        pager.page(pager.status.condition(), {"per_page": "0"})
    assert not pager.status.condition().due


def test_incomplete_answer_is_not_kept(shelf: Shelf) -> None:
    shelf.rebuild(files("a", "b"))
    whole_data = shelf.data.read_bytes()
    spoil(shelf, shelf.snapshot().place(0)[1])
    pager = shelf.pager(declare())
    shelf.ask(pager)
    condition = pager.status.condition()
    holed = pager.body(condition, b"", (None, None, None))
    shelf.data.write_bytes(whole_data)
    mended = pager.body(condition, b"", (None, None, None))
    assert json.loads(holed.data)["files"] == files("b")
    assert json.loads(mended.data)["files"] == files("a", "b")
    assert holed.etag != mended.etag


def test_check_that_system_refuses_is_repeated(shelf: Shelf) -> None:
    shelf.rebuild(files(*NAMES))
    snapshot, verifier = shelf.snapshot(), Verifier(shelf.folder, shelf.name)
    spoil(shelf, -3)
    with no_descriptors():
        assert not verifier.is_damaged(snapshot)
    assert verifier.is_damaged(snapshot)
