from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from demo import comics

Make = Callable[..., dict[str, Any]]


def picture(size: tuple[int, int] = (40, 60), kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, "#246").save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def read(tmp_path: Path) -> Make:
    """Write a file, either an archive of these members or these bytes, and read it as a comic."""

    def read(
        content: dict[str, bytes] | bytes,
        name: str = "Some Series 007 (1999).cbz",
        method: int = zipfile.ZIP_STORED,
    ) -> dict[str, Any]:
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            with zipfile.ZipFile(path, "w", method) as archive:
                for inner, data in content.items():
                    archive.writestr(inner, data)
        return comics.read(path, tmp_path / "covers" / "cover.webp")

    return read


@pytest.fixture
def cover(tmp_path: Path) -> Path:
    return tmp_path / "covers" / "cover.webp"


def info(**tags: str) -> bytes:
    return f"<ComicInfo>{''.join(f'<{tag}>{text}</{tag}>' for tag, text in tags.items())}</ComicInfo>".encode()


# Reading one comic


def test_tags_override_the_name(read: Make) -> None:
    comic = read(
        {"ComicInfo.xml": info(Series="Owls", Number="12.5", Title="Night", Year="2001"), "1.png": picture()}
    )
    assert (comic["series"], comic["number"], comic["title"], comic["year"]) == ("Owls", "12.5", "Night", 2001)
    assert comic["error"] is None


def test_name_describes_a_comic_without_tags(read: Make) -> None:
    comic = read({"1.png": picture()})
    assert (comic["series"], comic["number"], comic["year"], comic["title"]) == ("Some Series", "7", 1999, None)
    assert read({"1.png": picture()}, "Annual.cbz")["series"] == "Annual"


def test_first_page_is_the_cover(read: Make, cover: Path) -> None:
    comic = read({"p10.png": picture((10, 10)), "p2.jpg": picture((400, 600), "JPEG"), "notes.txt": b"no page"})
    assert (comic["pages"], comic["width"], comic["height"]) == (2, 400, 600)
    with Image.open(cover) as small:
        assert (small.format, small.size) == ("WEBP", (200, 300))
    assert list(cover.parent.iterdir()) == [cover], "a temporary file is left"


def test_existing_cover_is_kept(read: Make, cover: Path) -> None:
    cover.parent.mkdir()
    cover.write_bytes(b"kept")
    comic = read({"1.png": picture((30, 50))})
    assert (comic["width"], comic["error"], cover.read_bytes()) == (30, None, b"kept")


def test_hidden_files_are_not_pages(read: Make) -> None:
    assert read({"__MACOSX/1.png": picture(), ".1.png": picture(), "2.png": picture()})["pages"] == 1


# Broken and hostile comics


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "empty file"),
        (b"not a comic", "not a zip file"),
        ({}, "no pages inside"),
        ({"a.txt": b""}, "no pages inside"),
        ({"1.png": b"\x89PNG\r\n\x1a\n" + bytes(50)}, "cover is damaged"),
        ({"1.png": b""}, "cover is damaged"),
        ({"1.jpg": picture(kind="JPEG")[:200]}, "cover is damaged"),
        ({"1.png": picture(kind="TIFF")}, "cover is damaged"),
    ],
)
def test_broken_comic_has_a_reason(read: Make, cover: Path, content: bytes, error: str) -> None:
    assert read(content)["error"] == error
    assert not cover.exists()


def test_truncated_archive_has_an_error(read: Make, tmp_path: Path) -> None:
    read({"1.png": picture()}, "whole.cbz")
    whole = (tmp_path / "whole.cbz").read_bytes()
    for end in range(1, len(whole) - 1, 37):
        assert read(whole[:end])["error"]


def test_missing_file_has_an_error(tmp_path: Path, cover: Path) -> None:
    assert comics.read(tmp_path / "gone.cbz", cover)["error"] == "No such file or directory"


