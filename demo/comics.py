"""Find the comics in a folder, and read one comic.

An archive may come from anywhere, so nothing in it is trusted: sizes are checked before data is read, nothing is
unpacked to disk, and a broken archive is described instead of raising an exception.
"""

from __future__ import annotations

import io
import logging
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from defusedxml import ElementTree
from defusedxml.common import DefusedXmlException
from PIL import Image, UnidentifiedImageError

log = logging.getLogger(__name__)

SUFFIXES = (".cbz", ".zip", ".epub")
COVER_WIDTH = 200
_IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".gif")
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF")  # Pillow has parsers for many more formats, which this app does not need
_MOST_XML = 1_000_000
_MOST_IMAGE = 60_000_000  # bytes of one page in the archive
_MOST_PIXELS = 50_000_000  # a double page at 600 dpi, which takes 150 MB when decoded
Image.MAX_IMAGE_PIXELS = None  # Pillow would only warn, and later than our own check
_FROM_NAME = re.compile(r"(?P<series>.+?)\s+#?(?P<number>\d{1,4}(?:\.\d)?)(?:\s+\((?P<year>\d{4})\))?(?:\s|$)")


class ComicFile(NamedTuple):
    """A comic that has not been opened: what its folder says about it."""

    relative_path: str  # separated by "/" on every system
    size: int
    modified: float


class UnreadableError(Exception):
    """A comic cannot be read; the message says why in a few words."""


def walk(root: Path) -> Iterator[ComicFile]:
    """Yield the comics below ``root``, leaving out folders inside it that cannot be read."""
    # An unreadable root is an error: treating it as an empty folder would empty the whole list.
    folders = [("", list(os.scandir(root)))]
    while folders:
        prefix, entries = folders.pop()
        for entry in sorted(entries, key=lambda entry: entry.name):
            # Links are not followed, because they can form cycles and can lead out of the folder.
            if entry.name.startswith(".") or entry.is_symlink():
                continue
            relative = prefix + entry.name
            try:
                if entry.is_dir(follow_symlinks=False):
                    folders.append((f"{relative}/", list(os.scandir(entry.path))))
                elif entry.name.lower().endswith(SUFFIXES) and entry.is_file(follow_symlinks=False):
                    relative.encode()  # raises for a name that is not UTF-8, which no browser could receive
                    stat = entry.stat(follow_symlinks=False)
                    yield ComicFile(relative, stat.st_size, stat.st_mtime)
            except (OSError, UnicodeEncodeError) as error:
                log.warning("left out %r: %s", relative, error)


def contains(root: Path, relative_path: str) -> bool:
    """Return whether ``relative_path`` names a comic that ``walk(root)`` would yield."""
    parts = relative_path.split("/")
    if any(part.startswith(".") or not part or "\\" in part or "\0" in part for part in parts):
        return False
    if not relative_path.lower().endswith(SUFFIXES):
        return False
    paths = [root.joinpath(*parts[: length + 1]) for length in range(len(parts))]
    try:
        return paths[-1].is_file() and not any(path.is_symlink() for path in paths)
    except (OSError, ValueError):  # the name is too long, or has a lone surrogate
        return False


def read(path: Path, cover: Path) -> dict[str, Any]:
    """Describe one comic, and write its cover to the file ``cover`` unless that exists.

    ``error`` is None, or says in a few words what could not be read. The other values are then those read before.
    """
    facts: dict[str, Any] = dict.fromkeys(("series", "number", "title", "year", "width", "height", "error"))
    facts["pages"] = 0
    facts.update(_from_name(path.stem))
    try:
        if not path.stat().st_size:
            raise UnreadableError("empty file")
        with zipfile.ZipFile(path) as archive:
            _read_archive(archive, facts, cover)
    except UnreadableError as error:
        facts["error"] = str(error)
    except zipfile.BadZipFile:
        facts["error"] = "not a zip file"
    except OSError as error:
        facts["error"] = error.strerror or "cannot be read"
    except Exception:
        # A file that was made to break parsers makes zipfile, and what it calls, raise many kinds of errors.
        log.warning("cannot read %s", path, exc_info=True)
        facts["error"] = "damaged"
    return facts


def _read_archive(archive: zipfile.ZipFile, facts: dict[str, Any], cover: Path) -> None:
    infos = {info.filename: info for info in archive.infolist()}
    pages = sorted((name for name in infos if _is_page(name)), key=_natural)
    facts["pages"] = len(pages)
    for name, info in infos.items():
        if PurePosixPath(name).name.lower() == "comicinfo.xml":
            facts.update(_from_xml(_content(archive, info, _MOST_XML)))
            break
    if not pages:
        raise UnreadableError("no pages inside")
    facts["width"], facts["height"] = _keep_cover(_content(archive, infos[pages[0]], _MOST_IMAGE), cover)


def _content(archive: zipfile.ZipFile, info: zipfile.ZipInfo, most: int) -> bytes:
    if info.flag_bits & 1:
        raise UnreadableError("protected by a password")
    with archive.open(info) as file:
        content = file.read(most + 1)  # the size in the archive's directory may be wrong
    if len(content) > most:
        raise UnreadableError(f"{PurePosixPath(info.filename).name[:40]} is too large")
    return content


def _keep_cover(content: bytes, cover: Path) -> tuple[int, int]:
    """Return the size of an image, and write a small copy of it to ``cover`` unless that exists."""
    try:
        image = Image.open(io.BytesIO(content), formats=_FORMATS)  # reads the header only
        size = image.size
        if size[0] * size[1] > _MOST_PIXELS:
            raise UnreadableError("cover is too large")
        if not cover.exists():
            image.draft("RGB", (COVER_WIDTH, COVER_WIDTH))  # a JPEG at half or quarter size decodes faster
            height = max(1, min(COVER_WIDTH * 3, round(COVER_WIDTH * size[1] / size[0])))
            small = image.convert("RGB").resize((COVER_WIDTH, height), Image.Resampling.BILINEAR, reducing_gap=2)
            _write_whole(cover, small)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise UnreadableError("cover is damaged") from error
    return size


def _write_whole(cover: Path, image: Image.Image) -> None:
    cover.parent.mkdir(parents=True, exist_ok=True)
    draft = cover.with_suffix(f".{os.getpid()}.part")
    image.save(draft, "WEBP", quality=70, method=0)
    os.replace(draft, cover)


def _from_xml(content: bytes) -> dict[str, Any]:
    try:
        info = ElementTree.fromstring(content)  # refuses internal and external entities
    except (ElementTree.ParseError, DefusedXmlException, ValueError):
        return {}
    facts: dict[str, Any] = {}
    for tag in ("Series", "Number", "Title", "Year"):
        text = (info.findtext(tag) or "").strip()[:200]
        if text and tag != "Year":
            facts[tag.lower()] = text
        elif text.isdecimal() and len(text) == 4:
            facts["year"] = int(text)
    return facts


def _from_name(stem: str) -> dict[str, Any]:
    match = _FROM_NAME.match(stem)
    if not match:
        return {"series": stem}
    year = match["year"]
    return {
        "series": match["series"],
        "number": match["number"].lstrip("0") or "0",
        "year": int(year) if year else None,
    }


def _is_page(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix.lower() in _IMAGES and not path.name.startswith(".") and "__MACOSX" not in path.parts


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (0, part.casefold()) for part in re.split(r"(\d{1,9})", name)]