def test_corrupt_bytes_raise_nothing(read: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read({"ComicInfo.xml": info(Series="Owls"), "1.jpg": picture(kind="JPEG")}, "whole.cbz", zipfile.ZIP_DEFLATED)
    whole = (tmp_path / "whole.cbz").read_bytes()
    for place in range(0, len(whole), 5):
        comic = read(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        assert comic["error"] is None or isinstance(comic["error"], str)


def test_image_with_too_many_pixels_is_not_decoded(read: Make, cover: Path) -> None:
    bomb = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(bomb, "PNG")
    comic = read({"1.png": bomb.getvalue()})
    assert comic["error"] == "cover is too large"
    assert not cover.exists()


def test_compression_bomb_is_refused(read: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comics, "_MOST_IMAGE", 1_000_000)
    assert read({"1.png": bytes(5_000_000)}, method=zipfile.ZIP_DEFLATED)["error"] == "1.png is too large"


@pytest.mark.parametrize(
    "xml",
    [
        b"<ComicInfo><Series>",
        b"\xff\xfe broken",
        b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><ComicInfo><Series>&b;</Series></ComicInfo>',
        b'<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/hostname">]><ComicInfo><Series>&f;</Series></ComicInfo>',
    ],
)
def test_broken_or_hostile_tags_are_ignored(read: Make, xml: bytes) -> None:
    comic = read({"ComicInfo.xml": xml, "1.png": picture()})
    assert (comic["series"], comic["error"]) == ("Some Series", None)


def test_long_tags_are_shortened(read: Make) -> None:
    comic = read({"ComicInfo.xml": info(Series="x" * 5000, Year="no"), "1.png": picture()})
    assert len(comic["series"]) == 200
    assert comic["year"] == 1999


def test_archive_is_not_unpacked_to_disk(read: Make, tmp_path: Path) -> None:
    comic = read({"../../1.png": picture(), "/etc/2.png": picture()})
    assert comic["pages"] == 2
    assert {path.name for path in tmp_path.rglob("*.png")} == set()


# Walking the folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b/2.cbz", "a/deep/1.CBZ", "3.epub", "4.zip", "a/notes.txt", ".hidden/5.cbz", "a/.6.cbz"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"12345")
    return tmp_path


def paths(root: Path) -> set[str]:
    return {file.relative_path for file in comics.walk(root)}


FOUND = {"b/2.cbz", "a/deep/1.CBZ", "3.epub", "4.zip"}


def test_walk_skips_hidden_folders(folder: Path) -> None:
    assert paths(folder) == FOUND
    assert {file.size for file in comics.walk(folder)} == {5}


def test_walk_skips_what_is_not_a_comic(folder: Path) -> None:
    (folder / "a" / "loop").symlink_to(folder)
    (folder / "7.cbz").symlink_to("/etc/hostname")
    os.mkfifo(folder / "8.cbz")
    (folder / "9.cbz").mkdir()
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.cbz")).touch()  # a name that is not UTF-8
    assert paths(folder) == FOUND


def test_walk_skips_unreadable_folders(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)  # chmod has no effect on root, who may read everything
    assert paths(folder) == FOUND - {"b/2.cbz"}


def test_walk_fails_for_a_missing_root(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        paths(tmp_path / "unmounted")


# Paths that a browser may send


def test_comics_found_by_walk_are_contained(folder: Path) -> None:
    assert all(comics.contains(folder, path) for path in FOUND)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "../x.cbz",
        "a/../3.epub",
        "./3.epub",
        "a//deep/1.CBZ",
        "a/notes.txt",
        "a",
        "gone.cbz",
        ".hidden/5.cbz",
        "a/.6.cbz",
        "a\\deep\\1.CBZ",
        "3.epub\0.cbz",
        "\ud800.cbz",
        "x" * 5000 + ".cbz",
        "link/2.cbz",
    ],
)
def test_other_paths_are_not_contained(folder: Path, path: str) -> None:
    (folder / "link").symlink_to(folder / "b")
    assert not comics.contains(folder, path)
